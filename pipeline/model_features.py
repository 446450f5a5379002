"""Which features a trained model reads, of tiles or the vectors that a slide encoder makes of them, and how it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.errors import BundleError, UsageError
from ..data.interop.imported_features import UNKNOWN
from ..stages.encode.settings import EncodeSettings
from ..stages.extract.settings import ExtractSettings
from ..stages.features_folder import name_of_vectors
from ..stages.tile.networks import given_networks
from ..stages.tile.settings import NETWORKS, TileSettings

if TYPE_CHECKING:
    from ..models.feature_recipe import FeatureRecipe
    from .config import Config


def settings_of_model(
    config: Config, recipe: FeatureRecipe, model: Path, *, from_slides: bool
) -> tuple[Config, Sequence[str]]:
    """The settings here, with a model's own of tiling, extraction and encoding; and what to say of its networks.

    :param model: the model's folder, for messages.
    :param from_slides: new slides will be tiled, extracted and encoded, and are not read from features.
    :raises BundleError, UsageError: of :func:`_encoding_of_model`, or the weights of tiling's networks are not here.
    """
    here = config.tile.model_dump(include={"mpp_override", "overrule_mpp", "workers", "timeout", "device"})
    notes: Sequence[str] = ()
    if from_slides:
        networks, notes = given_networks(recipe.tile, config.tile, model)
        here |= dict.fromkeys(NETWORKS) | networks
    runtime = config.extract.model_dump(include={"weights", "batch_size", "threads", "tile_timeout", "device"})
    encode = _encoding_of_model(config, recipe, to_encode=from_slides)
    if "max_bad_tiles" in config.extract.model_fields_set:
        runtime["max_bad_tiles"] = config.extract.max_bad_tiles
    of_model = {
        # Annotations are of the slides that the model was trained on; of new ones all tissue is read.
        "tile": TileSettings(**{**recipe.tile, "annotation_classes": [], **here}),
        "extract": ExtractSettings(**{**recipe.extract, **runtime}),
        "encode": encode or config.encode,
    }
    return config.model_copy(update=of_model), notes


def _encoding_of_model(config: Config, recipe: FeatureRecipe, *, to_encode: bool) -> EncodeSettings | None:
    """The settings of the slide encoder that a model needs, with this machine's weights and device.

    :param config: the settings here.
    :param to_encode: slides will be encoded, so that the weights are compared before they are read.
    :returns: None for a model that reads tiles.
    :raises BundleError: the weights here are not those of the model's slide encoder.
    :raises UsageError: another program has made the vectors that it was trained on, so that none can be made here.
    """
    from ..models.backbones.weights import digest_of_weights
    from ..models.slide_encoders.loading import EncoderChoice

    if recipe.encode is None:
        return None
    here = config.encode.model_dump(include={"weights", "device"})
    settings = EncodeSettings(**{**recipe.encode, **here})
    if to_encode and _is_imported(recipe):
        _, _, program = recipe.slide_encoder.partition(_IMPORTED_FROM)
        what = f"the model reads slide vectors of {settings.encoder} that {program} has made, and slides are given"
        tiles = f"{recipe.tile_px} px at {recipe.tile['mpp']:g} µm per pixel"
        raise UsageError(
            what,
            hint=f"have {program} encode the new slides (tiles of {tiles}), run wsipipe import on its folder, then "
            f"wsipipe predict with --features {features_of_model(recipe)}",
        )
    if to_encode:
        choice = EncoderChoice.of(settings.encoder, weights=settings.weights, backbone=settings.weights_backbone)
        digest = "" if choice.file is None else digest_of_weights(choice.file.resolve())
        if (own := f"{settings.encoder} {digest}".strip()) != recipe.slide_encoder:
            what = f"the model reads vectors of {recipe.slide_encoder}, and the encoder here is {own}"
            raise BundleError(what, path=choice.file, hint="give the weights that it was trained with")
    return settings


def features_of_model(recipe: FeatureRecipe, of_tiles: str = "") -> str:
    """The name of the folder of features that a model reads, such as ``0.5mpp-224px/uni2-h``.

    :param of_tiles: that of the tiles' features; default: as the model was trained.
    """
    trained = f"{TileSettings(**recipe.tile).folder_name()}/{ExtractSettings(**recipe.extract).folder_name()}"
    of_tiles = of_tiles or trained
    if recipe.encode is None:
        return of_tiles
    return name_of_vectors(of_tiles, recipe.encode["encoder"], imported=_is_imported(recipe))


_IMPORTED_FROM = f"{UNKNOWN}imported from "


def _is_imported(recipe: FeatureRecipe) -> bool:
    """Whether a model was trained on slide vectors that another program has made."""
    return _IMPORTED_FROM in recipe.slide_encoder
