"""Figures of tasks other than the binary one, with bootstrap intervals, and the paired difference of two methods.

Patients are drawn with replacement within the task's strata (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, sections 6 and 13.3), so that every round has patients of every class, or patients with and without an event. The
interval is the percentile one. The difference between two methods is computed on the same rounds; its p-value is twice
the smaller share of rounds on either side of 0, with one round added to both (Davison and Hinkley, Bootstrap Methods,
1997, section 4.2), so that it is never 0.

Shares of pairs, as AUC and C-index are, have the interval of :mod:`.share_of_pairs`, and proportions of patients
Wilson's. Where all rounds give the same value they say nothing of how certain it is: other figures have none then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from .bootstrap import CELLS_AT_ONCE
from .estimate import Estimate, differ, percentile_interval, percentiles
from .share_of_pairs import share_of_pairs

Floats = npt.NDArray[np.float64]
Figures = Callable[[Floats], dict[str, Floats]]
"""Computes figures, name → (rounds,), of how often each patient was drawn in each round (rounds, N), with the same
result as on the drawn patients themselves; NaN where a figure is not defined."""
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class TaskMetrics(BaseModel):
    """Figures of one set of patients, each patient once; the first is the one by which methods are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    n_patients: int
    counts: dict[str, int]
    """Numbers of patients by class, or with and without an event."""
    figures: dict[str, Estimate] = Field(min_length=1)
    chance: dict[str, float]
    """What a model gets that knows nothing of the patient, for figures where that is known."""
    confusion: list[list[int]] = []
    """Of classes: patients by class (rows) and call (columns); empty for other tasks."""
    bootstrap_rounds: int
    seed: int

    @property
    def measure(self) -> str:
        """Name of the figure by which methods are compared."""
        return next(iter(self.figures))

    @property
    def main(self) -> Estimate:
        """The figure by which methods are compared."""
        return self.figures[self.measure]

    @property
    def main_chance(self) -> float | None:
        """What of it a model gets that knows nothing of the patient, if that is known."""
        return self.chance.get(self.measure)


def with_intervals(
    names: tuple[str, ...],
    figures: Figures,
    strata: npt.ArrayLike,
    *,
    rounds: int,
    seed: int,
    pairs: Mapping[str, float] = _NONE,
    shares: Mapping[str, Estimate] = _NONE,
) -> dict[str, Estimate]:
    """Compute the figures of all patients, each with its 95 % interval; those that are not defined are None.

    :param names: all figures, in order.
    :param strata: (N,) the stratum of each patient.
    :param rounds: number of bootstrap rounds; 0 for no intervals. A round in which a figure is not defined is not
        counted for it.
    :param pairs: figures that are shares of pairs → their lower limit where all pairs are in the right order.
    :param shares: figures that are proportions of patients, with their intervals.
    """
    stratum = np.asarray(strata)
    if not len(stratum):
        return {name: Estimate(value=None) for name in names}
    values = figures(np.ones((1, len(stratum))))
    parts = [figures(weights) for weights in _rounds(stratum, rounds, seed)] if len(stratum) > 1 else []
    drawn = {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in names}
    found = {name: _estimate(float(values[name][0]), drawn[name], pairs.get(name)) for name in names}
    known = {name: shares[name] for name in names if name in shares and found[name].value is not None}
    return found | (known if rounds else {})


def _estimate(value: float, drawn: Floats, lowest: float | None) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    if not isfinite(value) or not len(known):
        return Estimate(value=value if isfinite(value) else None)
    if lowest is not None:
        return share_of_pairs(value, known, lowest)
    return percentile_interval(value, known)


class BootstrapDifference(BaseModel):
    """A figure of one method minus that of another on the same patients, with its 95 % interval and p-value.

    There is no interval where no round differs, as of two methods without an error; the p-value is then 1, or None if
    the methods differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    n_patients: int


def paired_difference(
    one: Figures, other: Figures, name: str, strata: npt.ArrayLike, *, rounds: int, seed: int
) -> BootstrapDifference | None:
    """Compare a figure of two methods on the same patients, in the same rounds; None if it is not defined.

    :param one, other: of the two methods, on patients in the same order.
    :param name: the figure.
    """
    stratum = np.asarray(strata)
    if not len(stratum):
        return None
    everyone = np.ones((1, len(stratum)))
    difference = float(one(everyone)[name][0] - other(everyone)[name][0])
    if not isfinite(difference):
        return None
    parts = [one(weights)[name] - other(weights)[name] for weights in _rounds(stratum, rounds, seed)]
    drawn = np.concatenate(parts) if parts else np.zeros(0)
    drawn = drawn[np.isfinite(drawn)]
    low: float | None = None
    high: float | None = None
    if not differ(drawn):
        p_value = 1.0 if len(drawn) and difference == 0 else None
    else:
        low, high = percentiles(drawn) or (None, None)
        tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum())) + 1
        p_value = min(1.0, 2 * tail / (len(drawn) + 1))
    return BootstrapDifference(difference=difference, low=low, high=high, p_value=p_value, n_patients=len(stratum))


def _rounds(strata: npt.NDArray[np.generic], rounds: int, seed: int) -> Iterator[Floats]:
    """Yield how often each patient is drawn (some rounds, N), with replacement within the strata."""
    draw = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    step = max(1, CELLS_AT_ONCE // len(strata))
    for start in range(0, rounds, step):
        number = min(step, rounds - start)
        weights = np.zeros((number, len(strata)))
        for own in members:
            picks = draw.integers(0, len(own), size=(number, len(own))) + len(own) * np.arange(number)[:, None]
            weights[:, own] = np.bincount(picks.ravel(), minlength=number * len(own)).reshape(number, len(own))
        yield weights


def weighted_auc(weights: Floats, positive: npt.NDArray[np.bool_], scores: Floats) -> Floats:
    """Compute the area under the ROC curve in each round (rounds,), ties counting a half; NaN without both classes."""
    return ranked_share(weights * positive, weights * ~positive, scores)


def ranked_share(first: Floats, second: Floats, scores: Floats) -> Floats:
    """Compute how often one of the first has a higher score than one of the second, ties counting a half (rounds,).

    :param first, second: (rounds, N) what each patient weighs as one of them.
    """
    order = np.argsort(-scores, kind="stable")
    ties = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # first patient of each distinct score
    positives = np.add.reduceat(first[:, order], ties, axis=1)
    negatives = np.add.reduceat(second[:, order], ties, axis=1)
    wins = (negatives * (positives.cumsum(axis=1) - positives / 2)).sum(axis=1)
    return share(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def share(part: Floats, whole: Floats) -> Floats:
    """Compute part / whole, NaN where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole != 0))
