"""Types for units, so that pixels of different scales are not mixed up."""

from __future__ import annotations

from typing import Final, NewType

Mpp = NewType("Mpp", float)
"""Microns per pixel; smaller is finer: 0.25 is about 40x on a scanner, 0.5 about 20x."""

SLIDE_MPP: Final = (0.05, 20.0)
"""Least and most microns per pixel that a slide or its tiles can have: of scanners and of downscaled exports. Anything
else is a mistake, wherever it is said: in the file, in a table, or with a flag."""

SAME_MPP: Final = 0.02
"""Relative: scanners' resolutions differ by as much, and programs round them."""

Microns = NewType("Microns", float)
"""A physical length."""

SquareMicrons = NewType("SquareMicrons", float)
"""A physical area."""

Level0Px = NewType("Level0Px", int)
"""A position or length in pixels of the slide's finest level."""

LevelPx = NewType("LevelPx", int)
"""A position or length in pixels of one pyramid level."""

TilePx = NewType("TilePx", int)
"""A length in pixels of a tile as the backbone sees it."""


def same_mpp(one: float, other: float) -> bool:
    """Whether tiles of two resolutions can be the same, or stand beside each other."""
    return abs(one / other - 1) <= SAME_MPP
