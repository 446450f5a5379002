"""Connected pieces of a mask and their holes, with sizes in microns, so that all scanners give the same."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..units import Microns, Mpp, SquareMicrons

Mask = npt.NDArray[np.bool_]

MIN_PIECE: Final = SquareMicrons(15_000)
"""Smaller pieces are specks: just over the field of one 224-px tile at 0.5 µm per pixel (12,544 µm²)."""
MIN_WIDTH: Final = Microns(56)
"""Narrower pieces are hairs, textile fibres or the coloured rims of lines: half the side of such a tile."""
MAX_HOLE: Final = SquareMicrons(6_000)
"""Smaller gaps within tissue (fat cells, lumina, cracks) belong to it: less than half of such a tile, so that no tile
is kept because of a filled hole."""

_MAX_WIDTH_SHARE: Final = 1 / 4
"""Upper bound of the required width, as a fraction of the picture's shorter side: a patch may be smaller than
:data:`MIN_WIDTH`."""


def pieces(
    mask: Mask, at_least: SquareMicrons, mpp: Mpp, width: Microns | None = None, *, goes_on: bool = False
) -> Mask:
    """Keep the connected pieces of a mask of a minimum area, and somewhere of a minimum width.

    :param goes_on: whether pieces cut by the picture's edge continue beyond it. Such a piece counts as twice its
        visible area, four times at a corner, and one that reaches from edge to edge is never too small.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA] * mpp**2
    if goes_on:
        left, top, wide, high, _ = stats.T
        first = np.stack([left == 0, top == 0])
        last = np.stack([left + wide == mask.shape[1], top + high == mask.shape[0]])
        area = np.where((first & last).any(axis=0), np.inf, area * 2.0 ** (first | last).sum(axis=0))
    keep = area >= at_least
    across = min(round((width or 0) / mpp), max(int(min(mask.shape) * _MAX_WIDTH_SHARE), 1))
    if across > 1:
        # Tissue may continue beyond the picture's edge.
        core = cv2.erode(mask.astype(np.uint8), np.ones((across, across), np.uint8), borderValue=1)
        wide_enough = np.zeros_like(keep)
        wide_enough[np.asarray(labels)[np.asarray(core) > 0]] = True
        keep &= wide_enough
    keep[0] = False
    return np.asarray(keep[np.asarray(labels)])


def without_holes(mask: Mask, left_out: Mask, mpp: Mpp) -> Mask:
    """Fill enclosed gaps up to :data:`MAX_HOLE`, but never pixels that are left out."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    left, top, wide, high, area = stats.T
    closed = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    fill = closed & (area * mpp**2 <= MAX_HOLE)
    fill[0] = False  # label 0 is the tissue
    return np.asarray(mask | (fill[np.asarray(labels)] & ~left_out))


def disc(radius: Microns, mpp: Mpp) -> npt.NDArray[np.uint8]:
    """Make a round structuring element."""
    pixels = max(round(radius / mpp), 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1)), np.uint8)


def square(side: Microns, mpp: Mpp) -> npt.NDArray[np.uint8]:
    """Make a square structuring element with an odd number of pixels, which is fast at any size."""
    return np.ones((2 * max(round(side / mpp / 2), 1) + 1,) * 2, np.uint8)


def morphed(mask: Mask, operation: int, element: npt.NDArray[np.uint8]) -> Mask:
    """Open, close, erode or dilate a mask, without an effect of the picture's edge.

    :param operation: such as ``cv2.MORPH_OPEN``.
    """
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), operation, element)).astype(bool)
