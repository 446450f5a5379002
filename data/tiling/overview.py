"""A small picture of the whole slide, for the tissue mask and for people to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import SlideError
from ..slides.slide import Rgb, Slide
from ..units import Level0Px, LevelPx, Microns, Mpp
from .grid import fine_levels

WANTED_MPP: Final = Mpp(8.0)
"""Approximate resolution of an overview, unless the slide is small."""

LONG_SIDE: Final = 1024
"""Approximate pixels along the longer side of the overview of a small slide, if the slide has that many."""

WITHIN: Final = 1.25
"""What is read may be this much coarser than wanted: pyramids have levels at 1.01, 4.04 and 8.09 µm, not at
1, 4 and 8."""

MAX_UNREAD: Final = 0.01
"""Share of an overview that may be missing."""

UNREAD_GREY: Final = 128
"""Colour of pixels that could not be decoded: easy to see in a picture, and unlike glass or any stain."""

MOST_PIXELS: Final = 2**27
"""Of an overview: 11 × 11 cm at 10 µm. Whole glass slides have 20 million."""

_WHITE: Final = (255, 255, 255)
_BLOCK: Final = LevelPx(2048)
"""Pixels of a level that are read at a time along each side: 16 MiB, whatever the slide's size."""
_SMALLEST: Final = LevelPx(128)
"""Blocks that cannot be decoded are quartered down to this: half the side of most compressed tiles, whose grid may
differ from that of the blocks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """The whole slide at one resolution."""

    pixels: Rgb
    """(height, width, 3). The last row and column may stand for a little less of the slide than the others."""
    downsample: float
    """Pixels of level 0 along one pixel, on both axes."""
    mpp: Mpp
    unread: npt.NDArray[np.bool_]
    """(height, width): pixels that could not be decoded. They are :data:`UNREAD_GREY` and carry no information."""
    unscanned: npt.NDArray[np.bool_] | None = None
    """(height, width): pixels that were not scanned, white and without information. None if there are none."""


def read_overview(slide: Slide, max_unread: float = MAX_UNREAD) -> Overview:
    """Read the slide at about 8 µm per pixel, or finer if that would leave it less than 1024 px long.

    It is read from the coarsest sufficient level, block by block, and every pixel is the mean of a square of whole
    pixels of that level, so that nothing aliases and memory stays bounded. Level 0 is decoded only if no coarser level
    suffices. If a block cannot be decoded, it is read in smaller ones as far as possible; if more than ``max_unread``
    of a level is lost, the next finer level is read instead.

    :param max_unread: fraction of the overview, from 0 to 1, that may be missing.
    :raises SlideError: no plausible mpp, more than that cannot be decoded at every sufficient level, or an overview of
        more than :data:`MOST_PIXELS`.
    """
    slide_mpp = slide.believed_mpp()
    long_side = Microns(max(slide.dimensions) * slide_mpp)
    wanted = Mpp(min(WANTED_MPP, long_side / LONG_SIDE) * WITHIN)
    lost: list[tuple[int, float, SlideError]] = []
    for level in sufficient_levels(slide, wanted):
        level_mpp = slide_mpp * slide.level_downsamples[level]
        factor = max(int(wanted / level_mpp), 1)
        read = _read_reduced(slide, level, factor, max_unread)
        if isinstance(read, Overview):
            return read
        lost.append((level, *read))
    shares = ", ".join(f"at least {100 * share:.3g} % of level {level}" for level, share, _ in lost)
    error = lost[0][2]
    wrong = f"more than {100 * max_unread:g} % of it cannot be decoded ({shares}); the first: {error.what}"
    raise SlideError(wrong, path=slide.path, hint=error.hint or "copy it again from where it came") from error


def sufficient_levels(slide: Slide, mpp: Mpp) -> list[int]:
    """List the levels of at most ``mpp`` µm per pixel, coarsest first; level 0 if there are none."""
    level_mpps = [slide.believed_mpp() * downsample for downsample in slide.level_downsamples]
    return fine_levels(level_mpps, mpp) or [0]


def _read_reduced(slide: Slide, level: int, factor: int, max_unread: float) -> Overview | tuple[float, SlideError]:
    """Read a level and shrink it; if too much is lost, return the fraction lost so far and the first error."""
    width, height = slide.level_dimensions[level]
    downsample = slide.level_downsamples[level] * factor
    rows, columns = -(-height // factor), -(-width // factor)
    if rows * columns > MOST_PIXELS:
        side = slide.believed_mpp() * downsample / 1e6
        wrong = f"it would measure {columns * side:.3g} × {rows * side:.3g} m: its size or its µm per pixel is wrong"
        raise SlideError(wrong, path=slide.path, hint="give its µm per pixel with --mpp-override and --overrule-mpp")
    pixels = np.full((rows, columns, 3), UNREAD_GREY, np.uint8)
    unread = np.ones(pixels.shape[:2], bool)
    unscanned = np.zeros(pixels.shape[:2], bool)
    lost, error = 0, None
    for top, bottom in _spans(pixels.shape[0], max(_BLOCK // factor, 1)):
        for left, right in _spans(pixels.shape[1], max(_BLOCK // factor, 1)):
            for at, part in _blocks(slide, level, factor, (slice(top, bottom), slice(left, right))):
                if isinstance(part, SlideError):
                    error = error or part
                    lost += unread[at].size
                    if lost > max_unread * unread.size:
                        return lost / unread.size, error
                else:
                    pixels[at], unread[at] = part, False
                    if cv2.inRange(part, _WHITE, _WHITE).any():
                        unscanned[at] = _unscanned(slide, level, factor, at)
    return Overview(
        pixels=pixels,
        downsample=downsample,
        mpp=Mpp(slide.believed_mpp() * downsample),
        unread=unread,
        unscanned=unscanned if unscanned.any() else None,
    )


_Area = tuple[slice, slice]
"""Rows and columns of an overview."""


def _blocks(slide: Slide, level: int, factor: int, area: _Area) -> Iterator[tuple[_Area, Rgb | SlideError]]:
    """Yield the pixels of an area in one piece; if that fails, its decodable pieces and the errors of the others."""
    *_, width, height = region = _region(slide, level, factor, area)
    try:
        part = slide.read(level, *region)
    except SlideError as error:
        halves = [
            _halves(side) if pixels > _SMALLEST else [side] for side, pixels in zip(area, (height, width), strict=True)
        ]
        if len(halves[0]) == len(halves[1]) == 1:
            yield area, error
            return
        for upper_or_lower in halves[0]:
            for left_or_right in halves[1]:
                yield from _blocks(slide, level, factor, (upper_or_lower, left_or_right))
    else:
        yield area, shrink(part, factor)


def _region(slide: Slide, level: int, factor: int, area: _Area) -> tuple[Level0Px, Level0Px, LevelPx, LevelPx]:
    """Return the region to read for an area: its corner in pixels of level 0, its width and height in the level's."""
    width, height = slide.level_dimensions[level]
    downsample = slide.level_downsamples[level]
    rows, columns = area
    top, left = rows.start * factor, columns.start * factor
    size = LevelPx(min(columns.stop * factor, width) - left), LevelPx(min(rows.stop * factor, height) - top)
    return Level0Px(round(left * downsample)), Level0Px(round(top * downsample)), *size


def _unscanned(slide: Slide, level: int, factor: int, area: _Area) -> npt.NDArray[np.bool_] | bool:
    """Mark pixels whose whole square was not scanned."""
    left_out = slide.unscanned(level, *_region(slide, level, factor, area))
    return False if left_out is None else shrink_mask(left_out, factor)


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _halves(side: slice) -> list[slice]:
    middle = (side.start + side.stop + 1) // 2
    return [half for half in (slice(side.start, middle), slice(middle, side.stop)) if half.start < half.stop]


def shrink(pixels: Rgb, factor: int) -> Rgb:
    """Average ``factor`` × ``factor`` squares; those cut by the right and lower edge over their existing part."""
    if factor == 1:
        return pixels
    height, width = pixels.shape[:2]
    below, right = -height % factor, -width % factor
    if below or right:
        pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def shrink_mask(mask: npt.NDArray[np.bool_], factor: int) -> npt.NDArray[np.bool_]:
    """Mark squares that are set completely; at the right and lower edge, in their existing part."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % factor), (0, -width % factor)), constant_values=True)
    rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
    return np.asarray(padded.reshape(rows, factor, columns, factor).all(axis=(1, 3)))
