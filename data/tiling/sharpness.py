"""The sharpness of tiles, measured at one physical resolution, so that slides can be compared.

The measure is the energy of the Laplacian over the energy of the gradient (both as focus measures: Subbarao, Choi and
Nikzad, Optical Engineering 32, 1993): with grey values g and the Laplacian L of the pixels' four-neighbour graph,
|L g|² / gᵀ L g. That is the mean squared spatial frequency of the tile, which always lies between 0 and 8. Unlike the
usual variance of the Laplacian, it hardly depends on the amount of tissue and the strength of its stain. White noise
alone would have 5; :data:`FLOOR` keeps noise from counting as detail.

Nearly all sharp H&E has 2.2 to 4. Blurred by a Gaussian of 2 µm it has 0.6 to 1.4, of 4 µm below 1.0; a threshold of
1.5 separated them on every slide tried. Sharp fat and pale stroma have the lowest values, about 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import SlideError
from ..slides.slide import Rgb, Slide
from ..units import Level0Px, LevelPx, Mpp
from .grid import Coords
from .overview import WITHIN, shrink, sufficient_levels

SHARPNESS_MPP: Final = Mpp(2.0)
"""Resolution at which sharpness is measured: nuclei are three to five pixels wide, and a blur of 2 µm is one pixel."""

FLOOR: Final = 10.0
"""Squared grey levels per pixel added to the gradient's energy: noise and JPEG blocks have less, so that a tile with
nothing else does not count as sharp."""

Scores = npt.NDArray[np.float32]

BLURRED: Final = 1.5
"""Sharpness that separated blurred H&E from sharp on every slide tried."""

_BLOCK: Final = LevelPx(2048)
"""Pixels of a level that are read at a time along a row of tiles."""


def tile_sharpness(slide: Slide, coords: Coords, size_level0: Level0Px) -> tuple[Scores, Mpp]:
    """Measure the sharpness of tiles; also return the µm per pixel at which it was measured.

    That resolution is :data:`SHARPNESS_MPP` within a quarter, if a level gives it by a whole factor; else the nearest
    one from the coarsest sufficient level, or level 0 of a coarser slide. Only the tiles are read, row by row, so that
    each compressed tile of the slide is decoded once. A score depends on the pixels of its tile alone.

    :param coords: (N, 2) positions in pixels of level 0.
    :param size_level0: side of a tile in pixels of level 0.
    :returns: (N,) scores from 0 (blurred, or blank) to 8, NaN where a tile cannot be decoded.
    :raises SlideError: no plausible mpp.
    """
    level, factor = _level_and_factor(slide)
    downsample = slide.level_downsamples[level] * factor
    corners = np.stack([coords, coords + size_level0], axis=1) / downsample
    boxes = np.rint(corners).astype(np.int64).reshape(-1, 4)  # left, top, right, bottom on the reduced level's grid
    inside = np.maximum(np.array(slide.level_dimensions[level]) // factor, 1)
    boxes[:, 2:] = np.clip(boxes[:, 2:], boxes[:, :2] + 1, np.maximum(inside, boxes[:, :2] + 1))
    scores = np.full(len(boxes), np.nan, np.float32)
    for run in _runs(boxes, max(_BLOCK // factor, 1)):
        try:
            _score(slide, level, factor, boxes, run, scores)
        except SlideError:
            for one in run:
                with suppress(SlideError):  # the score stays NaN
                    _score(slide, level, factor, boxes, [one], scores)
    return scores, Mpp(slide.believed_mpp() * downsample)


def sharpness(pixels: Rgb) -> float:
    """Compute the sharpness of one tile, (height, width, 3), at about :data:`SHARPNESS_MPP`."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = cv2.norm(cv2.Laplacian(grey, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE), cv2.NORM_L2SQR)
    gradient = sum(
        cv2.norm(one, other, cv2.NORM_L2SQR)
        for one, other in ((grey[1:], grey[:-1]), (grey[:, 1:], grey[:, :-1]))
        if one.size
    )
    return float(laplacian / (gradient + FLOOR * grey.size))


def _level_and_factor(slide: Slide) -> tuple[int, int]:
    """Choose the coarsest level from which whole squares of pixels give about the wanted resolution, and their side."""
    levels = sufficient_levels(slide, Mpp(SHARPNESS_MPP * WITHIN))
    mpps = [slide.believed_mpp() * slide.level_downsamples[level] for level in levels]
    factors = [max(round(SHARPNESS_MPP / mpp), 1) for mpp in mpps]
    for level, mpp, factor in zip(levels, mpps, factors, strict=True):
        if SHARPNESS_MPP / WITHIN <= mpp * factor <= SHARPNESS_MPP * WITHIN:
            return level, factor
    return levels[0], factors[0]


def _runs(boxes: npt.NDArray[np.int64], longest: int) -> Iterator[list[int]]:
    """Yield the indices of tiles side by side in one row, left to right, together about ``longest`` pixels wide."""
    run: list[int] = []
    for index in np.lexsort((boxes[:, 0], boxes[:, 1])).tolist():
        if run:
            first, last = boxes[run[0]], boxes[run[-1]]
            left, top, right, bottom = boxes[index]
            joins = top == first[1] and bottom == first[3] and left <= last[2] and right - first[0] <= longest
            if not joins:
                yield run
                run = []
        run.append(index)
    if run:
        yield run


def _score(slide: Slide, level: int, factor: int, boxes: npt.NDArray[np.int64], run: list[int], scores: Scores) -> None:
    """Read a run of tiles and write their scores."""
    (left, top, _, bottom), right = boxes[run[0]].tolist(), int(boxes[run, 2].max())
    downsample = slide.level_downsamples[level] * factor
    at = Level0Px(round(left * downsample)), Level0Px(round(top * downsample))
    size = LevelPx((right - left) * factor), LevelPx((bottom - top) * factor)
    pixels = shrink(slide.read(level, *at, *size), factor)
    for index in run:
        scores[index] = sharpness(pixels[:, boxes[index, 0] - left : boxes[index, 2] - left])
