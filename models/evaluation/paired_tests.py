"""Paired tests: does one method separate the classes better than another on the same patients?

The test of E. DeLong, D. DeLong and D. Clarke-Pearson (Biometrics 44:837, 1988) for the areas under two ROC curves of
the same patients, computed from midranks as X. Sun and W. Xu do (IEEE Signal Processing Letters 21:1389, 2014), and
S. Holm's correction for many tests (Scandinavian Journal of Statistics 6:65, 1979).

The test compares two given sets of scores, as if on other patients of the same kind. It does not cover the variation
between networks trained from another seed or on other folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm, rankdata

from ...data.errors import UsageError
from .estimate import Z95
from .metrics import zeros_and_ones


class PairedDifference(BaseModel):
    """AUC of the one minus AUC of the other, its 95 % interval and the two-sided p-value of no difference.

    Interval and p-value are None if the variance cannot be estimated: with one patient in a class, or if the scores
    differ in the same way for every patient, as perfect and perfectly wrong scores do. Scores that put the patients in
    the same order have a difference of 0, an interval from 0 to 0, and a p-value of 1. Where they are in another order
    and nobody is ranked better by either, as by two methods without an error, there is a p-value of 1 and no interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    n_positive: int
    n_negative: int

    @property
    def n_patients(self) -> int:
        """Patients that have both scores."""
        return self.n_positive + self.n_negative


def delong(labels: npt.ArrayLike, one: npt.ArrayLike, other: npt.ArrayLike) -> PairedDifference | None:
    """Compare two scores of the same N patients by AUC; ties count a half. None if a class has no patient.

    The interval is the normal one around the difference, so it may reach beyond ±1.

    :param labels: (N,) 0 or 1.
    :param one: (N,) scores, higher for label 1; probabilities or logits.
    :param other: (N,) scores of the same patients in the same order.
    :raises UsageError: lengths differ, a label is not 0 or 1, or a score is not a finite number.
    """
    y, scores = zeros_and_ones(labels), [_finite(one, "one"), _finite(other, "other")]
    if any(len(score) != len(y) for score in scores):
        lengths = " and ".join(str(len(score)) for score in scores)
        raise UsageError(f"{len(y)} labels and {lengths} scores cannot be the same patients")
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    if not n_positive or not n_negative:
        return None
    # For each patient, the patients of the other class ranked correctly: multiples of a half, subtracted exactly.
    wins_one, wins_other = (_wins(y, score) for score in scores)
    gained = wins_one - wins_other
    positive, negative = gained[y] / n_negative, gained[~y] / n_positive  # differences of structural components
    difference = float(gained[y].sum()) / (n_positive * n_negative)

    def paired(low: float | None, high: float | None, p_value: float | None) -> PairedDifference:
        return PairedDifference(
            difference=difference, low=low, high=high, p_value=p_value, n_positive=n_positive, n_negative=n_negative
        )

    if not gained.any():
        same_order = np.array_equal(*(rankdata(score) for score in scores))
        return paired(0.0, 0.0, 1.0) if same_order else paired(None, None, 1.0)
    if min(n_positive, n_negative) < 2 or not (np.ptp(gained[y]) or np.ptp(gained[~y])):
        return paired(None, None, None)
    error = sqrt(positive.var(ddof=1) / n_positive + negative.var(ddof=1) / n_negative)
    p_value = float(2 * norm.sf(abs(difference) / error))
    return paired(difference - Z95 * error, difference + Z95 * error, p_value)


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Correct p-values by Holm's step-down method. Values of None stay None and are not counted.

    If no difference is real, the probability that any corrected value is 0.05 or less is at most 5 %.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[i] = least
    return tuple(corrected)


def _wins(y: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Count for each patient the correctly ranked patients of the other class (N,); ties count a half."""
    among_all = rankdata(score)
    wins = np.empty(len(y))
    wins[y] = among_all[y] - rankdata(score[y])
    wins[~y] = y.sum() - (among_all[~y] - rankdata(score[~y]))
    return wins


def _finite(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise UsageError(f"the scores of {name} must be a list of finite numbers, got shape {array.shape}")
    return array
