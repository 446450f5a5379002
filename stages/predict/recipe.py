"""The settings in a trained model's recipe by which new slides are tiled and extracted, checked as they are read.

The networks of tiling are in it by the digests of their weights (:mod:`..tile.networks`), under the settings' names.

A model may come from somebody else. Its recipe may hold what gives its numbers their meaning, and how they are judged
and shown, but nothing of the machine, such as the path of a file to read or to write: that is for the user alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...data.errors import BundleError
from ...models.bundle import folds_of
from ...models.feature_recipe import FeatureRecipe
from ..encode.settings import EncodeSettings
from ..extract.settings import ExtractSettings
from ..settings import Settings
from ..tile.networks import is_digest
from ..tile.settings import NETWORKS, TileSettings


def recipe_of(model: Path) -> FeatureRecipe:
    """Read the recipe of a trained model, which all its folds share.

    :param model: the model's folder.
    :raises BundleError: there is no model; or its recipe has a setting of the machine, one that does not exist, one
        with a value that it cannot have, or lacks the resolution or the backbone.
    """
    path, facts = folds_of(model)[0]
    recipe, file = facts.recipe, path / "bundle.json"
    tile = _checked("tile", recipe.tile, TileSettings, needed="mpp", file=file)
    extract = _checked("extract", recipe.extract, ExtractSettings, needed="backbone", file=file)
    own: dict[str, Any] = {"tile": tile, "extract": extract}
    if recipe.encode is not None:
        own["encode"] = _checked("encode", recipe.encode, EncodeSettings, needed="encoder", file=file)
    return recipe.model_copy(update=own)


def _checked(
    section: str, given: Mapping[str, Any], settings: type[Settings], *, needed: str, file: Path
) -> dict[str, Any]:
    """The settings of a section, without those of the machine that are at their defaults."""
    defaults = settings.defaults()
    own = {
        name: value
        for name, value in given.items()
        if settings.kind(name) != "machine" or name not in defaults or defaults[name] != value
    }
    unknown = [name for name in own if name not in settings.model_fields]
    if unknown:
        what = f"its recipe sets {section}.{unknown[0]}, which this version of wsipipe does not know"
        raise BundleError(what, path=file, hint="use the wsipipe that trained it; or the file was edited: " + _AGAIN)
    networks = {name for name in own if settings is TileSettings and name in NETWORKS and is_digest(own[name])}
    of_the_machine = [f"{section}.{name}" for name in own if settings.kind(name) == "machine" and name not in networks]
    if of_the_machine:
        raise BundleError(
            f"its recipe sets {', '.join(of_the_machine)}: a model may say how slides are read, but nothing of the "
            "machine, such as a file to read or to write",
            path=file,
            hint="the file was edited: " + _AGAIN,
        )
    if needed not in own:
        raise BundleError(f"its recipe lacks {section}.{needed}", path=file, hint="the file was edited: " + _AGAIN)
    try:
        settings.model_validate({name: own[name] for name in own if name not in networks}, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, (section, *first["loc"])))
        what = f"its recipe sets {where} to what it cannot be: {first['msg'].removeprefix('Value error, ')}"
        raise BundleError(what, path=file, hint="the file was edited: " + _AGAIN) from error
    return own


_AGAIN = "copy the model again from where it was trained"
