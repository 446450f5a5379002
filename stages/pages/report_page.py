"""The two pages that people look at: what a training run found, and what a model says about new slides.

A page is one file without scripts that fetches nothing from outside. The training page holds all it shows, so that it
can be mailed. The prediction page links heatmaps by their relative path, because a cohort of them would make a file of
gigabytes: keep it in its folder. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import PurePosixPath
from typing import Final, Self
from urllib.parse import quote

from markupsafe import Markup

from ...data.errors import UsageError
from ...models.evaluation.metrics import Estimate, Metrics, calibration_bins, roc_points
from ...models.tasks.prediction import PatientPrediction
from .charts import Floats, calibration_chart, learning_chart, place_chart, probability_chart, roc_chart, slot_chart
from .numbers import TEMPLATES, figure, mean_and_deviation

Facts = tuple[tuple[str, str], ...]
"""Names and values, in the order in which they are shown."""

FEW_PATIENTS: Final = 30
"""Fewer than this in one class, and the page says that an interval can not be relied upon."""
WIDE_INTERVAL: Final = 0.2
"""An AUC interval wider than this goes with a caution."""
PERFORMANCE_PARTS: Final = ("roc", "distribution", "calibration")
"""Charts of performance that a page can have; a task names its own."""
NO_WIDTH: Final = (
    "drawing the same patients again, as the bootstrap does, cannot widen the interval. It has no width, "
    "and does not say how sure the AUC is."
)
"""What is said of an AUC of 1, or of 0."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked: a column of the cohort table and the values that count as yes and as no."""

    label_column: str
    positive: str
    negative: str

    @classmethod
    def of(cls, label_column: str, positive: Sequence[str], negative: Sequence[str]) -> Self:
        """With all values of either side in a line."""
        return cls(label_column=label_column, positive=", ".join(positive), negative=", ".join(negative))


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """Where every patient of the cohort table went. ``used`` and ``dropped`` must add up to ``in_table``."""

    in_table: int
    used: int
    dropped: tuple[tuple[str, int], ...]
    """Reason and number of patients; a patient counts under one reason."""

    def __post_init__(self) -> None:
        gone = sum(n for _, n in self.dropped)
        if self.used + gone != self.in_table:
            raise UsageError(f"{self.used} patients used and {gone} dropped do not make {self.in_table} in the table")


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch: training losses by name (averaged over its bags), and how the validation patients were told apart."""

    epoch: int
    """Counted from 1, as on the console."""
    losses: Mapping[str, float]
    validation_auc: float | None
    """None where they are of one class."""
    validation_rank: float | None = None
    """Rank correlation with the soft targets; None without these."""
    slot_entropy: tuple[float, ...] = ()
    """How evenly training tiles share their class's slots, in nats, negative and positive; empty without a memory."""


@dataclass(frozen=True, kw_only=True)
class FoldSummary:
    """One fold: patients, what training did, and the AUC on its test patients."""

    fold: int
    n_train: int
    n_validation: int
    n_test: int
    validation_auc: float | None
    test_auc: float | None
    threshold: float
    best_epoch: int
    """The one that was kept, counted as its history is."""
    history: tuple[EpochRow, ...]


@dataclass(frozen=True, kw_only=True)
class SlotUsage:
    """Of the training tiles of one class in one fold: the share whose nearest slot is each slot of that class."""

    fold: int
    positive: bool
    shares: tuple[float, ...]

    @property
    def effective(self) -> float:
        """How many equally used slots would be as diverse: the exponential of the shares' entropy (Hill, 1973)."""
        return exp(-sum(share * log(share) for share in self.shares if share > 0))


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """All that the training page shows."""

    run: str
    question: Question
    accounting: Accounting
    metrics: Metrics
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

    def __post_init__(self) -> None:
        if self.metrics.n_patients != len(self.oof):
            raise UsageError(
                f"metrics of {self.metrics.n_patients} patients and {len(self.oof)} out-of-fold rows differ"
            )


@dataclass(frozen=True, kw_only=True)
class SlidePrediction:
    """One slide. Pictures are paths relative to the page."""

    slide: str
    n_tiles: int
    heatmap: str | None
    top_tiles: str | None
    geojson: str | None
    prediction: PatientPrediction
    """Its patient's, from this slide alone."""


@dataclass(frozen=True, kw_only=True)
class FailedSlide:
    """A slide without a prediction: what was wrong, and the way out."""

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
    patients: tuple[PatientPrediction, ...]
    slides: tuple[SlidePrediction, ...]
    failed: tuple[FailedSlide, ...]
    stale: tuple[StaleSlide, ...] = ()
    facts: Facts


def training_page(report: TrainingReport) -> str:
    """The training report as HTML: one file that needs no other."""
    labels = [bool(patient.label) for patient in report.oof]
    probabilities = [patient.probability for patient in report.oof]
    of_fold = {fold.fold: [patient for patient in report.oof if patient.fold == fold.fold] for fold in report.folds}
    curves = [roc_points([bool(p.label) for p in part], [p.probability for p in part]) for part in of_fold.values()]
    losses = tuple(dict.fromkeys(name for fold in report.folds for row in fold.history for name in row.losses))
    return TEMPLATES.get_template("training.html").render(
        report=report,
        metrics=report.metrics,
        question=report.question,
        cautions=cautions(report.metrics),
        charts=performance_charts(labels, probabilities, curves, report.page_parts),
        losses=losses,
        learning=[(fold, _learning_charts(fold, losses)) for fold in report.folds],
        slots=[(use, slot_chart(use.shares, "positive" if use.positive else "negative")) for use in report.slots],
        test_aucs=mean_and_deviation([fold.test_auc for fold in report.folds]),
        validation_aucs=mean_and_deviation([fold.validation_auc for fold in report.folds]),
        oof=sorted(report.oof, key=lambda patient: (-patient.probability, patient.patient_id)),
    )


def prediction_page(report: PredictionReport) -> str:
    """The prediction report as HTML, to lie where its relative picture paths begin.

    :raises UsageError: a picture's path is not relative to the page.
    """
    return TEMPLATES.get_template("prediction.html").render(
        report=report, question=report.question, place=place_chart, link=_link
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
        "distribution": lambda: probability_chart(labels, probabilities),
        "calibration": lambda: calibration_chart(calibration_bins(labels, probabilities)),
    }
    return {part: charts[part]() for part in parts}


def cautions(metrics: Metrics) -> tuple[str, ...]:
    """What keeps a reader from believing the AUC more than its patients allow, worst first."""
    auc, fewest = metrics.auc, min(metrics.n_positive, metrics.n_negative)
    if auc.value is None:
        return ("All patients have the same label: nothing about telling them apart can be said.",)
    said = []
    if auc.low is None or auc.high is None:
        said.append("A class of one patient gives no interval.")
    elif auc.low <= 0.5 <= auc.high:
        said.append(
            f"The interval holds 0.5 ({figure(auc.low)} to {figure(auc.high)}): "
            "these patients do not show that the model does better than chance."
        )
    elif auc.high < 0.5:
        said.append("The whole interval lies below 0.5: look for swapped labels or a leak before anything else.")
    if has_no_width(auc):
        said.append(f"No patient is on the wrong side of another: {NO_WIDTH}")
    if auc.low is not None and auc.high is not None and auc.high - auc.low > WIDE_INTERVAL:
        said.append(f"The interval is {figure(auc.high - auc.low)} wide: another cohort may well give another picture.")
    if fewest < FEW_PATIENTS:
        few = f"Only {fewest} patient{'s' if fewest != 1 else ''} in the smaller class"
        said.append(f"{few}: with fewer than {FEW_PATIENTS}, even the interval is a rough guide.")
    return tuple(said)


def has_no_width(auc: Estimate) -> bool:
    """Whether the bootstrap gave one value in every round, as it does where the classes do not overlap."""
    return auc.low is not None and auc.low == auc.high


def _learning_charts(fold: FoldSummary, losses: tuple[str, ...]) -> Markup:
    """Losses, validation AUC and, where there are any, rank correlation and slot entropy, by epoch."""

    def chart(
        what: str, *series: Sequence[tuple[float, float | None]], share: bool = False, styles: Sequence[str] = ()
    ) -> Markup:
        return learning_chart(f"{what}, fold {fold.fold}", series, what, fold.best_epoch, share=share, styles=styles)

    charts = [
        chart("Training loss", *([(row.epoch, row.losses.get(name)) for row in fold.history] for name in losses)),
        chart("Validation AUC", [(row.epoch, row.validation_auc) for row in fold.history], share=True),
    ]
    if any(row.validation_rank is not None for row in fold.history):
        charts.append(chart("Rank correlation", [(row.epoch, row.validation_rank) for row in fold.history]))
    if any(row.slot_entropy for row in fold.history):
        classes = ([(row.epoch, dict(enumerate(row.slot_entropy)).get(i)) for row in fold.history] for i in (0, 1))
        charts.append(chart("Slot entropy (nats)", *classes, styles=("negative", "positive")))
    return Markup("\n").join(charts)


def _link(path: str) -> str:
    """A path relative to the page as a URL, whatever signs it holds."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not path:
        raise UsageError(f"{path!r} does not lie beside the page", hint="give the path relative to the page's folder")
    return "./" + quote(str(pure))
