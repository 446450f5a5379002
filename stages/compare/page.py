"""The page of a comparison: methods on the same patients and folds, beside each other and against one of them.

One file without scripts that fetches nothing, as the page of a training run. Methods come first, then those with a
part taken away, then the ceiling; within these they stay in the order in which they are given, for sorting them by what
they reached would make the luck of the day look like a ranking. Which of them leads, by how much, and whether chance
may have done it, the page says in its first sentence. The same comparison gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

from markupsafe import Markup

from ...data.wording import in_words
from ...models.evaluation.metrics import Estimate
from ...models.evaluation.paired_tests import PairedDifference
from ..pages.charts import Scale, roc_against
from ..pages.numbers import TEMPLATES, figure, p_value, signed
from ..pages.report_page import FEW_PATIENTS, NO_WIDTH, cautions, has_no_width
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
    "calibration_intercept",
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
    )


def comparison_table(comparison: Comparison) -> list[dict[str, str | int | float | None]]:
    """A row a method, for a CSV file: every figure with ``_low`` and ``_high``, folds, the difference and its test."""
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
            "positive": method.metrics.n_positive,
        }
        for name in FIGURES:
            estimate: Estimate = getattr(method.metrics, name)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= dict(zip(("auc_fold_mean", "auc_fold_sd"), method.of_folds, strict=True))
        row |= {f"auc_fold_{i}": dict(enumerate(method.fold_aucs)).get(i) for i in range(folds)}
        against = method.against_reference
        row |= {
            "difference": against.difference if against else None,
            "difference_low": against.low if against else None,
            "difference_high": against.high if against else None,
            "p_value": against.p_value if against else None,
            "p_value_holm": corrected.get(method.name),
            "patients_compared": against.n_patients if against else None,
            "seconds": method.seconds,
            "note": method.note,
        }
        rows.append(row)
    return rows


def verdict(comparison: Comparison) -> tuple[str, ...]:
    """Which method leads, by how much, and whether chance may have done it: sentences, the first says most."""
    reference = comparison.of_reference
    if reference.metrics.auc.value is None:
        return ("Nothing can be compared.",)
    if not comparison.others:
        return ("There is nothing to compare it with.",)
    said = []
    known = [(m.metrics.auc.value, m) for m in comparison.methods if m.reads_slides and m.metrics.auc.value is not None]
    best, leader = max(known, key=lambda pair: pair[0])
    leaders = [method for auc, method in known if auc == best]
    if len(leaders) > 1:
        said.append(f"{_named(leaders)} share the highest AUC, {figure(best)}.")
    elif leader is not reference:
        said.append(f"{leader.label} has the highest AUC, {figure(best)}. {_held_against(comparison, leader)}")
    elif runners_up := [pair for pair in known if pair[1] is not leader]:
        second = max(runners_up, key=lambda pair: pair[0])[1]
        lead = f"{leader.label} has the highest AUC, {figure(best)}, before {second.label}."
        said.append(f"{lead} {_held_against(comparison, second)}")
    if others := [method for method in comparison.others if method.reads_slides]:
        better, worse = ([m for m in comparison.told_apart(side) if m.reads_slides] for side in (1, -1))
        if better:
            said.append(f"Better than {reference.label} by more than chance: {_named(better)}.")
        if worse:
            said.append(f"Worse than {reference.label} by more than chance: {_named(worse)}.")
        rest = len(others) - len(better) - len(worse)
        if rest == len(others):
            said.append(f"No method that reads slides differs from {reference.label} by more than chance may make.")
        elif rest:
            said.append(f"{rest} of the {len(others)} others cannot be told from {reference.label}.")
    for method in comparison.others:
        if not method.reads_slides and method.metrics.auc.value is not None:
            said.append(f"{method.label}, which reads no slide, reaches {figure(method.metrics.auc.value)}.")
            said.append(_held_against(comparison, method))
    return tuple(said)


def _held_against(comparison: Comparison, method: ComparedMethod) -> str:
    """How far a method is from the reference, and whether chance may have made it so: a sentence."""
    reference, against, p = comparison.of_reference.label, method.against_reference, comparison.corrected()[method.name]
    if against is None:
        return f"It cannot be held against {reference}."
    by = f"That is {figure(abs(against.difference))} {'below' if against.difference < 0 else 'above'} {reference}"
    if against.low is None or against.high is None or p is None:
        return f"{by}; whether by chance, these patients cannot say."
    chance = "chance alone would hardly make that" if p < ALPHA else "chance alone may make that"
    said = f"p {'' if p < 0.001 else '= '}{p_value(p)}".replace(" ", "\N{NO-BREAK SPACE}")
    corrected = " after Holm" if len(comparison.others) > 1 else ""
    return f"{by} (95 % interval {signed(against.low)} to {signed(against.high)}): {chance} ({said}{corrected})."


def comparison_cautions(comparison: Comparison) -> tuple[str, ...]:
    """What keeps a reader from believing these differences more than the patients allow, worst first."""
    reference, others = comparison.of_reference, comparison.others
    metrics = reference.metrics
    if metrics.auc.value is None:
        return cautions(metrics)
    said = []
    if chance := [m for m in comparison.methods if _holds_a_half(m.metrics.auc)]:
        one = len(chance) == 1
        said.append(
            f"The AUC {'interval' if one else 'intervals'} of {_named(chance)} {'holds' if one else 'hold'} 0.5: "
            f"these patients do not show that {'it does' if one else 'they do'} better than chance."
        )
    if perfect := [m for m in comparison.methods if has_no_width(m.metrics.auc)]:
        said.append(f"{_named(perfect)} put no patient on the wrong side of another: {NO_WIDTH}")
    fewest = min(metrics.n_positive, metrics.n_negative)
    if fewest < FEW_PATIENTS:
        few = f"Only {fewest} patient{'s' if fewest != 1 else ''} in the smaller class"
        said.append(f"{few}: with fewer than {FEW_PATIENTS}, even the intervals are a rough guide.")
    halves = [(d.high - d.low) / 2 for _, d in _differences(others) if d.low is not None and d.high is not None]
    if any(halves):
        said.append(
            f"With these patients, differences in AUC of less than about {median(halves):.2f} drown in chance "
            f"(half the width of {'the interval' if len(halves) == 1 else 'a typical interval'} of a difference)."
        )
    if len(others) > 1:
        said.append(
            f"{len(others)} methods are compared with {reference.label}. Where none differs, one test in twenty still "
            f"comes out below {ALPHA}: quote p after Holm's correction, not the uncorrected one."
        )
        said.append(
            "The best of many owes part of its lead to luck on these patients: ask a cohort that had no part in the "
            "choice."
        )
    for method, difference in _differences(others):
        if not difference.n_patients == method.metrics.n_patients == metrics.n_patients:
            said.append(
                f"{method.label} judged {method.metrics.n_patients:,} patients and {reference.label} "
                f"{metrics.n_patients:,}: their difference is over the {difference.n_patients:,} of both, and only the "
                "difference compares like with like."
            )
    return tuple(said)


def auc_scale(comparison: Comparison) -> Scale:
    """Holds all AUCs with their intervals, and 0.5."""
    aucs = [method.metrics.auc for method in comparison.methods]
    return Scale.around((limit for auc in aucs for limit in (auc.low, auc.value, auc.high)), 0.5)


def difference_scale(comparison: Comparison) -> Scale:
    """Holds all differences with their intervals, and 0."""
    differences = [d for _, d in _differences(comparison.others)]
    return Scale.around((limit for d in differences for limit in (d.low, d.difference, d.high)), 0)


def _differences(methods: Iterable[ComparedMethod]) -> list[tuple[ComparedMethod, PairedDifference]]:
    return [(method, method.against_reference) for method in methods if method.against_reference is not None]


def _rocs(comparison: Comparison) -> list[tuple[ComparedMethod, Markup]]:
    """Each method with its ROC curve before that of the reference."""
    behind = {method.name: comparison.of_reference.roc for method in comparison.others}
    return [
        (method, roc_against(f"ROC curve, {method.label}", method.roc, behind.get(method.name, ())))
        for _, methods in comparison.groups
        for method in methods
        if method.roc
    ]


def _named(methods: Sequence[ComparedMethod]) -> str:
    return in_words([method.label for method in methods])


def _holds_a_half(auc: Estimate) -> bool:
    return auc.low is not None and auc.high is not None and auc.low <= 0.5 <= auc.high
