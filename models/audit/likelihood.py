"""Logistic regression by maximum likelihood, without a penalty, and the likelihood-ratio test.

Where columns separate the classes, coefficients grow without bounds, but the likelihood has a limit: Newton's steps
come as close to it as rounding allows, so that likelihood ratios are right there too (Albert and Anderson, Biometrika
71:1, 1984); coefficients then have no standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import chi2

_MAX_STEPS: Final = 200
_SMALLEST_GAIN: Final = 1e-11
_SEPARATED: Final = 15.0  # log-odds of a fitted patient from which the fit has no finite maximum
_NEGLIGIBLE: Final = 1e-9
_WHOLE: Final = 1e-6

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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
    """Fit by Newton's steps, halved where the likelihood would fall.

    :param y: (N,) labels of both classes.
    :param columns: (N, K), K may be 0; columns may depend on each other.
    """
    design = np.column_stack([np.ones(len(y)), columns])
    at = np.zeros(design.shape[1])
    height = _log_likelihood(design @ at, y)
    for _ in range(_MAX_STEPS):
        q = expit(design @ at)
        information = design.T @ (design * (q * (1 - q))[:, None])
        step = np.linalg.lstsq(information, design.T @ (y - q), rcond=_NEGLIGIBLE)[0]
        there = _log_likelihood(design @ (at + step), y)
        while there < height - 1e-12 * abs(height) and np.abs(step).max() > _NEGLIGIBLE:
            step /= 2
            there = _log_likelihood(design @ (at + step), y)
        gain, at, height = there - height, at + step, max(there, height)
        if gain < _SMALLEST_GAIN * (1 + abs(height)):
            break
    q = expit(design @ at)
    information = design.T @ (design * (q * (1 - q))[:, None])
    bounded = not separated(design @ at).any()
    return LogisticFit(at, standard_errors(information) if bounded else None, height)


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
        inverse = np.linalg.pinv(scaled, rcond=_NEGLIGIBLE)
        variances = np.diag(inverse * squares / left)
        determined = (np.abs(np.diag(inverse @ scaled) - 1) < _WHOLE) & (variances > 0)
        found = np.isnan(errors) & determined
        errors[found] = np.sqrt(variances[found]) / unit[found]
    return errors


def separated(log_odds: Floats) -> Bools:
    """Which patients (N,) have fitted log-odds that grow without bounds."""
    far: Bools = np.abs(log_odds) >= _SEPARATED
    return far


def likelihood_ratio_p_value(fewer: LogisticFit, more: LogisticFit) -> tuple[float, float]:
    """Twice the gain in log-likelihood by one further column, and its p-value by the chi-square of one degree."""
    statistic = max(0.0, 2 * (more.log_likelihood - fewer.log_likelihood))
    return statistic, float(chi2.sf(statistic, 1))


def depends_on(column: Floats, columns: Floats) -> bool:
    """Whether a column (N,) is a constant plus a sum of multiples of the other columns (N, K)."""
    design = np.column_stack([np.ones(len(column)), columns])
    rest = column - design @ np.linalg.lstsq(design, column, rcond=None)[0]
    return bool(np.abs(rest).max() <= _NEGLIGIBLE * max(1.0, float(np.abs(column).max())))


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
