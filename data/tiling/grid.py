"""The grid of a slide's tiles: the level to read, the size to read, and the positions.

There are three scales, and each number's type says which one it is in: pixels of level 0 (positions), pixels of the
level that is read, and pixels of the tile as the backbone sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ..errors import SlideError, UsageError
from ..units import Level0Px, LevelPx, Mpp, TilePx

Coords = npt.NDArray[np.int64]
"""(N, 2): x and y of the tiles' upper left corners, in pixels of level 0."""

LevelPolicy = Literal["coarsest", "finest", "nearest"]
"""The level of the pyramid that tiles are read from. The field of view of a tile is the same with each.

- ``coarsest``: the coarsest that is at least as fine as requested. Least is decoded, and nothing is enlarged.
- ``finest``: level 0, whatever it costs: like tools without pyramid support, and independent of how a scanner computed
  its levels.
- ``nearest``: the one with the nearest resolution by ratio, which may be up to 25 % coarser (:data:`MOST_COARSER`), so
  that its tiles are enlarged a little. Decodes even less, and loses a little sharpness.
"""

MOST_COARSER: Final = 0.25
"""How much coarser than requested a level may be for ``nearest``, as a fraction. ``allow_upsample`` is for slides
without such a level, and changes nothing for others."""

_ROUNDING: Final = 1e-9  # relative: 0.5 requested and 0.25 × 2.0000000001 read are the same
_SLACK: Final = 1e-6  # px: positions divided by a fractional downsample


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """A grid of square tiles over one slide.

    A tile is a square of ``read_px`` pixels of ``level``, resized to ``tile_px`` unless both are equal. Its field of
    view is the requested one to half a pixel of that level (``native_tolerance`` aside), and neighbours adjoin
    exactly, or overlap by ``overlap / tile_px`` of their side.
    """

    mpp: Mpp
    """The requested resolution."""
    tile_px: TilePx
    """Side of a tile as the backbone sees it."""
    overlap: TilePx
    """Overlap of neighbours, in pixels of the tile."""
    level: int
    downsample: float
    """Pixels of level 0 along one pixel of ``level``."""
    level_mpp: Mpp
    """Microns per pixel of ``level``."""
    read_px: LevelPx
    """Side of the square to read at ``level``."""
    columns: int
    rows: int
    """Number of rows; as with columns, of tiles completely inside the slide."""

    @property
    def native(self) -> bool:
        """Whether tiles are the slide's own pixels, without resampling."""
        return int(self.read_px) == int(self.tile_px)

    @property
    def tile_mpp(self) -> Mpp:
        """True microns per pixel of a tile: as requested, to within the tolerance or the rounding of ``read_px``."""
        return Mpp(self.read_px * self.level_mpp / self.tile_px)

    @property
    def size_level0(self) -> Level0Px:
        """Side of a tile in pixels of level 0."""
        return Level0Px(round(self.read_px * self.downsample))

    @property
    def step(self) -> float:
        """Pixels of level 0 from a tile to the next; can be fractional, like the downsample and the overlap."""
        return self.read_px * self.downsample * (self.tile_px - self.overlap) / self.tile_px

    def coords(self) -> Coords:
        """Positions of all tiles, (rows × columns, 2), row by row."""
        x, y = np.meshgrid(_positions(self.step, self.columns), _positions(self.step, self.rows))
        return np.stack([x.ravel(), y.ravel()], axis=1)


def plan_grid(
    level_dimensions: Sequence[tuple[int, int]],
    level_downsamples: Sequence[float],
    slide_mpp: Mpp,
    *,
    mpp: Mpp,
    tile_px: TilePx,
    overlap: TilePx,
    native_tolerance: float,
    allow_upsample: bool,
    level_policy: LevelPolicy = "coarsest",
) -> TileGrid:
    """Lay a grid over a slide.

    By default the coarsest level that is at least as fine as requested is read. A level within ``native_tolerance``
    (0.02 is 2 %) of the requested resolution is read without resampling: the 20x of scanners ranges from 0.494 to 0.506
    µm per pixel.

    :param level_dimensions: width and height of each level in its own pixels, finest first.
    :param level_downsamples: pixels of level 0 along one of each level.
    :param slide_mpp: microns per pixel of level 0.
    :param allow_upsample: enlarge level 0 of a slide that is coarser than requested, instead of refusing it.
    :param level_policy: see :data:`LevelPolicy`.
    :returns: a grid, without tiles if the slide is smaller than one.
    :raises SlideError: the slide is coarser than requested (by more than a quarter with ``nearest``); the error names
        no file.
    :raises UsageError: an overlap of a whole tile or more, or a step of less than a pixel.
    """
    if not 0 <= overlap < tile_px:
        hint = f"give at least 0 and less than {tile_px}"
        raise UsageError(f"tiles of {tile_px} px cannot overlap by {overlap} px", path="overlap", hint=hint)
    level_mpps = [Mpp(slide_mpp * downsample) for downsample in level_downsamples]
    level = _level(level_mpps, mpp, level_policy, native_tolerance, allow_upsample=allow_upsample)
    if level is None:
        wrong = f"coarser than requested: {slide_mpp:.6g} µm per pixel at its finest level, and tiles need {mpp:g}"
        # Rounded up: the suggested resolution must not be finer than the slide because of dropped digits.
        coarse = f"{ceil(slide_mpp * 1e4) / 1e4:g}"
        hint = (
            "scan it finer, or enlarge it with --allow-upsample; where no model is there yet that needs these tiles, "
            f"cut coarser ones: wsipipe tile --mpp {coarse}"
        )
        raise SlideError(wrong, hint=hint)
    level_mpp, downsample = level_mpps[level], level_downsamples[level]
    if abs(level_mpp / mpp - 1) <= native_tolerance + _ROUNDING:
        read_px = LevelPx(tile_px)
    else:
        read_px = LevelPx(max(round(tile_px * mpp / level_mpp), 1))
    grid = TileGrid(
        mpp=mpp,
        tile_px=tile_px,
        overlap=overlap,
        level=level,
        downsample=downsample,
        level_mpp=level_mpp,
        read_px=read_px,
        columns=0,
        rows=0,
    )
    if grid.step < 1:
        wrong = f"with an overlap of {overlap} of {tile_px} px, tiles are less than a pixel apart"
        raise UsageError(wrong, path="overlap", hint="give a smaller one")
    columns, rows = (
        _count(grid, level0_side, level_side)
        for level0_side, level_side in zip(level_dimensions[0], level_dimensions[level], strict=True)
    )
    return replace(grid, columns=columns, rows=rows)


def _level(
    level_mpps: Sequence[Mpp], mpp: Mpp, policy: LevelPolicy, native_tolerance: float, *, allow_upsample: bool
) -> int | None:
    """The level to read; None where the slide is too coarse. Of two that are equally good, the first."""
    spare = max(native_tolerance, MOST_COARSER) if policy == "nearest" else native_tolerance
    most = mpp * (1 + spare) * (1 + _ROUNDING)
    fine_enough = fine_levels(level_mpps, most)
    if not fine_enough:
        return 0 if allow_upsample else None
    if policy == "finest":
        return 0
    if policy == "nearest":
        return min(sorted(fine_enough), key=lambda level: abs(log(level_mpps[level] / mpp)))
    return fine_enough[0]


def fine_levels(level_mpps: Sequence[float], most: float) -> list[int]:
    """Levels of at most so many µm per pixel, coarsest first; of those that are equal, the first one first."""
    fine_enough = [level for level, level_mpp in enumerate(level_mpps) if level_mpp <= most]
    return sorted(fine_enough, key=lambda level: -level_mpps[level])


def _positions(step: float, count: int) -> npt.NDArray[np.int64]:
    return np.asarray(np.rint(np.arange(count) * step), np.int64)


def _count(grid: TileGrid, level0_side: int, level_side: int) -> int:
    """Count the tiles along an axis, given its pixels at level 0 and at the level read, which may be cropped."""
    at = _positions(grid.step, int(level0_side / grid.step) + 2)
    inside = (at + grid.size_level0 <= level0_side) & (at / grid.downsample + grid.read_px <= level_side + _SLACK)
    return int(inside.sum())
