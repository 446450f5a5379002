"""Zoom tiles: squares of a slide at scales of 1, 2, 4, … as a viewer in the browser asks for them.

Zoom 0 shows the whole slide within one tile, and each further zoom twice as fine, to the pixels of level 0. A tile is
read from the coarsest level that is fine enough and shrunk by at most four. Where a slide has no such level, a tile is
made of the four below it, which are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Final

import cv2
import numpy as np
import simplejpeg

from ...data.errors import SlideError
from ...data.slides.slide import Rgb, Slide
from ...data.units import Level0Px, LevelPx

TILE: Final = 256
"""Side of a zoom tile in pixels."""
_QUALITY: Final = 85
_MOST_SHRUNK: Final = 4
"""A tile of 256 px is read from at most 1024 × 1024 px."""
_FINE_ENOUGH: Final = 1.02
"""Pyramids have levels of 4.0006 and 16.004; they stand for 4 and 16."""
_MOST_BELOW: Final = 2**28
"""Pixels of a level that one tile may be made of: some seconds of decoding."""
_KEPT_BYTES: Final = 64 * 2**20


def most_zoom(size: tuple[int, int]) -> int:
    """The zoom at which a pixel is one of level 0, of a slide of that width and height."""
    return max((max(size) - 1) // TILE, 0).bit_length()


class NoSuchTileError(LookupError):
    """The slide has no tile there."""


class ZoomTiles:
    """Zoom tiles of any slides; those that others are made of are kept, up to 64 MiB."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Rgb] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def jpeg(self, slide: Slide, stamp: Hashable, zoom: int, column: int, row: int) -> bytes:
        """The JPEG of a tile; see :meth:`pixels`."""
        return _jpeg(self.pixels(slide, stamp, zoom, column, row))

    def crop(self, slide: Slide, x: Level0Px, y: Level0Px, side: int) -> bytes:
        """The JPEG of a square of level 0, of at most 256 px.

        :raises SlideError: it cannot be decoded.
        """
        scale = max(side / TILE, 1.0)
        level = _level(slide, scale)
        size = max(min(side, TILE), 1)
        return _jpeg(_read(slide, level, scale / slide.level_downsamples[level], x, y, (size, size)))

    def pixels(self, slide: Slide, stamp: Hashable, zoom: int, column: int, row: int) -> Rgb:
        """The pixels of a tile, (256, 256, 3) uint8, or less at the right and lower edge.

        :param stamp: what tells the slide from others.
        :raises NoSuchTileError: it lies outside of the slide, or there is no such zoom.
        :raises SlideError: it cannot be decoded, or too many pixels would have to be.
        """
        finest = most_zoom(slide.dimensions)
        if not 0 <= zoom <= finest:
            raise NoSuchTileError(f"there is no zoom {zoom}")
        scale = 1 << (finest - zoom)
        width, height = (
            min(-(-side // scale) - at * TILE, TILE) for side, at in zip(slide.dimensions, (column, row), strict=True)
        )
        if width <= 0 or height <= 0 or column < 0 or row < 0:
            raise NoSuchTileError(f"the slide has no tile {column}, {row} at zoom {zoom}")
        level = _level(slide, scale)
        shrunk = scale / slide.level_downsamples[level]
        if shrunk <= _MOST_SHRUNK * _FINE_ENOUGH:
            x, y = Level0Px(column * TILE * scale), Level0Px(row * TILE * scale)
            return _read(slide, level, shrunk, x, y, (width, height))
        if (shrunk * TILE) ** 2 > _MOST_BELOW:
            what = "has no level that is coarse enough to show this much of it at once"
            raise SlideError(what, path=slide.path, hint="zoom in")
        return self._of_four(slide, stamp, zoom, column, row, (width, height))

    def _of_four(self, slide: Slide, stamp: Hashable, zoom: int, column: int, row: int, size: tuple[int, int]) -> Rgb:
        key = (slide.path, stamp, zoom, column, row)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        large = np.full((2 * size[1], 2 * size[0], 3), 255, np.uint8)
        for down in (0, 1):
            for right in (0, 1):
                try:
                    part = self.pixels(slide, stamp, zoom + 1, 2 * column + right, 2 * row + down)
                except NoSuchTileError:
                    continue
                at = large[down * TILE : down * TILE + part.shape[0], right * TILE : right * TILE + part.shape[1]]
                at[...] = part[: at.shape[0], : at.shape[1]]
        pixels = _shrunk(large, size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > _KEPT_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def _jpeg(pixels: Rgb) -> bytes:
    contiguous = np.ascontiguousarray(pixels)
    return bytes(simplejpeg.encode_jpeg(contiguous, quality=_QUALITY, colorsubsampling="420"))


def _level(slide: Slide, scale: float) -> int:
    """The coarsest level that is at least as fine as the scale."""
    fine = [level for level, by in enumerate(slide.level_downsamples) if by <= scale * _FINE_ENOUGH]
    return max(fine, key=lambda level: slide.level_downsamples[level], default=0)


def _read(slide: Slide, level: int, shrunk: float, x: Level0Px, y: Level0Px, size: tuple[int, int]) -> Rgb:
    width, height = (LevelPx(max(round(side * shrunk), 1)) for side in size)
    return _shrunk(slide.read(level, x, y, width, height), size)


def _shrunk(pixels: Rgb, size: tuple[int, int]) -> Rgb:
    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
