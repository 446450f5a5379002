"""Sharpness of tiles: what it measures, what it reads, and what it tells on real slides."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Rgb, Slide
from wsipipe.data.tiling.overview import read_overview, shrink
from wsipipe.data.tiling.sharpness import FLOOR, SHARPNESS_MPP, sharpness, tile_sharpness
from wsipipe.data.tiling.tissue import find_tissue, tissue_fractions
from wsipipe.data.units import Level0Px, Mpp

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"
THRESHOLD = 1.5
"""Between what is sharp and what is blurred by 2 µm, on every slide tried."""


class MemorySlide(Slide):
    """A slide of arrays, which remembers what was read, and cannot decode what lies in ``damage`` (level 0)."""

    def __init__(self, levels: list[np.ndarray], mpp: float, damage: tuple[int, int, int, int] | None = None) -> None:
        self.path, self.format, self.reader = Path("memory"), "memory", "numpy"
        self.levels, self.damage = levels, damage
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.level_downsamples = tuple(levels[0].shape[1] / level.shape[1] for level in levels)
        self.mpp = (Mpp(mpp), Mpp(mpp))
        self.seen = [np.zeros(level.shape[:2], int) for level in levels]
        self.largest = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        downsample = self.level_downsamples[level]
        left, top = round(x / downsample), round(y / downsample)
        if self.damage is not None:
            x0, y0, x1, y1 = self.damage
            if x < x1 and y < y1 and x + width * downsample > x0 and y + height * downsample > y0:
                raise SlideError("cannot be decoded", path=self.path)
        self.seen[level][top : top + height, left : left + width] += 1
        self.largest = max(self.largest, width * height)
        return self.levels[level][top : top + height, left : left + width]

    def close(self) -> None: ...


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (height, width, 3), np.uint8)


def pyramid(image: np.ndarray, *factors: int) -> list[np.ndarray]:
    size = image.shape[1::-1]
    return [cv2.resize(image, (size[0] // f, size[1] // f), interpolation=cv2.INTER_AREA) for f in factors]


def grid(columns: int, rows: int, step: int, at: int = 0) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns) * step + at, np.arange(rows) * step + at)
    return np.stack([x.ravel(), y.ravel()], axis=1)


# ------------------------------------------------------------------------------------- the measure


def test_known_answers():
    flat = np.full((50, 50, 3), 130, np.uint8)
    assert sharpness(flat) == 0
    board = np.indices((200, 200)).sum(axis=0) % 2 * 200
    assert sharpness(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)) == pytest.approx(8, rel=0.02)
    white = np.random.default_rng(0).normal(128, 25, (300, 300, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    assert sharpness(white) == pytest.approx(5, rel=0.03), "20 σ² over 4 σ²"


@pytest.mark.parametrize("period", [4, 8, 16])
def test_of_a_wave_it_is_the_squared_frequency(period):
    wave = 128 + 100 * np.sin(2 * np.pi * np.arange(320) / period)
    pixels = np.broadcast_to(wave.astype(np.uint8)[None, :, None], (40, 320, 3)).copy()
    steep = np.square(np.diff(wave)).mean()
    expected = (2 - 2 * np.cos(2 * np.pi / period)) * steep / (steep + FLOOR)
    assert sharpness(pixels) == pytest.approx(expected, rel=0.1)  # rounding and the two ends bend it, too


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_it_lies_between_0_and_8(width, height, seed):
    assert 0 <= sharpness(noise(width, height, seed)) <= 8


def test_faint_noise_is_no_detail():
    blank = np.random.default_rng(0).normal(243, 1, (56, 56, 3)).clip(0, 255).astype(np.uint8)
    assert sharpness(blank) < 1


# ---------------------------------------------------------------------------------- what it reads


def test_it_is_judged_at_two_microns_from_the_coarsest_level_that_suffices():
    slide = MemorySlide(pyramid(noise(3200, 2400), 1, 4, 16), 0.25)
    coords = grid(7, 5, 448)
    scores, mpp = tile_sharpness(slide, coords, Level0Px(448))
    assert mpp == SHARPNESS_MPP
    assert [seen.any() for seen in slide.seen] == [False, True, False]
    assert scores.dtype == np.float32
    small = shrink(slide.levels[1], 2)
    expected = [sharpness(small[y // 8 : y // 8 + 56, x // 8 : x // 8 + 56]) for x, y in coords]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("mpp", [0.2, 0.2499, 0.263, 0.35, 0.4, 0.5, 0.5056, 0.7, 0.9, 1.0, 1.1, 1.7, 2.0, 2.4])
def test_a_whole_factor_gives_two_microns_within_a_quarter(mpp):
    slide = MemorySlide([noise(600, 600)], mpp)
    _, judged = tile_sharpness(slide, np.array([[0, 0]]), Level0Px(round(200 / mpp)))
    assert 1.6 <= judged <= 2.5


def test_a_coarser_slide_is_judged_as_it_is():
    scores, mpp = tile_sharpness(MemorySlide([noise(600, 600)], 4.0), grid(2, 2, 100), Level0Px(100))
    assert mpp == 4.0
    assert (scores > 3).all()


@pytest.mark.parametrize("levels", [(1,), (1, 4)])
def test_only_tiles_are_read_each_pixel_once_in_bounded_blocks(levels):
    slide = MemorySlide(pyramid(noise(8192, 4096), *levels), 0.5)
    coords = grid(28, 14, 224)
    coords = coords[np.random.default_rng(0).random(len(coords)) < 0.6]
    shuffled = np.random.default_rng(1).permutation(len(coords))
    scores, _ = tile_sharpness(slide, coords[shuffled], Level0Px(224))
    assert scores.shape == (len(coords),)
    seen = slide.seen[-1]
    assert seen.max() == 1
    covered = np.zeros_like(seen)
    for x, y in coords // levels[-1]:
        covered[y : y + 224 // levels[-1], x : x + 224 // levels[-1]] = 1
    np.testing.assert_array_equal(seen, covered)
    assert slide.largest <= 2048 * 224


@pytest.mark.parametrize("at", [0, 3, 37])
def test_a_score_depends_on_its_tile_alone(at):
    """Whatever else is kept, and in whatever order."""
    slide = MemorySlide(pyramid(noise(2400, 1600), 1, 4), 0.5)
    coords = grid(9, 6, 224, at)
    together, _ = tile_sharpness(slide, coords, Level0Px(224))
    alone = [tile_sharpness(slide, coords[[index]], Level0Px(224))[0][0] for index in range(len(coords))]
    np.testing.assert_array_equal(together, alone)
    backwards, _ = tile_sharpness(slide, coords[::-1], Level0Px(224))
    np.testing.assert_array_equal(backwards[::-1], together)


def test_overlapping_tiles():
    slide = MemorySlide([noise(1200, 900)], 0.5)
    coords = grid(8, 5, 112)
    scores, _ = tile_sharpness(slide, coords, Level0Px(224))
    small = shrink(slide.levels[0], 4)
    expected = [sharpness(small[y // 4 : y // 4 + 56, x // 4 : x // 4 + 56]) for x, y in coords]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_no_tiles():
    scores, mpp = tile_sharpness(MemorySlide([noise(600, 600)], 0.5), np.empty((0, 2), np.int64), Level0Px(224))
    assert scores.shape == (0,)
    assert mpp == 2.0


def test_what_cannot_be_decoded_is_unknown_and_the_rest_is_not():
    image = noise(2400, 900)
    coords = grid(10, 4, 224)
    whole, _ = tile_sharpness(MemorySlide([image], 0.5), coords, Level0Px(224))
    scores, _ = tile_sharpness(MemorySlide([image], 0.5, (700, 300, 900, 310)), coords, Level0Px(224))
    lost = (coords[:, 1] == 224) & np.isin(coords[:, 0], (672, 896))
    assert np.isnan(scores[lost]).all()
    np.testing.assert_array_equal(scores[~lost], whole[~lost])


# ------------------------------------------------------------------------------------ real slides


@pytest.mark.parametrize("name", ["ilc_breast_20x_region.svs", "giardia_40x_region.svs", "CMU-1-Small-Region.svs"])
def test_one_threshold_tells_sharp_tiles_from_blurred_ones(name):
    path = SHARED / "slides" / name
    if not path.exists():
        pytest.skip(f"no {name}")
    with open_slide(path) as slide:
        mpp = slide.believed_mpp()
        side = Level0Px(round(112 / mpp))
        columns, rows = (length // side for length in slide.dimensions)
        coords = grid(columns, rows, side)
        coords = coords[tissue_fractions(find_tissue(read_overview(slide)), coords, side) > 0.9]
        coords = coords[np.random.default_rng(0).permutation(len(coords))[:40]]
        sharp, _ = tile_sharpness(slide, coords, side)
        factor = round(2 / mpp)
        blurred = {}
        for sigma in (2, 4):
            blurred[sigma] = [
                sharpness(shrink(cv2.GaussianBlur(slide.read(0, x, y, side, side), (0, 0), sigma / mpp), factor))
                for x, y in coords.tolist()
            ]
    assert np.median(sharp) > 2.5
    assert (sharp > THRESHOLD).mean() > 0.95  # some of ilc is out of focus indeed
    assert (np.array(blurred[2]) < THRESHOLD).all()
    assert (np.array(blurred[4]) < THRESHOLD / 1.5).all()
    assert roc_auc_score([1] * len(sharp) + [0] * len(sharp), [*sharp, *blurred[2]]) > 0.97
