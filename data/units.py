"""Types for units, so that pixels of different scales are not mixed up."""

from __future__ import annotations

from typing import NewType

Mpp = NewType("Mpp", float)
"""Microns per pixel; smaller is finer: 0.25 is about 40x on a scanner, 0.5 about 20x."""

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
