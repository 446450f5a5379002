"""Where no round of a bootstrap differs, no figure has an interval of one point, of any task and of any two methods."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from wsipipe.models.evaluation.class_metrics import class_figures, class_metrics
from wsipipe.models.evaluation.estimate import Estimate, differ, percentile_interval, percentiles
from wsipipe.models.evaluation.metrics import Metrics, binary_metrics
from wsipipe.models.evaluation.number_metrics import number_metrics
from wsipipe.models.evaluation.ordinal_metrics import ordinal_metrics
from wsipipe.models.evaluation.paired_tests import delong
from wsipipe.models.evaluation.survival_metrics import survival_metrics
from wsipipe.models.evaluation.task_metrics import TaskMetrics, paired_difference

Y = np.repeat([1, 0], 10)


def named(metrics: Metrics | TaskMetrics) -> dict[str, Estimate]:
    """The figures of any task by their names."""
    if isinstance(metrics, TaskMetrics):
        return metrics.figures
    return {name: value for name, value in metrics if isinstance(value, Estimate)}


def test_limits_that_are_the_same_are_none() -> None:
    assert percentiles(np.ones(200)) is None
    assert percentiles(np.zeros(0)) is None
    assert percentiles(np.r_[np.ones(199), 0.5]) is None, "one round in 200 is no interval from 1 to 1"
    summed = 0.25 + np.random.default_rng(0).normal(0, 1e-17, 200) * np.r_[0, np.ones(199)]
    assert percentiles(summed) is None, "rounds differ by the order in which they were summed up"
    assert not differ(summed)
    assert differ(np.r_[np.ones(199), 0.5])
    assert percentiles(np.linspace(0, 1, 41)) == pytest.approx((0.025, 0.975))
    assert percentile_interval(0.5, np.linspace(0, 1, 41)).low == pytest.approx(0.025)


def test_the_same_probability_for_all_has_no_interval() -> None:
    """Every round has the AUC 0.5, the AUPRC, Brier score and calibration error of all; F1 has that of a proportion."""
    found = binary_metrics(Y, np.full(20, 0.3), np.ones(20, int), rounds=200)
    values = {"auc": 0.5, "auprc": 0.5, "brier": (0.49 + 0.09) / 2, "calibration_error": 0.2}
    for name, value in values.items():
        estimate = named(found)[name]
        assert estimate.value == pytest.approx(value), name
        assert (estimate.low, estimate.high) == (None, None), name
    assert found.f1.value == pytest.approx(2 / 3), "everybody is called positive"
    low, high = 0.29930, 0.70070  # Wilson's for 10 of 20
    assert (found.f1.low, found.f1.high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)), abs=1e-4)


def test_certain_and_right_of_all_is_not_certain_of_the_next() -> None:
    found = binary_metrics(Y, Y.astype(float), Y, rounds=200)
    assert (found.brier, found.calibration_error, found.auprc) == (*[Estimate(value=0.0)] * 2, Estimate(value=1.0))
    assert found.f1.low == pytest.approx(2 * 0.72247 / 1.72247, abs=1e-4), "Wilson's for 10 of 10"


def test_the_same_number_for_all_has_no_correlation_and_no_slope() -> None:
    """Its variance is 0, and not the rounding of a mean: of 0.3 it is 1e-32, and the slope would be any number."""
    for same in (0.3, 1e6 / 3, 1e-9 / 3):
        found = number_metrics(np.linspace(0, 1, 20), np.full(20, same), rounds=50, seed=0).figures
        for name in ("Spearman's ρ", "Pearson's r", "slope"):
            assert found[name] == Estimate(value=None), (same, name)
    found = number_metrics(np.full(20, 0.3), np.linspace(0, 1, 20), rounds=50, seed=0).figures
    assert found["Pearson's r"] == found["R²"] == Estimate(value=None)
    far = number_metrics(1e9 + np.linspace(0, 1, 20), 1e9 + np.linspace(0, 2, 20), rounds=0, seed=0).figures
    assert far["slope"].value == pytest.approx(0.5, abs=1e-4), "far from 0 there is still a variance"


def cohorts() -> Iterator[Metrics | TaskMetrics]:
    """Cohorts of every task in which rounds are all alike, or nearly so."""
    three, rounds = np.repeat([0, 1, 2], 8), {"rounds": 100, "seed": 0}
    sure, even, tied = np.eye(3)[three], np.full((24, 3), 1 / 3), np.tile([0.2, 0.3, 0.5], (24, 1))
    for same in (0.5, 0.3, 1.0, 0.0):
        yield binary_metrics(Y, np.full(20, same), np.full(20, int(same >= 0.5)), rounds=100)
    for p, call in ((Y * 1.0, Y), (1.0 - Y, 1 - Y), (Y * 0.5 + 0.25, Y)):
        yield binary_metrics(Y, p, call, rounds=100)
    yield binary_metrics(np.r_[0, Y], np.r_[1.0, Y], np.r_[1, Y], rounds=100)
    yield binary_metrics([1, 1, 0, 0], [0.9, 0.9, 0.1, 0.1], [1, 1, 0, 0], rounds=1)
    for shares, calls in ((sure, three), (even, np.zeros(24, int)), (tied, np.full(24, 2)), (sure[::-1], three[::-1])):
        yield class_metrics("multiclass", three, shares, calls, "abc", rounds=100, seed=0)
        yield ordinal_metrics(three, shares, calls, "abc", rounds=100, seed=0)
    for y in (np.linspace(0, 1, 20), np.linspace(0, 1, 20) ** 3):
        for predicted in (y, 2 * y + 1, -y, np.full(20, 0.3), y + 0.1):
            yield number_metrics(y, predicted, rounds=100, seed=0)
    times = np.arange(1.0, 21)
    late = times[:, None] > 10
    for risks, alive in ((-times, late), (np.zeros(20), np.full((20, 1), 0.7)), (times, ~late)):
        for events in (np.ones(20), np.arange(20) % 2, np.r_[1, np.zeros(19)]):
            shares = [[float(one)] for [one] in alive]
            yield survival_metrics(times, events, risks, horizons=[10.0], shares=shares, **rounds)  # type: ignore[arg-type]


def test_no_figure_of_any_task_has_an_interval_of_one_point() -> None:
    for n, metrics in enumerate(cohorts()):
        for name, estimate in named(metrics).items():
            if estimate.low is not None and estimate.high is not None and estimate.value is not None:
                assert estimate.high - estimate.low > 1e-9, (n, name, estimate)
                assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12, (n, name, estimate)


def test_two_methods_without_an_error_do_not_differ_by_nothing_for_sure() -> None:
    """DeLong's variance is 0, and so is that of the rounds."""
    y, order = Y == 1, np.arange(20.0)
    found = delong(y, 100 * y + order, 100 * y - order)
    assert found is not None
    assert (found.difference, found.low, found.high, found.p_value) == (0, None, None, 1)
    same = delong(y, 100 * y + order, 10 * y + order / 10)
    assert same is not None
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1), "in the same order everywhere"
    p = np.column_stack([1 - Y * 0.8, Y * 0.8])
    one, wrong = (class_figures(Y, shares, Y, "ab") for shares in (p, 1 - p))
    equal = paired_difference(one, class_figures(Y, p**2, Y, "ab"), "AUC", Y, rounds=100, seed=0)
    assert equal is not None
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0, None, None, 1)
    opposite = paired_difference(one, wrong, "AUC", Y, rounds=100, seed=0)
    assert opposite is not None
    assert (opposite.difference, opposite.low, opposite.p_value) == (1, None, None)
