"""Sensitivity, specificity and predictive values at the model's calls, and where one of the first two is fixed.

Proportions of patients have Wilson's interval (:func:`.metrics.wilson_interval`). Where a threshold is chosen for a
specificity of 0.9, the sensitivity there also varies with the threshold: its interval reaches at least as far as that
of a stratified bootstrap over patients, in each round of which the threshold is chosen anew (Platt, Hanley and Yang,
Stat. Med. 19:313, 2000). A threshold that is chosen on the patients that it is judged on is optimistic, and so are the
predictive values, which are those at the share of positive patients among these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .bootstrap import CELLS_AT_ONCE, draws
from .estimate import Estimate
from .metrics import probabilities_of, share_estimate, zeros_and_ones

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Fixed = Literal["", "sensitivity", "specificity"]
LEVELS: Final = (0.90, 0.95)
ROUNDS: Final = 2000
_CLOSE: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What calls at a threshold are worth.

    :param fixed: what was asked for, at least ``level`` of it; empty for the model's own calls.
    :param threshold: from which a patient is called positive; None for the model's own, and where nobody is called.
    """

    fixed: Fixed = ""
    level: float | None = None
    threshold: float | None = None
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    accuracy: Estimate


def point_of_calls(labels: npt.ArrayLike, calls: npt.ArrayLike) -> OperatingPoint:
    """Compute the figures of N patients' calls.

    :param labels, calls: (N,) 0 or 1.
    :raises UsageError: other values.
    """
    return _point(zeros_and_ones(labels), zeros_and_ones(calls, name="calls"))


def fixed_points(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, levels: Sequence[float] = LEVELS, seed: int = 0
) -> list[OperatingPoint]:
    """Compute the sensitivity at each level of specificity, then the reverse; nothing if a class has no patient.

    Of the thresholds that reach the level the one with most of the other figure is taken.

    :param labels: (N,) 0 or 1.
    :param probabilities: (N,) of label 1.
    :raises UsageError: other values.
    """
    y, p = zeros_and_ones(labels), probabilities_of(probabilities)
    if y.all() or not y.any():
        return []
    order = np.argsort(-p, kind="stable")
    y, p = y[order], p[order]
    kinds: tuple[Fixed, ...] = ("specificity", "sensitivity")
    return [_fixed_point(y, p, fixed, level, seed) for fixed in kinds for level in levels]


def _fixed_point(y: Bools, p: Floats, fixed: Fixed, level: float, seed: int) -> OperatingPoint:
    """The point of patients in falling order of probability."""
    last = np.flatnonzero(np.r_[np.diff(p) != 0, True])  # the last patient of each distinct probability
    [place] = _places(_shares(np.ones((1, len(y))), y, last), fixed, level)
    called = int(np.r_[0, last + 1][place])
    point = _point(y, np.arange(len(y)) < called)
    rng, free, step = np.random.default_rng(seed), [], max(1, CELLS_AT_ONCE // len(y))
    for start in range(0, ROUNDS, step):
        weights = draws(y, min(step, ROUNDS - start), rng)
        free.append(_free_shares(weights, y, last, fixed, level))
    low, high = (float(limit) for limit in np.quantile(np.concatenate(free), [0.025, 0.975]))
    return OperatingPoint(
        fixed=fixed,
        level=level,
        threshold=float(p[called - 1]) if called else None,
        sensitivity=point.sensitivity if fixed == "sensitivity" else _wider(point.sensitivity, low, high),
        specificity=point.specificity if fixed == "specificity" else _wider(point.specificity, low, high),
        ppv=point.ppv,
        npv=point.npv,
        accuracy=point.accuracy,
    )


def _shares(weights: Floats, y: Bools, last: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sensitivity and specificity if nobody is called, and at each distinct probability: (rounds, thresholds) each."""
    none = np.zeros((len(weights), 1))
    true, false = ((weights * of).cumsum(axis=1)[:, last] / of.sum() for of in (y, ~y))
    return np.hstack([none, true]), 1 - np.hstack([none, false])


def _places(shares: tuple[Floats, Floats], fixed: Fixed, level: float) -> npt.NDArray[np.intp]:
    """Which threshold reaches the level in each round: the last for a specificity, the first for a sensitivity."""
    sensitivity, specificity = shares
    if fixed == "specificity":
        return np.asarray((specificity >= level - _CLOSE).sum(axis=1) - 1)
    return np.asarray((sensitivity < level - _CLOSE).sum(axis=1))


def _free_shares(weights: Floats, y: Bools, last: npt.NDArray[np.intp], fixed: Fixed, level: float) -> Floats:
    """The figure that is not fixed, in each round."""
    shares = _shares(weights, y, last)
    of = shares[0 if fixed == "specificity" else 1]
    return np.asarray(of[np.arange(len(of)), _places(shares, fixed, level)])


def _wider(estimate: Estimate, low: float, high: float) -> Estimate:
    """An interval that reaches at least to these limits."""
    assert estimate.low is not None  # of one patient or more
    assert estimate.high is not None
    return Estimate(value=estimate.value, low=min(estimate.low, low), high=max(estimate.high, high))


def _point(y: Bools, call: Bools) -> OperatingPoint:
    def share(right: Bools, of: Bools) -> Estimate:
        return share_estimate(int((right & of).sum()), int(of.sum()))

    return OperatingPoint(
        sensitivity=share(call, y),
        specificity=share(~call, ~y),
        ppv=share(y, call),
        npv=share(~y, ~call),
        accuracy=share(y == call, np.ones(len(y), np.bool_)),
    )
