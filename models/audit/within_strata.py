"""The AUC within strata: are patients told apart who are alike in what is given, such as grade?

Of all pairs of a positive and a negative patient of the same stratum, the share in which the positive one has the
higher score; ties count a half. Pairs of different strata, which the stratum itself may tell apart, do not count
(a covariate-adjusted AUC: Janes and Pepe, Biometrika 96:371, 2009, with strata weighted by their pairs).

Intervals are those of :mod:`~wsipipe.models.evaluation.share_of_pairs`, the bootstrap over patients drawn within each
class; strata may then lose or gain patients, so that one of two patients is not certain by itself. The p-value is of a
permutation of scores within the strata, which keeps everything that goes along with them (van Elteren's statistic,
with its exact distribution sampled).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from ..evaluation.bootstrap import CELLS_AT_ONCE, draws
from ..evaluation.estimate import Estimate
from ..evaluation.share_of_pairs import independent_pairs, lowest_share, share_of_pairs

FEWEST: Final = 10
"""With fewer patients of a class, no figure is given."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]


class WithinStrata(BaseModel):
    """The pooled AUC within strata, beside the plain AUC of the same patients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_patients: int
    """Patients whose strata are known."""
    n_positive: int
    n_compared: int
    """Of them, those in strata with both classes."""
    n_compared_positive: int
    n_strata: int
    """Strata with both classes."""
    plain: Estimate
    within: Estimate
    p_value: float | None
    """Of the permutation within strata, two-sided; None if nothing can be compared."""

    @property
    def n_compared_counted(self) -> int:
        """Positive ones of those who are compared."""
        return self.n_compared_positive


def auc_within(y: Bools, score: Floats, strata: Codes, *, rounds: int, permutations: int, seed: int) -> WithinStrata:
    """Compute the plain AUC and the AUC within strata of N patients, with intervals and a permutation test.

    Both are left out where fewer than :data:`FEWEST` patients of a class are there, or in strata with both classes.

    :param y: (N,) labels.
    :param score: (N,) higher for positive.
    :param strata: (N,) codes.
    :param rounds: of the bootstrap.
    """
    both = [code for code in np.unique(strata) if 0 < y[strata == code].sum() < (strata == code).sum()]
    compared = np.isin(strata, both)
    plain = auc_estimate(y, score, rounds=rounds, seed=seed)
    enough = min(int(y[compared].sum()), int((~y)[compared].sum())) >= FEWEST
    return WithinStrata(
        n_patients=len(y),
        n_positive=int(y.sum()),
        n_compared=int(compared.sum()),
        n_compared_positive=int(y[compared].sum()),
        n_strata=len(both),
        plain=plain,
        within=_estimate(y, score, strata, rounds=rounds, seed=seed) if enough else Estimate(value=None),
        p_value=permutation_p_value(y, score, strata, permutations=permutations, seed=seed) if enough else None,
    )


def auc_estimate(y: Bools, score: Floats, *, rounds: int, seed: int) -> Estimate:
    """Compute the AUC of N patients with its bootstrap interval; None with fewer than :data:`FEWEST` of a class."""
    if min(int(y.sum()), int((~y).sum())) < FEWEST:
        return Estimate(value=None)
    return _estimate(y, score, np.zeros(len(y), dtype=np.intp), rounds=rounds, seed=seed)


def _estimate(y: Bools, score: Floats, strata: Codes, *, rounds: int, seed: int) -> Estimate:
    order = np.argsort(-score, kind="stable")  # as for the other figures of these patients: the same draws
    y, score, strata = y[order], score[order], strata[order]
    right, pairs = pairs_within(np.ones((1, len(y))), y, score, strata)
    value = float(right[0] / pairs[0])
    if not rounds:
        return Estimate(value=value)
    rng = np.random.default_rng(seed)
    step = max(1, CELLS_AT_ONCE // len(y))
    shares = []
    for start in range(0, rounds, step):
        right, pairs = pairs_within(draws(y, min(step, rounds - start), rng), y, score, strata)
        shares.append(right[pairs > 0] / pairs[pairs > 0])
    compared = (y[:, None] & ~y) & (strata[:, None] == strata)
    return share_of_pairs(value, np.concatenate(shares), lowest_share(independent_pairs(compared)))


def pairs_within(weights: Floats, y: Bools, score: Floats, strata: Codes) -> tuple[Floats, Floats]:
    """Count the pairs of a positive and a negative patient in one stratum: ranked correctly, and all; (rounds,) each.

    :param weights: (rounds, N), how often each patient was drawn.
    """
    right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for code in np.unique(strata):
        members = np.flatnonzero(strata == code)
        if y[members].all() or not y[members].any():
            continue
        members = members[np.argsort(-score[members], kind="stable")]
        own, positive = weights[:, members], y[members]
        ties = np.flatnonzero(np.r_[True, np.diff(score[members]) != 0])
        positives = np.add.reduceat(own * positive, ties, axis=1)
        negatives = np.add.reduceat(own * ~positive, ties, axis=1)
        right += (negatives * (positives.cumsum(axis=1) - positives / 2)).sum(axis=1)
        pairs += positives.sum(axis=1) * negatives.sum(axis=1)
    return right, pairs


def permutation_p_value(y: Bools, score: Floats, strata: Codes, *, permutations: int, seed: int) -> float | None:
    """Compute the share of permutations within strata whose AUC within strata is as far from 0.5 as that observed.

    The observed order counts as one of them, so that the smallest p-value is 1 / (permutations + 1).
    """
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(permutations)
    pairs = 0
    for code in np.unique(strata):
        labels = y[strata == code]
        n_positive = int(labels.sum())
        if not 0 < n_positive < len(labels):
            continue
        ranks = rankdata(score[strata == code])
        expected = n_positive * (len(labels) + 1) / 2
        observed += float(ranks[labels].sum()) - expected
        pairs += n_positive * (len(labels) - n_positive)
        step = max(1, CELLS_AT_ONCE // len(labels))
        for start in range(0, permutations, step):
            rows = np.tile(ranks, (min(step, permutations - start), 1))
            drawn[start : start + step] += rng.permuted(rows, axis=1)[:, :n_positive].sum(axis=1) - expected
    if not pairs:
        return None
    return float((1 + (np.abs(drawn) >= abs(observed)).sum()) / (1 + permutations))
