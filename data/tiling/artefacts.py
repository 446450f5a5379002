"""Artefacts on a slide: where each kind lies, on the grid of the tissue mask, and how much of each tile it covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from ..units import Level0Px
from .grid import Coords
from .pieces import Mask
from .tissue import area_means

ARTEFACTS: Final = ("fold", "dark spot", "pen", "air bubble", "out of focus")
"""Kinds of artefacts. A dark spot is dust or another foreign object; an air bubble may be the edge of a cover slip."""

COVERED: Final = 255
"""The share of a pixel of the map that is covered completely."""

Shares = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class ArtefactMap:
    """The artefacts of a slide, where they were looked for."""

    shares: npt.NDArray[np.uint8]
    """(kinds, height, width): how much of a pixel each of :data:`ARTEFACTS` covers, from 0 to :data:`COVERED`."""
    unread: Mask
    """(height, width): where they were looked for, and the slide cannot be decoded."""
    downsample: float
    """Pixels of level 0 along one pixel, on both axes."""

    def of_tiles(self, coords: Coords, size_level0: Level0Px) -> TileArtefacts:
        """Compute how much of each tile every kind covers.

        :param coords: (N, 2) positions in pixels of level 0.
        :param size_level0: side of a tile in pixels of level 0.
        """
        place = self.downsample, coords, size_level0
        shares = np.stack([area_means(kind, *place, most=COVERED) for kind in self.shares], axis=1)
        shares[area_means(self.unread.astype(np.uint8), *place) > 0] = np.nan
        return TileArtefacts(shares)


@dataclass(frozen=True, eq=False)
class TileArtefacts:
    """How much of each tile artefacts cover."""

    shares: Shares
    """(N, kinds) from 0 to 1, of :data:`ARTEFACTS`; NaN for a tile of which a part cannot be decoded."""

    @property
    def fraction(self) -> Shares:
        """(N,) of all kinds together."""
        return np.asarray(self.shares.sum(axis=1, dtype=np.float64).clip(0, 1), np.float32)

    def of(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """Those of some of the tiles."""
        return type(self)(self.shares[chosen])

    def stats(self) -> dict[str, int | float | None]:
        """Figures for the manifest: the mean fraction over the tiles, of all kinds and of each; None if unknown."""
        unknown = np.isnan(self.shares).any(axis=1)
        known = self.shares[~unknown].astype(np.float64)
        means = {"fraction": known.sum(axis=1).clip(0, 1)} | dict(zip(ARTEFACTS, known.T, strict=True))
        return {
            **{f"artefact_{name.replace(' ', '_')}": _mean(values) for name, values in means.items()},
            "artefact_unread_tiles": int(unknown.sum()),
        }


@dataclass(frozen=True, eq=False)
class DroppedTiles:
    """Tiles that were dropped because of their artefacts."""

    coords: Coords
    """(M, 2) x and y of the upper left corners in pixels of level 0."""
    artefacts: TileArtefacts
    """How much of each artefacts cover."""


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
