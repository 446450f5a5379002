"""Synthetic H&E tissue: the pixels of the demo's slides.

The image is made like a stained section: an amount of haematoxylin and of eosin at each pixel, both of which absorb
light (Beer-Lambert). All lengths are in microns, so that the same scene can be drawn at any resolution. The planted
biomarker is a texture: in a contiguous part of the tissue, nests of small round evenly spaced nuclei are replaced by
nests of large pleomorphic ones. Both fill about the same area with about the same amount of stain, so that colour
alone carries little information.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.units import Microns, Mpp
from .nuclei import BLAND, FIBROBLAST, LYMPHOCYTE, PLANTED, lattice, put_nuclei
from .texture import Field, cells, fibres, in_bands, noise

LAYOUT_MPP = 3.0
"""Microns per pixel of the layout grid, on which outlines are made before they are drawn at full resolution."""

MARGIN = 110.0
"""Microns of bare glass around the tissue."""


@dataclass(frozen=True, kw_only=True)
class Stain:
    """The stain of one laboratory: optical density of red, green and blue for one unit of each dye."""

    haematoxylin: tuple[float, float, float] = (0.66, 0.76, 0.38)
    eosin: tuple[float, float, float] = (0.11, 0.74, 0.42)
    glass: tuple[float, float, float] = (243.0, 242.0, 244.0)


STROMA, SOLID, GLAND, PLANTED_NEST, FAT = range(5)


@dataclass(frozen=True)
class Layout:
    """The parts of the tissue on the layout grid. Fields are distances in microns, positive inside the structure."""

    tissue: Field
    nest: Field
    lumen: Field
    """The hollow of a gland."""
    fat: Field
    adipocyte: Field
    """Fat cells all over the slide, of which those in `fat` are drawn."""
    planted: NDArray[np.bool_]
    """Where the nuclei of nests are the large pleomorphic ones."""
    lymphoid: Field
    """Density of lymphocytes in the stroma (not a distance): many above 0."""


def draw_tissue(
    rng: np.random.Generator, *, side: Microns, mpp: Mpp, planted_fraction: float, stain: Stain
) -> NDArray[np.uint8]:
    """Draw one section on glass, cropped to the tissue and a margin around it.

    :param side: length of the square that the tissue is laid out in.
    :param planted_fraction: part of the nests' area, 0 to 1, that carries the planted texture.
    :returns: (height, width, 3) RGB, neither side longer than `side`, both divisible by 16.
    """
    px = round(side / mpp)
    layout = _lay_out(rng, side=side, planted_fraction=planted_fraction)

    def full(field: Field) -> Field:
        return np.asarray(cv2.resize(field, (px, px), interpolation=cv2.INTER_CUBIC), np.float32)

    def ragged(field: Field, *, wavelength: float, by: float, edge: float) -> Field:
        """The inside of a field as 0 to 1, its outline roughened by `by` microns and softened over `edge` microns."""
        rough = noise(rng, px, wavelength / mpp)
        return in_bands(lambda field, rough: np.clip((field + by * rough) / edge + 0.5, 0, 1), full(field), rough)

    tissue = ragged(layout.tissue, wavelength=7, by=2.5, edge=3.0)
    nest = ragged(layout.nest, wavelength=9, by=1.2, edge=2.0)
    lumen = ragged(layout.lumen, wavelength=9, by=1.5, edge=1.5)
    adipocyte, fat = full(layout.adipocyte), full(layout.fat)
    fibre, direction = fibres(rng, px=px, mpp=mpp)
    coarse, fine = noise(rng, px, 9 / mpp), noise(rng, px, 2.5 / mpp)
    uneven = noise(rng, px, 150 / mpp)

    empty = in_bands(_empty, nest, lumen, adipocyte, fat, fibre)
    nuclei = _nuclei(rng, layout, tissue=tissue, nest=nest, empty=empty, direction=direction, mpp=mpp)
    shown = (tissue, nest, empty, fibre, coarse, fine, uneven, nuclei)
    haematoxylin, eosin = in_bands(_haematoxylin, *shown), in_bands(_eosin, *shown)
    picture = _develop(rng, haematoxylin, eosin, stain)
    return picture[_span(tissue.max(axis=1), mpp=mpp), _span(tissue.max(axis=0), mpp=mpp)]


def _empty(nest: Field, lumen: Field, adipocyte: Field, fat: Field, fibre: Field) -> Field:
    """How empty the tissue is, 0 to 1: hollows of glands, clefts between fibres, fat cells."""
    cleft = np.clip((fibre - 1.25) * 2.5, 0, 1) * (1 - nest)
    fat_cell = np.clip(adipocyte / 1.2 + 0.5, 0, 1) * np.clip(fat / 4, 0, 1)
    return np.asarray(np.maximum(np.maximum(lumen, cleft), fat_cell), np.float32)


def _haematoxylin(
    tissue: Field, nest: Field, empty: Field, fibre: Field, coarse: Field, fine: Field, uneven: Field, nuclei: Field
) -> Field:
    cytoplasm, wash = coarse + 0.7 * fine, _wash(uneven)
    stained = tissue * (1 - nest) * (0.05 - 0.015 * fibre) + nest * tissue * (0.24 + 0.06 * cytoplasm)
    return stained * ((1 - 0.93 * empty) * wash) + nuclei * (0.94 + 0.06 * wash)


def _eosin(
    tissue: Field, nest: Field, empty: Field, fibre: Field, coarse: Field, fine: Field, uneven: Field, nuclei: Field
) -> Field:
    cytoplasm = coarse + 0.7 * fine
    matrix = tissue * (1 - nest) * np.clip(0.52 - 0.19 * fibre, 0.08, 1.2)
    stained = (matrix + nest * tissue * (0.36 + 0.07 * cytoplasm)) * ((1 - 0.93 * empty) * _wash(uneven))
    return np.asarray(stained * (1 - 0.6 * np.clip(nuclei * 1.5, 0, 1)), np.float32)


def _wash(uneven: Field) -> Field:
    """Uneven staining and thickness."""
    return 1 + 0.14 * uneven


def _span(occupied: Field, *, mpp: float) -> slice:
    """The range of pixels from the first to the last with tissue, and the margin on either side."""
    where = np.flatnonzero(occupied)
    first = max(0, int(where[0] - MARGIN / mpp))
    last = min(len(occupied), int(where[-1] + MARGIN / mpp))
    return slice(first, last - (last - first) % 16)


def _develop(rng: np.random.Generator, haematoxylin: Field, eosin: Field, stain: Stain) -> NDArray[np.uint8]:
    """Render the stained section as RGB, slightly blurred by the lens and with noise from the camera."""
    px = len(eosin)
    dust = cv2.resize((rng.random((px // 16, px // 16)) > 0.9994).astype(np.float32), (px, px)) * 0.25
    grain = cv2.resize(rng.standard_normal((px // 2, px // 2), dtype=np.float32), (px, px)) * 1.6
    rgb = np.empty((px, px, 3), np.uint8)
    for blue, red, glass, channel in zip(stain.haematoxylin, stain.eosin, stain.glass, range(3), strict=True):
        density = in_bands(lambda h, e, dust, h1=blue, e1=red: h1 * h + e1 * e + dust, haematoxylin, eosin, dust)
        blurred = np.asarray(cv2.GaussianBlur(density, (0, 0), 0.6), np.float32)
        rgb[:, :, channel] = in_bands(lambda d, grain, g=glass: np.clip(g * np.exp(-d) + grain, 0, 255), blurred, grain)
    return rgb


def _lay_out(rng: np.random.Generator, *, side: float, planted_fraction: float) -> Layout:
    """Lay out the tissue: its outline and the kind of each part."""
    n = round(side / LAYOUT_MPP)
    y, x = (np.mgrid[:n, :n] * (side / n)).astype(np.float32)
    tissue = _outline(rng, x, y, side=side)

    warp = [16 * noise(rng, n, 90 / LAYOUT_MPP) + 4 * noise(rng, n, 25 / LAYOUT_MPP) for _ in range(2)]
    wall, number, seeds = cells(rng, x + warp[0], y + warp[1], spacing=rng.uniform(82, 105))
    area = np.bincount(number[tissue > 0], minlength=len(seeds))

    kind = np.where(rng.random(len(seeds)) < rng.uniform(0.2, 0.32), STROMA, SOLID)
    kind[(kind == SOLID) & (rng.random(len(seeds)) < 0.25)] = GLAND
    kind[_nearest(rng, seeds, area, fraction=rng.uniform(0.03, 0.09), at_margin=True)] = FAT
    nests = np.where(np.isin(kind, (SOLID, GLAND)), area, 0)
    kind[_nearest(rng, seeds, nests, fraction=planted_fraction)] = PLANTED_NEST

    here = kind[number]
    septum = 5.5 + 2.5 * noise(rng, n, 120 / LAYOUT_MPP)
    nest = np.where(np.isin(here, (SOLID, GLAND, PLANTED_NEST)), wall - septum, -septum).astype(np.float32)
    rim = rng.uniform(13, 24, len(seeds))[number]
    lumen = np.where(here == GLAND, wall - rim, -8).astype(np.float32)
    adipocyte, _, _ = cells(rng, x + warp[1] * 0.3, y + warp[0] * 0.3, spacing=46)
    return Layout(
        tissue=tissue,
        nest=nest,
        lumen=lumen,
        adipocyte=adipocyte - 1.4,
        planted=here == PLANTED_NEST,
        fat=np.where(here == FAT, wall, -8).astype(np.float32),
        lymphoid=noise(rng, n, 170 / LAYOUT_MPP) - 1.1,
    )


def _outline(rng: np.random.Generator, x: Field, y: Field, *, side: float) -> Field:
    """Approximate distance (microns) from the wavy margin of one or two pieces of tissue, positive inside."""
    n = len(x)
    wavy = 0.06 * side * noise(rng, n, n / 2.2) + 14 * noise(rng, n, 110 / LAYOUT_MPP)
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
    seeds: Field,
    area: NDArray[np.int64],
    *,
    fraction: float,
    at_margin: bool = False,
) -> NDArray[np.int64]:
    """Neighbouring cells, outwards from a random one, that together make up `fraction` of the area."""
    inside = np.flatnonzero(area > 0.5 * area.max())
    away = np.hypot(*(seeds[inside] - seeds[inside].mean(axis=0)).T)
    start = inside[np.argmax(away + rng.uniform(0, 0.3, len(away)) * away.max())] if at_margin else rng.choice(inside)
    order = np.argsort(np.hypot(*(seeds - seeds[start]).T))
    order = order[area[order] > 0]
    reached = np.cumsum(area[order]) / area.sum()
    return order[: int(np.argmin(np.abs(reached - fraction))) + 1] if fraction > reached[0] / 2 else order[:0]


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
    """Haematoxylin of all nuclei, each kind in its own compartment."""
    px = len(tissue)
    canvas = np.zeros((px, px), np.float32)
    grid = len(layout.tissue)
    for kind in (FIBROBLAST, LYMPHOCYTE, BLAND, PLANTED):
        x, y = lattice(rng, px=px, spacing=kind.spacing / mpp, scatter=kind.scatter)
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
        angle = direction(x, y) if kind is FIBROBLAST else rng.uniform(0, np.pi, len(x)).astype(np.float32)
        put_nuclei(rng, canvas, kind, x=x, y=y, angle=angle, mpp=mpp)
    return canvas
