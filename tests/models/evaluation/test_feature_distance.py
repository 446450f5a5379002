"""Distances from training's features, and limits of what is measured: known answers and shares."""

from __future__ import annotations

import numpy as np
import pytest
from wsipipe.models.evaluation.feature_distance import FeatureSpread
from wsipipe.models.evaluation.prediction_limit import lower_limit, upper_limit


@pytest.mark.parametrize(("n", "width"), [(400, 12), (30, 200), (200, 200)])
def test_vectors_like_those_of_training_lie_at_about_1(n: int, width: int) -> None:
    draw = np.random.default_rng(0)
    scale = np.linspace(0.2, 3, width)
    spread = FeatureSpread.of(draw.normal(5, scale, (n, width)))
    assert spread is not None
    usual = np.median(spread.distances(draw.normal(5, scale, (500, width))))
    assert 0.8 < usual < 1.6
    assert spread.distances(np.full((1, width), 5.0))[0] < 0.6
    assert spread.distances(draw.normal(5, scale, (1, width)) + 8 * scale)[0] > 4 * usual


def test_it_is_the_mahalanobis_distance_where_nothing_is_shrunk_away() -> None:
    """Of many vectors with few features the shrinkage is nearly none."""
    draw = np.random.default_rng(1)
    mixed = draw.normal(size=(8000, 6)) @ draw.normal(size=(6, 6))
    spread = FeatureSpread.of(mixed)
    assert spread is not None
    new = draw.normal(size=(50, 6)) * 3
    off = new - mixed.mean(axis=0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", off, np.linalg.inv(np.cov(mixed.T)), off) / 6)
    np.testing.assert_allclose(spread.distances(new), expected, rtol=0.05)


def test_a_direction_that_training_never_had_is_far() -> None:
    draw = np.random.default_rng(2)
    flat = np.zeros((60, 100))
    flat[:, :3] = draw.normal(size=(60, 3))
    spread = FeatureSpread.of(flat)
    assert spread is not None
    off = np.zeros((1, 100))
    off[0, 50] = 3
    along = np.zeros((1, 100))
    along[0, 0] = 3
    assert spread.distances(off)[0] > 3 * spread.distances(along)[0]


def test_there_is_no_spread_of_too_few_or_of_equal_vectors() -> None:
    assert FeatureSpread.of(np.random.default_rng(0).normal(size=(4, 8))) is None
    assert FeatureSpread.of(np.ones((20, 8))) is None
    few_directions = np.repeat(np.random.default_rng(0).normal(size=(3, 8)), 5, axis=0)
    spread = FeatureSpread.of(few_directions)
    assert spread is not None
    assert np.isfinite(spread.distances(few_directions)).all()


@pytest.mark.parametrize("n", [20, 99, 400])
def test_a_share_of_further_values_passes_the_limit(n: int) -> None:
    draw = np.random.default_rng(3)
    passed = rounds = 0
    for _ in range(400):
        limit = upper_limit(list(np.exp(draw.normal(0, 0.3, n))), 0.01)
        assert limit is not None
        further = np.exp(draw.normal(0, 0.3, 200))
        passed, rounds = passed + int((further > limit).sum()), rounds + len(further)
    assert 0.006 < passed / rounds < 0.0125


def test_limits_by_hand() -> None:
    values = [float(n) for n in range(1, 200)]
    assert upper_limit(values, 0.01) == 198
    assert lower_limit(values, 0.01) == pytest.approx(2)
    assert upper_limit([1.0] * 4, 0.01) is None
    assert upper_limit([2.0] * 10, 0.01) == pytest.approx(2)
