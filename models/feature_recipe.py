"""How a model's features were made, and the refusal of features that were made in another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ConfigDict, Field

from ..data.errors import BundleError
from ..data.features.store import FeatureFacts
from .backbones.backbone import Pooling, find_backbone
from .mil.network import WIDEST

_EXTRACT_AGAIN = "extract with the model's own backbone and weights (pass them with --weights FILE)"
_IMPORT_AGAIN = "its features were imported: import them again with --weights FILE, train again, and predict"
_SAME_MPP: Final = 0.02  # relative: scanners' resolutions differ by as much


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

    @property
    def pooling_text(self) -> str:
        """The pooling in words, for reports."""
        return {"pooled": "its own pooling", "cls": "class token", "mean": "mean of patch tokens"}.get(
            self.pooling, "class token and mean of patch tokens"
        )

    def refuse_other(self, facts: FeatureFacts, path: Path) -> None:
        """Refuse features of another backbone, other weights, other tiles, another resolution, or another width.

        :raises BundleError: they differ; the message names the values.
        """
        own = {name: getattr(self, name) for name in ("backbone", "pooling", "weights_digest", "tile_px", "width")}
        other = [f"{n} is {getattr(facts, n)}, not {value}" for n, value in own.items() if getattr(facts, n) != value]
        wanted = self.tile.get("mpp")
        if wanted is not None and abs(facts.mpp / wanted - 1) > self._mpp_tolerance:
            other.append(f"mpp is {facts.mpp:.6g}, not {wanted:g}")
        if other:
            raise BundleError(
                f"these features are not what the model was trained on: {'; '.join(other)}",
                path=path,
                hint=_IMPORT_AGAIN if "unknown: " in self.weights_digest + self.pooling else _EXTRACT_AGAIN,
            )

    @property
    def _mpp_tolerance(self) -> float:
        """How far a slide's tiles may be from the wanted mpp: as a level read without resampling, and by rounding."""
        return max(_SAME_MPP, float(self.tile.get("native_tolerance", 0))) + 1 / self.tile_px

    def refuse_other_width(self, path: Path) -> None:
        """Refuse a model whose width its own backbone cannot give, before days of extraction for it.

        :param path: the model's folder.
        :raises BundleError: the backbone gives features of another width than the model takes.
        """
        pooling = next((known for known in get_args(Pooling) if known == self.pooling), None)
        widths = find_backbone(self.backbone, pooling).widths() if pooling is not None else {self.width}
        if self.width not in widths:
            gives = " or ".join(map(str, sorted(widths)))
            raise BundleError(
                f"it takes features of {self.width} numbers, and its backbone {self.backbone} gives {gives}",
                path=path,
                hint="its features were of another backbone: import them under its name, and train again",
            )
