"""DeLong's test: the paper's own patients, structural components pair by pair, the bootstrap, and what it promises."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, rankdata
from sklearn.metrics import roc_auc_score
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.bootstrap import draws
from wsipipe.models.evaluation.paired_tests import PairedDifference, delong, holm

Z95 = 1.959963984540054

# The example of DeLong, DeLong and Clarke-Pearson (1988): albumin, total protein, K-G score, and whether surgery helped
# (1), of the 43 patients with ovarian cancer whose three tests are all known.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def compared(labels: object, one: object, other: object) -> PairedDifference:
    difference = delong(labels, one, other)  # type: ignore[arg-type]
    assert difference is not None
    return difference


def variance(difference: PairedDifference) -> float:
    assert difference.low is not None
    assert difference.high is not None
    return ((difference.high - difference.low) / 2 / Z95) ** 2


def test_the_papers_patients() -> None:
    albumin, protein, kg, helped = np.array(OVARIAN.split(), dtype=float).reshape(43, 4).T
    assert roc_auc_score(helped, albumin) == pytest.approx(0.7366, abs=5e-5)
    assert roc_auc_score(helped, protein) == pytest.approx(0.6478, abs=5e-5)
    assert roc_auc_score(helped, -kg) == pytest.approx(0.7258, abs=5e-5)
    first, second = compared(helped, albumin, -kg), compared(helped, protein, -kg)
    assert (first.n_positive, first.n_negative, first.n_patients) == (31, 12, 43)
    # As SAS PROC LOGISTIC prints for these patients: each against the K-G score, and all three together, which needs
    # the covariances and therefore checks them too.
    assert first.difference == pytest.approx(0.0108, abs=5e-5)
    assert sqrt(variance(first)) == pytest.approx(0.0953, abs=5e-5)
    assert first.p_value == pytest.approx(0.9102, abs=5e-5)
    assert second.difference == pytest.approx(-0.0780, abs=5e-5)
    assert sqrt(variance(second)) == pytest.approx(0.1046, abs=5e-5)
    assert second.p_value == pytest.approx(0.4561, abs=5e-5)
    covariance = (variance(first) + variance(second) - variance(compared(helped, albumin, protein))) / 2
    both = np.array([first.difference, second.difference])
    matrix = [[variance(first), covariance], [covariance, variance(second)]]
    statistic = both @ np.linalg.solve(matrix, both)
    assert statistic == pytest.approx(2.5340, abs=5e-5)
    assert chi2.sf(statistic, 2) == pytest.approx(0.2817, abs=5e-5)


def pair_by_pair(y: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Difference and variance from the definition: ψ of every pair, components as its means, S10 / m + S01 / n."""
    v10, v01 = [], []
    for score in (one, other):
        psi = np.array([[(a > b) + (a == b) / 2 for b in score[y == 0]] for a in score[y == 1]])
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    s = np.cov(v10) / len(v10[0]) + np.cov(v01) / len(v01[0])
    contrast = np.array([1, -1])
    return float(np.mean(v10[0]) - np.mean(v10[1])), float(contrast @ s @ contrast)


few = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40)


@given(few)
@settings(max_examples=150, deadline=None)
def test_equal_to_the_definition_whatever_the_ties(rows: list[tuple[int, int, int]]) -> None:
    y, one, other = (np.array(column) for column in zip(*rows, strict=True))
    found = delong(y, one, other)
    if not 0 < y.sum() < len(y):
        assert found is None
        return
    assert found is not None
    assert found.difference == pytest.approx(roc_auc_score(y, one) - roc_auc_score(y, other), abs=1e-12)
    back = compared(y, other, one)
    assert (back.difference, back.p_value) == (-found.difference, found.p_value)
    if min(y.sum(), len(y) - y.sum()) < 2:
        assert found.p_value in (None, 1)
        return
    difference, spread = pair_by_pair(y, one, other)
    if spread < 1e-12:
        assert found.p_value == (1 if abs(difference) < 1e-12 else None)
    else:
        assert variance(found) == pytest.approx(spread, rel=1e-9)
        assert found.p_value == pytest.approx(1 - erf(abs(difference) / sqrt(2 * spread)), abs=1e-9)


def scores(seed: int, n: int = 80, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two scores that share most of their noise; the first is better by ``gain``."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], [n - 3 * n // 8, 3 * n // 8])
    both = rng.normal(size=n)
    return y, both + 0.6 * rng.normal(size=n) + (0.8 + gain) * y, both + 0.6 * rng.normal(size=n) + 0.8 * y


def bootstrapped(y: np.ndarray, one: np.ndarray, other: np.ndarray, rounds: int, seed: int) -> np.ndarray:
    """(rounds,) differences of AUC over patients drawn within their class."""
    gained = np.zeros((len(y), len(y)))
    for score, sign in ((one, 1), (other, -1)):
        gained += sign * ((score[:, None] > score) + (score[:, None] == score) / 2)
    weights = draws(y == 1, rounds, np.random.default_rng(seed))
    n_positive, n_negative = (y == 1).sum(), (y == 0).sum()
    return np.einsum("rp,pn,rn->r", weights * (y == 1), gained, weights * (y == 0), optimize=True) / (
        n_positive * n_negative
    )


def test_agrees_with_the_paired_bootstrap() -> None:
    for seed in range(4):
        y, one, other = scores(seed, 200, gain=0.3)
        found, drawn = compared(y, one, other), bootstrapped(y, one, other, 4000, seed)
        assert drawn.mean() == pytest.approx(found.difference, abs=0.004)
        assert drawn.std() == pytest.approx(sqrt(variance(found)), rel=0.07)
        assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([found.low, found.high], abs=0.012)


def test_agrees_with_a_permutation_of_who_said_what() -> None:
    # Under no difference, a patient's two scores (as ranks among all patients) may change places.
    for seed in (1, 2, 3, 4):
        y, one, other = scores(seed, 120, gain=0.25)
        ranks = np.stack([one.argsort().argsort(), other.argsort().argsort()])
        found = compared(y, ranks[0], ranks[1])
        swap = np.random.default_rng(seed).random((2000, 120)) < 0.5
        # The difference of AUC is that of the rank sums of the positive patients, over positives × negatives.
        one_wins, other_wins = (
            rankdata(np.where(swap, first, second), axis=1)[:, y == 1].sum(axis=1)
            for first, second in (ranks, ranks[::-1])
        )
        swapped = np.abs(one_wins - other_wins) / ((y == 1).sum() * (y == 0).sum())
        share = np.mean(swapped >= abs(found.difference) - 1e-12)
        assert found.p_value == pytest.approx(share, abs=0.06)


def test_p_values_are_even_where_there_is_no_difference_and_intervals_cover() -> None:
    found = [compared(*scores(seed)) for seed in range(1500)]
    p_values = np.array([one.p_value for one in found], dtype=float)
    assert 0.03 < (p_values < 0.05).mean() < 0.07
    for q in (0.25, 0.5, 0.75):
        assert np.quantile(p_values, q) == pytest.approx(q, abs=0.05)
    assert np.mean([one.low <= 0 <= one.high for one in found if one.low is not None and one.high is not None]) > 0.93


def test_a_real_difference_is_found() -> None:
    found = [compared(*scores(seed, 160, gain=0.6)) for seed in range(50)]
    assert np.mean([one.p_value is not None and one.p_value < 0.05 for one in found]) > 0.8
    assert all(one.difference > 0 for one in found)


def test_equal_order_is_a_difference_of_nothing() -> None:
    y, one, _ = scores(0)
    same = compared(y, one, 3 * one - 7)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_what_has_no_variance_has_no_p_value() -> None:
    perfect = compared([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (perfect.difference, perfect.low, perfect.high, perfect.p_value) == (1, None, None, None)
    lonely = compared([0, 0, 0, 1], [1, 2, 3, 4], [1, 2, 4, 3])
    assert (lonely.difference, lonely.p_value) == (pytest.approx(1 / 3), None)


def test_one_class_cannot_be_compared() -> None:
    assert delong([1, 1, 1], [1, 2, 3], [3, 2, 1]) is None
    assert delong([0, 0], [1, 2], [2, 1]) is None
    assert delong([], [], []) is None


@pytest.mark.parametrize(
    ("labels", "one", "other"),
    [
        ([0, 1], [0.1], [0.2, 0.3]),
        ([0, 1], [0.1, 0.2], [0.2, 0.3, 0.4]),
        ([0, 2], [0.1, 0.2], [0.2, 0.3]),
        ([0, 1], [0.1, float("nan")], [0.2, 0.3]),
        ([0, 1], [0.1, 0.2], [0.2, float("inf")]),
        ([[0, 1]], [[0.1, 0.2]], [[0.1, 0.2]]),
    ],
)
def test_nonsense_is_refused(labels: list[int], one: list[float], other: list[float]) -> None:
    with pytest.raises(UsageError):
        delong(labels, one, other)


def test_holm_on_a_worked_example() -> None:
    # .01 · 4, .02 · 3, .03 · 2 but not less than the one before, .04 · 1 likewise.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([0.4, None, 0.3]) == (pytest.approx(0.6), None, pytest.approx(0.6))
    assert holm([0.9, 0.8]) == (1, 1)
    assert holm([None]) == (None,)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        assert corrected is not None
        assert p <= corrected <= min(1, len(p_values) * p) or corrected == pytest.approx(p)


def test_json_round_trip() -> None:
    found = compared(*scores(1))
    assert PairedDifference.model_validate_json(found.model_dump_json()) == found
