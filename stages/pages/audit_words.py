"""The audit of a score in plain words, for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...data.wording import in_words
from ...models.evaluation.confounding import PATIENTS_A_COLUMN, Audit, ColumnAudit, ColumnsAlone
from ...models.evaluation.within_strata import FEWEST
from .numbers import figure, interval, p_value, signed

MOST, PART = 0.5, 0.8
"""Of what an AUC has above 0.5, the share left within strata below which most, or a part, goes along with them."""
_SURE: Final = 0.05


@dataclass(frozen=True)
class AuditSection:
    """An audit as a page shows it."""

    audit: Audit

    @property
    def names(self) -> str:
        """The columns, such as ``grade, ER and site``."""
        return in_words([column.column for column in self.audit.columns], len(self.audit.columns))

    @property
    def verdict(self) -> tuple[str, ...]:
        """What the audit found; the first sentences are on each column, the last on all of them."""
        if self.audit.score.value is None:
            few = f"{self.audit.n_positive} positive and {self.audit.n_patients - self.audit.n_positive} negative"
            return (f"{few} patients are too few for an audit: {FEWEST} of each class are needed.",)
        sentences = [within_in_words(column) for column in self.audit.columns]
        alone = self.audit.alone
        if alone is None:
            return (*sentences, f"There is no regression on {self.names}: {self.audit.why_none}.")
        return (*sentences, *alone_in_words(alone, self.names, one=len(self.audit.columns) == 1))

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
            fewest = min(alone.n_positive, alone.n_patients - alone.n_positive)
            notes.append(
                f"The regression has {alone.n_columns + 1} columns for {fewest} patients of the smaller class; with "
                f"fewer than {PATIENTS_A_COLUMN} for each, its test is too often significant. Read the permutation."
            )
        return tuple(notes)

    @property
    def how(self) -> str:
        """How the intervals and tests were made."""
        audit = self.audit
        return (
            f"Intervals of AUC: {audit.rounds:,} bootstrap rounds over patients, drawn within each class, seed "
            f"{audit.seed}. p, permutation: scores permuted {audit.permutations:,} times among patients of the same "
            "stratum, two-sided. All strata of a column: the share of the pairs of a positive and a negative patient "
            "of one stratum in which the positive one has the higher score."
        )


def within_in_words(column: ColumnAudit) -> str:
    """What is left of the AUC among patients who are alike in a column, and what follows."""
    name, pooled = column.column, column.pooled
    plain, within = pooled.plain, pooled.within
    if column.decides:
        return f"Each value of {name} has patients of one class only: it gives the label by itself."
    if within.value is None or within.low is None or within.high is None or plain.value is None or plain.low is None:
        return f"Too few patients of both classes are alike in {name}: at least {FEWEST} of each are needed."
    each = f"each third of {name}" if column.kind == "number" else f"each value of {name}"
    found = (
        f"Within {each}, the slide's AUC is {figure(within.value)} ({interval(within)}), against {figure(plain.value)} "
        "over the same patients together"
    )
    if plain.low <= 0.5:
        return f"{found}: that is no better than chance, and leaves nothing to explain."
    if within.high < 0.5:
        return f"{found}: among patients alike in {name}, it puts them in the wrong order."
    left = (within.value - 0.5) / (plain.value - 0.5)
    if within.low <= 0.5:
        if left < MOST and within.high < plain.value:
            return f"{found}: most of what it reads goes along with {name}, and more than that is not shown."
        few = "it is not shown that it reads more, and patients are too few to say how much goes along with"
        return f"{found}: {few} {name}."
    if left < MOST:
        return f"{found}: most of what it reads goes along with {name}, but not all."
    if left < PART:
        return f"{found}: a part of what it reads goes along with {name}."
    return f"{found}: little or nothing of what it reads goes along with {name}."


def alone_in_words(alone: ColumnsAlone, names: str, *, one: bool) -> tuple[str, ...]:
    """How far the columns reach without a slide, and whether the slide adds to them.

    :param one: whether there is one column only.
    """
    them = "it" if one else "them"
    first = (
        f"Without any slide, {names} {'reaches' if one else 'reach'} an AUC of {figure(alone.columns.value)} "
        f"({interval(alone.columns)}); the slide alone has {figure(alone.score.value)} over the same "
        f"{alone.n_patients:,} patients."
    )
    if alone.p_value is None:
        return first, f"The slide's score follows from {them}, and can add nothing."
    test = f"likelihood-ratio test, p {_equals(alone.p_value)}"
    if alone.p_value >= _SURE:
        return first, f"It is not shown that the slide adds anything to {them} ({test})."
    if not alone.rises:
        return first, f"Among patients alike in {them}, a higher score goes with fewer positive patients ({test})."
    gain = alone.gain
    by = "" if gain is None or gain.low is None else f" ({signed(gain.low)} to {signed(gain.high)})"
    more = "" if gain is None else f": together they have {figure(alone.both.value)}, {signed(gain.difference)}{by}"
    return first, f"The slide adds to {them} ({test}){more}."


def _equals(p: float | None) -> str:
    return p_value(p) if p is not None and p < 0.001 else f"= {p_value(p)}"
