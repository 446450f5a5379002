"""The nuclei of the demo's tissue: the kinds, their arrangement, and drawing them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .texture import Field, noise


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """A kind of nucleus, and how densely and regularly nuclei of the kind lie."""

    spacing: float
    """Microns from one nucleus to the next."""
    radius: float
    """Microns."""
    scatter: float
    """Deviation from an even lattice, as a share of the spacing."""
    pleomorphism: float
    """Variation in size, outline and darkness, as a relative standard deviation."""
    elongation: float
    """Length over width."""
    darkness: float
    """Amount of haematoxylin, in the units of the stain."""
    vesicular: float
    """0: evenly dark. 1: a pale interior with a dark rim and a nucleolus."""


BLAND = Nucleus(
    spacing=10.5, radius=3.4, scatter=0.10, pleomorphism=0.07, elongation=1.15, darkness=1.55, vesicular=0.7
)
PLANTED = Nucleus(
    spacing=15.5, radius=5.4, scatter=0.18, pleomorphism=0.22, elongation=1.35, darkness=1.65, vesicular=0.9
)
LYMPHOCYTE = Nucleus(
    spacing=8.5, radius=2.9, scatter=0.28, pleomorphism=0.08, elongation=1.08, darkness=1.9, vesicular=0.2
)
FIBROBLAST = Nucleus(
    spacing=24.0, radius=2.6, scatter=0.45, pleomorphism=0.2, elongation=3.4, darkness=1.6, vesicular=0.2
)

SHAPES = 12
"""Different shapes that are drawn of each kind; every nucleus of the tissue has one of them."""
ANGLES = 18
"""Orientations, over half a turn, in which each shape is drawn."""


def lattice(rng: np.random.Generator, *, px: int, spacing: float, scatter: float) -> tuple[Field, Field]:
    """x and y of the points of a hexagonal lattice over a square of `px`, scattered by about `scatter` × `spacing`."""
    rows, columns = np.mgrid[: int(px / (spacing * 0.866)) + 1, : int(px / spacing) + 1]
    points = np.stack(((columns + 0.5 * (rows % 2)) * spacing, rows * spacing * 0.866)).reshape(2, -1)
    sway = np.stack(
        [noise(rng, px // 8, 1.5 * spacing) for _ in range(2)]
    )  # rows of cells in tissue are never straight
    row, column = np.clip(points[::-1] / 8, 0, px // 8 - 1).astype(int)
    points += spacing * sway[:, row, column] + rng.normal(0, scatter * spacing, points.shape)
    x, y = np.clip(points, 0, px - 1).astype(np.float32)
    return x, y


def put_nuclei(
    rng: np.random.Generator, canvas: Field, kind: Nucleus, *, x: Field, y: Field, angle: Field, mpp: float
) -> None:
    """Draw a random nucleus of the kind at each point (pixels); where two overlap, the darker one is visible."""
    stamps = _stamps(kind, mpp)
    shape = rng.integers(SHAPES, size=len(x))
    turn = np.round(angle / np.pi * ANGLES).astype(int) % ANGLES
    px = len(canvas)
    for column, row, s, t in zip(x.astype(int), y.astype(int), shape, turn, strict=True):
        stamp = stamps[s][t]
        half = len(stamp) // 2
        if half <= row < px - half and half <= column < px - half:
            spot = canvas[row - half : row + half + 1, column - half : column + half + 1]
            np.maximum(spot, stamp, out=spot)


@lru_cache(maxsize=16)
def _stamps(kind: Nucleus, mpp: float) -> list[list[Field]]:
    """Haematoxylin of the kind's shapes: SHAPES lists of ANGLES squares with the nucleus in the middle."""
    rng = np.random.default_rng(7)
    return [_individual(rng, kind, mpp) for _ in range(SHAPES)]


def _individual(rng: np.random.Generator, kind: Nucleus, mpp: float) -> list[Field]:
    radius = kind.radius * np.exp(rng.normal(0, kind.pleomorphism)) / mpp
    stretch = np.sqrt(1 + (kind.elongation - 1) * rng.uniform(0.5, 1.5))
    darkness = kind.darkness * np.exp(rng.normal(0, 0.08 + 0.5 * kind.pleomorphism))
    waves = rng.normal(0, 0.25 * kind.pleomorphism, 3) / (1, 1.5, 2)  # of the outline: two, three and four lobes
    phases = rng.uniform(0, 2 * np.pi, 3)
    nucleoli = rng.uniform(-0.45, 0.45, (1 + rng.integers(2), 2)) * radius
    half = int(np.ceil(radius * stretch * 1.25)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    clumps = noise(rng, 2 * half + 1, 2.8 / mpp)

    turned = []
    for turn in np.arange(ANGLES) * np.pi / ANGLES:
        u = (x * np.cos(turn) + y * np.sin(turn)) / stretch
        v = (y * np.cos(turn) - x * np.sin(turn)) * stretch
        lobes = np.cos(np.arctan2(v, u)[..., None] * (2, 3, 4) + phases) @ waves
        depth = radius * (1 + lobes) - np.hypot(u, v)  # pixels inside the outline
        rim = np.exp(-((depth * mpp / 0.7) ** 2))
        tone = 1 - kind.vesicular * 0.5 * (1 - rim) + 0.15 * clumps
        for nucleolus in nucleoli:
            tone += kind.vesicular * 0.7 * np.clip(1.4 - np.hypot(u - nucleolus[0], v - nucleolus[1]) * mpp, 0, 1)
        turned.append((darkness * tone * np.clip(depth + 0.5, 0, 1)).clip(0).astype(np.float32))
    return turned
