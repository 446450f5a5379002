"""Where the tiles of a slide lie: the level to read, how much of it, and at which positions.

Three scales meet here, and each number says which one is its own: pixels of level 0 (positions), pixels of the
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
"""Which level of the pyramid the tiles are read from. The field of view asked for is the same with each.

- ``coarsest``: the coarsest that is at least as fine as asked. Least is decoded, and nothing is enlarged.
- ``finest``: level 0, whatever it costs: as tools do that know no pyramid, and blind to how a scanner made its levels.
- ``nearest``: the one whose resolution is nearest by ratio, though it may be up to 25 % coarser
  (:data:`MOST_COARSER`) and its tiles then enlarged a little. Decodes less still, for a little sharpness.
"""

MOST_COARSER: Final = 0.25
"""How much coarser than asked, as a share of it, a level may be for ``nearest`` to read it. ``allow_upsample`` is for
slides that have no such level, and changes nothing for others."""

_ROUNDING: Final = 1e-9  # relative: 0.5 asked and 0.25 × 2.0000000001 read are the same
_SLACK: Final = 1e-6  # px: positions divided by a fractional downsample


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """A grid of square tiles over one slide.

    A tile is a square of ``read_px`` pixels of ``level``, resized to ``tile_px`` unless both are equal. Its field of
    view is the asked one to half a pixel of that level (``native_tolerance`` aside), and neighbours abut
    exactly, or overlap by ``overlap / tile_px`` of their side.
    """

    mpp: Mpp
    """As asked."""
    tile_px: TilePx
    """Side of a tile as the backbone sees it."""
    overlap: TilePx
    """What neighbours share, in pixels of the tile."""
    level: int
    downsample: float
    """Pixels of level 0 along one pixel of ``level``."""
    level_mpp: Mpp
    """Microns per pixel of ``level``."""
    read_px: LevelPx
    """Side of the square to read at ``level``."""
    columns: int
    rows: int
    """Tiles that lie wholly inside the slide."""

    @property
    def native(self) -> bool:
        """Whether tiles are pixels of the slide as they are, without resampling."""
        return int(self.read_px) == int(self.tile_px)

    @property
    def tile_mpp(self) -> Mpp:
        """True microns per pixel of a tile: within the tolerance, or the rounding of ``read_px``, the asked one."""
        return Mpp(self.read_px * self.level_mpp / self.tile_px)

    @property
    def size_level0(self) -> Level0Px:
        """Side of a tile in pixels of level 0."""
        return Level0Px(round(self.read_px * self.downsample))

    @property
    def step(self) -> float:
        """Pixels of level 0 from a tile to the next; not whole where the downsample or the overlap is not."""
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

    Read is, unless ``level_policy`` says otherwise, the coarsest level that is at least as fine as asked. A level
    within ``native_tolerance`` (0.02 is 2 %) counts as what was asked and is read as it is: scanners' 20x runs from
    0.494 to 0.506.

    :param level_dimensions: width and height of each level in its own pixels, finest first.
    :param level_downsamples: pixels of level 0 along one of each level.
    :param slide_mpp: microns per pixel of level 0.
    :param allow_upsample: enlarge a slide that is coarser than asked, rather than refuse it: from its level 0.
    :param level_policy: see :data:`LevelPolicy`.
    :returns: a grid, of no tiles where the slide is smaller than one.
    :raises SlideError: the slide is coarser than asked (by more than a quarter, where ``nearest`` is the policy); the
        error names no file.
    :raises UsageError: an overlap of a whole tile or more, or a step of less than a pixel.
    """
    if not 0 <= overlap < tile_px:
        hint = f"give at least 0 and less than {tile_px}"
        raise UsageError(f"tiles of {tile_px} px cannot overlap by {overlap} px", path="overlap", hint=hint)
    level_mpps = [Mpp(slide_mpp * downsample) for downsample in level_downsamples]
    level = _level(level_mpps, mpp, level_policy, native_tolerance, allow_upsample=allow_upsample)
    if level is None:
        wrong = f"coarser than asked: {slide_mpp:.6g} µm per pixel at its finest, and tiles are to have {mpp:g}"
        # Rounded up: a resolution that is asked for must not be finer than the slide by the digits left away.
        coarse = f"{ceil(slide_mpp * 1e4) / 1e4:g}"
        hint = f"enlarge it with --allow-upsample; or cut coarser tiles: wsipipe tile --mpp {coarse}"
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
        wrong = f"an overlap of {overlap} of {tile_px} px leaves less than a pixel from tile to tile"
        raise UsageError(wrong, path="overlap", hint="give a smaller one")
    columns, rows = (
        _count(grid, full, own) for full, own in zip(level_dimensions[0], level_dimensions[level], strict=True)
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


def _count(grid: TileGrid, full: int, own: int) -> int:
    """Tiles along an axis of ``full`` pixels at level 0 and ``own`` at the level read, which may be cut short there."""
    at = _positions(grid.step, int(full / grid.step) + 2)
    inside = (at + grid.size_level0 <= full) & (at / grid.downsample + grid.read_px <= own + _SLACK)
    return int(inside.sum())
