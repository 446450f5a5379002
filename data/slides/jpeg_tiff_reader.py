"""The fast path: TIFF slides of JPEG or JPEG 2000 tiles, decoded without OpenSlide to the same pixels.

OpenSlide supplies the levels and the mpp, and reads the exceptions: levels of another compression, positions between
the pixels of a level (which it blends), missing or damaged tiles. So all pixels equal OpenSlide's. When a slide is
opened, a few tiles of each level are compared; if one differs, the fast path is not taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ..errors import SlideError
from ..units import Level0Px, LevelPx, Mpp
from .codecs import library_of
from .decoded_tiles import DecodedTiles
from .openslide_reader import CONVERT, OpenSlideReader
from .pyramid import ALL_OVER, Place, shows_the_same
from .slide import Mask, Rgb, Slide
from .tiff_layout import TiledLevel, tiled_jpeg_levels
from .tiff_reader import TiffReader

_FORMATS: Final = frozenset({"aperio", "generic-tiff"})
"""Other formats arrange their tiles differently."""

_CHECKED_TILES: Final = 3


def open_with_openslide(path: Path, mpp: tuple[Mpp, Mpp] | None) -> Slide:
    """Open a slide that OpenSlide supports, on the fast path if that gives the same pixels."""
    return fastest_reader(OpenSlideReader(path, mpp))


def fastest_reader(slide: OpenSlideReader) -> Slide:
    """Move a slide to the fast path; if that fails, return it unchanged with the reason in its ``reader``.

    :raises SlideError: OpenSlide decodes its colours wrongly, and no other reader supports it.
    :raises OSError: the file cannot be read now. The slide is then closed.
    """
    try:
        return _without_openslide(slide) if slide.mistake == "RGB taken for YCbCr" else _fastest(slide)
    except BaseException:
        slide.close()
        raise


def _fastest(slide: OpenSlideReader) -> Slide:
    if slide.format not in _FORMATS:
        return not_the_fast_path(slide, f"the format is {slide.format}")
    layouts = tiled_jpeg_levels(slide.path, slide.level_dimensions)
    _drop_foreign_levels(slide, layouts)
    levels: dict[int, TiledLevel] = {}
    others: dict[int, str] = {}
    gaps = False
    for level, layout in enumerate(layouts):
        if isinstance(layout, str):
            others[level] = layout
            continue
        if gaps and slide.format == "aperio":
            # OpenSlide does not trust the coarser tiles there and fills such places from the finer level.
            others[level] = "tiles are missing in a finer level"
        elif not slide.level_downsamples[level].is_integer():  # nearly all positions would lie between pixels
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


def _drop_foreign_levels(slide: OpenSlideReader, layouts: list[TiledLevel | str]) -> None:
    """Remove levels that show something else than the finer ones, from the slide and from ``layouts``.

    OpenSlide takes any reduced tiled image of a generic TIFF for a level. Aperio marks its levels: one that shows
    something else is damaged.

    :raises SlideError: level 0 shows something else than all others, which show the same.
    """
    known = {level: layout for level, layout in enumerate(layouts) if isinstance(layout, TiledLevel)}
    by: Slide = slide
    if len(known) == len(layouts):  # much faster between the pixels of level 0
        by = TiffReader(slide.path, DecodedTiles(slide.path, known, white_gaps=True), None, slide.format)
    kept = [0]
    try:
        for level in range(1, len(layouts)):
            places = [place for one in (kept[-1], level) for place in _places(layouts[one])]
            if shows_the_same(by, kept[-1], level, places):
                kept.append(level)
        if kept == [0] and len(layouts) > 2:  # two that agree are not both wrong
            others = range(1, len(layouts) - 1)
            if all(shows_the_same(by, one, one + 1, _places(layouts[one])) for one in others):
                wrong = (
                    f"its level 0 shows something else than its {len(layouts) - 1} other levels, which show the same"
                )
                hint = (
                    "level 0 is damaged, or of another slide: copy the file again from where it came, or export it anew"
                )
                raise SlideError(wrong, path=slide.path, hint=hint)
    finally:
        if by is not slide:
            by.close()
    for level in sorted(set(range(len(layouts))) - set(kept), reverse=True):
        slide.drop(level, "it shows something else than level 0")
        del layouts[level]


def _places(layout: TiledLevel | str) -> Sequence[Place]:
    """Choose where to compare a level: at its tiles with most data, or all over if they are unknown."""
    if isinstance(layout, str):
        return ALL_OVER
    tiles = (divmod(index, layout.columns) for index in _detailed(layout))
    return [
        ((column + 0.5) * layout.tile_width / layout.width, (row + 0.5) * layout.tile_height / layout.height)
        for row, column in tiles
    ]


def _without_openslide(slide: OpenSlideReader) -> TiffReader:
    """Open the slide from its compressed tiles alone.

    :raises SlideError: the tiles of a level cannot be decoded here.
    """
    layouts = tiled_jpeg_levels(slide.path, slide.level_dimensions)
    levels = {level: layout for level, layout in enumerate(layouts) if isinstance(layout, TiledLevel)}
    slide.close()
    if slide.format not in _FORMATS or len(levels) < len(layouts):
        raise SlideError("its tags say YCbCr, its compressed tiles RGB", path=slide.path, hint=CONVERT)
    tiles = DecodedTiles(slide.path, levels, white_gaps=True)
    remarks = [f"not by OpenSlide: {slide.mistake} by its tags"]
    alone = TiffReader(slide.path, tiles, slide.mpp, slide.format, remarks)
    alone.why_no_mpp = slide.why_no_mpp
    return alone


def not_the_fast_path(slide: OpenSlideReader, reason: str) -> OpenSlideReader:
    """Return the slide unchanged, with the reason added to its ``reader``."""
    slide.say(f"not the fast path: {reason}")
    return slide


class JpegTiffReader(Slide):
    """A slide whose compressed tiles are decoded here, with OpenSlide for the exceptions.

    A tile is decoded once when regions are read row by row, by one thread or by many.

    :param openslide: the same slide; this reader takes it over and closes it.
    :param others: level → why OpenSlide reads it.
    """

    def __init__(self, openslide: OpenSlideReader, tiles: DecodedTiles, others: Mapping[int, str]) -> None:
        self._openslide = openslide
        self._tiles = tiles
        self.path = openslide.path
        self.format = openslide.format
        self.level_dimensions = openslide.level_dimensions
        self.level_downsamples = openslide.level_downsamples
        self.mpp, self.why_no_mpp = openslide.mpp, openslide.why_no_mpp
        self.origin = openslide.origin
        self.grey = openslide.grey
        self.reader = ", ".join(sorted({library_of(layout.compression) for layout in tiles.levels.values()}))
        if openslide.remarks:
            self.reader += f" ({'; '.join(openslide.remarks)})"
        if others:
            reasons = ", ".join(f"level {level} ({others[level]})" for level in sorted(others))
            self.reader += f"; {openslide.library} for {reasons}"

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        region: Rgb | None = None
        if level in self._tiles.levels:
            downsample = int(self.level_downsamples[level])
            if x % downsample == 0 and y % downsample == 0:
                region = self._tiles.region(level, x // downsample, y // downsample, width, height)
        return self._openslide.read(level, x, y, width, height) if region is None else region

    def unscanned(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Mask | None:
        if level in self._tiles.levels and 0 not in self._tiles.levels[level].byte_counts:
            return None
        return self._openslide.unscanned(level, x, y, width, height)

    def close(self) -> None:
        self._tiles.close()
        self._openslide.close()


def difference_from_openslide(tiles: DecodedTiles, level: int, slide: OpenSlideReader) -> tuple[int, str]:
    """Compare a few tiles of a level with OpenSlide's pixels.

    :returns: the number of tiles compared, and a description of the first difference; empty if there is none.
    """
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
            expected = slide.read(level, x, y, LevelPx(width), LevelPx(height))
        except SlideError:
            return compared, f"OpenSlide cannot decode the tile of level {level} at ({x}, {y})"
        if not np.array_equal(tile[:height, :width], expected):
            return compared, f"other pixels than OpenSlide's in the tile of level {level} at ({x}, {y})"
        compared += 1
    return compared, ""


def _detailed(layout: TiledLevel) -> Iterator[int]:
    """Yield, for each third of a level, the tile with most data, which most likely shows tissue."""
    counts = np.asarray(layout.byte_counts[: layout.tiles])
    start = 0
    for part in np.array_split(counts, min(_CHECKED_TILES, counts.size)):
        yield start + int(part.argmax())
        start += part.size
