"""Do features say more of a patient's biology than of the site, or of another column that should not matter?

Two published ways to ask, both on one vector a patient, the mean of the tiles of their slides:

- *Linear probes*: a logistic regression on the features, fitted on four fifths of the patients and read on the others,
  tells the label, and another tells the site. Their AUCs (of several classes one against the rest, macro) are compared.
- *The robustness index* (de Jong, Marcus and Teuwen, arXiv 2501.18055, 2025, in the form of Kömen et al., Nat. Commun.
  17, 2026): of the nearest neighbours of all patients, by cosine, those count that have the same label and another site
  (SO), and those that have another label and the same site (OS). The index is SO / (SO + OS): 1 where likeness is of
  the label alone, 0 where it is of the site alone. What neighbours drawn at random would give depends on the cohort and
  is reported beside it; the authors balance theirs, so that figures of two cohorts are not to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .class_metrics import class_metrics
from .estimate import Estimate
from .task_metrics import with_intervals

FEWEST: Final = 10
"""Patients of a class, below which it is left out of a probe."""
FOLDS: Final = 5

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Probe:
    """How well a linear model tells the classes of a column from features."""

    n_patients: int
    classes: tuple[str, ...]
    """Those with ten patients or more."""
    n_left_out: int
    """Patients of rarer classes."""
    auc: Estimate
    """None with fewer than two classes."""


@dataclass(frozen=True)
class Index:
    """The robustness index of features for a label and a column."""

    n_patients: int
    neighbours: int
    value: Estimate
    """None where no neighbour has the same label and another site, or the reverse."""
    at_random: float | None
    """The index if neighbours were drawn at random from the other patients."""


def probe(vectors: Floats, values: Sequence[str], *, rounds: int, seed: int) -> Probe:
    """Tell the classes of a column from features, out of fold.

    :param vectors: (P, D), one a patient.
    :param values: (P) the patients' classes; empty for patients without one.
    :param rounds: of the bootstrap over patients.
    """
    known = [value for value in values if value]
    classes = tuple(sorted(value for value in set(known) if known.count(value) >= FEWEST))
    chosen = np.array([value in classes for value in values], dtype=bool)
    left_out = len(known) - int(chosen.sum())
    if len(classes) < 2:
        return Probe(int(chosen.sum()), classes, left_out, Estimate(value=None))
    x, y = vectors[chosen], np.array([classes.index(value) for value in values if value in classes])
    shares = np.zeros((len(y), len(classes)))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        # The penalty is for vectors of unit variance; a fixed one, so that no probe is tuned better than the other.
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / x.shape[1], max_iter=2000))
        shares[test] = model.fit(x[train], y[train]).predict_proba(x[test])
    found = class_metrics("multiclass", y, shares, shares.argmax(axis=1), classes, rounds=rounds, seed=seed)
    return Probe(len(y), classes, left_out, found.main)


def robustness_index(
    vectors: Floats, labels: Sequence[str], sites: Sequence[str], *, neighbours: int, rounds: int, seed: int
) -> Index:
    """Compute the robustness index over the patients who have both a label and a site.

    :param vectors: (P, D), one a patient.
    :param labels, sites: (P) empty where they are not known.
    :param neighbours: k, how many of the nearest patients are looked at; fewer if there are not so many.
    """
    chosen = np.array([bool(label and site) for label, site in zip(labels, sites, strict=True)], dtype=bool)
    x, n = vectors[chosen], int(chosen.sum())
    k = min(neighbours, n - 1)
    if k < 1:
        return Index(n, max(k, 0), Estimate(value=None), None)
    same_label, same_site = (_equal([v for v, c in zip(of, chosen, strict=True) if c]) for of in (labels, sites))
    biology, confounder = same_label & ~same_site, ~same_label & same_site  # (n, n)
    others = ~np.eye(n, dtype=bool)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    likeness = np.where(others, unit @ unit.T, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    so, os = (np.take_along_axis(of, nearest, axis=1).sum(axis=1).astype(float) for of in (biology, confounder))

    def figures(weights: Floats) -> dict[str, Floats]:
        good, bad = weights @ so, weights @ os
        with np.errstate(invalid="ignore"):
            return {"index": good / (good + bad)}

    strata = np.unique([label for label, c in zip(labels, chosen, strict=True) if c], return_inverse=True)[1]
    value = with_intervals(("index",), figures, strata, rounds=rounds, seed=seed)["index"]
    pairs = (biology & others).sum(), (confounder & others).sum()
    return Index(n, k, value, float(pairs[0] / sum(pairs)) if sum(pairs) else None)


def _equal(values: Sequence[str]) -> npt.NDArray[np.bool_]:
    codes = np.unique(values, return_inverse=True)[1]
    return np.asarray(codes[:, None] == codes[None, :])
