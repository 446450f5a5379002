"""The page of a model judged on another cohort: one file without scripts that fetches nothing, as all our pages.

Beside telling patients apart, which needs only their order, it asks whether probabilities come true and whether the
threshold holds: both are carried over from where the model was trained, and break first elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from ...data.errors import UsageError
from ...models.evaluation.metrics import Estimate, Metrics, wilson_interval
from ...models.tasks.prediction import PatientPrediction
from ..pages.charts import place_chart
from ..pages.numbers import TEMPLATES, mean_and_deviation
from ..pages.report_page import Accounting, Facts, Question, cautions, performance_charts
from ..predict.allowed_folds import SAME_IDS


@dataclass(frozen=True, kw_only=True)
class FoldAlone:
    """One fold's model by itself, on the patients whom it may read; the metrics without intervals."""

    fold: int
    threshold: float
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class ExternalReport:
    """All that the page shows."""

    name: str
    model: str
    question: Question
    accounting: Accounting
    metrics: Metrics
    folds: tuple[FoldAlone, ...]
    n_folds: int
    """Of the model; a fold that knows every patient is not in ``folds``."""
    cross_validated: Estimate | None
    """The AUC that it had out of fold, where it was trained."""
    patients: tuple[PatientPrediction, ...]
    known_by_id: int
    """Patients whom some folds know by an id, but by no slide."""
    differences: tuple[str, ...]
    """Settings with which these slides were tiled and extracted, where the model's were others."""
    facts: Facts

    def __post_init__(self) -> None:
        if not self.patients or self.metrics.n_patients != len(self.patients):
            raise UsageError(f"metrics of {self.metrics.n_patients} patients and {len(self.patients)} rows differ")

    @property
    def partly_seen(self) -> int:
        """Patients who trained some of the folds."""
        return sum(len(patient.folds) < self.n_folds for patient in self.patients)

    @property
    def kind(self) -> str:
        """What kind of evaluation this is: an external one is of patients whom the model never saw."""
        if not self.partly_seen:
            return "External evaluation"
        whole = self.partly_seen == len(self.patients)
        return "Evaluation on the training cohort" if whole else "Evaluation on patients some of whom trained the model"

    @property
    def whom(self) -> str:
        """On whom the model is judged."""
        seen, all_ = self.partly_seen, len(self.patients)
        if not seen:
            return "another cohort"
        return (
            f"{all_:,} patients, {seen:,} of whom trained or validated some of its folds and are read only by folds "
            "that were not trained on them"
        )

    @property
    def share_positive(self) -> tuple[float, float, float]:
        """What came: the share of positive patients, and its 95 % interval."""
        hits, n = self.metrics.n_positive, self.metrics.n_patients
        return hits / n, *wilson_interval(hits, n)

    @property
    def mean_probability(self) -> float:
        """What was predicted, on average."""
        return fmean(patient.probability for patient in self.patients)


def external_page(report: ExternalReport) -> str:
    """The page as HTML: one file that needs no other."""
    labels = [bool(patient.label) for patient in report.patients]
    probabilities = [patient.probability for patient in report.patients]
    share, low, high = report.share_positive
    return TEMPLATES.get_template("external.html").render(
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
    )


def external_cautions(report: ExternalReport) -> tuple[str, ...]:
    """What keeps a reader from taking the figures for more than they are."""
    said = list(cautions(report.metrics))
    if report.partly_seen:
        said.append(
            f"Patients who trained some of the folds, and are judged by the others: {report.partly_seen}. "
            "To that extent this is not another cohort."
        )
    if report.known_by_id:
        said.append(f"Known to the model by their id, but not by a slide: {report.known_by_id} patients. {SAME_IDS}")
    if report.differences:
        said.append(f"These slides were not prepared as the model's own were: {'; '.join(report.differences)}.")
    return tuple(said)


def calibration_in_words(report: ExternalReport) -> tuple[str, ...]:
    """Whether probabilities come true here: on average, and towards both ends."""
    if not 0 < report.metrics.n_positive < report.metrics.n_patients:
        return ("With patients of one class alone, nothing can be said.",)
    share, low, high = report.share_positive
    mean, slope = report.mean_probability, report.metrics.calibration_slope
    averages = (
        f"On average the model says {mean:.2f}, and {share:.2f} of the patients are positive ({low:.2f} – {high:.2f})"
    )
    if low <= mean <= high:
        said = [f"{averages}: no difference beyond chance."]
    else:
        said = [f"{averages}: its probabilities are too {'high' if mean > high else 'low'} for this cohort."]
    if slope.value is None:
        said.append("Slope and intercept cannot be estimated: the probabilities of the classes do not overlap.")
    elif slope.low is None or slope.high is None:
        said.append("A class of one patient gives the slope no interval.")
    elif slope.high < 0:
        said.append("The slope is below 0: higher probabilities go with fewer positive patients.")
    elif slope.high < 1:
        said.append("The slope is below 1: probabilities near 0 and 1 are more certain than they may be.")
    elif slope.low > 1:
        said.append("The slope is above 1: probabilities are more cautious than they need be.")
    else:
        said.append("The slope's interval holds 1: nothing shows that probabilities are too extreme or too cautious.")
    return tuple(said)
