"""Textures for the demo's tissue: smooth noise, Voronoi cells, and fibres."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""A map over the slide, (height, width): at the pixels of the slide, or on the coarser layout grid."""

FIBRE_PERIOD = 768
"""Period of the repeating fibre texture, in pixels of half a micron."""
BAND = 16
"""Rows of a band."""


def noise(rng: np.random.Generator, px: int, wavelength: float) -> Field:
    """Smooth noise of about unit variance over a square of `px`, with features `wavelength` pixels apart."""
    knots = max(4, round(2 * px / wavelength))
    coarse = rng.standard_normal((knots, knots), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (px, px), interpolation=cv2.INTER_CUBIC), np.float32)


def in_bands(formula: Callable[..., Field], *fields: Field) -> Field:
    """A formula of fields of one size that takes each pixel by itself, in bands of rows that fit the processor's cache.

    What it gives is the same to the last bit as for the whole fields at once, in half the time.
    """
    found = np.empty_like(fields[0])
    for first in range(0, len(found), BAND):
        rows = slice(first, first + BAND)
        found[rows] = formula(*(field[rows] for field in fields))
    return found


def cells(rng: np.random.Generator, x: Field, y: Field, *, spacing: float) -> tuple[Field, NDArray[np.int64], Field]:
    """Voronoi cells of jittered seeds `spacing` microns apart, at points x, y (microns).

    :returns: distance to the cell's wall (positive inside), the cell's number, and the seeds' x and y.
    """
    columns = int(max(x.max(), y.max()) / spacing) + 6
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(columns)), axis=-1) - 2.5
    seeds = ((grid + rng.uniform(-0.42, 0.42, grid.shape)) * spacing).astype(np.float32)
    column, row = (np.clip((v / spacing + 3).astype(int), 2, columns - 3) for v in (x, y))
    nearest = np.full(x.shape, np.inf, np.float32)  # squared, as second
    second = nearest.copy()
    number: NDArray[np.int64] = np.zeros(x.shape, np.int64)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            candidate = (row + dy) * columns + column + dx
            distance = (seeds[..., 0].take(candidate) - x) ** 2 + (seeds[..., 1].take(candidate) - y) ** 2
            second = np.minimum(second, np.maximum(nearest, distance))
            np.copyto(number, candidate, where=distance < nearest)
            nearest = np.minimum(nearest, distance)
    wall = np.asarray((np.sqrt(second) - np.sqrt(nearest)) / 2, np.float32)
    return wall, number, seeds.reshape(-1, 2)


@lru_cache(maxsize=1)
def _fibre_texture() -> Field:
    """Collagen fibres along x, repeating without a seam: noise that changes slowly along x and fast across."""
    rng = np.random.default_rng(20)
    along, across = np.meshgrid(np.fft.fftfreq(FIBRE_PERIOD), np.fft.fftfreq(FIBRE_PERIOD))
    texture = np.zeros((FIBRE_PERIOD, FIBRE_PERIOD))
    for weight, length, width in ((0.75, 60, 4.0), (0.55, 120, 12.0), (0.5, 14, 1.6)):
        band = np.exp(-2 * np.pi**2 * ((along * length / 2) ** 2 + (across * width / 2) ** 2))
        wave = np.fft.ifft2(np.fft.fft2(rng.standard_normal(band.shape)) * band).real
        texture += weight * wave / wave.std()
    return np.asarray(texture / texture.std(), np.float32)


def fibres(rng: np.random.Generator, *, px: int, mpp: float) -> tuple[Field, Callable[[Field, Field], Field]]:
    """Fibre texture with slowly changing direction, and the fibres' angle as a function of x and y (pixels)."""
    x = np.arange(px, dtype=np.float32) * np.float32(mpp / 0.5)
    y = x[:, None]
    angle = float(rng.uniform(0, np.pi))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    bend = 90 * noise(rng, px, 420 / mpp) + 10 * noise(rng, px, 70 / mpp)
    u = x * cos + y * sin
    v = y * cos - x * sin + bend
    texture = cv2.remap(_fibre_texture(), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def direction(at_x: Field, at_y: Field) -> Field:
        row, column = np.clip(at_y.astype(int), 4, px - 5), np.clip(at_x.astype(int), 4, px - 5)
        slope_x = v[row, column + 4] - v[row, column - 4]
        slope_y = v[row + 4, column] - v[row - 4, column]
        return np.asarray(np.arctan2(slope_x, -slope_y), np.float32)

    return np.asarray(texture, np.float32), direction
