"""Connected pieces of a mask and the holes in them, judged in microns, so that the scanner does not matter."""

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
"""What is nowhere so wide is a hair, a textile fibre, or the coloured rim of a line: half the side of such a tile."""
MAX_HOLE: Final = SquareMicrons(6_000)
"""Smaller gaps within tissue (fat cells, lumina, cracks) belong to it: less than half of such a tile, so that none is
kept for a hole that was filled."""

_WIDEST: Final = 1 / 4
"""Part of a picture's shorter side that a piece need not exceed: a patch may be smaller than :data:`MIN_WIDTH`."""


def pieces(
    mask: Mask, at_least: SquareMicrons, mpp: Mpp, width: Microns | None = None, *, goes_on: bool = False
) -> Mask:
    """The connected pieces of a mask that are not smaller than so much, and somewhere so wide.

    :param goes_on: what the picture's edge cuts off goes on beyond it. Such a piece is taken for twice as large as is
        seen of it, at a corner for four times, and one that reaches from edge to edge is never too small.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA] * mpp**2
    if goes_on:
        left, top, wide, high, _ = stats.T
        first = np.stack([left == 0, top == 0])
        last = np.stack([left + wide == mask.shape[1], top + high == mask.shape[0]])
        area = np.where((first & last).any(axis=0), np.inf, area * 2.0 ** (first | last).sum(axis=0))
    keep = area >= at_least
    across = min(round((width or 0) / mpp), max(int(min(mask.shape) * _WIDEST), 1))
    if across > 1:
        # Beyond the picture's edge the tissue goes on.
        core = cv2.erode(mask.astype(np.uint8), np.ones((across, across), np.uint8), borderValue=1)
        wide_enough = np.zeros_like(keep)
        wide_enough[np.asarray(labels)[np.asarray(core) > 0]] = True
        keep &= wide_enough
    keep[0] = False
    return np.asarray(keep[np.asarray(labels)])


def without_holes(mask: Mask, left_out: Mask, mpp: Mpp) -> Mask:
    """Fill gaps up to :data:`MAX_HOLE` that are closed all around, but nothing of what is left out, however small."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    left, top, wide, high, area = stats.T
    closed = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    fill = closed & (area * mpp**2 <= MAX_HOLE)
    fill[0] = False  # label 0 is the tissue
    return np.asarray(mask | (fill[np.asarray(labels)] & ~left_out))


def disc(radius: Microns, mpp: Mpp) -> npt.NDArray[np.uint8]:
    """A round structuring element."""
    pixels = max(round(radius / mpp), 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1)), np.uint8)


def square(side: Microns, mpp: Mpp) -> npt.NDArray[np.uint8]:
    """A square structuring element of an odd number of pixels: fast, however large."""
    return np.ones((2 * max(round(side / mpp / 2), 1) + 1,) * 2, np.uint8)


def morphed(mask: Mask, operation: int, element: npt.NDArray[np.uint8]) -> Mask:
    """A mask opened, closed, eroded or dilated; the picture's edge changes nothing.

    :param operation: such as ``cv2.MORPH_OPEN``.
    """
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), operation, element)).astype(bool)
