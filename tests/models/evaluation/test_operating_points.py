"""Predictive values and figures at a fixed specificity or sensitivity, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from wsipipe.models.evaluation import operating_points
from wsipipe.models.evaluation.metrics import pr_points, wilson_interval
from wsipipe.models.evaluation.operating_points import fixed_points, point_of_calls


def test_calls_by_hand() -> None:
    point = point_of_calls([1] * 18 + [0] * 22, [1] * 18 + [0] * 20 + [1] * 2)
    assert (point.sensitivity.value, point.specificity.value) == (1, 20 / 22)
    assert (point.ppv.value, point.npv.value, point.accuracy.value) == (18 / 20, 1, 38 / 40)
    assert (point.sensitivity.low, point.sensitivity.high) == wilson_interval(18, 18)
    assert (point.ppv.low, point.ppv.high) == wilson_interval(18, 20)
    assert (point.npv.low, point.npv.high) == wilson_interval(20, 20)


def test_nobody_called_has_no_predictive_value() -> None:
    point = point_of_calls([1, 0, 0], [0, 0, 0])
    assert point.ppv.value is None
    assert point.npv.value == pytest.approx(2 / 3)


def test_fixed_levels_by_hand() -> None:
    """Ten negatives at 0.0 to 0.9, and positives of which two lie above all, one between, one below."""
    negative = np.arange(10) / 10
    positive = [0.95, 0.97, 0.85, 0.05]
    y, p = [0] * 10 + [1] * 4, [*negative, *positive]
    at_90, at_95, *reverse = fixed_points(y, p)
    assert (at_90.fixed, at_90.level, at_90.threshold) == ("specificity", 0.9, 0.85), "one negative may lie above"
    assert (at_90.specificity.value, at_90.sensitivity.value) == (0.9, 0.75)
    assert (at_95.threshold, at_95.specificity.value, at_95.sensitivity.value) == (0.95, 1, 0.5)
    assert [point.fixed for point in reverse] == ["sensitivity"] * 2
    assert (reverse[0].threshold, reverse[0].sensitivity.value) == (0.05, 1), "three of four are not enough"
    assert reverse[0].specificity.value == 0.1
    assert fixed_points([1, 1], [0.2, 0.3]) == []


def test_equal_probabilities_are_called_together() -> None:
    y, p = [1, 0, 1, 0, 0], [0.7, 0.7, 0.7, 0.2, 0.2]
    point = fixed_points(y, p, levels=(0.9,))[0]
    assert (point.threshold, point.sensitivity.value, point.ppv.value) == (None, 0, None), (
        "of the three at once one is negative"
    )


def test_the_other_figure_has_an_interval_no_narrower_than_wilsons() -> None:
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1], (40, 20))
    p = norm.cdf(rng.normal(0, 1, 60) + y)
    for point in fixed_points(y, p):
        free = point.sensitivity if point.fixed == "specificity" else point.specificity
        n = 20 if point.fixed == "specificity" else 40
        low, high = wilson_interval(round((free.value or 0) * n), n)
        assert free.low is not None
        assert free.high is not None
        assert free.low <= low
        assert free.high >= high


def test_the_interval_covers_the_sensitivity_at_a_specificity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 binormal cohorts of 40 and 20. Wilson's alone, which takes the threshold as given, covers 91 of 100."""
    monkeypatch.setattr(operating_points, "ROUNDS", 200)
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], (40, 20))
    truth = float(norm.sf(norm.ppf(0.9) - 1.5))
    covered = 0
    for _ in range(100):
        p = norm.cdf(rng.normal(0, 1, 60) + 1.5 * y)
        found = fixed_points(y, p, levels=(0.9,))[0].sensitivity
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 92


def test_the_points_of_precision_and_recall_have_the_average_precision_below_them() -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    y = np.arange(50) % 3 == 0
    p = np.round(rng.random(50) * 0.7 + 0.3 * y, 1)  # with ties
    points = pr_points(y, p)
    area = float((np.diff(points[:, 0]) * points[1:, 1]).sum())
    assert area == pytest.approx(average_precision_score(y, p))
    assert pr_points([1, 1], [0.1, 0.2]).shape == (0, 2)
