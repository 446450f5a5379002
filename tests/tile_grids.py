"""Grids over slides of given sizes and levels."""

from wsipipe.data.tiling.grid import LevelPolicy, TileGrid, plan_grid
from wsipipe.data.units import Mpp, TilePx


def grid_of(
    mpp0: float,
    *,
    size: tuple[int, int] = (50_000, 40_000),
    factors: tuple[int, ...] = (1, 4, 16, 32),
    mpp: float = 0.5,
    tile_px: int = 224,
    overlap: int = 0,
    native_tolerance: float = 0.0,
    allow_upsample: bool = False,
    level_policy: LevelPolicy = "coarsest",
) -> TileGrid:
    """A grid over a scanner's pyramid: levels cut to whole pixels, downsamples as OpenSlide has them."""
    dimensions = [(size[0] // factor, size[1] // factor) for factor in factors]
    return plan_grid(
        dimensions,
        downsamples_of(dimensions),
        Mpp(mpp0),
        mpp=Mpp(mpp),
        tile_px=TilePx(tile_px),
        overlap=TilePx(overlap),
        native_tolerance=native_tolerance,
        allow_upsample=allow_upsample,
        level_policy=level_policy,
    )


def downsamples_of(dimensions: list[tuple[int, int]]) -> list[float]:
    """As OpenSlide has them: the mean of both axes."""
    full_width, full_height = dimensions[0]
    return [(full_width / width + full_height / height) / 2 for width, height in dimensions]
