"""Tile sets for tests that need one and not a slide."""

from __future__ import annotations

import numpy as np
from wsipipe.data.tiling.grid import Coords, TileGrid
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Level0Px, Mpp


def tile_set(grid: TileGrid, coords: Coords, slide_mpp: float, size: tuple[int, int]) -> TileSet:
    """These tiles of a grid, all tissue and all sharp, on a slide of ``size`` px."""
    return TileSet(
        slide_id="Präparat 7.1",
        slide_format="aperio",
        slide_size=(Level0Px(size[0]), Level0Px(size[1])),
        slide_mpp=Mpp(slide_mpp),
        grid=grid,
        min_tissue=0.5,
        coords=coords,
        tissue_fraction=np.ones(len(coords), np.float32),
        sharpness=np.ones(len(coords), np.float32),
        sharpness_mpp=Mpp(8),
    )
