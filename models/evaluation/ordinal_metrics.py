"""Figures of ordered classes.

Concordance is the share of pairs of patients of different classes in which the one of the higher class has the higher
expected class, equal ones counting a half; of two classes it is the AUC. Quadratic kappa (Cohen, Psychol. Bull. 70:213,
1968) is the agreement of calls and classes beyond chance, errors weighing by the square of their distance. The mean
absolute error is that of the calls, in classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .class_metrics import call_shares, chance_brier, class_figures, confusion
from .share_of_pairs import independent_pairs, lowest_share
from .task_metrics import Figures, Floats, TaskMetrics, share, with_intervals

CONCORDANCE, KAPPA, DISTANCE = "concordance", "quadratic kappa", "mean absolute error"


def ordinal_figures(
    labels: npt.ArrayLike, shares: npt.ArrayLike, calls: npt.ArrayLike, names: Sequence[str]
) -> Figures:
    """Make the function that computes the figures of N patients in bootstrap rounds.

    :param labels, calls: (N,) places of the classes.
    :param shares: (N, C) probabilities.
    :param names: of the C classes, the lowest first.
    """
    y, p, call = np.asarray(labels, np.intp), np.asarray(shares, np.float64), np.asarray(calls, np.intp)
    places = np.arange(len(names))
    expected = p @ places
    higher = (y[:, None] > y).astype(np.float64)
    wins = higher * ((expected[:, None] > expected) + (expected[:, None] == expected) / 2)
    is_of, is_called = (np.eye(len(names))[own] for own in (y, call))  # (N, C)
    squares = np.square(places[:, None] - places).astype(np.float64)
    of_classes = class_figures(y, p, call, names)

    def figures(weights: Floats) -> dict[str, Floats]:
        n = weights.sum(axis=1)
        ordered, won = (((weights @ pairs) * weights).sum(axis=1) for pairs in (higher, wins))
        by_chance = ((weights @ is_of) @ squares * (weights @ is_called)).sum(axis=1) / n
        others = of_classes(weights)
        return {
            CONCORDANCE: share(won, ordered),
            KAPPA: 1 - share(weights @ np.square(y - call).astype(np.float64), by_chance),
            DISTANCE: weights @ np.abs(y - call) / n,
            **{name: others[name] for name in ("balanced accuracy", "accuracy", "Brier score")},
        }

    return figures


def ordinal_metrics(
    labels: npt.ArrayLike,
    shares: npt.ArrayLike,
    calls: npt.ArrayLike,
    names: Sequence[str],
    *,
    prevalence: Sequence[float] = (),
    rounds: int,
    seed: int,
) -> TaskMetrics:
    """Compute the figures of N patients with 95 % intervals.

    :param labels, calls: (N,) places of the classes.
    :param shares: (N, C) probabilities.
    :param prevalence: (C,) the one that they are at; equally frequent classes by default.
    :param names: of the C classes, the lowest first.
    """
    y, call = np.asarray(labels, np.intp), np.asarray(calls, np.intp)
    by_chance = chance_brier(y, prevalence or [1 / len(names)] * len(names))
    order = (CONCORDANCE, KAPPA, DISTANCE, "balanced accuracy", "accuracy", "Brier score")
    return TaskMetrics(
        task="ordinal",
        n_patients=len(y),
        counts={name: int((y == place).sum()) for place, name in enumerate(names)},
        figures=with_intervals(
            order,
            ordinal_figures(y, shares, call, names),
            y,
            rounds=rounds,
            seed=seed,
            pairs={CONCORDANCE: lowest_share(pairs)} if (pairs := independent_pairs(y[:, None] > y)) else {},
            shares=call_shares(y, call, len(names)),
        ),
        chance={CONCORDANCE: 0.5, KAPPA: 0.0, "balanced accuracy": 1 / len(names)} | by_chance,
        confusion=confusion(y, call, len(names)),
        bootstrap_rounds=rounds,
        seed=seed,
    )
