"""A small picture of the whole slide, for the tissue mask, the sharpness of tiles and the eye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from .slide import Rgb, Slide
from .units import Level0Px, LevelPx, Microns, Mpp

WANTED_MPP: Final = Mpp(8.0)
"""Resolution of an overview, about, unless the slide is small."""

LONG_SIDE: Final = 1024
"""Pixels that the overview of a smaller slide has along its longer side, about, where the slide has them."""

_WITHIN: Final = 1.25
"""An overview may be this much coarser than wanted: pyramids have levels at 4.04 and 8.09 µm, not at 4 and 8."""

_BLOCK: Final = 2048
"""Pixels of a level that are read at a time along each side: 16 MiB, whatever the slide's size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """The whole slide at one resolution."""

    pixels: Rgb
    """(height, width, 3). The last row and column may stand for a little less of the slide than the others."""
    downsample: float
    """Pixels of level 0 along one pixel, on both axes."""
    mpp: Mpp


def read_overview(slide: Slide) -> Overview:
    """The slide at about 8 µm per pixel, or finer where that leaves it less than 1024 px long.

    It is read from the coarsest level that suffices, block by block, and every pixel is the mean of a square of whole
    pixels of that level, so that nothing aliases and memory stays bounded. Level 0 is decoded only where there is no
    coarser level that will do.

    :raises SlideError: no believable mpp, or a part that cannot be decoded.
    """
    slide_mpp = slide.believed_mpp()
    long_side = Microns(max(slide.dimensions) * slide_mpp)
    wanted = min(WANTED_MPP, long_side / LONG_SIDE)
    level_mpps = [slide_mpp * downsample for downsample in slide.level_downsamples]
    suffice = [level for level, mpp in enumerate(level_mpps) if mpp <= wanted * _WITHIN]
    level = max(suffice, key=lambda level: level_mpps[level], default=0)
    factor = max(int(wanted * _WITHIN / level_mpps[level]), 1)
    pixels = _read_reduced(slide, level, factor)
    downsample = slide.level_downsamples[level] * factor
    return Overview(pixels=pixels, downsample=downsample, mpp=Mpp(slide_mpp * downsample))


def _read_reduced(slide: Slide, level: int, factor: int) -> Rgb:
    width, height = slide.level_dimensions[level]
    downsample = slide.level_downsamples[level]
    reduced = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    block = max(_BLOCK // factor, 1) * factor
    for top in range(0, height, block):
        for left in range(0, width, block):
            size = LevelPx(min(block, width - left)), LevelPx(min(block, height - top))
            at = Level0Px(round(left * downsample)), Level0Px(round(top * downsample))
            part = shrink(slide.read(level, *at, *size), factor)
            y, x = top // factor, left // factor
            reduced[y : y + part.shape[0], x : x + part.shape[1]] = part
    return reduced


def shrink(pixels: Rgb, factor: int) -> Rgb:
    """Means of ``factor`` × ``factor`` squares, those at the right and lower edge over what there is of them."""
    if factor == 1:
        return pixels
    height, width = pixels.shape[:2]
    below, right = -height % factor, -width % factor
    if below or right:
        pixels = np.asarray(cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def sharpness_of_tiles(
    overview: Overview, coords: npt.NDArray[np.int64], size_level0: Level0Px
) -> npt.NDArray[np.float32]:
    """How much fine detail each tile has in the overview: variance of the Laplacian of its grey values, (N,).

    It is taken from the overview because anything finer would decode the slide. It tells smeared, folded and badly
    focused areas from others of the same slide, not a blur below the overview's resolution, and is to be compared
    only between slides whose overviews have the same mpp.

    :param coords: (N, 2) positions in pixels of level 0.
    :param size_level0: side of a tile in pixels of level 0.
    """
    grey = cv2.cvtColor(overview.pixels, cv2.COLOR_RGB2GRAY)
    detail = np.asarray(cv2.Laplacian(grey, cv2.CV_64F, borderType=cv2.BORDER_REPLICATE))
    first, second = (np.asarray(table) for table in cv2.integral2(detail, sdepth=cv2.CV_64F, sqdepth=cv2.CV_64F))
    height, width = grey.shape
    start = np.rint(coords / overview.downsample).astype(np.int64)
    side = max(round(size_level0 / overview.downsample), 1)
    left, right = start[:, 0].clip(0, width - 1), (start[:, 0] + side).clip(1, width)
    top, bottom = start[:, 1].clip(0, height - 1), (start[:, 1] + side).clip(1, height)
    count = (right - left) * (bottom - top)
    mean, mean_of_squares = (
        (table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]) / count
        for table in (first, second)
    )
    return np.asarray((mean_of_squares - mean**2).clip(0), np.float32)
