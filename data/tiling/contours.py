"""Outlines of the tissue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from .tissue import TissueMask

Ring = npt.NDArray[np.float64]
"""(n, 2) x and y in pixels of level 0; the last point is the first again."""


@dataclass(frozen=True, eq=False)
class Outline:
    """One connected piece of tissue."""

    outer: Ring
    """Runs so that its area is positive: x to the right, y as the axis after it (RFC 7946, section 3.1.6)."""
    holes: tuple[Ring, ...]


def outlines(tissue: TissueMask) -> list[Outline]:
    """The pieces of a mask, in the order of their first row. Marching squares: no ring crosses or touches itself."""
    pieces = np.zeros((tissue.mask.shape[0] + 2, tissue.mask.shape[1] + 2), np.uint8)
    pieces[1:-1, 1:-1] = tissue.mask
    count, labels = cv2.connectedComponents(pieces, connectivity=4)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {label: [] for label in range(1, count)}
    for points in find_contours(pieces, 0.5, fully_connected="low"):
        # Every point lies between a pixel of the piece and one outside, whose label is 0.
        (row, column), (below, right) = np.floor(points[0]).astype(int), np.ceil(points[0]).astype(int)
        label = int(max(labels[row, column], labels[below, right]))
        # The centre of pixel 0 is at 0.5; the frame of one pixel shifts it by one.
        ring = _without_straight_points((points[:, ::-1] - 0.5) * tissue.downsample)
        if _is_around(points, pieces):
            outer[label] = ring if _area(ring) > 0 else ring[::-1]
        else:
            holes[label].append(ring if _area(ring) < 0 else ring[::-1])
    return [Outline(outer[label], tuple(holes[label])) for label in range(1, count)]


def _is_around(points: npt.NDArray[np.float64], pieces: npt.NDArray[np.uint8]) -> bool:
    """Whether a ring runs around a piece, and not around a hole in it: at its topmost point the piece is below."""
    row, column = points[points[:, 0].argmin()]
    return bool(pieces[int(np.ceil(row)), round(column)])


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _without_straight_points(ring: Ring) -> Ring:
    """The closed ring without points that lie on the line between their neighbours."""
    points = ring[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bends = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6
    kept = points[bends]
    return np.concatenate([kept, kept[:1]])
