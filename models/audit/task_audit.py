"""The audit of scores of several classes, numbers and follow-ups: what :mod:`.confounding` is for two classes.

The same questions, asked by the figure of the task: within strata of the columns, with a permutation; of the columns
alone, by a regression of the task's kind (:mod:`.regressions`) fitted on all folds but one and read on that one; and
whether the score adds anything to them, by a likelihood-ratio test of one degree of freedom over all patients, whose
scores are out of fold. How much it adds is the difference of the figure between both regressions, with a bootstrap
interval. The intervals are of bootstrap rounds over patients, drawn within classes, or patients with and without event;
those of shares of pairs as in :mod:`~wsipipe.models.evaluation.share_of_pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ...data.errors import UsageError
from ..evaluation.estimate import Z95, Estimate
from ..evaluation.task_metrics import BootstrapDifference, Figures, paired_difference, with_intervals
from .audited_outcomes import Codes, Outcome
from .confounding import PATIENTS_A_COLUMN
from .likelihood import Bools, Floats
from .regressions import Fitted
from .strata import Strata, crossed

_CLOSE: Final = 1e-12


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TaskSubgroup(_Record):
    """One stratum of a column. The figure is None where patients are too few."""

    stratum: str
    known: bool
    """False of the patients without a value, and of those with several."""
    n_patients: int
    n_counted: int | None
    """Those who decide whether there is a figure (:meth:`Outcome.counted`)."""
    figure: Estimate


class TaskWithin(_Record):
    """The figure within strata, beside the plain one of the same patients."""

    n_patients: int
    """Patients whose strata are known."""
    n_compared: int
    """Of them, those who are compared with others of their stratum."""
    n_compared_counted: int | None
    plain: Estimate
    within: Estimate
    p_value: float | None
    """Of the permutation within strata, two-sided; None if there is no figure."""


class TaskColumn(_Record):
    """The score within the strata of one column."""

    column: str
    kind: Literal["categories", "number"]
    subgroups: tuple[TaskSubgroup, ...]
    pooled: TaskWithin

    @property
    def figured(self) -> tuple[TaskSubgroup, ...]:
        """Subgroups with a figure."""
        return tuple(group for group in self.subgroups if group.figure.value is not None)

    @property
    def too_small(self) -> tuple[TaskSubgroup, ...]:
        """Subgroups that are too small for one."""
        return tuple(group for group in self.subgroups if group.figure.value is None)

    @property
    def decides(self) -> bool:
        """Whether nobody is compared with anybody of their stratum: the column says the label."""
        return self.pooled.n_compared == 0 < self.pooled.n_patients


class TaskColumnsAlone(_Record):
    """Regressions on the columns, and on the columns and the score, over the patients without a missing value."""

    n_patients: int
    n_counted: int | None
    n_columns: int
    """Coefficients of the columns."""
    n_rare: int
    """Categories of fewer than ten patients, which share one indicator a column."""
    score: Estimate
    columns: Estimate
    both: Estimate
    gain: BootstrapDifference | None
    """Figure of both minus that of the columns, out of fold."""
    likelihood_ratio: float
    """The statistic of the test."""
    p_value: float | None
    """None if the score follows from the columns."""
    effect: Estimate
    """Of the score, the columns equal, with Wald's interval; None where columns separate the patients."""
    rises: bool
    """Whether a higher score goes with a higher label, the columns equal."""


class TaskAudit(_Record):
    """What may go along with the label, and what is left of a score beside it."""

    task: str
    measure: str
    chance: float
    too_few: str
    """When a subgroup has no figure, in words."""
    test: str
    effect: str
    """What the test and the coefficient of the score are called."""
    n_patients: int
    n_counted: int | None
    score: Estimate
    columns: tuple[TaskColumn, ...]
    together: TaskWithin
    """Within the strata of all columns crossed, over patients without a missing value."""
    alone: TaskColumnsAlone | None
    why_none: str
    """Why there is no regression; empty if there is one."""
    rounds: int
    permutations: int
    seed: int

    @property
    def few_for_regression(self) -> bool:
        """Whether the regressions have too many coefficients for their patients."""
        if self.alone is None:
            return False
        fewest = self.alone.n_patients if self.alone.n_counted is None else self.alone.n_counted
        return fewest < PATIENTS_A_COLUMN * (self.alone.n_columns + 1)


def audit_task(
    task: str,
    outcome: Outcome,
    columns: Sequence[Strata],
    folds: npt.ArrayLike,
    *,
    rounds: int = 2000,
    permutations: int = 2000,
    seed: int = 0,
) -> TaskAudit:
    """Audit the scores of N patients against columns that may go along with their label.

    :param outcome: labels and scores, each from a model not trained on the patient.
    :param columns: one or more, of the same patients in the same order.
    :param folds: (N,) integers; regressions are read on one fold and fitted on the others.
    :param rounds: of the bootstrap; 0 for no intervals.
    :raises UsageError: no columns, or lengths that differ.
    """
    fold = np.asarray(folds, np.intp)
    if not columns:
        raise UsageError("there is no column to audit against")
    if not {outcome.size} == {len(fold), *(len(column.codes) for column in columns)}:
        raise UsageError("labels, folds and columns cannot be of the same patients: their lengths differ")

    def figure(of: Outcome) -> Estimate:
        return _figure(of, np.zeros(of.size, np.intp), rounds, seed) if of.enough() else Estimate(value=None)

    def within(rows: Bools, codes: Codes) -> TaskWithin:
        own, strata = outcome.take(np.flatnonzero(rows)), codes[rows]
        compared = own.compared(strata)
        among = own.take(np.flatnonzero(compared))
        value, p = Estimate(value=None), None
        if among.enough():
            value = _figure(own, strata, rounds, seed)
            drawn = own.permuted(strata, permutations, seed)
            if value.value is not None:
                far = np.abs(drawn - own.chance) >= abs(value.value - own.chance) - _CLOSE
                p = float((1 + far.sum()) / (1 + permutations))
        return TaskWithin(
            n_patients=own.size,
            n_compared=among.size,
            n_compared_counted=among.counted(),
            plain=figure(own),
            within=value,
            p_value=p,
        )

    def of_column(column: Strata) -> TaskColumn:
        subgroups = []
        for code, name in enumerate(column.names):
            here = np.flatnonzero(column.codes == code)
            if len(here):
                own, known = outcome.take(here), bool(column.known[here].all())
                subgroups.append(
                    TaskSubgroup(
                        stratum=name, known=known, n_patients=own.size, n_counted=own.counted(), figure=figure(own)
                    )
                )
        return TaskColumn(
            column=column.name,
            kind="categories" if column.numbers is None else "number",
            subgroups=tuple(subgroups),
            pooled=within(column.known, column.codes),
        )

    known = np.logical_and.reduce([column.known for column in columns])
    alone, why_none = _alone(outcome.take(np.flatnonzero(known)), columns, known, fold[known], rounds, seed)
    return TaskAudit(
        task=task,
        measure=outcome.measure,
        chance=outcome.chance,
        too_few=outcome.too_few,
        test=outcome.test,
        effect=outcome.effect,
        n_patients=outcome.size,
        n_counted=outcome.counted(),
        score=figure(outcome),
        columns=tuple(map(of_column, columns)),
        together=within(known, crossed(columns)),
        alone=alone,
        why_none=why_none,
        rounds=rounds,
        permutations=permutations,
        seed=seed,
    )


def _figures(outcome: Outcome, strata: Codes) -> Figures:
    return lambda weights: {outcome.measure: outcome.within(weights, strata)}


def _figure(outcome: Outcome, strata: Codes, rounds: int, seed: int) -> Estimate:
    """The figure within strata with its interval."""
    names, figures = (outcome.measure,), _figures(outcome, strata)
    lowest = outcome.lowest(strata)
    pairs = {} if lowest is None else {outcome.measure: lowest}
    return with_intervals(names, figures, outcome.bootstrap_strata, rounds=rounds, seed=seed, pairs=pairs)[
        outcome.measure
    ]


def _alone(
    outcome: Outcome, columns: Sequence[Strata], known: Bools, folds: Codes, rounds: int, seed: int
) -> tuple[TaskColumnsAlone | None, str]:
    """Fit the regressions to the patients known in every column. None, and why, where they cannot be."""
    if not outcome.enough():
        return None, f"those with a value in every column are {outcome.too_few}"
    outcome = outcome.standardised()
    x = np.column_stack([column.design(known) for column in columns])
    by_columns, by_both = (_out_of_fold(outcome, x, folds, with_score=both) for both in (False, True))
    fewer, more = (outcome.fit(x, with_score=both) for both in (False, True))
    if by_columns is None or by_both is None or fewer is None or more is None:
        return None, "the patients outside of one of the folds cannot be fitted: a class, or the event, is missing"
    one_stratum = np.zeros(outcome.size, np.intp)
    statistic, p_value = outcome.gain_test(fewer, more)
    follows = outcome.follows(x)
    both, alone = outcome.scored(by_both), outcome.scored(by_columns)
    return TaskColumnsAlone(
        n_patients=outcome.size,
        n_counted=outcome.counted(),
        n_columns=outcome.coefficients(x.shape[1]),
        n_rare=sum(column.rare(known) for column in columns),
        score=_figure(outcome, one_stratum, rounds, seed),
        columns=_figure(alone, one_stratum, rounds, seed),
        both=_figure(both, one_stratum, rounds, seed),
        gain=paired_difference(
            _figures(both, one_stratum),
            _figures(alone, one_stratum),
            outcome.measure,
            outcome.bootstrap_strata,
            rounds=rounds,
            seed=seed,
        ),
        likelihood_ratio=0.0 if follows else statistic,
        p_value=None if follows else p_value,
        effect=_effect(more, ratio=outcome.ratio),
        rises=bool(more.coefficients[-1] > 0),
    ), ""


def _out_of_fold(outcome: Outcome, x: Floats, folds: Codes, *, with_score: bool) -> Floats | None:
    """Predict each fold's patients by a fit to those of the other folds; None if one cannot be fitted."""
    found: Floats | None = None
    for fold in np.unique(folds):
        here, others = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        fitted = outcome.take(others).fit(x[others], with_score=with_score) if len(others) else None
        if fitted is None:
            return None
        own = outcome.take(here).predict(fitted, x[here], with_score=with_score)
        found = np.zeros((outcome.size, *own.shape[1:])) if found is None else found
        found[here] = own
    return found


def _effect(fitted: Fitted, *, ratio: bool) -> Estimate:
    """The coefficient of the score with its interval, or its exponential."""
    if not np.isfinite(fitted.errors[-1]):
        return Estimate(value=None)
    at, by = float(fitted.coefficients[-1]), Z95 * float(fitted.errors[-1])
    limits = np.array([at, at - by, at + by])
    value, low, high = (np.exp(limits) if ratio else limits).tolist()
    return Estimate(value=value, low=low, high=high)
