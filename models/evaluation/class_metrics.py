"""Figures of several classes: discrimination, calls and probabilities.

The AUC is the mean over the classes of the AUC of that class against all others ("one against the rest", macro), of
two classes the ordinary one. Balanced accuracy is the mean of the classes' sensitivities, F1 the mean of their F1. The
Brier score of several classes is the mean over patients of Σ_c (p_c − [c = y])² (Brier, Mon. Weather Rev. 78:1, 1950),
of two classes twice the usual one. All equal those of scikit-learn.

Accuracy has Wilson's interval, balanced accuracy that which follows from the classes' (:func:`.mean_share`). Where the
AUC, or F1, of every class is 1, the lower limit of the mean is the mean of theirs: a mean below it needs a class below
its own, and such a class would show an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .metrics import Estimate, mean_share, share_estimate
from .share_of_pairs import lowest_share
from .task_metrics import Figures, TaskMetrics, share, weighted_auc, with_intervals

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]


def macro_auc(labels: Integers, shares: Floats) -> float | None:
    """Compute the mean of the classes' AUC, each against all others; None if a class has no patient, or all.

    :param labels: (N,) places of the classes.
    :param shares: (N, C) probability, or score, of each class.
    """
    everyone = np.ones((1, len(labels)))
    places = _held_against_the_rest(shares.shape[1])
    aucs = [weighted_auc(everyone, labels == place, shares[:, place])[0] for place in places]
    mean = float(sum(aucs) / len(aucs))
    return None if np.isnan(mean) else mean


def class_figures(labels: npt.ArrayLike, shares: npt.ArrayLike, calls: npt.ArrayLike, names: Sequence[str]) -> Figures:
    """Make the function that computes the figures of N patients in bootstrap rounds.

    :param labels, calls: (N,) places of the classes.
    :param shares: (N, C) probabilities.
    :param names: of the C classes.
    """
    y, p, call = np.asarray(labels, np.intp), np.asarray(shares, np.float64), np.asarray(calls, np.intp)
    is_of, is_called = (np.eye(len(names))[places] for places in (y, call))  # (N, C)
    brier = np.square(p - is_of).sum(axis=1)

    def figures(weights: Floats) -> dict[str, Floats]:
        n = weights.sum(axis=1)
        aucs = [weighted_auc(weights, y == place, p[:, place]) for place in _held_against_the_rest(len(names))]
        hits, sizes, called = weights @ (is_of * is_called), weights @ is_of, weights @ is_called  # (rounds, C)
        values = {"AUC": sum(aucs[1:], aucs[0]) / len(aucs)}
        values |= {f"AUC of {name}": auc for name, auc in zip(names, aucs, strict=True)} if len(names) > 2 else {}
        values["balanced accuracy"] = share(hits, sizes).mean(axis=1)
        values["F1"] = np.where((sizes > 0).all(axis=1), share(2 * hits, sizes + called).mean(axis=1), np.nan)
        values["accuracy"] = hits.sum(axis=1) / n
        values["Brier score"] = weights @ brier / n
        return values

    return figures


def _held_against_the_rest(classes: int) -> range:
    """The classes whose AUC is averaged; of two classes the second, since the first has the same."""
    return range(1, 2) if classes == 2 else range(classes)


def class_metrics(
    task: str,
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
    :param names: of the C classes.
    """
    y, call = np.asarray(labels, np.intp), np.asarray(calls, np.intp)
    of_classes = tuple(f"AUC of {name}" for name in names) if len(names) > 2 else ()
    order = ("AUC", *of_classes, "balanced accuracy", "F1", "accuracy", "Brier score")
    chance = dict.fromkeys(("AUC", *of_classes), 0.5) | {"balanced accuracy": 1 / len(names)}
    chance |= chance_brier(y, prevalence or [1 / len(names)] * len(names))
    return TaskMetrics(
        task=task,
        n_patients=len(y),
        counts={name: int((y == place).sum()) for place, name in enumerate(names)},
        figures=with_intervals(
            order,
            class_figures(y, shares, call, names),
            y,
            rounds=rounds,
            seed=seed,
            pairs=_lowest_aucs(y, names),
            shares=call_shares(y, call, len(names)),
        ),
        chance=chance,
        confusion=confusion(y, call, len(names)),
        bootstrap_rounds=rounds,
        seed=seed,
    )


def _lowest_aucs(labels: Integers, names: Sequence[str]) -> dict[str, float]:
    """The lower limit of each AUC where it is 1, by its name."""
    sizes = [int((labels == place).sum()) for place in _held_against_the_rest(len(names))]
    if any(not 0 < size < len(labels) for size in sizes):
        return {}
    lows = [lowest_share(min(size, len(labels) - size)) for size in sizes]
    return {"AUC": sum(lows) / len(lows), **{f"AUC of {name}": low for name, low in zip(names, lows, strict=False)}}


def call_shares(labels: Integers, calls: Integers, classes: int) -> dict[str, Estimate]:
    """Accuracy by Wilson, balanced accuracy by those of the classes' sensitivities, and an F1 without an error.

    :param labels, calls: (N,) places of the classes.
    """
    table = np.array(confusion(labels, calls, classes))
    right, sizes = table.diagonal().tolist(), table.sum(axis=1).tolist()
    found = {"accuracy": share_estimate(sum(right), sum(sizes))}
    if all(sizes):
        of_classes = [share_estimate(hits, n) for hits, n in zip(right, sizes, strict=True)]
        found["balanced accuracy"] = mean_share(
            of_classes, float(np.mean([hits / n for hits, n in zip(right, sizes, strict=True)]))
        )
        if right == sizes:
            lows = [2 * lowest_share(n) / (1 + lowest_share(n)) for n in sizes]
            found["F1"] = Estimate(value=1.0, low=sum(lows) / len(lows), high=1.0)
    return found


def chance_brier(labels: Integers, prevalence: Sequence[float]) -> dict[str, float]:
    """The Brier score of giving each patient the shares of the classes as probabilities; nothing without patients.

    :param prevalence: (C,) the one that the model's probabilities are at, so that both know the same.
    """
    errors = np.square(np.eye(len(prevalence))[labels] - np.asarray(prevalence)).sum(axis=1)
    return {"Brier score": float(errors.mean())} if len(labels) else {}


def confusion(labels: Integers, calls: Integers, classes: int) -> list[list[int]]:
    """Count patients by class (rows) and call (columns)."""
    table = np.zeros((classes, classes), np.intp)
    np.add.at(table, (labels, calls), 1)
    return [[int(count) for count in row] for row in table]
