"""The fast path: slides whose levels are JPEG tiles in a TIFF, decoded without OpenSlide, to OpenSlide's pixels.

OpenSlide says what the slide is (levels, mpp), and reads whatever is out of the ordinary: levels of another kind,
positions between the pixels of a level (which it blends), tiles that are missing or damaged. So all pixels are its
pixels. A few tiles of each level are compared when the slide is opened; where one differs, the fast path is not taken.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
import simplejpeg

from .errors import SlideError
from .openslide_reader import OpenSlideReader
from .slide import Rgb, Slide
from .tiff_layout import TiledJpeg, tiled_jpeg_levels
from .units import Level0Px, LevelPx

CACHE_BYTES: Final = 256 * 2**20
"""Most that a slide's decoded tiles take, beside those of the regions being read. They take less where a level's rows
are short: one row of tiles more than the tallest region so far has touched."""

_FORMATS: Final = frozenset({"aperio", "generic-tiff"})
"""Others lay their tiles out in ways of their own."""

_START_OF_IMAGE: Final = b"\xff\xd8"
_ADOBE: Final = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""A marker that tells the decoder how colours are coded; its last byte, which follows, is 1 for YCbCr and 0 for RGB."""
_CHECKED_TILES: Final = 3


def fastest_reader(slide: OpenSlideReader) -> Slide:
    """The slide on the fast path; or as it is, with the reason in its ``reader``."""
    if slide.format not in _FORMATS:
        return _as_it_is(slide, f"the format is {slide.format}")
    levels: dict[int, TiledJpeg] = {}
    others: dict[int, str] = {}
    gaps = False
    for level, layout in enumerate(tiled_jpeg_levels(slide.path, slide.level_dimensions)):
        if isinstance(layout, str):
            others[level] = layout
            continue
        if gaps and slide.format == "aperio":
            # OpenSlide distrusts what Aperio's software made of them, and paints such places from the finer level.
            others[level] = "tiles are missing in a finer level"
        elif not slide.level_downsamples[level].is_integer():  # then nearly all positions lie between pixels
            others[level] = f"downsample of {slide.level_downsamples[level]:.6g}"
        else:
            levels[level] = layout
        gaps = gaps or 0 in layout.byte_counts
    if not levels:
        return _as_it_is(slide, others[0])
    tiles = _DecodedTiles(slide.path, levels)
    if difference := _difference(tiles, slide):
        tiles.close()
        return _as_it_is(slide, difference)
    return JpegTiffReader(slide, tiles, others)


def _as_it_is(slide: OpenSlideReader, reason: str) -> OpenSlideReader:
    slide.reader = f"{slide.reader} (not the fast path: {reason})"
    return slide


class JpegTiffReader(Slide):
    """Each compressed tile is decoded once where regions are read row by row, by one thread or by many.

    :param openslide: the same slide; it is this reader's from now on.
    :param others: levels that OpenSlide reads, and why.
    """

    def __init__(self, openslide: OpenSlideReader, tiles: _DecodedTiles, others: Mapping[int, str]) -> None:
        self._openslide = openslide
        self._tiles = tiles
        self.path = openslide.path
        self.format = openslide.format
        self.level_dimensions = openslide.level_dimensions
        self.level_downsamples = openslide.level_downsamples
        self.mpp = openslide.mpp
        self.reader = f"libjpeg-turbo (simplejpeg {version('simplejpeg')})"
        if others:
            reasons = ", ".join(f"level {level} ({reason})" for level, reason in others.items())
            self.reader += f"; {openslide.reader} for {reasons}"

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        region = self._decoded(level, x, y, width, height) if level in self._tiles.levels else None
        return self._openslide.read(level, x, y, width, height) if region is None else region

    def _decoded(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb | None:
        """The region, or None if it is one for OpenSlide."""
        layout = self._tiles.levels[level]
        downsample = int(self.level_downsamples[level])
        if x % downsample or y % downsample:
            return None
        left, top = x // downsample, y // downsample
        x_from, x_to = max(left, 0), min(left + width, layout.width)
        y_from, y_to = max(top, 0), min(top + height, layout.height)
        if x_to - x_from == width and y_to - y_from == height:
            region = np.empty((height, width, 3), np.uint8)
        else:
            region = np.full((height, width, 3), 255, np.uint8)
            if x_from >= x_to or y_from >= y_to:
                return region
        tile_width, tile_height = layout.tile_width, layout.tile_height
        columns = range(x_from // tile_width, (x_to - 1) // tile_width + 1)
        rows = range(y_from // tile_height, (y_to - 1) // tile_height + 1)
        self._tiles.keep_rows(level, len(rows) + 1)
        for row in rows:
            tile_y = row * tile_height
            from_y, to_y = max(y_from, tile_y), min(y_to, tile_y + tile_height)
            of_row = self._tiles.of_row(level, row, columns)
            for column, tile in zip(columns, of_row, strict=True):
                if tile is None:
                    return None
                tile_x = column * tile_width
                from_x, to_x = max(x_from, tile_x), min(x_to, tile_x + tile_width)
                region[from_y - top : to_y - top, from_x - left : to_x - left] = tile[
                    from_y - tile_y : to_y - tile_y, from_x - tile_x : to_x - tile_x
                ]
        return region

    def close(self) -> None:
        self._tiles.close()
        self._openslide.close()


class _DecodedTiles:
    """Tiles by level, row and column, decoded when first asked for; those not used for longest are dropped first."""

    def __init__(self, path: Path, levels: Mapping[int, TiledJpeg]) -> None:
        self.levels = levels
        self._heads = {level: _head(layout) for level, layout in levels.items()}
        self._file = os.open(path, os.O_RDONLY)
        self._lock = Lock()
        self._tiles: OrderedDict[tuple[int, int], Future[Rgb | None]] = OrderedDict()  # by level and index
        self._bytes = self._most_bytes = 0

    def keep_rows(self, level: int, rows: int) -> None:
        """Keep as many rows of tiles of a level from now on, if they fit."""
        wanted = min(rows * self.levels[level].columns * self.levels[level].tile_bytes, CACHE_BYTES)
        if wanted > self._most_bytes:
            with self._lock:
                self._most_bytes = max(self._most_bytes, wanted)

    def of_row(self, level: int, row: int, columns: range) -> list[Rgb | None]:
        """Some tiles of a row, (tile_height, tile_width, 3) each; None is one that OpenSlide is to be asked for.

        Who asks first decodes, others wait; nobody waits before the tiles that fell to him are decoded.
        """
        first = row * self.levels[level].columns
        futures: list[Future[Rgb | None]] = []
        mine: dict[int, Future[Rgb | None]] = {}
        with self._lock:
            for index in range(first + columns.start, first + columns.stop):
                future = self._tiles.get((level, index))
                if future is None:
                    future = mine[index] = self._tiles[level, index] = Future()
                    self._bytes += self.levels[level].tile_bytes
                else:
                    self._tiles.move_to_end((level, index))
                futures.append(future)
            while self._bytes > self._most_bytes:
                (oldest, _), _ = self._tiles.popitem(last=False)
                self._bytes -= self.levels[oldest].tile_bytes
        for index, future in mine.items():
            try:
                future.set_result(self.decode(level, index))
            finally:  # an interrupt, say, leaves nobody waiting
                if not future.done():
                    for left in mine.values():
                        if not left.done():
                            left.set_result(None)
        return [future.result() for future in futures]

    def decode(self, level: int, index: int) -> Rgb | None:
        """One tile. None if it is missing or damaged, or has data to spare; OpenSlide lets some of the latter pass."""
        layout = self.levels[level]
        try:
            stream = os.pread(self._file, layout.byte_counts[index], layout.offsets[index])
        except OSError:
            return None
        if len(stream) != layout.byte_counts[index] or not stream.startswith(_START_OF_IMAGE):
            return None
        tile = np.empty((layout.tile_height, layout.tile_width, 3), np.uint8)
        try:
            decoded = simplejpeg.decode_jpeg(self._heads[level] + stream[2:], buffer=tile)
        except ValueError:
            return None
        return tile if decoded.shape == tile.shape else None

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._tiles.clear()
        self._bytes = 0


def _head(layout: TiledJpeg) -> bytes:
    """What makes a tile's stream, less its start, a whole image: its colour space, and the shared tables."""
    transform = bytes([layout.colour_space == "YCBCR"])
    return _START_OF_IMAGE + _ADOBE + transform + (layout.tables[2:-2] if layout.tables else b"")


def _difference(tiles: _DecodedTiles, slide: OpenSlideReader) -> str:
    """Where a tile differs from OpenSlide's pixels; empty if none of those compared does."""
    for level, layout in tiles.levels.items():
        compared = 0
        for index in _detailed(layout):
            tile = tiles.decode(level, index)
            if tile is None:
                continue
            row, column = divmod(index, layout.columns)
            left, top = column * layout.tile_width, row * layout.tile_height
            width, height = min(layout.tile_width, layout.width - left), min(layout.tile_height, layout.height - top)
            downsample = int(slide.level_downsamples[level])
            x, y = Level0Px(left * downsample), Level0Px(top * downsample)
            try:
                theirs = slide.read(level, x, y, LevelPx(width), LevelPx(height))
            except SlideError:
                return f"OpenSlide cannot decode the tile of level {level} at ({x}, {y})"
            if not np.array_equal(tile[:height, :width], theirs):
                return f"other pixels than OpenSlide's in the tile of level {level} at ({x}, {y})"
            compared += 1
        if not compared:
            return f"tiles of level {level} that libjpeg-turbo does not decode"
    return ""


def _detailed(layout: TiledJpeg) -> Iterator[int]:
    """Of each third of a level, the tile with most data: tissue, most likely."""
    counts = np.asarray(layout.byte_counts)
    start = 0
    for part in np.array_split(counts, min(_CHECKED_TILES, counts.size)):
        yield start + int(part.argmax())
        start += part.size
