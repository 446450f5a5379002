"""Shares of pairs have an interval that holds the truth near 1 too, and without an error says of how few it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom, norm
from wsipipe.models.audit.within_strata import auc_within
from wsipipe.models.evaluation.bootstrap import draws
from wsipipe.models.evaluation.class_metrics import class_metrics
from wsipipe.models.evaluation.estimate import Estimate
from wsipipe.models.evaluation.feature_robustness import probe
from wsipipe.models.evaluation.metrics import binary_metrics
from wsipipe.models.evaluation.number_metrics import number_metrics
from wsipipe.models.evaluation.ordinal_metrics import ordinal_metrics
from wsipipe.models.evaluation.share_of_pairs import independent_pairs, lowest_share, share_of_pairs
from wsipipe.models.evaluation.survival_metrics import survival_metrics
from wsipipe.models.evaluation.task_metrics import weighted_auc


def test_the_limit_is_that_of_clopper_and_pearson() -> None:
    """scipy has the same, by another formula."""
    from scipy.stats import binomtest

    for n in (1, 5, 18, 200):
        assert lowest_share(n) == pytest.approx(binomtest(n, n).proportion_ci(0.95, "exact").low)
    assert lowest_share(18) == pytest.approx(0.8147, abs=1e-4)


def test_independent_pairs_of_known_comparisons() -> None:
    two_classes = np.zeros((25, 25))
    two_classes[:5, 5:] = 1
    assert independent_pairs(two_classes) == 5, "of 5 and 20 patients"
    everyone = np.triu(np.ones((36, 36)), 1)
    assert independent_pairs(everyone) == 18, "of 36 who can all be compared"
    grades = np.repeat([0, 1, 2], 10)
    assert independent_pairs(grades[:, None] > grades) == 15
    assert independent_pairs(np.zeros((3, 3))) == 0


@pytest.mark.parametrize(("n", "others", "low"), [(18, 18, 0.815), (5, 20, 0.478), (40, 40, 0.912)])
def test_an_auc_without_an_error(n: int, others: int, low: float) -> None:
    y = [1] * n + [0] * others
    p = np.r_[np.full(n, 0.9), np.full(others, 0.1)] + np.linspace(0, 0.05, n + others)
    found = binary_metrics(y, p, y, rounds=200)
    assert found.auc.value == found.auc.high == 1
    assert found.auc.low == pytest.approx(low, abs=1e-3)
    assert found.auprc.low is None, "there is no such interval"
    assert found.f1.low is not None
    assert found.f1.low < 1
    mirrored = binary_metrics(y, 1 - p, y, rounds=200).auc
    assert (mirrored.value, mirrored.low) == (0, 0)
    assert mirrored.high == pytest.approx(1 - low, abs=1e-3)


def test_proportions_of_18_of_18_are_wilsons_everywhere() -> None:
    labels, shares = np.repeat([0, 1, 2], 6), np.eye(3)[np.repeat([0, 1, 2], 6)] * 0.7 + 0.1
    for found in (
        class_metrics("multiclass", labels, shares, labels, "abc", rounds=200, seed=0),
        ordinal_metrics(labels, shares, labels, "abc", rounds=200, seed=0),
    ):
        assert found.figures["accuracy"].low == pytest.approx(0.824, abs=1e-3)
        for name, estimate in found.figures.items():
            assert estimate.low is None or estimate.high is None or estimate.low < estimate.high, name
    binary = binary_metrics([1] * 18 + [0] * 18, [0.9] * 18 + [0.1] * 18, [1] * 18 + [0] * 18, rounds=100)
    assert binary.sensitivity.low == pytest.approx(0.824, abs=1e-3)


def test_several_classes_in_order_and_follow_ups() -> None:
    labels = np.repeat([0, 1, 2], 10)
    shares = np.eye(3)[labels] * 0.7 + 0.1
    several = class_metrics("multiclass", labels, shares, labels, "abc", rounds=200, seed=0).main
    assert several.low == pytest.approx(lowest_share(10))
    ordered = ordinal_metrics(labels, shares, labels, "abc", rounds=200, seed=0)
    assert ordered.main.low == pytest.approx(lowest_share(15))
    assert ordered.figures["quadratic kappa"].low is None
    times = np.arange(1.0, 37)
    follow_up = survival_metrics(times, np.ones(36), -times, horizons=[18.0], rounds=200, seed=0)
    for name in ("C-index (Harrell)", "C-index (Uno)", "AUC at 18"):
        assert follow_up.figures[name].low == pytest.approx(lowest_share(18)), name
    censored = survival_metrics(times, np.arange(36) % 2, -times, rounds=200, seed=0)
    assert censored.main.low is not None
    assert censored.main.low < lowest_share(18), "fewer pairs can be compared"
    assert number_metrics(times, times, rounds=200, seed=0).main.low is None, "Spearman's is not a share of pairs"


def test_an_auc_weighted_for_censoring_is_1_where_nobody_is_ranked_wrongly() -> None:
    """The patient with the one event by 12 months has the highest risk but one, who was censored before it."""
    times = np.array([58, 26, 19, 40, 54, 31, 58, 23, 13, 4, 11, 35, 50], np.float64)
    events = np.array([0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0], np.bool_)
    risks = np.where(times == 11, 2.0, np.where(times == 4, 3.0, 1 / times))
    found = survival_metrics(times, events, risks, horizons=[12.0], rounds=50, seed=0).figures["AUC at 12"]
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(lowest_share(1)), "one event says next to nothing"
    mirrored = survival_metrics(times, events, -risks, horizons=[12.0], rounds=50, seed=0).figures["AUC at 12"]
    assert (mirrored.value, mirrored.low) == (0, 0)


def test_within_strata_and_probes() -> None:
    y = np.tile([True, False], 20)
    score = np.where(y, 1.0, 0.0) + np.linspace(0, 0.1, 40)
    found = auc_within(y, score, np.repeat([0, 1], 20), rounds=100, permutations=50, seed=0)
    assert found.within.low == pytest.approx(lowest_share(20))
    vectors = np.where(y, 3.0, -3.0)[:, None] + np.random.default_rng(0).normal(0, 0.1, (40, 4))
    auc = probe(vectors, ["yes" if one else "no" for one in y], rounds=100, seed=0).auc
    assert (auc.value, auc.high) == (1, 1)
    assert auc.low == pytest.approx(lowest_share(20))


def test_rounds_of_none_give_no_intervals() -> None:
    labels = np.repeat([0, 1], 9)
    found = class_metrics("multiclass", labels, np.eye(2)[labels], labels, "ab", rounds=0, seed=0)
    assert all(estimate.low is None for estimate in found.figures.values())


@pytest.mark.parametrize("share_alike", [0.05, 0.1, 0.2])
def test_the_interval_covers_the_truth_where_a_few_positives_look_negative(share_alike: float) -> None:
    """The worst case: 2,000 cohorts of 10 and 10 with positives that lie below all negatives, the AUC 1 - their share.

    Of the cohorts without an error (60, 35 and 11 of 100) none may have an interval above the truth in more than 2.5 of
    100. Newcombe's method 5 begins at 0.80, and misses in all of them at a share of 0.2 and a little more.
    """
    draw = np.random.default_rng(5)
    alike = draw.random((2000, 10)) < share_alike
    perfect = ~alike.any(axis=1)
    assert perfect.mean() == pytest.approx((1 - share_alike) ** 10, abs=0.03)
    missed = perfect & (1 - share_alike < lowest_share(10))
    assert missed.mean() <= 0.025


def test_the_interval_is_the_widest_of_three() -> None:
    """Far from 1 nearly that of the bootstrap; near 1 no lower limit is above that of no error."""
    drawn = np.random.default_rng(0).normal(0.6, 0.05, 4000)
    found = share_of_pairs(0.6, drawn, 0.8)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.005)
    assert found.high == pytest.approx(high, abs=0.005)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= low < high <= found.high
    near = share_of_pairs(0.99, np.clip(np.random.default_rng(0).normal(0.99, 0.005, 4000), 0, 1), lowest_share(18))
    assert near.low == pytest.approx(lowest_share(18))
    mirrored = share_of_pairs(0.01, np.clip(np.random.default_rng(0).normal(0.01, 0.005, 4000), 0, 1), lowest_share(18))
    assert mirrored.high == pytest.approx(1 - lowest_share(18))
    log_odds = share_of_pairs(0.8, np.random.default_rng(0).normal(0.8, 0.05, 100_000), 0.999)
    half = 1.96 * 0.05 / 0.16
    assert log_odds.low == pytest.approx(1 / (1 + np.exp(-(np.log(4) - half))), abs=1e-3)
    assert share_of_pairs(0.5, np.full(9, 0.5), 0.8) == Estimate(value=0.5), "no round differs"


def _aucs(y: npt.NDArray[np.bool_], score: npt.NDArray[np.float64], truth: float, rounds: int) -> tuple[int, int]:
    """How many cohorts (cohorts, N) hold the truth: by the bootstrap alone, and as it is."""
    alone = now = 0
    weights = draws(y, rounds, np.random.default_rng(0))
    lowest = lowest_share(min(int(y.sum()), int((~y).sum())))
    for own in score:
        drawn = weighted_auc(weights, y, own)
        found = share_of_pairs(float(weighted_auc(np.ones((1, len(y))), y, own)[0]), drawn, lowest)
        assert found.low is not None
        assert found.high is not None
        low, high = np.quantile(drawn, [0.025, 0.975])
        alone += low <= truth <= high
        now += found.low <= truth <= found.high
    return alone, now


@pytest.mark.parametrize(("positive", "negative", "truth"), [(18, 18, 0.95), (18, 60, 0.98), (30, 30, 0.85)])
def test_95_of_100_cohorts_hold_the_truth(positive: int, negative: int, truth: float) -> None:
    """400 cohorts of normal scores; the bootstrap alone holds it in 85 to 94 of 100."""
    cohorts, y = 400, np.arange(positive + negative) < positive
    score = np.random.default_rng(1).normal(0, 1, (cohorts, len(y))) + norm.ppf(truth) * np.sqrt(2) * y
    alone, now = _aucs(y, score, truth, rounds=300)
    assert now >= binom.ppf(0.01, cohorts, 0.95)
    assert alone < now


def test_and_where_a_few_look_like_the_other_class() -> None:
    """A twentieth of the positive patients lie below all negative ones, the others apart but for noise."""
    draw, cohorts, y = np.random.default_rng(2), 300, np.arange(78) < 18
    alike = (draw.random((cohorts, 78)) < 0.05) & y
    score = np.where(alike, -100.0, draw.normal(0, 1, (cohorts, 78)) + norm.ppf(0.99) * np.sqrt(2) * y)
    alone, now = _aucs(y, score, 0.95 * 0.99, rounds=300)
    assert now >= binom.ppf(0.01, cohorts, 0.95)
    assert alone < 0.85 * cohorts, "the bootstrap alone does not"


def test_an_index_of_follow_ups_just_below_1() -> None:
    """Its lower limit is not above that of the same patients without an error."""
    times = np.arange(1.0, 37)
    risks = -times
    risks[[0, 1]] = risks[[1, 0]]
    found = survival_metrics(times, np.ones(36), risks, horizons=[18.0], rounds=200, seed=0)
    for name in ("C-index (Harrell)", "C-index (Uno)"):
        estimate = found.figures[name]
        assert estimate.value is not None
        assert 0.99 < estimate.value < 1
        assert estimate.low == pytest.approx(lowest_share(18)), name
    labels, shares = np.repeat([0, 1, 2], 10), np.eye(3)[np.repeat([0, 1, 2], 10)] * 0.7 + 0.1
    shares[0], shares[10] = (0.4, 0.5, 0.1), (0.45, 0.4, 0.15)
    several = class_metrics("multiclass", labels, shares, labels, "abc", rounds=200, seed=0)
    for name in ("AUC", "AUC of a", "AUC of b"):
        low, value = several.figures[name].low, several.figures[name].value
        assert low is not None
        assert value is not None
        assert value < 1
        assert low <= lowest_share(10) + 1e-12, name
