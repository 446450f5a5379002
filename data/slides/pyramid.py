"""Whether the levels of a slide show what level 0 shows: some TIFFs hold a macro image of the glass, a label, another
region or a thumbnail that is turned or cropped where a reduced level belongs, and some pad their levels.
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
"""x and y as shares of the slide's width and height."""

_FINE: Final = 256  # px of the finer of two levels along the side of a place that is compared
_BLOCKS: Final = 8  # along each side of it, whose means are compared
_AWAY: Final = 15.0  # grey levels: root of the mean square; true levels, sharpened or aliased, are below 6
_TEXTURE: Final = 8.0  # grey levels of standard deviation, above which two textures can be told apart
_ALIKE: Final = 0.1  # correlation: of unlike textures within 0.05; of one and every fourth pixel of its noise 0.25
ALL_OVER: Final[tuple[Place, ...]] = tuple((x, y) for x in (0.25, 0.5, 0.75) for y in (0.25, 0.5, 0.75))


def downsample(full: tuple[int, int], size: tuple[int, int]) -> float:
    """Pixels of level 0 along one of a level: if a whole number gives its sides, rounded up or down, that one.

    :param full, size: width and height of level 0 and of the level.
    """
    ratio = (full[0] / size[0] + full[1] / size[1]) / 2
    whole = round(ratio)
    if all(own in (its // whole, -(-its // whole)) for its, own in zip(full, size, strict=True)):
        return float(whole)
    return ratio


def has_the_field(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether an image can show all of level 0 and nothing else, by its width and height, to a pixel of its own."""
    by = downsample(full, size)
    return max(abs(full[0] / by - size[0]), abs(full[1] / by - size[1])) <= 1


def shows_the_same(slide: Slide, fine: int, coarse: int, places: Iterable[Place] = ALL_OVER) -> bool:
    """Whether two levels of a slide are alike at all places that can be decoded.

    :param places: in the middle of what is compared, about.
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
        return True  # damaged, which is found out where it is read


def _look_alike(seen: Rgb, truth: Rgb) -> bool:
    """Whether a square is another one shrunk."""
    truth = np.asarray(cv2.resize(truth, seen.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    means = [cv2.resize(one, (_BLOCKS, _BLOCKS), interpolation=cv2.INTER_AREA).astype(float) for one in (seen, truth)]
    if np.sqrt(np.mean((means[0] - means[1]) ** 2)) > _AWAY:
        return False
    own, other = _texture(seen), _texture(truth)
    if min(float(own.std()), float(other.std())) < _TEXTURE:
        return True
    return float(np.asarray(cv2.matchTemplate(own, other, cv2.TM_CCOEFF_NORMED))[0, 0]) > _ALIKE


def _texture(pixels: Rgb) -> npt.NDArray[np.float32]:
    """Grey levels, smoothed so that half a pixel to the side does not matter."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0), np.float32)
