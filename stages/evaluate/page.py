"""The page of an evaluation on another cohort: one HTML file without scripts and without outside content.

Beside discrimination, which depends only on the order of patients, it shows whether probabilities are calibrated and
whether the threshold still fits: both come from the training cohort, and are the first to fail elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from ...data.errors import UsageError
from ...models.audit.confounding import Audit
from ...models.evaluation.metrics import Estimate, Metrics, wilson_interval
from ...models.tasks.prediction import PatientPrediction
from ..pages.asked_question import Question
from ..pages.audit_words import AuditSection
from ..pages.charts import place_chart
from ..pages.numbers import TEMPLATES, mean_and_deviation
from ..pages.paper_parts import NO_PARTS, PaperParts
from ..pages.report_page import PAGE, Accounting, Facts, cautions, performance_charts
from ..predict.allowed_folds import SAME_IDS
from .uncertain_slides import UncertainSlides


@dataclass(frozen=True, kw_only=True)
class FoldAlone:
    """One fold's model by itself, on the patients that it may read; metrics have no intervals."""

    fold: int
    threshold: float
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class ExternalReport:
    """The contents of the page."""

    name: str
    model: str
    question: Question
    accounting: Accounting
    metrics: Metrics
    prevalence: float
    """The one that probabilities and thresholds are at."""
    folds: tuple[FoldAlone, ...]
    n_folds: int
    """Number of folds of the model; a fold that was trained on every patient is not in ``folds``."""
    cross_validated: Estimate | None
    """The model's out-of-fold AUC on its training cohort."""
    patients: tuple[PatientPrediction, ...]
    known_by_id: int
    """Number of patients whose id, but no slide, matches a training patient."""
    differences: tuple[str, ...]
    """Settings of tiling and extraction that differ from the model's."""
    facts: Facts
    audit: Audit | None = None
    paper: PaperParts = NO_PARTS
    uncertain: UncertainSlides | None = None

    def __post_init__(self) -> None:
        if not self.patients or self.metrics.n_patients != len(self.patients):
            raise UsageError(f"metrics of {self.metrics.n_patients} patients and {len(self.patients)} rows differ")

    @property
    def partly_seen(self) -> int:
        """Number of patients that some of the folds were trained on."""
        return sum(len(patient.folds) < self.n_folds for patient in self.patients)

    @property
    def kind(self) -> str:
        """The kind of evaluation; it is external if no fold was trained on any of the patients."""
        return kind_of_evaluation(self.partly_seen, len(self.patients)) or "External evaluation"

    @property
    def whom(self) -> str:
        """The patients of the evaluation, in words."""
        seen, all_ = self.partly_seen, len(self.patients)
        if not seen:
            return "another cohort"
        return (
            f"{all_:,} patients, {seen:,} of whom some of its folds were trained or validated on; these are read only "
            "by the other folds"
        )

    @property
    def share_positive(self) -> tuple[float, float, float]:
        """The share of positive patients, and its 95 % interval."""
        hits, n = self.metrics.n_positive, self.metrics.n_patients
        return hits / n, *wilson_interval(hits, n)

    @property
    def mean_probability(self) -> float:
        """The mean predicted probability."""
        return fmean(patient.probability for patient in self.patients)


def kind_of_evaluation(seen: int, patients: int) -> str:
    """The title of an evaluation on patients that some folds were trained on; empty if there are none.

    :param seen: how many of the patients these are.
    """
    if not seen:
        return ""
    return f"Evaluation on {'the training cohort' if seen == patients else 'patients that include training patients'}"


def external_page(report: ExternalReport, layout: str = PAGE) -> str:
    """Render the page as HTML: one file that needs no other.

    :param layout: as for :func:`~wsipipe.stages.pages.report_page.training_page`.
    """
    labels = [bool(patient.label) for patient in report.patients]
    probabilities = [patient.probability for patient in report.patients]
    share, low, high = report.share_positive
    return TEMPLATES.get_template("external.html").render(
        layout=layout,
        report=report,
        metrics=report.metrics,
        question=report.question,
        cautions=external_cautions(report),
        charts=performance_charts(labels, probabilities, ()),
        share=Estimate(value=share, low=low, high=high),
        calibrated=calibration_in_words(report),
        fold_aucs=mean_and_deviation([fold.metrics.auc.value for fold in report.folds]),
        thresholds=sorted({patient.threshold for patient in report.patients}),
        patients=sorted(report.patients, key=lambda patient: (-patient.probability, patient.patient_id)),
        place=place_chart,
        audit=AuditSection(report.audit) if report.audit else None,
    )


def external_cautions(report: ExternalReport) -> tuple[str, ...]:
    """List the limitations that a reader of the figures should know."""
    notes = list(cautions(report.metrics))
    if report.partly_seen:
        notes.append(
            f"Patients that some of the folds were trained on, read by the other folds: {report.partly_seen}. "
            "To that extent this is not another cohort."
        )
    if report.known_by_id:
        notes.append(f"Known to the model by their id, but not by a slide: {report.known_by_id} patients. {SAME_IDS}")
    if report.uncertain:
        notes += report.uncertain.cautions
    if report.differences:
        notes.append(f"These slides were prepared differently from the model's own: {'; '.join(report.differences)}.")
    return tuple(notes)


def calibration_in_words(report: ExternalReport) -> tuple[str, ...]:
    """Describe the calibration in this cohort: on average, and towards 0 and 1."""
    if not 0 < report.metrics.n_positive < report.metrics.n_patients:
        return ("With patients of one class alone, calibration cannot be assessed.",)
    share, low, high = report.share_positive
    mean, slope = report.mean_probability, report.metrics.calibration_slope
    averages = (
        f"On average the model predicts {mean:.2f}; {share:.2f} of the patients are positive ({low:.2f} – {high:.2f})"
    )
    if low <= mean <= high:
        sentences = [f"{averages}: no difference beyond chance."]
    else:
        sentences = [f"{averages}: its probabilities are too {'high' if mean > high else 'low'} for this cohort."]
    if slope.value is None:
        sentences.append("Slope and intercept cannot be estimated: the probabilities of the classes do not overlap.")
    elif slope.low is None or slope.high is None:
        sentences.append("With one patient in a class, the slope has no interval.")
    elif slope.high < 0:
        sentences.append("The slope is below 0: higher probabilities go with fewer positive patients.")
    elif slope.high < 1:
        sentences.append("The slope is below 1: probabilities near 0 and 1 are more extreme than justified.")
    elif slope.low > 1:
        sentences.append("The slope is above 1: probabilities are more cautious than necessary.")
    else:
        sentences.append("The slope's interval contains 1: no sign that probabilities are too extreme or too cautious.")
    return tuple(sentences)
