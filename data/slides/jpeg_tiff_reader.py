"""The fast path: slides whose levels are JPEG or JPEG 2000 tiles in a TIFF, decoded without OpenSlide, to its pixels.

OpenSlide says what the slide is (levels, mpp), and reads whatever is out of the ordinary: levels of another kind,
positions between the pixels of a level (which it blends), tiles that are missing or damaged. So all pixels are its
pixels. A few tiles of each level are compared when the slide is opened; where one differs, the fast path is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from ..errors import SlideError
from ..units import Level0Px, LevelPx
from .codecs import library_of
from .decoded_tiles import DecodedTiles
from .openslide_reader import OpenSlideReader
from .slide import Rgb, Slide
from .tiff_layout import TiledLevel, tiled_jpeg_levels

_FORMATS: Final = frozenset({"aperio", "generic-tiff"})
"""Others lay their tiles out in ways of their own."""

_CHECKED_TILES: Final = 3


def fastest_reader(slide: OpenSlideReader) -> Slide:
    """The slide on the fast path; or as it is, with the reason in its ``reader``.

    :raises OSError: the file cannot be read now. The slide is closed then.
    """
    try:
        return _fastest(slide)
    except BaseException:
        slide.close()
        raise


def _fastest(slide: OpenSlideReader) -> Slide:
    if slide.format not in _FORMATS:
        return not_the_fast_path(slide, f"the format is {slide.format}")
    levels: dict[int, TiledLevel] = {}
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
    tiles = DecodedTiles(slide.path, levels)
    for level in list(levels):
        try:
            compared, difference = difference_from_openslide(tiles, level, slide)
        except BaseException:
            tiles.close()
            raise
        if difference:
            tiles.close()
            return not_the_fast_path(slide, difference)
        if not compared:
            del levels[level]  # of ``tiles`` too
            others[level] = "its tiles are not decoded without OpenSlide"
    if not levels:
        tiles.close()
        return not_the_fast_path(slide, others[0])
    return JpegTiffReader(slide, tiles, others)


def not_the_fast_path(slide: OpenSlideReader, reason: str) -> OpenSlideReader:
    """The slide as it is, with the reason in its ``reader``."""
    slide.reader = f"{slide.reader} (not the fast path: {reason})"
    return slide


class JpegTiffReader(Slide):
    """Each compressed tile is decoded once where regions are read row by row, by one thread or by many.

    :param openslide: the same slide; it is this reader's from now on.
    :param others: levels that OpenSlide reads, and why.
    """

    def __init__(self, openslide: OpenSlideReader, tiles: DecodedTiles, others: Mapping[int, str]) -> None:
        self._openslide = openslide
        self._tiles = tiles
        self.path = openslide.path
        self.format = openslide.format
        self.level_dimensions = openslide.level_dimensions
        self.level_downsamples = openslide.level_downsamples
        self.mpp = openslide.mpp
        self.reader = ", ".join(sorted({library_of(layout.compression) for layout in tiles.levels.values()}))
        if others:
            reasons = ", ".join(f"level {level} ({others[level]})" for level in sorted(others))
            self.reader += f"; {openslide.reader} for {reasons}"

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        region: Rgb | None = None
        if level in self._tiles.levels:
            downsample = int(self.level_downsamples[level])
            if x % downsample == 0 and y % downsample == 0:
                region = self._tiles.region(level, x // downsample, y // downsample, width, height)
        return self._openslide.read(level, x, y, width, height) if region is None else region

    def close(self) -> None:
        self._tiles.close()
        self._openslide.close()


def difference_from_openslide(tiles: DecodedTiles, level: int, slide: OpenSlideReader) -> tuple[int, str]:
    """How many tiles of a level were compared, and where one differs from OpenSlide's pixels; empty if none does."""
    layout = tiles.levels[level]
    downsample = int(slide.level_downsamples[level])
    compared = 0
    for index in _detailed(layout):
        tile = tiles.decode(level, index)
        if tile is None:
            continue
        row, column = divmod(index, layout.columns)
        left, top = column * layout.tile_width, row * layout.tile_height
        width, height = min(layout.tile_width, layout.width - left), min(layout.tile_height, layout.height - top)
        x, y = Level0Px(left * downsample), Level0Px(top * downsample)
        try:
            theirs = slide.read(level, x, y, LevelPx(width), LevelPx(height))
        except SlideError:
            return compared, f"OpenSlide cannot decode the tile of level {level} at ({x}, {y})"
        if not np.array_equal(tile[:height, :width], theirs):
            return compared, f"other pixels than OpenSlide's in the tile of level {level} at ({x}, {y})"
        compared += 1
    return compared, ""


def _detailed(layout: TiledLevel) -> Iterator[int]:
    """Of each third of a level, the tile with most data: tissue, most likely."""
    counts = np.asarray(layout.byte_counts[: layout.tiles])
    start = 0
    for part in np.array_split(counts, min(_CHECKED_TILES, counts.size)):
        yield start + int(part.argmax())
        start += part.size
