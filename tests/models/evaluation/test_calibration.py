"""Calibration: the error of groups, and logistic recalibration with its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_patients import drawn_patients, patients
from hypothesis import given, settings
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from wsipipe.models.evaluation.metrics import (
    Estimate,
    binary_metrics,
    calibration_bins,
)


def test_calibration_bins_hold_every_patient_once() -> None:
    p = np.array([0.1] * 6 + [0.4, 0.5, 0.6, 0.9])
    y = np.array([0] * 5 + [1] + [0, 1, 1, 1])
    bins = calibration_bins(y, p, bins=5)
    assert [b.n for b in bins] == [6, 2, 2]
    assert [b.mean_probability for b in bins] == pytest.approx([0.1, 0.45, 0.75])
    assert [b.share_positive for b in bins] == pytest.approx([1 / 6, 0.5, 1])
    assert calibration_bins([], []) == ()


@given(patients)
@settings(max_examples=60, deadline=None)
def test_calibration_keeps_counts_and_means(rows: list[tuple[int, float, int]]) -> None:
    labels, probabilities, _ = (np.array(column) for column in zip(*rows, strict=True))
    bins = calibration_bins(labels, probabilities)
    assert sum(b.n for b in bins) == len(rows)
    assert sum(b.n * b.mean_probability for b in bins) == pytest.approx(probabilities.sum())
    assert sum(b.n * b.share_positive for b in bins) == pytest.approx(labels.sum())


def expected_calibration_error(y: np.ndarray, p: np.ndarray) -> float:
    return sum(b.n * abs(b.share_positive - b.mean_probability) for b in calibration_bins(y, p)) / len(y)


def test_calibration_error_on_a_worked_example() -> None:
    p = [0.1] * 6 + [0.4, 0.5, 0.6, 0.9]
    y = [0] * 5 + [1] + [0, 1, 1, 1]
    error = binary_metrics(y, p, y).calibration_error
    # Groups of 6, 2 and 2: 6 · |1/6 − .1| + 2 · |1/2 − .45| + 2 · |1 − .75|.
    assert error.value == pytest.approx((0.4 + 0.1 + 0.5) / 10)
    assert binary_metrics([0, 1], [0.0, 1.0], [0, 1]).calibration_error.value == 0
    assert binary_metrics([1, 1], [0.2, 0.4], [0, 0]).calibration_error == Estimate(value=0.7)


def test_calibration_intervals_hold_the_truth() -> None:
    slope, intercept = 0.6, 0.4
    many = drawn_patients(200_000, slope, intercept, 0)
    truth = expected_calibration_error(*many)
    large = binary_metrics(*many, many[1] > 0.5, rounds=0).calibration_in_the_large.value
    assert large is not None
    hits = np.zeros(3)
    for trial in range(1, 201):
        y, p = drawn_patients(150, slope, intercept, trial)
        m = binary_metrics(y, p, p > 0.5, rounds=300)
        for i, (estimate, value) in enumerate(
            [(m.calibration_slope, slope), (m.calibration_in_the_large, large), (m.calibration_error, truth)]
        ):
            assert estimate.value is not None
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
            hits[i] += estimate.low <= value <= estimate.high
    assert (hits[:2] / 200 > 0.91).all()
    assert hits[2] / 200 > 0.75, "the interval of a biased figure is known to be short"


def test_calibration_line_is_logistic_regression_on_the_logit() -> None:
    y, p = drawn_patients(120, 0.5, -0.3, 5)
    m = binary_metrics(y, p, p > 0.5)
    x = logit(p)[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(x, y)
    assert m.calibration_slope.value == pytest.approx(fitted.coef_[0, 0], rel=1e-5)
    # At the maximum of the other fit, with the slope fixed at 1, as many are expected as there are.
    assert m.calibration_in_the_large.value is not None
    assert expit(m.calibration_in_the_large.value + x[:, 0]).sum() == pytest.approx(y.sum(), abs=1e-9)


def test_recalibration_is_that_of_statsmodels() -> None:
    """GLM(binomial, offset=logit p) with a constant, and Logit(constant, logit p), statsmodels 0.14."""
    y, p = [0, 0, 1, 0, 1, 0, 1, 1, 0, 1], [0.05, 0.1, 0.15, 0.2, 0.35, 0.4, 0.5, 0.7, 0.8, 0.9]
    m = binary_metrics(y, p, [0] * 10, rounds=10)
    for estimate, known in (
        (m.calibration_in_the_large, (0.51982092, -1.00265647, 2.04229832)),
        (m.calibration_slope, (0.58507397, -0.37462063, 1.54476857)),
    ):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(known, abs=1e-7)


def test_another_prevalence_moves_calibration_in_the_large_by_its_log_odds_and_nothing_of_the_ranks() -> None:
    y, p = drawn_patients(200, 1, 0, 4)
    there, here = (binary_metrics(y, q, p > 0.5, rounds=50) for q in (p, expit(logit(p) + logit(0.15))))
    assert there.calibration_in_the_large.value is not None
    moved = there.calibration_in_the_large.value - logit(0.15)
    assert here.calibration_in_the_large.value == pytest.approx(moved)
    assert here.calibration_slope.value == pytest.approx(there.calibration_slope.value)
    for name in ("auc", "auprc", "sensitivity", "specificity", "f1", "balanced_accuracy"):
        assert getattr(here, name) == getattr(there, name)


def test_too_extreme_probabilities_have_a_slope_below_one() -> None:
    y, p = drawn_patients(400, 1, 0, 9)
    there = binary_metrics(y, p, p > 0.5)
    extreme = binary_metrics(y, expit(2 * logit(p) + 1), p > 0.5)
    assert there.calibration_slope.value is not None
    assert extreme.calibration_slope.value == pytest.approx(there.calibration_slope.value / 2)
    assert extreme.auc == there.auc, "order alone does not see it"


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # apart
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),  # apart, the wrong way round
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),  # meet in one point
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
        ([1, 1], [0.3, 0.4]),
        ([], []),
        ([0, 1, 0, 1], [0.0, 0.5, 0.5 + 1e-15, 1.0]),  # overlap by a hair
    ],
)
def test_no_calibration_line_where_the_classes_do_not_overlap(labels: list[int], probabilities: list[float]) -> None:
    m = binary_metrics(labels, probabilities, [0] * len(labels))
    assert m.calibration_slope == Estimate(value=None)
    assert (m.calibration_in_the_large.value is None) is (len(set(labels)) < 2), "one class alone says nothing"


@pytest.mark.parametrize(
    ("labels", "probabilities", "estimable"),
    [
        ([0, 1] * 10, [0.01, 0.99] * 10, True),
        ([0, 1] * 10, [1e-6, 1 - 1e-6] * 10, False),  # Wald's interval would be 0 ± 438
        ([0, 1] * 10, [0.0, 1.0] * 10, False),
        ([0, 1] * 10, [0.0, 1.0] * 9 + [1.0, 0.0], False),  # as often wrong on either side
        ([0, 1] * 10, [0.0, 1.0] * 9 + [1.0, 1.0], True),  # too high: one of them is negative
        ([0, 1, 0, 0], [0.5, 1.0, 0.5 + 1e-15, 0.0], False),
    ],
)
def test_no_calibration_in_the_large_where_any_would_do(
    labels: list[int], probabilities: list[float], estimable: bool
) -> None:
    m = binary_metrics(labels, probabilities, labels, rounds=20)
    assert (m.calibration_in_the_large.value is not None) is estimable
    assert (m.calibration_in_the_large.low is not None) is estimable


def test_certain_and_wrong_still_has_a_calibration_line() -> None:
    m = binary_metrics([0, 1, 0, 1, 1], [0.5, 0.0, 1.0, 1.0, 0.2], [0] * 5)
    assert m.calibration_slope.value is not None
    assert abs(m.calibration_slope.value) < 1
