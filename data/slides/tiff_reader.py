"""Slides whose levels are compressed tiles of a TIFF, read without OpenSlide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import SlideError
from ..surroundings import patiently
from ..units import Level0Px, LevelPx, Mpp
from .codecs import library_of
from .decoded_tiles import DecodedTiles
from .pyramid import downsample
from .slide import Mask, Rgb, Slide


class TiffReader(Slide):
    """A slide read from its compressed tiles alone; missing tiles are white.

    A tile is decoded once when regions are read row by row, by one thread or by many. A position between two pixels of
    a level is rounded to the nearest: pixels are those of the file, never blended, and lie at most half a pixel of
    their level from the requested position.

    :param tiles: the tiles of all levels; this reader takes them over and closes them.
    :param slide_format: see :attr:`.slide.Slide.format`.
    :param remarks: remarks that ``reader`` gives after the decoder's name.
    """

    def __init__(
        self,
        path: Path,
        tiles: DecodedTiles,
        mpp: tuple[Mpp, Mpp] | None,
        slide_format: str,
        remarks: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.format = slide_format
        self.mpp = mpp
        self._tiles = tiles
        self.level_dimensions = tuple((level.width, level.height) for level in tiles.levels.values())
        self.level_downsamples = tuple(downsample(self.level_dimensions[0], size) for size in self.level_dimensions)
        self.reader = ", ".join(sorted({library_of(level.compression) for level in tiles.levels.values()}))
        if remarks:
            self.reader += f" ({'; '.join(remarks)})"

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        if not 0 <= level < len(self.level_dimensions):
            raise IndexError(f"{self.path} has no level {level}")
        region = self._tiles.region(level, *self._nearest(level, x, y), width, height)
        if region is None:
            patiently(self.path.stat, self.path)  # a file that is gone must not be reported as damaged
            wrong = f"cannot decode {width} × {height} px of level {level} at ({x}, {y})"
            hint = "the file or its disk is damaged: copy or scan it again"
            raise SlideError(wrong, path=self.path, hint=hint)
        return region

    def unscanned(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Mask | None:
        return self._tiles.gaps(level, *self._nearest(level, x, y), width, height)

    def _nearest(self, level: int, x: Level0Px, y: Level0Px) -> tuple[int, int]:
        """Round a position in level 0 to the nearest pixel of a level."""
        left, top = (math.floor(at / self.level_downsamples[level] + 0.5) for at in (x, y))
        return left, top

    def close(self) -> None:
        self._tiles.close()
