"""Draws synthetic H&E tissue: the pixels of the demo's slides.

The picture is built as a stained section is: how much haematoxylin and how much eosin lies at each pixel, and
light that is absorbed by both (Beer-Lambert). Everything is measured in microns, so that the same scene can be
drawn at any resolution. The planted biomarker is a texture: in a contiguous part of the tissue, nests of small
round evenly spaced nuclei give way to nests of large pleomorphic ones. Both fill about the same area with
about the same amount of stain, so that colour alone says little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.units import Microns, Mpp

Field = NDArray[np.float32]
"""A map over the slide, (height, width), at the pixels of the slide or of the layout grid."""

LAYOUT_MPP = 3.0
"""Microns per pixel of the grid on which outlines are laid out, before they are drawn at full resolution."""

MARGIN = 110.0
"""Microns of bare glass around the tissue."""

FIBRE_PERIOD = 768
"""Pixels of the endlessly repeating fibre texture, each half a micron wide."""


@dataclass(frozen=True, kw_only=True)
class Stain:
    """How one laboratory's sections look: optical density of red, green and blue for one unit of each dye."""

    haematoxylin: tuple[float, float, float] = (0.66, 0.76, 0.38)
    eosin: tuple[float, float, float] = (0.11, 0.74, 0.42)
    glass: tuple[float, float, float] = (243.0, 242.0, 244.0)


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """A kind of nucleus: lengths in microns, `spacing` between neighbours, `scatter` and `pleomorphism` relative."""

    spacing: float
    radius: float
    scatter: float
    pleomorphism: float
    elongation: float
    darkness: float
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

STROMA, SOLID, GLAND, PLANTED_NEST, FAT = range(5)


@dataclass(frozen=True)
class Layout:
    """Where what lies, on the layout grid. Fields hold microns and are positive inside what they outline."""

    tissue: Field
    nest: Field
    lumen: Field
    adipocyte: Field
    planted: NDArray[np.bool_]
    fat: Field
    lymphoid: Field


def draw_tissue(
    rng: np.random.Generator, *, side: Microns, mpp: Mpp, planted_fraction: float, stain: Stain
) -> NDArray[np.uint8]:
    """One section on glass, cut to the tissue and a margin around it.

    :param side: length of the square that the tissue is laid out in.
    :param planted_fraction: part of the nests' area, 0 to 1, that carries the planted texture.
    :returns: (height, width, 3) RGB, neither side longer than `side`, both divisible by 16.
    """
    px = round(side / mpp)
    layout = _lay_out(rng, side=side, planted_fraction=planted_fraction)

    def full(field: Field) -> Field:
        return cv2.resize(field, (px, px), interpolation=cv2.INTER_CUBIC)

    def ragged(field: Field, *, wavelength: float, by: float, edge: float) -> Field:
        """The field's inside as 0 to 1, its outline roughened by `by` microns and `edge` microns soft."""
        return np.clip((full(field) + by * _noise(rng, px, wavelength / mpp)) / edge + 0.5, 0, 1)

    tissue = ragged(layout.tissue, wavelength=7, by=2.5, edge=3.0)
    nest = ragged(layout.nest, wavelength=9, by=1.2, edge=2.0)
    lumen = ragged(layout.lumen, wavelength=9, by=1.5, edge=1.5)
    adipocyte = np.clip(full(layout.adipocyte) / 1.2 + 0.5, 0, 1)
    fibre, direction = _fibres(rng, px=px, mpp=mpp)

    matrix = tissue * (1 - nest)
    cleft = np.clip((fibre - 1.25) * 2.5, 0, 1) * (1 - nest)
    cytoplasm = _noise(rng, px, 9 / mpp) + 0.7 * _noise(rng, px, 2.5 / mpp)
    wash = 1 + 0.14 * _noise(rng, px, 150 / mpp)  # uneven staining and thickness
    eosin = matrix * np.clip(0.52 - 0.19 * fibre, 0.08, 1.2) + nest * tissue * (0.36 + 0.07 * cytoplasm)
    haematoxylin = matrix * (0.05 - 0.015 * fibre) + nest * tissue * (0.24 + 0.06 * cytoplasm)

    empty = np.maximum(np.maximum(lumen, cleft), adipocyte * np.clip(full(layout.fat) / 4, 0, 1))
    eosin *= (1 - 0.93 * empty) * wash
    haematoxylin *= (1 - 0.93 * empty) * wash

    nuclei = _nuclei(rng, layout, tissue=tissue, nest=nest, empty=empty, direction=direction, mpp=mpp)
    eosin *= 1 - 0.6 * np.clip(nuclei * 1.5, 0, 1)
    haematoxylin += nuclei * (0.94 + 0.06 * wash)
    picture = _develop(rng, haematoxylin, eosin, stain)
    return picture[_span(tissue.any(axis=1), mpp=mpp), _span(tissue.any(axis=0), mpp=mpp)]


def _span(occupied: NDArray[np.bool_], *, mpp: float) -> slice:
    """The pixels from the first to the last that hold tissue, and the margin on either side."""
    where = np.flatnonzero(occupied)
    first = max(0, int(where[0] - MARGIN / mpp))
    last = min(len(occupied), int(where[-1] + MARGIN / mpp))
    return slice(first, last - (last - first) % 16)


def _develop(rng: np.random.Generator, haematoxylin: Field, eosin: Field, stain: Stain) -> NDArray[np.uint8]:
    """Light through the section, slightly blurred by the lens and grainy from the camera."""
    px = len(eosin)
    dust = cv2.resize((rng.random((px // 16, px // 16)) > 0.9994).astype(np.float32), (px, px)) * 0.25
    grain = cv2.resize(rng.standard_normal((px // 2, px // 2), dtype=np.float32), (px, px)) * 1.6
    rgb = np.empty((px, px, 3), np.uint8)
    for channel in range(3):
        density = stain.haematoxylin[channel] * haematoxylin + stain.eosin[channel] * eosin + dust
        light = stain.glass[channel] * np.exp(-cv2.GaussianBlur(density, (0, 0), 0.6))
        rgb[:, :, channel] = np.clip(light + grain, 0, 255)
    return rgb


def _noise(rng: np.random.Generator, px: int, wavelength: float) -> Field:
    """Smooth noise of about unit variance over a square of `px`, its lumps `wavelength` pixels apart."""
    knots = max(4, round(2 * px / wavelength))
    coarse = rng.standard_normal((knots, knots), dtype=np.float32)
    return cv2.resize(coarse, (px, px), interpolation=cv2.INTER_CUBIC)


def _cells(
    rng: np.random.Generator, x: Field, y: Field, *, spacing: float
) -> tuple[Field, NDArray[np.int64], NDArray[np.float64]]:
    """Voronoi cells of jittered seeds `spacing` microns apart, at points x, y (microns).

    :returns: distance to the cell's wall (positive inside), the cell's number, and the seeds' x and y.
    """
    columns = int(max(x.max(), y.max()) / spacing) + 6
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(columns)), axis=-1) - 2.5
    seeds = (grid + rng.uniform(-0.42, 0.42, grid.shape)) * spacing
    column, row = (np.clip((v / spacing + 3).astype(int), 2, columns - 3) for v in (x, y))
    nearest = np.full(x.shape, np.inf)
    second = np.full(x.shape, np.inf)
    number = np.zeros(x.shape, np.int64)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            seed = seeds[row + dy, column + dx]
            distance = np.hypot(seed[..., 0] - x, seed[..., 1] - y)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            number = np.where(closer, (row + dy) * columns + column + dx, number)
            nearest = np.where(closer, distance, nearest)
    return ((second - nearest) / 2).astype(np.float32), number, seeds.reshape(-1, 2)


def _lay_out(rng: np.random.Generator, *, side: float, planted_fraction: float) -> Layout:
    """Outline of the tissue and what each part of it is."""
    n = round(side / LAYOUT_MPP)
    y, x = (np.mgrid[:n, :n] * (side / n)).astype(np.float32)
    tissue = _outline(rng, x, y, side=side)

    warp = [16 * _noise(rng, n, 90 / LAYOUT_MPP) + 4 * _noise(rng, n, 25 / LAYOUT_MPP) for _ in range(2)]
    wall, number, seeds = _cells(rng, x + warp[0], y + warp[1], spacing=rng.uniform(82, 105))
    area = np.bincount(number[tissue > 0], minlength=len(seeds))

    kind = np.where(rng.random(len(seeds)) < rng.uniform(0.2, 0.32), STROMA, SOLID)
    kind[(kind == SOLID) & (rng.random(len(seeds)) < 0.25)] = GLAND
    kind[_nearest(rng, seeds, area, fraction=rng.uniform(0.03, 0.09), at_margin=True)] = FAT
    nests = np.where(np.isin(kind, (SOLID, GLAND)), area, 0)
    kind[_nearest(rng, seeds, nests, fraction=planted_fraction)] = PLANTED_NEST

    here = kind[number]
    septum = 5.5 + 2.5 * _noise(rng, n, 120 / LAYOUT_MPP)
    nest = np.where(np.isin(here, (SOLID, GLAND, PLANTED_NEST)), wall - septum, -septum).astype(np.float32)
    rim = rng.uniform(13, 24, len(seeds))[number]
    lumen = np.where(here == GLAND, wall - rim, -8).astype(np.float32)
    adipocyte, _, _ = _cells(rng, x + warp[1] * 0.3, y + warp[0] * 0.3, spacing=46)
    return Layout(
        tissue=tissue,
        nest=nest,
        lumen=lumen,
        adipocyte=adipocyte - 1.4,
        planted=here == PLANTED_NEST,
        fat=np.where(here == FAT, wall, -8).astype(np.float32),
        lymphoid=_noise(rng, n, 170 / LAYOUT_MPP) - 1.1,
    )


def _outline(rng: np.random.Generator, x: Field, y: Field, *, side: float) -> Field:
    """Distance (microns, roughly) into one or two pieces of tissue with a wavy margin."""
    n = len(x)
    wavy = 0.06 * side * _noise(rng, n, n / 2.2) + 14 * _noise(rng, n, 110 / LAYOUT_MPP)
    tilt = rng.uniform(0, np.pi)
    along, across = np.array((np.cos(tilt), np.sin(tilt))), np.array((-np.sin(tilt), np.cos(tilt)))
    two = rng.random() < 0.35
    centres = [(0.23, 0.19, 0.32), (-0.23, 0.18, 0.30)] if two else [(0.0, 0.29, 0.37)]
    pieces = []
    for offset, short, long in centres:
        shift = (across * offset + rng.uniform(-0.03, 0.03, 2)) * side + side / 2
        u = (x - shift[0]) * along[0] + (y - shift[1]) * along[1]
        v = (x - shift[0]) * across[0] + (y - shift[1]) * across[1]
        pieces.append((1 - np.hypot(u / (long * side), v / (short * side))) * short * side)
    margin = np.minimum.reduce([x, y, side - x, side - y]) - 0.03 * side
    field: Field = np.minimum(np.maximum.reduce(pieces) + wavy, margin).astype(np.float32)
    return field


def _nearest(
    rng: np.random.Generator,
    seeds: NDArray[np.float64],
    area: NDArray[np.int64],
    *,
    fraction: float,
    at_margin: bool = False,
) -> NDArray[np.int64]:
    """Neighbouring cells, outwards from a random one, until they make up `fraction` of the area."""
    inside = np.flatnonzero(area > 0.5 * area.max())
    away = np.hypot(*(seeds[inside] - seeds[inside].mean(axis=0)).T)
    start = inside[np.argmax(away + rng.uniform(0, 0.3, len(away)) * away.max())] if at_margin else rng.choice(inside)
    order = np.argsort(np.hypot(*(seeds - seeds[start]).T))
    order = order[area[order] > 0]
    reached = np.cumsum(area[order]) / area.sum()
    return order[: int(np.argmin(np.abs(reached - fraction))) + 1] if fraction > reached[0] / 2 else order[:0]


@lru_cache(maxsize=1)
def _fibre_texture() -> Field:
    """Collagen lying along x, repeating without a seam: waves of noise that change slowly along, fast across."""
    rng = np.random.default_rng(20)
    along, across = np.meshgrid(np.fft.fftfreq(FIBRE_PERIOD), np.fft.fftfreq(FIBRE_PERIOD))
    texture = np.zeros((FIBRE_PERIOD, FIBRE_PERIOD))
    for weight, length, width in ((0.75, 60, 4.0), (0.55, 120, 12.0), (0.5, 14, 1.6)):
        band = np.exp(-2 * np.pi**2 * ((along * length / 2) ** 2 + (across * width / 2) ** 2))
        wave = np.fft.ifft2(np.fft.fft2(rng.standard_normal(band.shape)) * band).real
        texture += weight * wave / wave.std()
    return (texture / texture.std()).astype(np.float32)


def _fibres(rng: np.random.Generator, *, px: int, mpp: float) -> tuple[Field, Callable[[Field, Field], Field]]:
    """Fibre texture bent along a slowly turning course, and the fibres' angle as a function of x and y (pixels)."""
    y, x = np.mgrid[:px, :px].astype(np.float32) * np.float32(mpp / 0.5)
    angle = rng.uniform(0, np.pi)
    bend = 90 * _noise(rng, px, 420 / mpp) + 10 * _noise(rng, px, 70 / mpp)
    u = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    v = (y * np.cos(angle) - x * np.sin(angle) + bend).astype(np.float32)
    texture = cv2.remap(_fibre_texture(), u % FIBRE_PERIOD, v % FIBRE_PERIOD, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def direction(at_x: Field, at_y: Field) -> Field:
        row, column = np.clip(at_y.astype(int), 4, px - 5), np.clip(at_x.astype(int), 4, px - 5)
        slope_x = v[row, column + 4] - v[row, column - 4]
        slope_y = v[row + 4, column] - v[row - 4, column]
        return np.arctan2(slope_x, -slope_y)

    return texture, direction


def _nuclei(
    rng: np.random.Generator,
    layout: Layout,
    *,
    tissue: Field,
    nest: Field,
    empty: Field,
    direction: Callable[[Field, Field], Field],
    mpp: float,
) -> Field:
    """Haematoxylin of all nuclei, each put where its kind lives."""
    px = len(tissue)
    canvas = np.zeros((px, px), np.float32)
    grid = len(layout.tissue)
    for kind in (FIBROBLAST, LYMPHOCYTE, BLAND, PLANTED):
        x, y = _hexagonal(rng, px=px, spacing=kind.spacing / mpp, scatter=kind.scatter)
        row, column = y.astype(int), x.astype(int)
        coarse = (row * grid // px, column * grid // px)
        alive = (tissue[row, column] > 0.9) & (empty[row, column] < 0.35)
        if kind is FIBROBLAST:
            alive &= nest[row, column] < 0.3
        elif kind is LYMPHOCYTE:
            crowd = np.clip(layout.lymphoid[coarse] * 1.6, 0.03, 0.8)
            alive &= (nest[row, column] < 0.5) & (rng.random(len(x)) < crowd)
        else:
            alive &= (nest[row, column] > 0.75) & (layout.planted[coarse] == (kind is PLANTED))
        x, y = x[alive], y[alive]
        angle = direction(x, y) if kind is FIBROBLAST else rng.uniform(0, np.pi, len(x))
        _stamp(rng, canvas, x, y, angle, _stamps(kind, mpp))
    return canvas


def _hexagonal(rng: np.random.Generator, *, px: int, spacing: float, scatter: float) -> tuple[Field, Field]:
    """Points of a hexagonal lattice, each off its place by about `scatter` times the spacing."""
    rows, columns = np.mgrid[: int(px / (spacing * 0.866)) + 1, : int(px / spacing) + 1]
    lattice = np.stack(((columns + 0.5 * (rows % 2)) * spacing, rows * spacing * 0.866)).reshape(2, -1)
    sway = np.stack([_noise(rng, px // 8, 1.5 * spacing) for _ in range(2)])  # bends the rows, which no tissue keeps straight
    row, column = np.clip(lattice[::-1] / 8, 0, px // 8 - 1).astype(int)
    moved = lattice + spacing * sway[:, row, column] + rng.normal(0, scatter * spacing, lattice.shape)
    x, y = np.clip(moved, 0, px - 1).astype(np.float32)
    return x, y


ANGLES = 18
SHAPES = 12


@lru_cache(maxsize=16)
def _stamps(kind: Nucleus, mpp: float) -> list[list[Field]]:
    """Ready-drawn nuclei of a kind: SHAPES individuals, each at ANGLES directions; haematoxylin, (s, s)."""
    rng = np.random.default_rng(7)
    stamps = []
    for _ in range(SHAPES):
        radius = kind.radius * np.exp(rng.normal(0, kind.pleomorphism)) / mpp
        stretch = np.sqrt(1 + (kind.elongation - 1) * rng.uniform(0.5, 1.5))
        half = int(np.ceil(radius * stretch * 1.25)) + 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
        waves = rng.normal(0, 0.25 * kind.pleomorphism, 3) / (1, 1.5, 2)
        phases = rng.uniform(0, 2 * np.pi, 3)
        dots = rng.uniform(-0.45, 0.45, (1 + rng.integers(2), 2)) * radius
        chromatin = rng.standard_normal((FIBRE_PERIOD // 16, FIBRE_PERIOD // 16)).astype(np.float32)
        darkness = kind.darkness * np.exp(rng.normal(0, 0.08 + 0.5 * kind.pleomorphism))
        turned = []
        for turn in np.arange(ANGLES) * np.pi / ANGLES:
            u = (x * np.cos(turn) + y * np.sin(turn)) / stretch
            v = (y * np.cos(turn) - x * np.sin(turn)) * stretch
            theta = np.arctan2(v, u)
            outline = 1 + sum(w * np.cos((k + 2) * theta + p) for k, (w, p) in enumerate(zip(waves, phases, strict=True)))
            depth = radius * outline - np.hypot(u, v)
            rim = np.exp(-((depth * mpp / 0.7) ** 2))
            clumps = cv2.resize(chromatin, None, fx=1.4 / mpp, fy=1.4 / mpp)[: 2 * half + 1, : 2 * half + 1]
            tone = 1 - kind.vesicular * 0.5 * (1 - rim) + 0.15 * clumps
            for dot in dots:
                spot = np.hypot(u - dot[0], v - dot[1]) * mpp
                tone += kind.vesicular * 0.7 * np.clip(1.4 - spot, 0, 1)
            turned.append((darkness * tone * np.clip(depth + 0.5, 0, 1)).clip(0).astype(np.float32))
        stamps.append(turned)
    return stamps


def _stamp(
    rng: np.random.Generator, canvas: Field, x: Field, y: Field, angle: Field, stamps: list[list[Field]]
) -> None:
    """Put a random nucleus at each point; where two overlap, the darker is seen."""
    shape = rng.integers(len(stamps), size=len(x))
    turn = np.round(angle / np.pi * ANGLES).astype(int) % ANGLES
    px = len(canvas)
    for column, row, s, t in zip(x.astype(int), y.astype(int), shape, turn, strict=True):
        stamp = stamps[s][t]
        half = len(stamp) // 2
        if half <= row < px - half and half <= column < px - half:
            spot = canvas[row - half : row + half + 1, column - half : column + half + 1]
            np.maximum(spot, stamp, out=spot)
