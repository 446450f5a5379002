"""How a model's features were made, and the refusal of features that were made in another way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ..data.errors import BackboneError, BundleError
from ..data.features.store import FeatureFacts
from ..data.units import SAME_MPP
from .backbones.backbone import Pooling, find_backbone
from .mil.network import WIDEST

_EXTRACT_AGAIN = "extract with the model's own backbone and weights (pass them with --weights FILE)"
_TRAIN_AGAIN = "the table of backbones was corrected since: extract the slides it was trained on again, and train again"
_IMPORT_AGAIN = "its features were imported: import them again with --weights FILE, train again, and predict"
_OF_AN_ENCODER: Final = ("encode", "slide_encoder")
_TILES: Final = "none (one vector a tile)"


class FeatureRecipe(BaseModel):
    """How a slide's features were made: the settings of both stages, and the values that must match exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: dict[str, Any]
    extract: dict[str, Any]
    tile_px: int = Field(ge=1, le=65_536)
    backbone: str
    pooling: str
    weights_digest: str
    width: int = Field(ge=1, le=WIDEST)
    neighbours: int = Field(ge=1, le=1024)
    transform: dict[str, Any] | None = None
    """How tiles became the backbone's pixels; empty: not known, the features were imported; None: not recorded, the
    model is of before 27 November 2026."""
    encode: dict[str, Any] | None = None
    """Settings of the slide encoder, of a model that reads one vector a slide."""
    slide_encoder: str = ""
    """The encoder and the digest of its weights; empty: the model reads tiles."""

    @model_serializer(mode="wrap")
    def _without_what_tiles_lack(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the slide encoder out where there is none, so that bundles of tile models keep their bytes."""
        content: dict[str, Any] = serialised(self)
        return content if self.encode is not None else {k: v for k, v in content.items() if k not in _OF_AN_ENCODER}

    @property
    def pooling_text(self) -> str:
        """The pooling in words, for reports."""
        return {"pooled": "its own pooling", "cls": "class token", "mean": "mean of patch tokens"}.get(
            self.pooling, "class token and mean of patch tokens"
        )

    def refuse_other(self, facts: FeatureFacts, path: Path) -> None:
        """Refuse features of another backbone, other weights, other tiles or pixels, another resolution, another width.

        :raises BundleError: they differ; the message names the values.
        """
        own = {name: getattr(self, name) for name in ("backbone", "pooling", "weights_digest", "tile_px", "width")}
        other = [f"{n} is {getattr(facts, n)}, not {value}" for n, value in own.items() if getattr(facts, n) != value]
        if facts.slide_encoder != self.slide_encoder:
            here, model = facts.slide_encoder or _TILES, self.slide_encoder or _TILES
            other.append(f"slide encoder is {here}, not {model}")
        wanted = self.tile.get("mpp")
        if wanted is not None and abs(facts.mpp / wanted - 1) > self._mpp_tolerance:
            other.append(f"mpp is {facts.mpp:.6g}, not {wanted:g}")
        if other:
            raise BundleError(
                f"these features are not what the model was trained on: {'; '.join(other)}",
                path=path,
                hint=_IMPORT_AGAIN if "unknown: " in self.weights_digest + self.pooling else _EXTRACT_AGAIN,
            )
        if other := self._other_transform(facts.transform):
            raise BundleError(
                f"these features are of tiles that were resized otherwise than the model's: {'; '.join(other)}",
                path=path,
                hint=_TRAIN_AGAIN,
            )

    def _other_transform(self, here: Mapping[str, Any]) -> list[str]:
        """List the settings of the transform that differ from the model's."""
        wanted = self.transform
        if wanted is None:
            try:
                wanted = find_backbone(self.backbone).former_transform
            except BackboneError:  # a network that this version does not know
                return []
        both = wanted.keys() & here.keys()
        return [f"{name} is {here[name]}, not {wanted[name]}" for name in sorted(both) if here[name] != wanted[name]]

    def refuse_other_transform(self, path: Path) -> None:
        """Refuse a model whose backbone prepares tiles otherwise now, before days of extraction for it.

        :param path: the model's folder.
        :raises BundleError: the transform has changed since the model was trained.
        """
        if other := self._other_transform(find_backbone(self.backbone).transform):
            raise BundleError(
                f"its backbone {self.backbone} prepares tiles otherwise now: {'; '.join(other)}",
                path=path,
                hint=_TRAIN_AGAIN,
            )

    @property
    def _mpp_tolerance(self) -> float:
        """How far a slide's tiles may be from the wanted mpp: as a level read without resampling, and by rounding."""
        return max(SAME_MPP, float(self.tile.get("native_tolerance", 0))) + 1 / self.tile_px

    def refuse_other_width(self, path: Path) -> None:
        """Refuse a model whose width its own backbone cannot give, before days of extraction for it.

        :param path: the model's folder.
        :raises BundleError: the backbone gives features of another width than the model takes.
        """
        if self.slide_encoder:
            return  # the width is the encoder's, which says what it reads when it is loaded
        pooling = next((known for known in get_args(Pooling) if known == self.pooling), None)
        widths = find_backbone(self.backbone, pooling).widths() if pooling is not None else {self.width}
        if self.width not in widths:
            gives = " or ".join(map(str, sorted(widths)))
            raise BundleError(
                f"it takes features of {self.width} numbers, and its backbone {self.backbone} gives {gives}",
                path=path,
                hint="its features were of another backbone: import them under its name, and train again",
            )
