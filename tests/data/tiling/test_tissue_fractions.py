"""The fraction of tissue in each tile."""

import sys
from pathlib import Path

import numpy as np
import pytest
from wsipipe.data.tiling.overview import shrink
from wsipipe.data.tiling.tissue import TissueMask, tissue_fractions
from wsipipe.data.units import Level0Px, Mpp

sys.path.insert(0, str(Path(__file__).parents[2]))

from drawn_overviews import ellipse


def test_tissue_fractions_are_exact_to_the_fraction_of_a_pixel():
    rng = np.random.default_rng(0)
    mask = rng.random((40, 50)) < 0.5
    downsample = 7  # whole, so that the mask can be painted at level 0
    painted = np.kron(mask, np.ones((downsample, downsample), bool))
    tissue = TissueMask(
        mask=mask,
        downsample=float(downsample),
        mpp=Mpp(8),
        verdict="tissue and glass",
        threshold=7,
        pen=np.zeros_like(mask),
    )
    side = 45
    coords = np.stack([rng.integers(0, 350 - side, 200), rng.integers(0, 280 - side, 200)], axis=1)
    expected = [painted[y : y + side, x : x + side].mean() for x, y in coords]
    fractions = tissue_fractions(tissue, coords, Level0Px(side))
    np.testing.assert_allclose(fractions, expected, atol=1e-6)
    assert fractions.dtype == np.float32
    assert tissue_fractions(tissue, np.empty((0, 2), np.int64), Level0Px(side)).shape == (0,)


@pytest.mark.parametrize("downsample", [7.0, 16.003, 31.97])
def test_a_tile_beside_the_tissue_has_none_of_it(downsample):
    """Not even 1e-17: what touches tissue is told by it."""
    mask = ellipse(900, 1000, (450, 500), (200, 300))
    tissue = TissueMask(
        mask=mask,
        downsample=downsample,
        mpp=Mpp(8),
        verdict="tissue and glass",
        threshold=7,
        pen=np.zeros_like(mask),
    )
    side = Level0Px(224)
    x, y = np.meshgrid(np.arange(0, 900 * downsample - side, side), np.arange(0, 1000 * downsample - side, side))
    coords = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)
    fractions = tissue_fractions(tissue, coords, side)
    start, end = np.floor(coords / downsample).astype(int), np.ceil((coords + side) / downsample).astype(int)
    touches = [mask[top:bottom, left:right].any() for (left, top), (right, bottom) in zip(start, end, strict=True)]
    whole = [mask[top:bottom, left:right].all() for (left, top), (right, bottom) in zip(start, end, strict=True)]
    np.testing.assert_array_equal(fractions > 0, touches)
    np.testing.assert_array_equal(fractions == 1, whole)


def test_fractions_at_a_fractional_downsample():
    mask = np.zeros((10, 10), bool)
    mask[:, 5:] = True
    tissue = TissueMask(
        mask=mask, downsample=16.004, mpp=Mpp(8), verdict="tissue and glass", threshold=7, pen=np.zeros_like(mask)
    )
    (half,) = tissue_fractions(tissue, np.array([[40, 0]]), Level0Px(80))  # the tissue begins at x = 80.02
    assert half == pytest.approx((120 - 80.02) / 80, abs=1e-6)


def test_shrink_takes_means_and_keeps_the_edge():
    picture = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1).repeat(3, axis=2)
    small = shrink(picture, 2)
    assert small.shape == (3, 4, 3)
    assert small[0, 0, 0] == round((0 + 1 + 7 + 8) / 4)
    assert small[2, 3, 0] == 34
