"""Tissue as somebody has drawn it: polygons, and the mask of what they cover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ..errors import SlideError
from .contours import Ring
from .overview import Overview
from .tissue import Floats, Mask, TissueMask

Polygon = tuple[Ring, ...]
"""The outer ring, then its holes; in pixels of level 0, running either way."""

Origin = Literal["scan", "slide"]
"""The corner of the scanned area, or that of the whole slide."""

UNCLASSIFIED: Final = "unclassified"


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """What is drawn on one slide."""

    path: Path
    tissue: tuple[Polygon, ...]
    taken_away: tuple[Polygon, ...]
    """Areas to leave out, whatever else covers them."""
    classes: tuple[str, ...]
    """Classes of the polygons that count as tissue, sorted; :data:`UNCLASSIFIED` for those without one."""
    passed_over: Mapping[str, int]
    """What else the file holds (``Point``, ``cell``, ``another class``, …) → how many."""
    counted_from: Origin | None
    """What the program that wrote it counts from; None if nothing tells which that was."""


def annotated_tissue(annotations: Annotations, overview: Overview) -> TissueMask:
    """The mask of what is annotated: a pixel counts if its centre lies in a polygon and in none that takes away.

    It has the overview's resolution. Nothing is smoothed, filled or dropped for its size: what is drawn is meant. What
    reaches over the slide's edge is cut off there.

    :raises SlideError: all of it lies outside the slide, or drawing it would take minutes.
    """
    rows, columns = overview.pixels.shape[:2]
    width, height = columns * overview.downsample, rows * overview.downsample
    lowest = np.array([polygon[0].min(axis=0) for polygon in annotations.tissue])
    highest = np.array([polygon[0].max(axis=0) for polygon in annotations.tissue])
    if not ((highest > 0) & (lowest < (width, height))).all(axis=1).any():
        left, top = lowest.min(axis=0)
        right, bottom = highest.max(axis=0)
        wrong = (
            f"all polygons ({len(lowest)}) lie outside the slide: they reach from {left:.0f}, {top:.0f} to "
            f"{right:.0f}, {bottom:.0f}, and the slide has about {width:.0f} × {height:.0f} px"
        )
        hint = "they are of another slide, or not in pixels of its full resolution (of another level, or in microns)"
        raise SlideError(wrong, path=annotations.path, hint=hint)
    _check_effort(annotations, (rows, columns), overview.downsample)
    mask = np.zeros((rows, columns), bool)
    for polygon in annotations.tissue:
        _paint(mask, polygon, overview.downsample, True)
    for polygon in annotations.taken_away:
        _paint(mask, polygon, overview.downsample, False)
    return TissueMask(
        mask=mask,
        downsample=overview.downsample,
        mpp=overview.mpp,
        verdict="annotated",
        threshold=0,
        pen=np.zeros_like(mask),
    )


_MOST_CROSSINGS: Final = 40_000_000
"""Of outlines and lines of pixels; a million outlined cells have half of them."""
_CROSSINGS_AT_ONCE: Final = 4_000_000
_MOST_DRAWN: Final = 4_000_000_000
"""Pixels that are drawn on, polygon by polygon: the overview of a whole glass slide 200 times over."""


def _check_effort(annotations: Annotations, shape: tuple[int, int], downsample: float) -> None:
    """Refuse what would take minutes to draw: outlines that run to and fro, or very many that cover all of the slide.

    :raises SlideError: it would.
    """
    height, width = shape
    crossings = drawn = 0.0
    for polygon in (*annotations.tissue, *annotations.taken_away):
        for ring in polygon:
            x, y = (ring / downsample).clip(0, (width, height)).T
            crossings += float(np.abs(np.diff(y)).sum())
            drawn += float(np.ptp(x) * np.ptp(y))
    if crossings > _MOST_CROSSINGS or drawn > _MOST_DRAWN:
        wrong = (
            f"its outlines cross the lines of the overview {crossings:.3g} times and cover {drawn:.3g} pixels of it, "
            f"where {_MOST_CROSSINGS:.3g} and {_MOST_DRAWN:.3g} are drawn at most"
        )
        raise SlideError(wrong, path=annotations.path, hint="merge and simplify the annotations in QuPath")


def _paint(mask: Mask, polygon: Polygon, downsample: float, value: bool) -> None:
    """Set the pixels of a polygon, less its holes."""
    rings = [ring / downsample for ring in polygon]
    size = np.array(mask.shape[::-1])
    left, top = np.floor(rings[0].min(axis=0)).clip(0, size).astype(int)
    right, bottom = np.ceil(rings[0].max(axis=0)).clip(0, size).astype(int)
    if left >= right or top >= bottom:
        return
    shape = (bottom - top, right - left)
    inside = _inside(rings[0] - (left, top), shape)
    for hole in rings[1:]:
        inside &= ~_inside(hole - (left, top), shape)
    mask[top:bottom, left:right][inside] = value


def _inside(ring: Floats, shape: tuple[int, int]) -> Mask:
    """Which pixels have their centre inside a closed ring, (height, width): left of it lies an odd number of crossings.

    A line of centres is crossed by an edge that has one end above it, or on it, and the other below. What crosses
    itself is inside where it has been gone around an odd number of times.
    """
    height, width = shape
    x, y = ring[:-1].T
    x_step, y_step = np.diff(ring, axis=0).T
    ends = np.ceil(np.stack([ring[:-1, 1], ring[1:, 1]]) - 0.5).clip(0, height).astype(np.int64)
    first, count = ends.min(axis=0), np.abs(ends[1] - ends[0])
    turns = np.zeros((height, width + 1), np.uint8)
    # As many edges at a time as make a few million crossings: memory does not grow with what is drawn.
    parts = np.searchsorted(np.cumsum(count), np.arange(_CROSSINGS_AT_ONCE, count.sum(), _CROSSINGS_AT_ONCE))
    for edges in np.split(np.arange(len(x)), np.unique(parts)):
        edge = np.repeat(edges, count[edges])
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count[edges]) - count[edges], count[edges])
        crossing = x[edge] + (row + 0.5 - y[edge]) / y_step[edge] * x_step[edge]
        column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
        np.add.at(turns, (row, column), 1)
    return np.asarray(np.bitwise_xor.accumulate(turns & 1, axis=1)[:, :width] == 1)
