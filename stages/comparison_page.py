"""The page of a comparison: methods on the same patients and folds, beside each other and against one of them.

One file without scripts that fetches nothing, as the page of a training run. Methods stay in the order in which they
are given: sorting them by what they reached would make the luck of the day look like a ranking. The same comparison
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, median, stdev
from typing import Final

from markupsafe import Markup

from ..data.errors import UsageError
from ..data.wording import some
from ..models.metrics import Estimate, Metrics
from ..models.paired_tests import PairedDifference, holm
from .charts import Plot, nice_ticks
from .report_page import FEW_PATIENTS, TEMPLATES, Facts, Question, cautions

ALPHA: Final = 0.05
"""A difference with a smaller p-value, after correction, counts as one."""
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

_SHORT: Final = 24  # letters


@dataclass(frozen=True, kw_only=True)
class ComparedMethod:
    """What one method reached, out of fold."""

    name: str
    """As it is asked for."""
    title: str
    """As people call it, without a word of soft targets."""
    soft_targets: bool
    metrics: Metrics
    """Pooled over the patients of all folds."""
    fold_aucs: tuple[float | None, ...]
    roc: tuple[tuple[float, float], ...]
    """Corners of the pooled ROC curve: 1 − specificity, sensitivity. Empty where there is none."""
    against_reference: PairedDifference | None
    """AUC minus that of the reference, on the patients of both. None for the reference, and where it is undefined."""
    note: str = ""
    """What there is to know about it, in a line."""
    seconds: float | None = None
    """To train and judge all folds."""

    @property
    def label(self) -> str:
        """The title, and whether it learnt from soft targets."""
        return f"{self.title} + soft targets" if self.soft_targets else self.title

    @property
    def fold_mean(self) -> float | None:
        """Mean AUC of the folds that have one."""
        known = self._known_aucs()
        return fmean(known) if known else None

    @property
    def fold_sd(self) -> float | None:
        """Standard deviation of the folds' AUC; None of fewer than two."""
        known = self._known_aucs()
        return stdev(known) if len(known) > 1 else None

    def _known_aucs(self) -> list[float]:
        return [auc for auc in self.fold_aucs if auc is not None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that the page shows."""

    name: str
    question: Question
    methods: tuple[ComparedMethod, ...]
    reference: str
    """Name of the method that the others are compared with."""
    facts: Facts
    versions: Facts = ()

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"compared twice: {', '.join(twice)}", hint="give each method its own name")
        if self.reference not in names:
            raise UsageError(f"the reference {self.reference} is not among {', '.join(names) or 'no methods'}")
        if self.of_reference.against_reference is not None:
            raise UsageError(f"{self.reference} is compared with itself")

    @property
    def of_reference(self) -> ComparedMethod:
        """The method that the others are compared with."""
        return next(method for method in self.methods if method.name == self.reference)

    @property
    def reference_in_short(self) -> str:
        """What it is called where there is little room."""
        label = self.of_reference.label
        return label if len(label) <= _SHORT else "the reference"

    @property
    def others(self) -> tuple[ComparedMethod, ...]:
        """All but the reference."""
        return tuple(method for method in self.methods if method.name != self.reference)

    def corrected(self) -> dict[str, float | None]:
        """Name of each other method → its p-value after Holm's correction for all of them; None where undefined."""
        p_values = [m.against_reference.p_value if m.against_reference else None for m in self.others]
        return dict(zip((method.name for method in self.others), holm(p_values), strict=True))

    def told_apart(self, direction: int) -> tuple[ComparedMethod, ...]:
        """Methods that are better (1) or worse (−1) than the reference after correction."""
        corrected = self.corrected()
        return tuple(
            method
            for method in self.others
            if method.against_reference is not None
            and (p := corrected[method.name]) is not None
            and p < ALPHA
            and method.against_reference.difference * direction > 0
        )


def comparison_page(comparison: Comparison) -> str:
    """The comparison as HTML."""
    reference, methods = comparison.of_reference, comparison.methods
    return TEMPLATES.get_template("comparison.html").render(
        comparison=comparison,
        reference=reference,
        cautions=comparison_cautions(comparison),
        corrected=comparison.corrected(),
        aucs=auc_scale(comparison),
        differences=difference_scale(comparison),
        rocs=[(method, _roc(method, reference)) for method in methods if method.roc],
        folds=max(len(method.fold_aucs) for method in methods),
        signed=_signed,
        p_value=_p_value,
        duration=_duration,
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
        row |= {"auc_fold_mean": method.fold_mean, "auc_fold_sd": method.fold_sd}
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


def comparison_cautions(comparison: Comparison) -> tuple[str, ...]:
    """What keeps a reader from believing these differences more than the patients allow, worst first."""
    reference, others = comparison.of_reference, comparison.others
    metrics = reference.metrics
    if metrics.auc.value is None:
        return cautions(metrics)
    said = []
    if chance := [m.label for m in comparison.methods if _holds_a_half(m.metrics.auc)]:
        one = len(chance) == 1
        said.append(
            f"The AUC {'interval' if one else 'intervals'} of {some(chance)} {'holds' if one else 'hold'} 0.5: "
            f"these patients do not show that {'it does' if one else 'they do'} better than chance."
        )
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


@dataclass(frozen=True)
class Scale:
    """An axis across the rows of a table, or of a figure."""

    ticks: tuple[float, ...]

    def at(self, value: float) -> str:
        """Place of a value on it, in per cent of the width of a cell; beyond its ends, its end."""
        low, high = self.ticks[0], self.ticks[-1]
        share = min(max((value - low) / (high - low), 0), 1)
        return f"{5 + 90 * share:.2f}%"


def auc_scale(comparison: Comparison) -> Scale:
    """Holds all AUCs with their intervals, and 0.5."""
    aucs = [method.metrics.auc for method in comparison.methods]
    return _scale((limit for auc in aucs for limit in (auc.low, auc.value, auc.high)), 0.5)


def difference_scale(comparison: Comparison) -> Scale:
    """Holds all differences with their intervals, and 0."""
    differences = [d for _, d in _differences(comparison.others)]
    return _scale((limit for d in differences for limit in (d.low, d.difference, d.high)), 0)


def _scale(values: Iterable[float | None], middle: float) -> Scale:
    known = [value for value in values if value is not None and isfinite(value)]
    return Scale(tuple(nice_ticks(min(middle, *known, middle), max(middle, *known, middle + 0.1), 5)))


def _differences(methods: Iterable[ComparedMethod]) -> list[tuple[ComparedMethod, PairedDifference]]:
    return [(method, method.against_reference) for method in methods if method.against_reference is not None]


def _holds_a_half(auc: Estimate) -> bool:
    return auc.low is not None and auc.high is not None and auc.low <= 0.5 <= auc.high


def _roc(method: ComparedMethod, reference: ComparedMethod) -> Markup:
    plot = Plot(f"ROC curve, {method.label}", 230, 224, (0, 1), (0, 1))
    plot.x_axis((0, 0.5, 1), "1 − specificity")
    plot.y_axis((0, 0.5, 1), "Sensitivity")
    plot.line([(0, 0), (1, 1)], "chance")
    if method is not reference:
        plot.line(reference.roc, "fold")
    plot.line(method.roc, "pooled")
    return plot.markup()


def _signed(value: float | None, plus: str = "+") -> str:
    """A number that may be negative as text, with a true minus sign."""
    if value is None:
        return "–"
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("−" if value < 0 else plus) + text


def _p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
