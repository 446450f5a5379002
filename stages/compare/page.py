"""The page of a comparison: methods on the same patients and folds, compared with one reference method.

The page is one file without scripts that loads nothing from elsewhere. Methods come first, then controls with a part
removed, then RNA alone; within these groups they stay in the given order, because sorting them by result would make
chance look like a ranking. The first sentence states which method leads, by how much, and whether that may be chance.
The same comparison gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from markupsafe import Markup

from ...data.wording import in_words
from ...models.evaluation.metrics import Estimate
from ...models.evaluation.paired_tests import PairedDifference
from ...models.evaluation.task_metrics import BootstrapDifference
from ...models.tasks.prediction import one_share
from ..pages.audit_words import AuditSection
from ..pages.charts import Scale, roc_against
from ..pages.numbers import TEMPLATES, figure, p_value, signed
from ..pages.report_page import FEW_PATIENTS, NOT_BY_BOOTSTRAP, cautions, is_without_error
from .results import ALPHA, ComparedMethod, Comparison

FIGURES: Final = (
    "auc",
    "auprc",
    "balanced_accuracy",
    "f1",
    "sensitivity",
    "specificity",
    "brier",
    "calibration_error",
    "calibration_slope",
    "calibration_in_the_large",
)
"""Fields of :class:`Metrics` with an interval, in the order of the table."""


def comparison_page(comparison: Comparison) -> str:
    """The comparison as HTML."""
    reference = comparison.of_reference
    return TEMPLATES.get_template("comparison.html").render(
        comparison=comparison,
        reference=reference,
        verdict=verdict(comparison),
        cautions=comparison_cautions(comparison),
        corrected=comparison.corrected(),
        aucs=auc_scale(comparison),
        differences=difference_scale(comparison),
        rocs=_rocs(comparison),
        folds=max(len(method.fold_aucs) for method in comparison.methods),
        audits={name: AuditSection(audit) for name, audit in comparison.audits.items()},
    )


def comparison_table(comparison: Comparison) -> list[dict[str, str | int | float | None]]:
    """One row per method, for a CSV file: figures with ``_low`` and ``_high``, folds, the difference and its test."""
    corrected = comparison.corrected()
    folds = max(len(method.fold_aucs) for method in comparison.methods)
    rows: list[dict[str, str | int | float | None]] = []
    for method in comparison.methods:
        row: dict[str, str | int | float | None] = {
            "method": method.name,
            "title": method.title,
            "soft_targets": int(method.soft_targets),
            "reference": int(method.name == comparison.reference),
            "patients": method.metrics.n_patients,
            "positive": method.binary.n_positive,
            "prevalence": one_share(comparison.prevalence),
        }
        for name in FIGURES:
            estimate: Estimate = getattr(method.binary, name)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= dict(zip(("auc_fold_mean", "auc_fold_sd"), method.of_folds, strict=True))
        row |= {f"auc_fold_{i}": dict(enumerate(method.fold_aucs)).get(i) for i in range(folds)}
        row |= method.difference_columns(corrected.get(method.name))
        rows.append(row)
    return rows


def verdict(comparison: Comparison) -> tuple[str, ...]:
    """Which method leads, by how much, and whether that may be chance, as sentences; the first is the main result."""
    reference = comparison.of_reference
    if reference.main.value is None:
        return (f"No comparison is possible: the {comparison.measure} of the reference is undefined.",)
    if not comparison.others:
        return ("There is no other method to compare with.",)
    sentences = []
    known = [(m.main.value, m) for m in comparison.methods if m.reads_slides and m.main.value is not None]
    best, leader = max(known, key=lambda pair: pair[0])
    leaders = [method for auc, method in known if auc == best]
    if len(leaders) > 1:
        sentences.append(f"{_named(leaders)} share the highest {comparison.measure}, {figure(best)}.")
    elif leader is not reference:
        sentences.append(
            f"{leader.label} has the highest {comparison.measure}, {figure(best)}. "
            f"{_compared_with_reference(comparison, leader)}"
        )
    elif runners_up := [pair for pair in known if pair[1] is not leader]:
        second = max(runners_up, key=lambda pair: pair[0])[1]
        lead = f"{leader.label} has the highest {comparison.measure}, {figure(best)}, before {second.label}."
        sentences.append(f"{lead} {_compared_with_reference(comparison, second)}")
    if others := [method for method in comparison.others if method.reads_slides]:
        better, worse = ([m for m in comparison.told_apart(side) if m.reads_slides] for side in (1, -1))
        if better:
            sentences.append(f"Better than {reference.label} by more than chance: {_named(better)}.")
        if worse:
            sentences.append(f"Worse than {reference.label} by more than chance: {_named(worse)}.")
        rest = len(others) - len(better) - len(worse)
        if rest == len(others):
            sentences.append(f"No method that reads slides differs from {reference.label} by more than chance.")
        elif rest:
            sentences.append(f"{rest} of the {len(others)} others cannot be distinguished from {reference.label}.")
    for method in comparison.others:
        if not method.reads_slides and method.main.value is not None:
            sentences.append(f"{method.label}, which uses no slides, reaches {figure(method.main.value)}.")
            sentences.append(_compared_with_reference(comparison, method))
    return tuple(sentences)


def _compared_with_reference(comparison: Comparison, method: ComparedMethod) -> str:
    """A sentence on how far a method is from the reference, and whether that may be chance."""
    reference, against, p = comparison.of_reference.label, method.against_reference, comparison.corrected()[method.name]
    if against is None:
        return f"It cannot be compared with {reference}."
    by = f"That is {figure(abs(against.difference))} {'below' if against.difference < 0 else 'above'} {reference}"
    if against.low is None or against.high is None or p is None:
        return f"{by}; these patients cannot show whether that is chance."
    chance = "more than chance alone would explain" if p < ALPHA else "chance alone may explain this"
    p_text = f"p {'' if p < 0.001 else '= '}{p_value(p)}".replace(" ", "\N{NO-BREAK SPACE}")
    corrected = " after Holm" if len(comparison.others) > 1 else ""
    return f"{by} (95 % interval {signed(against.low)} to {signed(against.high)}): {chance} ({p_text}{corrected})."


def comparison_cautions(comparison: Comparison) -> tuple[str, ...]:
    """Reasons not to rely on these differences more than the patients allow, the most serious first."""
    reference, others = comparison.of_reference, comparison.others
    metrics = reference.binary
    if metrics.auc.value is None:
        return cautions(metrics)
    sentences = []
    if chance := [m for m in comparison.methods if _includes_a_half(m.main)]:
        one = len(chance) == 1
        sentences.append(
            f"The AUC {'interval' if one else 'intervals'} of {_named(chance)} {'includes' if one else 'include'} 0.5: "
            f"these patients do not show that {'it is' if one else 'they are'} better than chance."
        )
    if perfect := [m for m in comparison.methods if is_without_error(m.main)]:
        ranked = f"{_named(perfect)} ranked all positive patients on one side of all negative ones"
        sentences.append(f"{ranked}: {NOT_BY_BOOTSTRAP}")
    fewest = min(metrics.n_positive, metrics.n_negative)
    if fewest < FEW_PATIENTS:
        few = f"Only {fewest} patient{'s' if fewest != 1 else ''} in the smaller class"
        sentences.append(f"{few}: with fewer than {FEW_PATIENTS}, even the intervals are a rough guide.")
    halves = [(d.high - d.low) / 2 for _, d in _differences(others) if d.low is not None and d.high is not None]
    if any(halves):
        sentences.append(
            f"With these patients, differences in AUC below about {median(halves):.2f} may be chance "
            f"(half the width of {'the interval' if len(halves) == 1 else 'a typical interval'} of a difference)."
        )
    if len(others) > 1:
        sentences.append(
            f"{len(others)} methods are compared with {reference.label}. If none differs, one test in twenty gives "
            f"p below {ALPHA}: quote p after Holm's correction, not the uncorrected one."
        )
        sentences.append(
            "The best of many methods owes part of its lead to chance on these patients: confirm it on a cohort that "
            "had no part in the choice."
        )
    for method, difference in _differences(others):
        if not difference.n_patients == method.metrics.n_patients == metrics.n_patients:
            sentences.append(
                f"{method.label} was evaluated on {method.metrics.n_patients:,} patients and {reference.label} on "
                f"{metrics.n_patients:,}: their difference is over the {difference.n_patients:,} patients of both, so "
                "compare only the difference, not the AUCs."
            )
    return tuple(sentences)


def auc_scale(comparison: Comparison) -> Scale:
    """An axis that includes all AUCs (or figures of another task) with their intervals, and chance."""
    aucs = [method.main for method in comparison.methods]
    return Scale.around((limit for auc in aucs for limit in (auc.low, auc.value, auc.high)), chance_of(comparison))


def chance_of(comparison: Comparison) -> float:
    """The main figure of a model that knows nothing of the patient."""
    return comparison.of_reference.metrics.main_chance or 0.0


def difference_scale(comparison: Comparison) -> Scale:
    """An axis that includes all differences with their intervals, and 0."""
    differences = [d for _, d in _differences(comparison.others)]
    return Scale.around((limit for d in differences for limit in (d.low, d.difference, d.high)), 0)


def _differences(
    methods: Iterable[ComparedMethod],
) -> list[tuple[ComparedMethod, PairedDifference | BootstrapDifference]]:
    return [(method, method.against_reference) for method in methods if method.against_reference is not None]


def _rocs(comparison: Comparison) -> list[tuple[ComparedMethod, Markup]]:
    """Each method with its ROC curve drawn over that of the reference."""
    behind = {method.name: comparison.of_reference.roc for method in comparison.others}
    return [
        (method, roc_against(f"ROC curve, {method.label}", method.roc, behind.get(method.name, ())))
        for _, methods in comparison.groups
        for method in methods
        if method.roc
    ]


def _named(methods: Sequence[ComparedMethod]) -> str:
    return in_words([method.label for method in methods])


def _includes_a_half(auc: Estimate) -> bool:
    return auc.low is not None and auc.high is not None and auc.low <= 0.5 <= auc.high
