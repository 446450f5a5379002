"""Which tile lies at each pixel of a zoom tile: the one picture from which every layer is coloured.

The tiles of a slide need not lie in a grid and may overlap; where they do, a pixel belongs to the one whose middle is
nearest. The time depends on the tiles in view and on the pixels, not on the product of both.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ...data.tiling.grid import Coords
from .zoom_tiles import TILE

Places = npt.NDArray[np.int32]
"""(256, 256) number of the tile at each pixel, -1 for none."""

_FEW: Final = 256


class TilePlaces:
    """The squares of a slide's tiles.

    :param coords: (N, 2) x and y of their upper left corners, in pixels of level 0.
    :param side: side of a tile in pixels of level 0.
    :param step: distance to the next one, smaller than the side where tiles overlap.
    """

    def __init__(self, coords: Coords, side: float, step: float) -> None:
        self._order = np.argsort(coords[:, 1], kind="stable").astype(np.int32)
        self._x, self._y = (coords[self._order].T.astype(np.float64)) if len(coords) else np.empty((2, 0))
        self._side = side
        self._margin = max(side - step, 0) / 2

    def at(self, x: float, y: float) -> int | None:
        """The number of the tile at a place, in pixels of level 0; None if there is none."""
        some = self._within(x, y, x, y)
        if not some.size:
            return None
        middle = self._side / 2
        far = np.maximum(abs(self._x[some] + middle - x), abs(self._y[some] + middle - y))
        return int(self._order[some[far.argmin()]])

    def raster(self, zoom_scale: int, column: int, row: int) -> Places:
        """The tiles under the pixels of a zoom tile.

        :param zoom_scale: pixels of level 0 along one pixel.
        """
        places = np.full((TILE, TILE), -1, np.int32)
        left, top = column * TILE * zoom_scale, row * TILE * zoom_scale
        extent = TILE * zoom_scale
        some = self._within(left, top, left + extent, top + extent)
        if not some.size:
            return places
        corner = np.stack([self._x[some] - left, self._y[some] - top])
        for margin in (0.0, self._margin) if self._margin else (0.0,):  # the middles over the overlapping borders
            start = np.rint((corner + margin) / zoom_scale).astype(np.int64)
            stop = np.rint((corner + self._side - margin) / zoom_scale).astype(np.int64)
            stop = np.maximum(stop, start + 1)
            _paint(places, start.clip(0, TILE), stop.clip(0, TILE), self._order[some])
        return places

    def _within(self, left: float, top: float, right: float, bottom: float) -> npt.NDArray[np.intp]:
        """Where in the order by y those are that touch a region."""
        first, last = np.searchsorted(self._y, (top - self._side, bottom), side="right")
        x = self._x[first:last]
        return np.asarray(first + np.flatnonzero((x + self._side > left) & (x <= right)), np.intp)


def _paint(places: Places, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], numbers: Places) -> None:
    """Fill rectangles: one by one if they are few, else pixel by pixel of all at once, for then they are small."""
    if len(numbers) <= _FEW:
        for (x0, y0), (x1, y1), number in zip(start.T, stop.T, numbers, strict=True):
            places[y0:y1, x0:x1] = number
        return
    width, height = (stop - start).max(axis=1)
    for down in range(height):
        y = start[1] + down
        for right in range(width):
            x = start[0] + right
            inside = (y < stop[1]) & (x < stop[0])
            places[y[inside], x[inside]] = numbers[inside]
