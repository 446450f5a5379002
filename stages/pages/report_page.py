"""The training report and the prediction report as HTML pages.

A page is one file without scripts that loads nothing from elsewhere. The training page contains all it shows, so that
it can be mailed. The prediction page links heatmaps by their relative paths, because a cohort of them would make a file
of gigabytes: keep it in its folder. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from markupsafe import Markup

from ...data.errors import UsageError
from ...data.molecular.signature_target import Signature
from ...data.wording import some
from ...models.audit.confounding import Audit
from ...models.evaluation.decision_curve import decision_curve
from ...models.evaluation.metrics import Estimate, Metrics, calibration_bins, pr_points, roc_points
from ...models.tasks.prediction import PatientPrediction, Prevalence
from .asked_question import Question
from .audit_words import AuditSection
from .charts import (
    Floats,
    calibration_chart,
    decision_chart,
    learning_chart,
    place_chart,
    pr_chart,
    probability_chart,
    roc_chart,
    slot_chart,
)
from .doubt_words import set_words
from .numbers import TEMPLATES, figure, mean_and_deviation
from .paper_parts import NO_PARTS, PaperParts

Facts = tuple[tuple[str, str], ...]
"""Names and values, in the order in which they are shown."""

PAGE: Final = "page.html"
"""The layout of a page by itself."""
FEW_PATIENTS: Final = 30
"""With fewer patients than this in one class, the page warns that intervals are unreliable."""
WIDE_INTERVAL: Final = 0.2
"""With an AUC interval wider than this, the page shows a caution."""
CLAIM_NOTHING: Final = "Caution: claim nothing from this run yet"
"""Heading of the cautions of a training."""
PERFORMANCE_PARTS: Final = ("roc", "pr", "distribution", "calibration", "decision")
"""Charts of performance that a page can have; each task lists its own."""
NOT_BY_BOOTSTRAP: Final = (
    "bootstrap samples of the same patients would all give the same AUC. The interval is therefore the one of Clopper "
    "and Pearson for as many pairs of patients, with nobody in two of them, as the smaller class has patients."
)
"""Explanation for an AUC of 1 or 0."""
NOT_BY_BOOTSTRAP_OF_PAIRS: Final = (
    "bootstrap samples of the same patients would all give the same. The interval is therefore the one of Clopper and "
    "Pearson for as many pairs of patients as can be compared with nobody in two of them."
)
"""Explanation for a concordance, C-index or AUC of several classes of 1 or 0."""
SAME_IN_ALL_ROUNDS: Final = (
    "Bootstrap samples of the same patients would all give the same figure, so there is no interval: look whether the "
    "model says the same of all patients."
)
"""Explanation for a figure between 0 and 1 without an interval."""


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """How many patients of the cohort table were used and dropped; the numbers must add up to ``in_table``."""

    in_table: int
    used: int
    dropped: tuple[tuple[str, int], ...]
    """Reason and number of patients; each patient counts under one reason."""

    def __post_init__(self) -> None:
        n_dropped = sum(n for _, n in self.dropped)
        if self.used + n_dropped != self.in_table:
            counts = f"{self.used} patients used and {n_dropped} dropped"
            raise UsageError(f"{counts} do not make {self.in_table} in the table")


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch: training losses by name (averaged over its bags), and the validation AUC."""

    epoch: int
    """Counted from 1, as on the console."""
    losses: Mapping[str, float]
    validation_auc: float | None
    """None if all validation patients are of one class."""
    validation_rank: float | None = None
    """Rank correlation with the soft targets; None without these."""
    slot_entropy: tuple[float, ...] = ()
    """Entropy of the use of each class's slots by training tiles, in nats; empty for methods without a memory."""


@dataclass(frozen=True, kw_only=True)
class FoldSummary:
    """One fold: numbers of patients, the course of training, and the AUC on its test patients."""

    fold: int
    n_train: int
    n_validation: int
    n_test: int
    validation_auc: float | None
    test_auc: float | None
    threshold: float
    best_epoch: int
    """The epoch that was kept, counted as in ``history``."""
    history: tuple[EpochRow, ...]


@dataclass(frozen=True, kw_only=True)
class SlotUsage:
    """Use of the memory slots of one class in one fold: for each slot, the share of training tiles nearest to it."""

    fold: int
    positive: bool
    shares: tuple[float, ...]

    @property
    def effective(self) -> float:
        """The effective number of slots: the exponential of the shares' entropy (Hill, 1973)."""
        return exp(-sum(share * log(share) for share in self.shares if share > 0))


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """All that the training page shows."""

    run: str
    question: Question
    accounting: Accounting
    metrics: Metrics
    prevalence: float
    """The one that probabilities and thresholds are at."""
    folds: tuple[FoldSummary, ...]
    oof: tuple[PatientPrediction, ...]
    """Each patient as seen by the one fold that was not trained on them."""
    slots: tuple[SlotUsage, ...]
    """Empty for methods without a memory."""
    facts: Facts
    settings: Facts
    versions: Facts
    predict_command: str
    page_parts: tuple[str, ...] = PERFORMANCE_PARTS
    """The task's charts of performance."""
    audit: Audit | None = None
    gallery: str = ""
    """The page of the memory's slots, relative to this one; empty if there is none."""
    paper: PaperParts = NO_PARTS

    def __post_init__(self) -> None:
        if self.metrics.n_patients != len(self.oof):
            raise UsageError(
                f"metrics of {self.metrics.n_patients} patients and {len(self.oof)} out-of-fold rows differ"
            )


@dataclass(frozen=True, kw_only=True)
class SlidePrediction:
    """One slide. Pictures are paths relative to the page."""

    slide: str
    n_tiles: int | None
    heatmap: str | None
    top_tiles: str | None
    geojson: str | None
    prediction: PatientPrediction
    """Its patient's, from this slide alone."""
    evidence: str | None = None
    """Heatmap of what tiles speak for and against."""
    scores: str | None = None
    """Image of the scores."""
    concentration: str = ""
    """How unevenly attention is spread over its tiles, in words."""


@dataclass(frozen=True, kw_only=True)
class FailedSlide:
    """A slide without a prediction: what is wrong, and the way out."""

    slide: str
    reason: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class StaleSlide:
    """A slide whose prediction does not count any more, and why."""

    slide: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PredictionReport:
    """All that the prediction page shows."""

    name: str
    model: str
    backbone: str
    question: Question
    n_folds: int
    prevalence: Prevalence | None
    """The one that probabilities and thresholds are at; None for a task without classes."""
    patients: tuple[PatientPrediction, ...]
    slides: tuple[SlidePrediction, ...]
    failed: tuple[FailedSlide, ...]
    stale: tuple[StaleSlide, ...] = ()
    facts: Facts
    alpha: float | None = None
    """Share of patients whose label set may miss their class; None if no sets are known."""


def training_page(report: TrainingReport, layout: str = PAGE) -> str:
    """The training report as HTML: one file that needs no other.

    :param layout: the template that it is laid out by: a page, or the part of one.
    """
    labels = [bool(patient.label) for patient in report.oof]
    probabilities = [patient.probability for patient in report.oof]
    of_fold = {fold.fold: [patient for patient in report.oof if patient.fold == fold.fold] for fold in report.folds}
    curves = [roc_points([bool(p.label) for p in part], [p.probability for p in part]) for part in of_fold.values()]
    losses = tuple(dict.fromkeys(name for fold in report.folds for row in fold.history for name in row.losses))
    return TEMPLATES.get_template("training.html").render(
        layout=layout,
        report=report,
        metrics=report.metrics,
        question=report.question,
        heading=CLAIM_NOTHING,
        cautions=cautions(report.metrics),
        charts=performance_charts(labels, probabilities, curves, report.page_parts),
        audit=AuditSection(report.audit) if report.audit else None,
        losses=losses,
        learning=[(fold, learning_charts(fold, losses)) for fold in report.folds],
        slots=[(use, slot_chart(use.shares, "positive" if use.positive else "negative")) for use in report.slots],
        test_aucs=mean_and_deviation([fold.test_auc for fold in report.folds]),
        validation_aucs=mean_and_deviation([fold.validation_auc for fold in report.folds]),
        oof=sorted(report.oof, key=lambda patient: (-patient.probability, patient.patient_id)),
    )


def prediction_page(
    report: PredictionReport,
    layout: str = PAGE,
    parts: Sequence[tuple[str, Markup]] = (),
    answers: Mapping[str, str] | None = None,
) -> str:
    """The prediction report as HTML, for the folder that its picture paths are relative to.

    :param layout: the template that it is laid out by: a page, or the part of one.
    :param parts: of several targets: the name of each, and its own report as a part of this page.
    :param answers: of several targets: slide → what the model says of it, in short.
    :raises UsageError: a picture's path is not relative to the page.
    """
    return TEMPLATES.get_template("prediction.html").render(
        layout=layout,
        report=report,
        question=report.question,
        place=place_chart,
        link=_link,
        possible=lambda prediction: set_words(report.question, prediction.label_set),
        parts=parts,
        answers=answers or {},
    )


def performance_charts(
    labels: Sequence[bool],
    probabilities: Sequence[float],
    folds: Sequence[Floats],
    parts: Sequence[str] = PERFORMANCE_PARTS,
) -> dict[str, Markup]:
    """Charts of discrimination and calibration.

    :param folds: each fold's ROC curve, drawn behind that of all patients.
    :param parts: the charts that the task has.
    """
    charts = {
        "roc": lambda: roc_chart(roc_points(labels, probabilities), folds),
        "pr": lambda: pr_chart(pr_points(labels, probabilities), sum(labels) / max(1, len(labels))),
        "distribution": lambda: probability_chart(labels, probabilities),
        "calibration": lambda: calibration_chart(calibration_bins(labels, probabilities)),
        "decision": lambda: decision_chart(decision_curve(labels, probabilities)),
    }
    return {part: charts[part]() for part in parts}


def cautions(metrics: Metrics) -> tuple[str, ...]:
    """Reasons not to rely on the AUC more than its patients allow, the most serious first."""
    auc, fewest = metrics.auc, min(metrics.n_positive, metrics.n_negative)
    if auc.value is None:
        return ("All patients have the same label, so the AUC is undefined.",)
    sentences = []
    if (auc.low is None or auc.high is None) and fewest < 2:
        sentences.append("One class has only one patient, so there is no interval.")
    elif auc.low is None or auc.high is None:
        sentences.append(SAME_IN_ALL_ROUNDS)
    elif auc.low <= 0.5 <= auc.high:
        sentences.append(
            f"The interval includes 0.5 ({figure(auc.low)} to {figure(auc.high)}): "
            "these patients do not show that the model is better than chance."
        )
    elif auc.high < 0.5:
        sentences.append("The whole interval lies below 0.5: first look for swapped labels or leakage.")
    if is_without_error(auc):
        sentences.append(f"All patients are ranked correctly, or all wrongly: {NOT_BY_BOOTSTRAP}")
    if auc.low is not None and auc.high is not None and auc.high - auc.low > WIDE_INTERVAL:
        sentences.append(
            f"The interval is {figure(auc.high - auc.low)} wide: another cohort may give a very different AUC."
        )
    if fewest < FEW_PATIENTS:
        few = f"Only {fewest} patient{'s' if fewest != 1 else ''} in the smaller class"
        sentences.append(f"{few}: with fewer than {FEW_PATIENTS}, even the interval is a rough guide.")
    return tuple(sentences)


def facts_of_target(signature: Signature | None) -> Facts:
    """Rows on how a signature's target is made; none if there is no signature."""
    if signature is None:
        return ()
    rows = [("target", f"{signature.name}: {signature.words}"), ("target's RNA", signature.unit)]
    if signature.absent:
        rows.append(("genes not in the matrix", some(signature.absent, 12)))
    return tuple(rows)


def is_without_error(auc: Estimate) -> bool:
    """Whether the classes do not overlap, so that every bootstrap round would give the same value."""
    return auc.value in (0, 1) and auc.low is not None


def learning_charts(fold: FoldSummary, losses: tuple[str, ...], measure: str = "AUC") -> Markup:
    """Charts of losses, the validation's measure and, if known, rank correlation and slot entropy, by epoch."""

    def chart(
        what: str, *series: Sequence[tuple[float, float | None]], share: bool = False, styles: Sequence[str] = ()
    ) -> Markup:
        return learning_chart(f"{what}, fold {fold.fold}", series, what, fold.best_epoch, share=share, styles=styles)

    charts = [
        chart("Training loss", *([(row.epoch, row.losses.get(name)) for row in fold.history] for name in losses)),
    ]
    if measure == "AUC" or any(row.validation_auc is not None for row in fold.history):
        what = f"Validation {measure.partition(' (')[0]}"
        charts.append(chart(what, [(row.epoch, row.validation_auc) for row in fold.history], share=True))
    if any(row.validation_rank is not None for row in fold.history):
        charts.append(chart("Rank correlation", [(row.epoch, row.validation_rank) for row in fold.history]))
    if any(row.slot_entropy for row in fold.history):
        n = max(len(row.slot_entropy) for row in fold.history)
        classes = ([(row.epoch, dict(enumerate(row.slot_entropy)).get(i)) for row in fold.history] for i in range(n))
        charts.append(chart("Slot entropy (nats)", *classes, styles=("negative", "positive") if n == 2 else ()))
    return Markup("\n").join(charts)


def _link(path: str) -> str:
    """A path relative to the page as a URL, with special characters quoted."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not path:
        raise UsageError(f"{path!r} does not lie beside the page", hint="give the path relative to the page's folder")
    return "./" + quote(str(pure))
