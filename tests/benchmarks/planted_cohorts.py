"""Planted cohorts: patients whose molecular state, and the trace of it on the slide, are known.

Each patient has a state z ~ N(0, 1). RNA shows z well; the slide shows zs = 0.8 z + 0.6 noise, in one contiguous blob
of its tiles, along one direction of feature space; the label is a noisy threshold of z. In the site designs every tile
of a slide is shifted by its site, and in the training part the site goes with the label, in the test part it does not:
what cross-validation inside the training part would reward fails on the test part.

Grade and ER go along with the state, and so with the label. In the designs ``grade`` and ``two_confounders`` the slide
shows them instead of the state: whoever is told both learns nothing more from the slide.

The same seed gives the same states, RNA and label noise in every design, so that designs can be compared in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

DesignName = Literal["base", "noisy", "sparse", "site_mild", "site_noisy", "coherent", "grade", "two_confounders"]

WIDTH = 128
"""D, length of a tile's feature vector."""
GRID = 9
"""Tiles along each side of a slide."""
TILE_PX = 256
"""Distance of neighbouring tiles in level-0 pixels."""
GENES, LOADED_GENES, NUISANCE_FACTORS = 64, 16, 5
SITES = 6
TEST_PATIENTS = 300
SLIDE_SHOWS = 0.8
"""Correlation of zs with z."""
GOES_ALONG = 0.8
"""Correlation with z of what grade and ER are cut from."""
STRENGTH = 4.0
"""Shift of a blob's tiles for each unit of zs, in standard deviations of the background."""
STATE_LOADING, NUISANCE_LOADING, GENE_NOISE = 0.6, 0.6, 0.7
"""Standard deviations of a gene's loadings on z and on each nuisance factor, and of what is its own."""
COHERENT_SHARE, COHERENT_REACH = 0.5, 1.0
"""How much of the coherent background's variance is smooth, and over how many tiles (of a Gaussian kernel)."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What sets a cohort apart from ``base``.

    :param train_patients: their number.
    :param label_noise: standard deviation of what is added to z before the threshold at 0.
    :param blob_tiles: tiles that show the state.
    :param site_shift: length of the vector by which a site moves all tiles of its slides.
    :param site_follows_label: share of the training patients whose site is one of the three of their class; the
        sites of the others, and of all test patients, are drawn evenly.
    :param coherent: whether neighbouring tiles have similar backgrounds.
    :param shows: what of the patient can be seen on the slide.
    """

    train_patients: int = 150
    label_noise: float = 0.5
    blob_tiles: int = 8
    site_shift: float = 0.0
    site_follows_label: float = 0.0
    coherent: bool = False
    shows: Literal["state", "grade", "grade and ER"] = "state"


DESIGNS: dict[DesignName, Design] = {
    "base": Design(),
    "noisy": Design(label_noise=1.5),
    "sparse": Design(blob_tiles=2),
    "site_mild": Design(label_noise=1.0, site_shift=1.5, site_follows_label=0.5),
    "site_noisy": Design(label_noise=1.0, site_shift=3.0, site_follows_label=0.7),
    "coherent": Design(coherent=True),
    "grade": Design(shows="grade"),
    "two_confounders": Design(shows="grade and ER"),
}


@dataclass(frozen=True, kw_only=True)
class PlantedPatient:
    """One patient with one slide, and the truth about them."""

    id: str
    label: int
    features: NDArray[np.float32] = field(repr=False)
    """(81, 128), tiles row by row."""
    coords: NDArray[np.int64] = field(repr=False)
    """(81, 2), x and y of each tile's corner in level-0 pixels."""
    expression: NDArray[np.float32] = field(repr=False)
    """(64), log-like units."""
    state: float
    """z."""
    site: int
    """0 to 5; shifts nothing in the designs without sites."""
    grade: int
    """1, 2 or 3, in thirds."""
    er: int
    """0 or 1."""
    blob: NDArray[np.int64] = field(repr=False)
    """Indices of the tiles that show the state."""


@dataclass(frozen=True, kw_only=True)
class PlantedCohort:
    """``test`` patients are fresh draws, and never confounded."""

    train: list[PlantedPatient]
    test: list[PlantedPatient]


@dataclass(frozen=True)
class _World:
    """What all patients of a cohort share."""

    direction: NDArray[np.float64]
    """(128), a unit vector, along which slides show the state."""
    site_shifts: NDArray[np.float64]
    """(6, 128)."""
    on_state: NDArray[np.float64]
    """(64), zero but for a quarter of the genes."""
    on_nuisance: NDArray[np.float64]
    """(5, 64)."""
    blend: NDArray[np.float64] | None
    """(81, 81), makes a smooth background of a white one; ``None`` leaves it white."""


def planted_cohort(design: DesignName, seed: int) -> PlantedCohort:
    """The cohort of a design; the same seed gives the same cohort, byte for byte.

    :raises KeyError: no such design.
    """
    how = DESIGNS[design]
    shared, train, test = np.random.SeedSequence(seed).spawn(3)
    world = _world(how, np.random.default_rng(shared))
    return PlantedCohort(
        train=_patients("train", how.train_patients, how, world, train, how.site_follows_label),
        test=_patients("test", TEST_PATIENTS, how, world, test, 0.0),
    )


def _world(how: Design, random: np.random.Generator) -> _World:
    directions = random.standard_normal((1 + SITES, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    on_state = np.zeros(GENES)
    on_state[random.permutation(GENES)[:LOADED_GENES]] = STATE_LOADING * random.standard_normal(LOADED_GENES)
    on_nuisance = NUISANCE_LOADING * random.standard_normal((NUISANCE_FACTORS, GENES))
    blend = _blend() if how.coherent else None
    return _World(directions[0], how.site_shift * directions[1:], on_state, on_nuisance, blend)


def _patients(
    part: str, count: int, how: Design, world: _World, seed: np.random.SeedSequence, site_follows_label: float
) -> list[PlantedPatient]:
    # A stream for each thing that is drawn: what a design changes leaves the other draws as they are.
    for_state, for_site, for_genes, for_slide, for_grade = (np.random.default_rng(child) for child in seed.spawn(5))
    z = for_state.standard_normal(count)
    labels = z + how.label_noise * for_state.standard_normal(count) > 0
    zs = SLIDE_SHOWS * z + np.sqrt(1 - SLIDE_SHOWS**2) * for_state.standard_normal(count)
    graded, stained = (GOES_ALONG * z + np.sqrt(1 - GOES_ALONG**2) * for_grade.standard_normal(count) for _ in range(2))
    grades, er = np.searchsorted(norm.ppf([1 / 3, 2 / 3]), graded) + 1, (stained > 0).astype(int)
    if how.shows != "state":
        zs = 1.2 * (grades - 2) + 0.5 * for_grade.standard_normal(count)
    if how.shows == "grade and ER":
        zs += 1.2 * er - 0.6
    follows = for_site.random(count) < site_follows_label
    half = SITES // 2
    sites = np.where(follows, for_site.integers(half, size=count) + half * labels, for_site.integers(SITES, size=count))
    nuisance = for_genes.standard_normal((count, NUISANCE_FACTORS)) @ world.on_nuisance
    genes = np.outer(z, world.on_state) + nuisance + GENE_NOISE * for_genes.standard_normal((count, GENES))
    coords = TILE_PX * _grid()
    patients = []
    for i in range(count):
        tiles = for_slide.standard_normal((GRID**2, WIDTH))
        if world.blend is not None:
            white = for_slide.standard_normal(tiles.shape)
            tiles = np.sqrt(COHERENT_SHARE) * world.blend @ tiles + np.sqrt(1 - COHERENT_SHARE) * white
        blob = _blob(how.blob_tiles, for_slide)
        tiles[blob] += STRENGTH * zs[i] * world.direction
        tiles += world.site_shifts[sites[i]]
        patients.append(
            PlantedPatient(
                id=f"{part}-{i:03d}",
                label=int(labels[i]),
                features=tiles.astype(np.float32),
                coords=coords.copy(),
                expression=genes[i].astype(np.float32),
                state=float(z[i]),
                site=int(sites[i]),
                grade=int(grades[i]),
                er=int(er[i]),
                blob=blob,
            )
        )
    return patients


def _grid() -> NDArray[np.int64]:
    """(81, 2), column and row of each tile, row by row."""
    rows, columns = np.divmod(np.arange(GRID**2), GRID)
    return np.stack([columns, rows], axis=1).astype(np.int64)


def _blend() -> NDArray[np.float64]:
    """Rows of unit length whose products fall off with distance: white noise becomes a field of the same variance."""
    places = _grid().astype(float)
    squared = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / (2 * COHERENT_REACH**2))
    blend: NDArray[np.float64] = kernel / np.linalg.norm(kernel, axis=1, keepdims=True)
    return blend


def _blob(tiles: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices of tiles grown from one by its edges, in ascending order."""
    blob = {int(random.integers(GRID**2))}
    while len(blob) < tiles:
        rim = sorted({neighbour for tile in blob for neighbour in _neighbours(tile)} - blob)
        blob.add(rim[int(random.integers(len(rim)))])
    return np.array(sorted(blob), dtype=np.int64)


def _neighbours(tile: int) -> list[int]:
    row, column = divmod(tile, GRID)
    places = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [GRID * r + c for r, c in places if 0 <= r < GRID and 0 <= c < GRID]


DESIGN_NAMES: tuple[DesignName, ...] = get_args(DesignName)
