"""Figures of predicted numbers: correlation with the true ones, and errors in their unit.

Spearman's ρ (of midranks) compares methods, since outliers do not decide it. R² is 1 − Σ(y − ŷ)² / Σ(y − ȳ)² of the
predictions as they are: it is below 0 where they are worse than the mean of these patients. The slope is that of y on
ŷ; 1 is perfect, below 1 predictions are too far apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .task_metrics import Figures, Floats, TaskMetrics, share, with_intervals

NAMES = ("Spearman's ρ", "Pearson's r", "R²", "mean absolute error", "root mean squared error", "slope")

_ROUNDING = 1e-12
"""Relative to the largest value."""


def number_figures(labels: npt.ArrayLike, predictions: npt.ArrayLike) -> Figures:
    """Make the function that computes the figures of N patients in bootstrap rounds.

    :param labels, predictions: (N,).
    """
    y, p = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    error = y - p

    def figures(weights: Floats) -> dict[str, Floats]:
        n = weights.sum(axis=1)
        variance, of_predictions = _variance(weights, y), _variance(weights, p)
        covariance = _covariance(weights, y, p)
        squared = weights @ error**2 / n
        return {
            "Spearman's ρ": _correlation(weights, _ranks(weights, y), _ranks(weights, p)),
            "Pearson's r": share(covariance, np.sqrt(variance * of_predictions)),
            "R²": 1 - share(squared, variance),
            "mean absolute error": weights @ np.abs(error) / n,
            "root mean squared error": np.sqrt(squared),
            "slope": share(covariance, of_predictions),
        }

    return figures


def number_metrics(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, *, rounds: int, seed: int, task: str = "regression"
) -> TaskMetrics:
    """Compute the figures of N patients with 95 % intervals.

    :param labels, predictions: (N,).
    """
    y = np.asarray(labels, np.float64)
    return TaskMetrics(
        task=task,
        n_patients=len(y),
        counts={},
        figures=with_intervals(NAMES, number_figures(y, predictions), np.zeros(len(y)), rounds=rounds, seed=seed),
        chance={"Spearman's ρ": 0.0, "Pearson's r": 0.0, "R²": 0.0},
        bootstrap_rounds=rounds,
        seed=seed,
    )


def _variance(weights: Floats, values: Floats) -> Floats:
    """Variance in each round (rounds,), 0 where equal values differ from their mean by rounding alone."""
    found = _covariance(weights, values, values)
    return np.where(found > (_ROUNDING * np.abs(values).max(initial=0)) ** 2, found, 0.0)


def _covariance(weights: Floats, one: Floats, other: Floats) -> Floats:
    """Covariance in each round (rounds,), divided by n; the values are (N,) or (rounds, N)."""
    n = weights.sum(axis=1)
    means = [(weights * values).sum(axis=1) / n for values in (one, other)]
    centred = (one - means[0][:, None]) * (other - means[1][:, None])
    covariance: Floats = (weights * centred).sum(axis=1) / n
    return covariance


def _correlation(weights: Floats, one: Floats, other: Floats) -> Floats:
    variances = _covariance(weights, one, one) * _covariance(weights, other, other)
    return share(_covariance(weights, one, other), np.sqrt(variances))


def _ranks(weights: Floats, values: Floats) -> Floats:
    """Midrank of each patient among those drawn in each round (rounds, N)."""
    (
        _,
        group,
    ) = np.unique(values, return_inverse=True)
    sizes = np.stack([np.bincount(group, weights=row) for row in weights])  # (rounds, distinct values)
    ranks: Floats = (sizes.cumsum(axis=1) - (sizes - 1) / 2)[:, group]
    return ranks
