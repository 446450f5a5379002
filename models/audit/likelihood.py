"""Maximum likelihood without a penalty: how it is found, logistic regression, and the likelihood-ratio test.

Where columns separate the classes, coefficients grow without bounds, but the likelihood has a limit: Newton's steps
come as close to it as rounding allows, so that likelihood ratios are right there too (Albert and Anderson, Biometrika
71:1, 1984); coefficients then have no standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import chi2

_MAX_STEPS: Final = 200
_SMALLEST_GAIN: Final = 1e-11
_SEPARATED: Final = 15.0  # log-odds of a fitted patient from which the fit has no finite maximum
NEGLIGIBLE: Final = 1e-9
"""Relative: what is smaller is nothing but rounding."""
_WHOLE: Final = 1e-6

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Likelihood = Callable[[Floats], tuple[float, Floats, Floats]]
"""From coefficients (P,) to the log-likelihood, its gradient (P,), and the information (P, P), minus its curvature."""


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A fit to N patients.

    :param coefficients: (1 + K,) the intercept, then the columns; the shortest of those that fit equally well.
    :param errors: (1 + K,) standard errors, NaN of coefficients that the columns do not determine; None if the columns
        separate the classes.
    :param log_likelihood: at its maximum, or its limit.
    """

    coefficients: Floats
    errors: Floats | None
    log_likelihood: float

    def log_odds(self, columns: Floats) -> Floats:
        """Log-odds of positive (N,) of patients with these columns (N, K)."""
        odds: Floats = self.coefficients[0] + columns @ self.coefficients[1:]
        return odds


def fit_logistic(y: Bools, columns: Floats) -> LogisticFit:
    """Fit logistic regression.

    :param y: (N,) labels of both classes.
    :param columns: (N, K), K may be 0; columns may depend on each other.
    """
    design = np.column_stack([np.ones(len(y)), columns])

    def at(coefficients: Floats) -> tuple[float, Floats, Floats]:
        log_odds = design @ coefficients
        q = expit(log_odds)
        information = design.T @ (design * (q * (1 - q))[:, None])
        return _log_likelihood(log_odds, y), design.T @ (y - q), information

    coefficients, height, information = maximum(at, design.shape[1])
    bounded = not separated(design @ coefficients).any()
    return LogisticFit(coefficients, standard_errors(information) if bounded else None, height)


def maximum(at: Likelihood, size: int) -> tuple[Floats, float, Floats]:
    """Climb to the greatest likelihood by Newton's steps, halved where it would fall.

    :param size: number of coefficients.
    :returns: the coefficients (P,), and the log-likelihood and the information (P, P) there.
    """
    here = np.zeros(size)
    height, gradient, information = at(here)
    for _ in range(_MAX_STEPS if size else 0):
        step = np.linalg.lstsq(information, gradient, rcond=NEGLIGIBLE)[0]
        there = at(here + step)
        while there[0] < height - 1e-12 * abs(height) and np.abs(step).max() > NEGLIGIBLE:
            step /= 2
            there = at(here + step)
        gain, here = there[0] - height, here + step
        height, gradient, information = max(there[0], height), there[1], there[2]
        if gain < _SMALLEST_GAIN * (1 + abs(height)):
            break
    return here, height, information


def standard_errors(information: Floats, *, squares: float = 1.0, left: int = 1) -> Floats:
    """Standard errors (K,) of coefficients; NaN of one that the columns do not determine.

    A column that is zero for everybody, or a sum of multiples of the others, leaves its coefficient open. Where columns
    differ much in size, or a category is nearly separated, the pseudoinverse loses what the smallest directions add,
    and its diagonal may even be negative by rounding: those coefficients are computed from columns of equal size.

    :param information: (K, K).
    :param squares, left: of least squares, the sum over the residuals and their degrees of freedom.
    """
    size = np.sqrt(np.diag(information).clip(0))
    errors = np.full(len(information), np.nan)
    for unit in (np.ones(len(information)), np.where(size > 0, size, 1.0)):
        scaled = information / np.outer(unit, unit)
        inverse = np.linalg.pinv(scaled, rcond=NEGLIGIBLE)
        variances = np.diag(inverse * squares / left)
        determined = (np.abs(np.diag(inverse @ scaled) - 1) < _WHOLE) & (variances > 0)
        found = np.isnan(errors) & determined
        errors[found] = np.sqrt(variances[found]) / unit[found]
    return errors


def separated(log_odds: Floats) -> Bools:
    """Which patients (N,) have fitted log-odds that grow without bounds."""
    far: Bools = np.abs(log_odds) >= _SEPARATED
    return far


def likelihood_ratio_p_value(fewer: float, more: float) -> tuple[float, float]:
    """Twice the gain in log-likelihood by one further column, and its p-value by the chi-square of one degree.

    :param fewer, more: log-likelihoods without and with it.
    """
    statistic = max(0.0, 2 * (more - fewer))
    return statistic, float(chi2.sf(statistic, 1))


def depends_on(column: Floats, columns: Floats) -> bool:
    """Whether a column (N,) is a constant plus a sum of multiples of the other columns (N, K)."""
    design = np.column_stack([np.ones(len(column)), columns])
    rest = column - design @ np.linalg.lstsq(design, column, rcond=None)[0]
    return bool(np.abs(rest).max() <= NEGLIGIBLE * max(1.0, float(np.abs(column).max())))


def out_of_fold_log_odds(y: Bools, columns: Floats, folds: npt.NDArray[np.intp]) -> Floats | None:
    """Predict each fold's patients by a fit to those of the other folds: log-odds (N,).

    None if the patients outside of a fold are of one class.
    """
    odds = np.zeros(len(y))
    for fold in np.unique(folds):
        here = folds == fold
        if y[~here].all() or not y[~here].any():
            return None
        odds[here] = fit_logistic(y[~here], columns[~here]).log_odds(columns[here])
    return odds


def _log_likelihood(log_odds: Floats, y: Bools) -> float:
    return float(-np.logaddexp(0, np.where(y, -log_odds, log_odds)).sum())
