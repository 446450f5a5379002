"""The audit of a score: does it read the label from the slide, or what goes along with the label?

Networks learn whatever in the slide goes along with a label: grade, ER, the site and its scanner (Dawood et al., Nat.
Biomed. Eng., 2026). For columns that may do so, given the scores of patients that were not trained on:

- the AUC within each stratum of a column, and over all pairs of patients of one stratum (:mod:`.within_strata`), for
  each column and for all of them crossed, with a permutation of the scores within strata;
- the columns alone: a logistic regression on them, fitted on all folds but one and read on that one;
- what the score adds to them. *Whether* it adds anything is asked by a likelihood-ratio test: columns and score against
  the columns alone, both fitted by maximum likelihood to all patients. The score is out of fold: no patient's label
  entered their own score, so that it is one given number among the columns, and costs one degree of freedom. *How much*
  it adds is the difference of AUC between both regressions, read out of fold, with DeLong's interval. DeLong's test is
  not the one to quote: where nothing is added, a further column makes a regression a little worse on other patients,
  so that its difference is not around 0 (Pepe, Kerr, Longton and Wang, Stat. Med. 32:1467, 2013).

Patients without a value are not alike in what is unknown: they are counted and have an AUC of their own, but no pair
among them counts as one within a stratum, and no regression includes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ...data.errors import UsageError
from ..evaluation.estimate import Z95, Estimate
from ..evaluation.metrics import zeros_and_ones
from ..evaluation.paired_tests import PairedDifference, delong
from .likelihood import (
    LogisticFit,
    depends_on,
    fit_logistic,
    likelihood_ratio_p_value,
    out_of_fold_log_odds,
    separated,
)
from .strata import Strata, crossed
from .within_strata import FEWEST, WithinStrata, auc_estimate, auc_within

PATIENTS_A_COLUMN: Final = 10
"""With fewer patients of the smaller class for each column of the regression, its test is too often significant."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subgroup(_Record):
    """One stratum of a column. The AUC is None with fewer than ten patients of a class."""

    stratum: str
    known: bool
    """False of the patients without a value, and of those with several."""
    n_patients: int
    n_positive: int
    auc: Estimate

    @property
    def n_negative(self) -> int:
        """Patients whose label is negative."""
        return self.n_patients - self.n_positive

    @property
    def figure(self) -> Estimate:
        """The AUC, as other tasks have a figure of theirs."""
        return self.auc

    @property
    def n_counted(self) -> int:
        """Positive patients."""
        return self.n_positive


class ColumnAudit(_Record):
    """The score within the strata of one column."""

    column: str
    kind: Literal["categories", "number"]
    subgroups: tuple[Subgroup, ...]
    pooled: WithinStrata

    @property
    def figured(self) -> tuple[Subgroup, ...]:
        """Subgroups with an AUC."""
        return tuple(group for group in self.subgroups if group.auc.value is not None)

    @property
    def too_small(self) -> tuple[Subgroup, ...]:
        """Subgroups with fewer than ten patients of a class."""
        return tuple(group for group in self.subgroups if group.auc.value is None)

    @property
    def decides(self) -> bool:
        """Whether no stratum has patients of both classes: the column says the label."""
        return self.pooled.n_strata == 0 and 0 < self.pooled.n_positive < self.pooled.n_patients


class ColumnsAlone(_Record):
    """Regressions on the columns, and on the columns and the score, over the patients without a missing value."""

    n_patients: int
    n_positive: int
    n_columns: int
    """Columns of the regression without the score, the intercept not counted."""
    n_rare: int
    """Categories of fewer than ten patients, which share one indicator a column."""
    score: Estimate
    columns: Estimate
    both: Estimate
    gain: PairedDifference | None
    """AUC of both minus that of the columns, out of fold; DeLong's interval and test."""
    likelihood_ratio: float
    p_value: float | None
    """Of the likelihood-ratio test; None if the score follows from the columns."""
    odds_ratio: Estimate
    """By which the odds of positive grow with one standard deviation of the score, the columns equal; Wald's interval.
    None where the score separates the classes; patients whom columns separate say nothing about it."""
    rises: bool
    """Whether a higher score goes with more positive patients, the columns equal."""

    @property
    def n_counted(self) -> int:
        """Positive patients."""
        return self.n_positive

    @property
    def effect(self) -> Estimate:
        """The odds ratio, as other tasks have an effect of theirs."""
        return self.odds_ratio


class Audit(_Record):
    """What may go along with the label, and what is left of a score beside it."""

    n_patients: int
    n_positive: int
    score: Estimate
    """AUC over all patients."""
    columns: tuple[ColumnAudit, ...]
    together: WithinStrata
    """Within the strata of all columns crossed, over patients without a missing value."""
    alone: ColumnsAlone | None
    why_none: str
    """Why there is no regression; empty if there is one."""
    rounds: int
    permutations: int
    seed: int

    @property
    def task(self) -> str:
        """Its name."""
        return "binary"

    @property
    def measure(self) -> str:
        """Name of the figure."""
        return "AUC"

    @property
    def chance(self) -> float:
        """What a score gets that knows nothing of the label."""
        return 0.5

    @property
    def too_few(self) -> str:
        """When a subgroup has no figure, in words."""
        return "fewer than ten patients of a class"

    @property
    def test(self) -> str:
        """What the test of the score beside the columns is called."""
        return "likelihood-ratio test, χ²"

    @property
    def effect(self) -> str:
        """What the effect of the score is called."""
        return "Odds ratio for one standard deviation of the slide's score, the columns equal"

    @property
    def n_counted(self) -> int:
        """Positive patients."""
        return self.n_positive

    @property
    def few_for_regression(self) -> bool:
        """Whether the regressions have too many columns for their patients."""
        if self.alone is None:
            return False
        fewest = min(self.alone.n_positive, self.alone.n_patients - self.alone.n_positive)
        return fewest < PATIENTS_A_COLUMN * (self.alone.n_columns + 1)


def audit(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    columns: Sequence[Strata],
    folds: npt.ArrayLike,
    *,
    rounds: int = 2000,
    permutations: int = 2000,
    seed: int = 0,
) -> Audit:
    """Audit a score of N patients against columns that may go along with their label.

    :param labels: (N,) 0 or 1.
    :param scores: (N,) log-odds or any score that grows with label 1, each from a model not trained on the patient.
    :param columns: one or more, of the same patients in the same order.
    :param folds: (N,) integers; regressions are read on one fold and fitted on the others.
    :param rounds: of the bootstrap; 0 for no intervals.
    :raises UsageError: no columns, lengths that differ, or a score that is no finite number.
    """
    y, score, fold = zeros_and_ones(labels), np.asarray(scores, dtype=np.float64), np.asarray(folds, dtype=np.intp)
    if not columns:
        raise UsageError("there is no column to audit against")
    if not {len(y)} == {len(score), len(fold), *(len(column.codes) for column in columns)}:
        raise UsageError("labels, scores, folds and columns cannot be of the same patients: their lengths differ")
    if not np.isfinite(score).all():
        raise UsageError("a score is no finite number")
    known = np.logical_and.reduce([column.known for column in columns])
    codes = crossed(columns)
    alone, why_none = _alone(y[known], score[known], columns, known, fold[known], rounds=rounds, seed=seed)
    return Audit(
        n_patients=len(y),
        n_positive=int(y.sum()),
        score=auc_estimate(y, score, rounds=rounds, seed=seed),
        columns=tuple(_column(y, score, c, rounds=rounds, permutations=permutations, seed=seed) for c in columns),
        together=auc_within(y[known], score[known], codes[known], rounds=rounds, permutations=permutations, seed=seed),
        alone=alone,
        why_none=why_none,
        rounds=rounds,
        permutations=permutations,
        seed=seed,
    )


def _column(y: Bools, score: Floats, column: Strata, *, rounds: int, permutations: int, seed: int) -> ColumnAudit:
    subgroups = []
    for code, name in enumerate(column.names):
        here = column.codes == code
        if here.any():
            subgroups.append(
                Subgroup(
                    stratum=name,
                    known=bool(column.known[here].all()),
                    n_patients=int(here.sum()),
                    n_positive=int(y[here].sum()),
                    auc=auc_estimate(y[here], score[here], rounds=rounds, seed=seed),
                )
            )
    known = column.known
    return ColumnAudit(
        column=column.name,
        kind="categories" if column.numbers is None else "number",
        subgroups=tuple(subgroups),
        pooled=auc_within(
            y[known], score[known], column.codes[known], rounds=rounds, permutations=permutations, seed=seed
        ),
    )


def _alone(
    y: Bools,
    score: Floats,
    columns: Sequence[Strata],
    known: Bools,
    folds: npt.NDArray[np.intp],
    *,
    rounds: int,
    seed: int,
) -> tuple[ColumnsAlone | None, str]:
    """Fit the regressions; arrays are of the patients known in every column. None, and why, where they cannot be."""
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    if min(n_positive, n_negative) < FEWEST:
        return None, (
            f"{n_positive} positive and {n_negative} negative patients have a value in every column, "
            f"and {FEWEST} of each class are needed"
        )
    x = np.column_stack([column.design(known) for column in columns])
    with_score = np.column_stack([x, (score - score.mean()) / (np.std(score) or 1.0)])
    by_columns, by_both = out_of_fold_log_odds(y, x, folds), out_of_fold_log_odds(y, with_score, folds)
    if by_columns is None or by_both is None:
        return None, "the patients outside of one of the folds are of one class"
    fewer, more = fit_logistic(y, x), fit_logistic(y, with_score)
    statistic, p_value = likelihood_ratio_p_value(fewer.log_likelihood, more.log_likelihood)
    follows = depends_on(score, x)
    return ColumnsAlone(
        n_patients=len(y),
        n_positive=n_positive,
        n_columns=x.shape[1],
        n_rare=sum(column.rare(known) for column in columns),
        score=auc_estimate(y, score, rounds=rounds, seed=seed),
        columns=auc_estimate(y, by_columns, rounds=rounds, seed=seed),
        both=auc_estimate(y, by_both, rounds=rounds, seed=seed),
        gain=delong(y, by_both, by_columns),
        likelihood_ratio=0.0 if follows else statistic,
        p_value=None if follows else p_value,
        odds_ratio=_odds_ratio(y, with_score, more),
        rises=bool(more.coefficients[-1] > 0),
    ), ""


def _odds_ratio(y: Bools, columns: Floats, fit: LogisticFit) -> Estimate:
    """The odds ratio of the last column, fitted again without the patients who are separated from the others."""
    rest = ~separated(fit.log_odds(columns))
    if fit.errors is None and 0 < y[rest].sum() < rest.sum():
        fit = fit_logistic(y[rest], columns[rest])
    if fit.errors is None or not np.isfinite(fit.errors[-1]):
        return Estimate(value=None)
    at, by = fit.coefficients[-1], Z95 * fit.errors[-1]
    value, low, high = np.exp([at, at - by, at + by]).tolist()
    return Estimate(value=value, low=low, high=high)
