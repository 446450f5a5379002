"""Logistic recalibration: by how much probabilities are too high, and too extreme.

Calibration-in-the-large and slope, as clinical prediction models are judged by (Steyerberg et al., Epidemiology 21:128,
2010; Van Calster et al., J. Clin. Epidemiol. 74:167, 2016). Both are fits by maximum likelihood without a penalty, with
Wald's intervals.
"""

from __future__ import annotations

from math import log
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from .estimate import Z95, Estimate

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_MIN_PROBABILITY: Final = 1e-6  # probabilities are clipped this far from 0 and 1
_MAX_STEPS: Final = 50
_MAX_CONDITION: Final = 1e10
_WIDEST: Final = float(logit(1 - _MIN_PROBABILITY))
"""In log odds, from a probability of a half to the most certain one that is counted."""
_UNDEFINED: Final = Estimate(value=None)


def calibration_in_the_large(y: Bools, p: Floats, *, intervals: bool) -> Estimate:
    """Compute a in logit P(positive) = a + logit p: the intercept where the slope is 1.

    None for one class alone, and where any intercept would do nearly as well, as where all probabilities are all but 0
    or 1 and right.

    :param y: (N,) labels.
    :param p: (N,) probabilities.
    """
    if not len(y) or y.all() or not y.any():
        return _UNDEFINED
    x = _logits(p)
    at, height = 0.0, _log_likelihood(x, y)
    for _ in range(_MAX_STEPS):
        q = expit(x + at)
        information = float((q * (1 - q)).sum())
        step = float((y - q).sum()) / information
        if abs(step) < 1e-12 * (1 + abs(at)):
            break
        while (there := _log_likelihood(x + at + step, y)) < height - 1e-12 * abs(height):
            step /= 2
        at, height = at + step, there
    else:
        return _UNDEFINED
    by = Z95 / information**0.5
    if by > _WIDEST:
        return _UNDEFINED
    return Estimate(value=at, low=at - by, high=at + by) if intervals else Estimate(value=at)


def calibration_slope(y: Bools, p: Floats, *, intervals: bool) -> Estimate:
    """Compute b in logit P(positive) = a + b · logit p; None if the likelihood has no finite maximum.

    :param y: (N,) labels.
    :param p: (N,) probabilities.
    """
    if not len(y) or y.all() or not y.any():
        return _UNDEFINED
    x = _logits(p)
    if not (x[y].min() < x[~y].max() and x[~y].min() < x[y].max()):
        return _UNDEFINED  # the classes do not overlap (Albert and Anderson, Biometrika 71:1, 1984)
    mean, sd = x.mean(), x.std()
    design = np.column_stack([np.ones(len(x)), (x - mean) / sd])
    at, height = np.zeros(2), -len(y) * log(2)  # current coefficients, and the log-likelihood there
    for _ in range(_MAX_STEPS):
        q = expit(design @ at)
        information = design.T @ (design * (q * (1 - q))[:, None])
        if np.linalg.cond(information) > _MAX_CONDITION:
            return _UNDEFINED  # the overlap is numerically indistinguishable from none
        step = np.linalg.solve(information, design.T @ (y - q))
        if np.abs(step).max() < 1e-9 * (1 + np.abs(at).max()):
            break
        while (there := _log_likelihood(design @ (at + step), y)) < height - 1e-12 * abs(height):
            step /= 2  # Newton's step can overshoot: halve it until the likelihood does not fall
        at, height = at + step, there
    else:
        return _UNDEFINED
    value = float(at[1] / sd)  # from standardised logits to logits
    by = float(Z95 * np.sqrt(np.linalg.inv(information)[1, 1]) / sd)
    return Estimate(value=value, low=value - by, high=value + by) if intervals else Estimate(value=value)


def _logits(p: Floats) -> Floats:
    x: Floats = logit(np.clip(p, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY))
    return x


def _log_likelihood(logits: Floats, y: Bools) -> float:
    return float(-np.logaddexp(0, np.where(y, -logits, logits)).sum())
