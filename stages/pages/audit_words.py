"""The audit of a score in plain words, for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...data.wording import in_words
from ...models.audit.confounding import PATIENTS_A_COLUMN, Audit, ColumnAudit, ColumnsAlone
from ...models.audit.task_audit import TaskAudit, TaskColumn, TaskColumnsAlone
from ...models.audit.within_strata import FEWEST
from .numbers import PAIRS_WIDER, figure, interval, p_value, signed

MOST, PART = 0.5, 0.8
"""Of what a figure has above chance, the share left within strata below which most, or a part, goes along with them."""
_SURE: Final = 0.05
COUNTED: Final = {"binary": "positive", "survival": "with the event"}
"""Task → whom the tables count beside all patients."""
_REGRESSION: Final = {
    "binary": "logistic",
    "multiclass": "logits of the classes, to which the slide adds its log-probability of each class",
    "ordinal": "adjacent-category logits, to which the slide adds its log-probability of each class",
    "regression": "least squares",
    "survival": "Cox's model, ties by Efron",
}
_PAIRS: Final = {
    "binary": "the share of the pairs of a positive and a negative patient of one stratum in which the positive one "
    "has the higher score",
    "multiclass": "for each class, the share of the pairs of a patient of it and of another one in the same stratum in "
    "which the first has the higher probability of it; the mean over the classes",
    "ordinal": "the share of the pairs of patients of one stratum and of different classes in which the one of the "
    "higher class has the higher expected class",
    "regression": "the mean of Spearman's ρ in each stratum, weighted by its patients less one",
    "survival": "the share of the comparable pairs of one stratum in which the patient with the earlier event has the "
    "higher risk",
}


@dataclass(frozen=True)
class AuditSection:
    """An audit as a page shows it."""

    audit: Audit | TaskAudit

    @property
    def counted(self) -> str:
        """Whom the tables count beside all patients; empty if nobody."""
        return COUNTED.get(self.audit.task, "")

    @property
    def too_few(self) -> str:
        """When a subgroup has no figure, as the beginning of a sentence."""
        return self.audit.too_few[:1].upper() + self.audit.too_few[1:]

    @property
    def names(self) -> str:
        """The columns, such as ``grade, ER and site``."""
        return in_words([column.column for column in self.audit.columns], len(self.audit.columns))

    @property
    def verdict(self) -> tuple[str, ...]:
        """What the audit found; the first sentences are on each column, the last on all of them."""
        if self.audit.score.value is None and isinstance(self.audit, Audit):
            few = f"{self.audit.n_positive} positive and {self.audit.n_patients - self.audit.n_positive} negative"
            return (f"{few} patients are too few for an audit: {FEWEST} of each class are needed.",)
        if self.audit.score.value is None:
            return (f"{self.too_few}: too few for an audit.",)
        sentences = [within_in_words(column, self.audit) for column in self.audit.columns]
        alone = self.audit.alone
        if alone is None:
            return (*sentences, f"There is no regression on {self.names}: {self.audit.why_none}.")
        return (*sentences, *alone_in_words(alone, self.audit, self.names, one=len(self.audit.columns) == 1))

    @property
    def cautions(self) -> tuple[str, ...]:
        """What limits the audit."""
        audit, alone, notes = self.audit, self.audit.alone, []
        lost = audit.n_patients - audit.together.n_patients
        if lost:
            notes.append(
                f"Patients without a value in one of the columns, or with several: {lost} of {audit.n_patients}. They "
                "have figures of their own, and are in no pair within strata and in no regression."
            )
        if numbers := [column.column for column in audit.columns if column.kind == "number"]:
            notes.append(
                f"Cut into thirds, as numbers of many values: {', '.join(numbers)}. Patients of one third still "
                "differ; the regression takes the numbers as they are."
            )
        if alone and alone.n_rare:
            notes.append(
                f"Categories of fewer than 10 patients: {alone.n_rare}. In the regression those of a column count as "
                "one, so that it cannot hold each against the slide; pairs and permutation within strata do."
            )
        if alone and audit.few_for_regression:
            notes.append(
                f"The regression has {alone.n_columns + 1} columns for {_fewest(alone, self.audit.task)}; with "
                f"fewer than {PATIENTS_A_COLUMN} for each, its test is too often significant. Read the permutation."
            )
        return tuple(notes)

    @property
    def how(self) -> str:
        """How the intervals and tests were made."""
        audit = self.audit
        within = {"regression": "", "survival": ", drawn within those with and without event"}
        wider = "" if audit.task == "regression" else f"; each {PAIRS_WIDER}"
        return (
            f"Intervals of {audit.measure}: {audit.rounds:,} bootstrap rounds over patients"
            f"{within.get(audit.task, ', drawn within each class')}, seed {audit.seed}{wider}. "
            f"p, permutation: scores permuted {audit.permutations:,} times among patients of the same stratum, "
            f"two-sided. All strata of a column: {_PAIRS[audit.task]}."
        )

    @property
    def regression(self) -> str:
        """Of what kind the regressions are, and how both tests are read."""
        interval_of = "DeLong's" if self.audit.task == "binary" else "The bootstrap's"
        test = "F test" if self.audit.task == "regression" else "likelihood-ratio test"
        return (
            f"Regression: {_REGRESSION[self.audit.task]}, without a penalty; its {self.audit.measure} is that of each "
            f"fold's patients by a fit to the others. The {test} says whether the slide adds anything: it is fitted to "
            "all patients, which is fair because no patient's label entered their own score. "
            f"{interval_of} interval says how much."
        )


_WHO_COUNTS: Final = {
    "multiclass": " of the smallest class",
    "ordinal": " of the second largest class",
    "survival": " with the event",
}


def _fewest(alone: ColumnsAlone | TaskColumnsAlone, task: str) -> str:
    """The patients that a regression can rely on, in words."""
    if isinstance(alone, ColumnsAlone):
        return f"{min(alone.n_positive, alone.n_patients - alone.n_positive)} patients of the smaller class"
    return f"{alone.n_patients if alone.n_counted is None else alone.n_counted} patients{_WHO_COUNTS.get(task, '')}"


def within_in_words(column: ColumnAudit | TaskColumn, audit: Audit | TaskAudit) -> str:
    """What is left of the figure among patients who are alike in a column, and what follows."""
    name, pooled = column.column, column.pooled
    plain, within, chance = pooled.plain, pooled.within, audit.chance
    if column.decides and isinstance(column, ColumnAudit):
        return f"Each value of {name} has patients of one class only: it gives the label by itself."
    if column.decides:
        return f"No two patients alike in {name} can be compared."
    if within.value is None or plain.value is None:
        if isinstance(column, ColumnAudit):
            return f"Too few patients of both classes are alike in {name}: at least {FEWEST} of each are needed."
        return f"Too few patients are alike in {name} for a figure: {audit.too_few}."
    each = f"each third of {name}" if column.kind == "number" else f"each value of {name}"
    if within.low is None or within.high is None or plain.low is None:
        return (
            f"Within {each}, the slide's {audit.measure} is {figure(within.value)}, against {figure(plain.value)} over "
            "the same patients together; without an interval of both, no more can be said."
        )
    found = (
        f"Within {each}, the slide's {audit.measure} is {figure(within.value)} ({interval(within)}), against "
        f"{figure(plain.value)} over the same patients together"
    )
    if plain.low <= chance:
        return f"{found}: that is no better than chance, and leaves nothing to explain."
    if within.high < chance:
        return f"{found}: among patients alike in {name}, it puts them in the wrong order."
    left = (within.value - chance) / (plain.value - chance)
    if within.low <= chance:
        if left < MOST and within.high < plain.value:
            return f"{found}: most of what it reads goes along with {name}, and more than that is not shown."
        few = "it is not shown that it reads more, and patients are too few to say how much goes along with"
        return f"{found}: {few} {name}."
    if left < MOST:
        return f"{found}: most of what it reads goes along with {name}, but not all."
    if left < PART:
        return f"{found}: a part of what it reads goes along with {name}."
    return f"{found}: little or nothing of what it reads goes along with {name}."


def alone_in_words(
    alone: ColumnsAlone | TaskColumnsAlone, audit: Audit | TaskAudit, names: str, *, one: bool
) -> tuple[str, ...]:
    """How far the columns reach without a slide, and whether the slide adds to them.

    :param one: whether there is one column only.
    """
    them = "it" if one else "them"
    first = (
        f"Without any slide, {names} {'reaches' if one else 'reach'} {_a(audit.measure)} of "
        f"{figure(alone.columns.value)} "
        f"({interval(alone.columns)}); the slide alone has {figure(alone.score.value)} over the same "
        f"{alone.n_patients:,} patients."
    )
    if alone.p_value is None:
        return first, f"The slide's score follows from {them}, and can add nothing."
    test = f"{'F' if audit.task == 'regression' else 'likelihood-ratio'} test, p {_equals(alone.p_value)}"
    if alone.p_value >= _SURE:
        return first, f"It is not shown that the slide adds anything to {them} ({test})."
    if not alone.rises:
        less = "fewer positive patients" if audit.task == "binary" else "a lower label"
        less = "a later event" if audit.task == "survival" else less
        return first, f"Among patients alike in {them}, a higher score goes with {less} ({test})."
    gain = alone.gain
    by = "" if gain is None or gain.low is None else f" ({signed(gain.low)} to {signed(gain.high)})"
    more = "" if gain is None else f": together they have {figure(alone.both.value)}, {signed(gain.difference)}{by}"
    return first, f"The slide adds to {them} ({test}){more}."


def _a(measure: str) -> str:
    """The measure with its article."""
    return f"{'an' if measure[0] in 'AEIOU' else 'a'} {measure}"


def _equals(p: float | None) -> str:
    return p_value(p) if p is not None and p < 0.001 else f"= {p_value(p)}"
