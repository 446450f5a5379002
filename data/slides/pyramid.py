"""Checks that the levels of a slide show the same as level 0.

Some TIFFs hold a macro image of the glass, a label, another region or a rotated or cropped thumbnail in place of a
reduced level, and some pad their levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import SlideError
from ..units import Level0Px, LevelPx
from .slide import Rgb, Slide

Place = tuple[float, float]
"""x and y as fractions of the slide's width and height."""

_FINE: Final = 256  # px: side of a compared square in the finer of two levels
_BLOCKS: Final = 8  # along each side of the square; the means of blocks are compared
_MAX_RMS: Final = 15.0  # grey levels: root mean square difference; true levels, sharpened or aliased, are below 6
_MIN_TEXTURE_SD: Final = 8.0  # grey levels: below it a square is too uniform to compare its texture
_MIN_CORRELATION: Final = 0.1  # unlike textures stay within 0.05; noise and its every fourth pixel have 0.25
ALL_OVER: Final[tuple[Place, ...]] = tuple((x, y) for x in (0.25, 0.5, 0.75) for y in (0.25, 0.5, 0.75))


def downsample(full: tuple[int, int], size: tuple[int, int]) -> float:
    """Compute a level's downsample: a whole number if it gives the level's sides, rounded up or down.

    :param full, size: width and height of level 0 and of the level.
    """
    ratio = (full[0] / size[0] + full[1] / size[1]) / 2
    whole = round(ratio)
    if all(side in (full_side // whole, -(-full_side // whole)) for full_side, side in zip(full, size, strict=True)):
        return float(whole)
    return ratio


def has_the_field(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether an image's width and height fit the whole of level 0, to within one of its own pixels."""
    factor = downsample(full, size)
    return max(abs(full[0] / factor - size[0]), abs(full[1] / factor - size[1])) <= 1


def shows_the_same(slide: Slide, fine: int, coarse: int, places: Iterable[Place] = ALL_OVER) -> bool:
    """Whether two levels of a slide are alike at all places that can be decoded.

    :param places: approximate centres of the squares that are compared.
    """
    return all(_alike(slide, fine, coarse, place) for place in places)


def _alike(slide: Slide, fine: int, coarse: int, place: Place) -> bool:
    by_fine, by_coarse = slide.level_downsamples[fine], slide.level_downsamples[coarse]
    # A square of the finer level that is one compressed tile, most likely.
    starts = (
        int(share * size / _FINE) * _FINE for share, size in zip(place, slide.level_dimensions[fine], strict=True)
    )
    x, y = (Level0Px(round(start * by_fine)) for start in starts)
    side = LevelPx(max(round(_FINE * by_fine / by_coarse), _BLOCKS))
    across = LevelPx(round(side * by_coarse / by_fine))
    inside = slide.dimensions[0] - x >= across * by_fine and slide.dimensions[1] - y >= across * by_fine
    try:
        seen, truth = slide.read(coarse, x, y, side, side), slide.read(fine, x, y, across, across)
        if not inside or _look_alike(seen, truth):
            return True
        return any(slide.unscanned(level, x, y, px, px) is not None for level, px in ((coarse, side), (fine, across)))
    except SlideError:
        return True  # damage is reported when the tile is read


def _look_alike(seen: Rgb, truth: Rgb) -> bool:
    """Whether a square looks like another one after that one is shrunk to its size."""
    truth = np.asarray(cv2.resize(truth, seen.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    means = [cv2.resize(one, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA).astype(float) for one in (seen, truth)]
    if np.sqrt(np.mean((means[0] - means[1]) ** 2)) > _MAX_RMS:
        return False
    own, other = _texture(seen), _texture(truth)
    if min(float(own.std()), float(other.std())) < _MIN_TEXTURE_SD:
        return True
    return float(np.asarray(cv2.matchTemplate(own, other, cv2.TM_CCOEFF_NORMED))[0, 0]) > _MIN_CORRELATION


def _texture(pixels: Rgb) -> npt.NDArray[np.float32]:
    """Convert to grey levels, smoothed so that a shift of half a pixel does not matter."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), np.float32)
