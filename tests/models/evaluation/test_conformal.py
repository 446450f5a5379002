"""Conformal sets and intervals: the finite-sample rule by hand, and the share of labels that they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from wsipipe.data.errors import UsageError
from wsipipe.models.evaluation.conformal import fewest_patients, label_set, p_value, residual_limit


def test_a_p_value_counts_the_new_patient_and_ties() -> None:
    held = {0: [0.1, 0.2, 0.3], 1: [0.5]}
    assert p_value(held, {0: 0.2, 1: 0.6}) == 3 / 5
    assert p_value(held, {0: 0.2}) == 3 / 4, "a fold that may not read the patient is left out"
    assert p_value({}, {0: 0.2}) == 1


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (19, 0.1), (23, 0.1), (19, 0.05), (50, 0.2), (7, 0.3)])
def test_with_one_fold_it_is_the_split_conformal_quantile(n: int, alpha: float) -> None:
    scores = np.random.default_rng(n).random(n)
    place = math.ceil(round((n + 1) * (1 - alpha), 9))
    quantile = np.sort(scores)[place - 1]
    for new in np.linspace(0, 1, 201):
        in_set = label_set([{0: list(scores)}], [{0: float(new)}], alpha)
        assert in_set == ((0,) if new <= quantile else ()), new


@pytest.mark.parametrize(("alpha", "fewest"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.01, 99), (0.3, 3)])
def test_too_few_patients_of_a_class_give_no_set(alpha: float, fewest: int) -> None:
    assert fewest_patients(alpha) == fewest
    enough, few = {0: [0.0] * fewest}, {0: [0.0] * (fewest - 1)}
    assert label_set([enough, few], [{0: 1.0}, {0: 1.0}], alpha) is None
    assert label_set([enough, enough], [{0: 1.0}, {0: 0.0}], alpha) == (1,)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_a_level_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match="--alpha lies between 0 and 1"):
        label_set([{0: [0.0]}], [{0: 0.0}], alpha)


def test_the_limit_of_residuals_is_the_corrected_quantile() -> None:
    assert residual_limit(range(1, 20), 0.1) == 18  # ⌈20 · 0.9⌉
    assert residual_limit(range(1, 10), 0.1) == 9
    assert residual_limit(range(1, 9), 0.1) is None


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_each_class_is_covered_at_the_level(alpha: float) -> None:
    """Of a rare and a frequent class, many calibrations and one new patient each: as often as stated."""
    draw = np.random.default_rng(17)
    rounds, rare, frequent = 3000, 15, 60
    covered = {0: 0, 1: 0}
    for _ in range(rounds):
        # log-odds of negative and positive patients by two folds, of which each calibrates half
        held = [
            {
                fold: [float(v) for v in 1 / (1 + np.exp(sign * draw.normal(sign * 1.0, 1.5, count // 2 + 1)))]
                for fold in (0, 1)
            }
            for sign, count in ((1.0, rare), (1.0, frequent))
        ]
        for label in (0, 1):
            score = float(1 / (1 + np.exp(draw.normal(1.0, 1.5))))
            chosen = label_set(held, [{0: score, 1: score}, {0: score, 1: score}], alpha)
            assert chosen is not None
            covered[label] += label in chosen
    for label, count in ((0, 2 * (rare // 2 + 1)), (1, 2 * (frequent // 2 + 1))):
        exact = 1 - math.floor(alpha * (count + 1)) / (count + 1)  # at least 1 − α, and less than 1/(n + 1) above it
        low, high = binom.interval(0.999, rounds, exact)
        assert low <= covered[label] <= high, (label, covered[label] / rounds, exact)
        assert exact >= 1 - alpha
