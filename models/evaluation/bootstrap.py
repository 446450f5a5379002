"""A stratified bootstrap of binary predictions over patients, all rounds at once.

Patients are drawn with replacement within each class (Efron and Tibshirani, An Introduction to the Bootstrap, 1993),
so that every round has both. A round is a vector of how often each patient was drawn, and every figure is computed from
those vectors, with the same result as on the drawn patients themselves.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
CELLS_AT_ONCE: Final = 2_000_000
"""Rounds × patients, or pairs of patients, that are held in memory together: 16 MB an array."""


def bootstrap(
    y: Bools, p: Floats, call: Bools, groups: npt.NDArray[np.intp], *, rounds: int, seed: int
) -> dict[str, Floats]:
    """Compute every figure in every round, name → (rounds,). The same seed gives the same rounds.

    :param y: (N,) labels; both classes have patients.
    :param p: (N,) probability of the label 1.
    :param call: (N,) predicted labels.
    :param groups: (N,) the calibration group of each patient, from 0; the same in every round.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(-p, kind="stable")  # by falling probability: cumulative sums then run over the thresholds
    y, p, call, groups = y[order], p[order], call[order], groups[order]
    step = max(1, CELLS_AT_ONCE // len(y))
    parts = [
        figures_of_rounds(draws(y, min(step, rounds - start), rng), y, p, call, groups)
        for start in range(0, rounds, step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def draws(y: Bools, rounds: int, rng: np.random.Generator) -> Floats:
    """Draw each class with replacement to its own size: (rounds, N), how often each patient was drawn."""
    weights = np.zeros((rounds, len(y)))
    for members in (y, ~y):
        n = int(members.sum())
        picks = rng.integers(0, n, size=(rounds, n)) + n * np.arange(rounds)[:, None]
        weights[:, members] = np.bincount(picks.ravel(), minlength=rounds * n).reshape(rounds, n)
    return weights


def figures_of_rounds(
    weights: Floats, y: Bools, p: Floats, call: Bools, groups: npt.NDArray[np.intp]
) -> dict[str, Floats]:
    """Compute every figure of the rounds in ``weights``, name → (rounds,).

    :param p: (N,) in falling order; the other arrays in the same order.
    """
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    ties = np.flatnonzero(np.r_[True, np.diff(p) != 0])  # first patient of each distinct probability
    positives = np.add.reduceat(weights * y, ties, axis=1)
    negatives = np.add.reduceat(weights * ~y, ties, axis=1)
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    # For each negative: the positives ranked above it, and half of those with the same probability.
    auc = (negatives * (true_positives - positives / 2)).sum(axis=1) / (n_positive * n_negative)
    called = true_positives + false_positives
    precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
    auprc = (precision * positives).sum(axis=1) / n_positive

    tp, fp = weights @ (y & call), weights @ (~y & call)
    sensitivity, specificity = tp / n_positive, 1 - fp / n_negative
    excess = (groups[:, None] == np.arange(groups.max() + 1)) * (y - p)[:, None]  # (N, groups)
    return {
        "auc": auc,
        "auprc": auprc,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "f1": 2 * tp / (tp + fp + n_positive),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": weights @ (p - y) ** 2 / len(y),
        "calibration_error": np.abs(weights @ excess).sum(axis=1) / len(y),
    }
