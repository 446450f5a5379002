"""The page of a trained or evaluated model whose task is not binary: figures, folds, learning curves, every patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...data.cohort.outcomes import Survival
from ...models.audit.confounding import Audit
from ...models.audit.task_audit import TaskAudit
from ...models.evaluation.metrics import roc_points
from ...models.evaluation.survival_metrics import WITH_EVENT, at, kaplan_meier, log_rank, median_follow_up
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.prediction import EVEN, PatientPrediction, Prevalence
from .asked_question import Question
from .audit_words import AuditSection
from .charts import class_roc_chart, scatter_chart, survival_chart
from .numbers import TEMPLATES, figure, mean_and_deviation, p_value
from .paper_parts import NO_PARTS, NOTHING, PaperParts
from .report_page import (
    CLAIM_NOTHING,
    FEW_PATIENTS,
    NOT_BY_BOOTSTRAP_OF_PAIRS,
    PAGE,
    SAME_IN_ALL_ROUNDS,
    WIDE_INTERVAL,
    Accounting,
    Facts,
    FoldSummary,
    learning_charts,
)


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """All that the page shows."""

    kind: str
    """The page's own name, such as ``Training report``."""
    run: str
    question: Question
    how: str
    """How the patients were predicted, in a sentence."""
    accounting: Accounting
    metrics: TaskMetrics
    folds: tuple[FoldSummary, ...] = ()
    """Of a training; the validation and test figures are those of the task."""
    of_folds: tuple[tuple[int, TaskMetrics], ...] = ()
    """Of an evaluation: each fold's model by itself."""
    patients: tuple[PatientPrediction, ...]
    share_names: tuple[str, ...] = ()
    prevalence: Prevalence = EVEN
    """Of classes: the share of each that probabilities are at, empty for equally frequent ones."""
    audit: Audit | TaskAudit | None = None
    differences: tuple[str, ...] = ()
    """Cautions beside those that follow from the figures."""
    facts: Facts
    settings: Facts = ()
    versions: Facts = ()
    predict_command: str = ""
    gallery: str = ""
    """As of :class:`.TrainingReport`."""
    paper: PaperParts = NO_PARTS
    further: Markup = NOTHING
    """A section after those on the folds."""


def task_page(report: TaskReport, layout: str = PAGE) -> str:
    """The report as HTML: one file that needs no other.

    :param layout: as for :func:`.training_page`.
    """
    losses = tuple(dict.fromkeys(name for fold in report.folds for row in fold.history for name in row.losses))
    measure = report.metrics.measure
    return TEMPLATES.get_template("task.html").render(
        layout=layout,
        report=report,
        metrics=report.metrics,
        question=report.question,
        audit=AuditSection(report.audit) if report.audit else None,
        heading=caution_heading(report),
        cautions=(*task_cautions(report.metrics), *report.differences),
        charts=_charts(report),
        follow_up=follow_up_in_words(report),
        losses=losses,
        entropy=any(row.slot_entropy for fold in report.folds for row in fold.history),
        learning=[(fold, learning_charts(fold, losses, measure)) for fold in report.folds],
        test_mains=mean_and_deviation([fold.test_auc for fold in report.folds]),
        patients=sorted(report.patients, key=lambda patient: (-patient.probability, patient.patient_id)),
    )


def caution_heading(report: TaskReport) -> str:
    """What stands above the cautions: of a training whose figures give any, the words of the binary page."""
    return CLAIM_NOTHING if report.folds and task_cautions(report.metrics) else "Caution"


def _charts(report: TaskReport) -> list[tuple[str, Markup]]:
    """Captions and charts of the performance: of numbers, predicted against true ones."""
    follow_ups = [(row.label, row.call) for row in report.patients if isinstance(row.label, Survival)]
    if follow_ups:
        low, high = (_steps(follow_ups, call) for call in (0, 1))
        followed = [[one.time for one, own in follow_ups if own == call] for call in (0, 1)]
        chart = survival_chart(low, high, report.question.time_unit, (followed[0], followed[1]))
        return [(_halves(follow_ups), chart)]
    if report.question.task == "multiclass" and report.patients:
        return [_class_rocs(report)]
    pairs = [(row.label, row.probability) for row in report.patients if isinstance(row.label, float)]
    if not pairs:
        return []
    labels, predictions = zip(*pairs, strict=True)
    return [("Predicted and true values", scatter_chart(labels, predictions))]


def _class_rocs(report: TaskReport) -> tuple[Markup, Markup]:
    """The ROC curve of each class against the rest, with a caption that says which is which."""
    names = report.question.classes
    curves = [
        roc_points([row.label == place for row in report.patients], [row.shares[place] for row in report.patients])
        for place in range(len(names))
    ]
    marks = [Markup('<span class="mark series s{}">{}</span>').format(n % 8, name) for n, name in enumerate(names)]
    return Markup("ROC, each against the rest: ") + Markup(", ").join(marks), class_roc_chart(curves)


def follow_up_in_words(report: TaskReport) -> str:
    """How many had the event, and how long the others were followed: a reversed event column shows in both."""
    known = [row.label for row in report.patients if isinstance(row.label, Survival)]
    if not known:
        return ""
    times, events = [one.time for one in known], [one.event for one in known]
    median, unit = median_follow_up(times, events), report.question.time_unit
    length = f"is {at(median, unit)}" if median is not None else "is not reached"
    quartiles = " The times of the AUC are quartiles of the event times: horizons sets others, and adds Brier scores."
    chosen = "" if report.share_names else quartiles
    return (
        f"{sum(events)} of {len(known)} patients ({sum(events) / len(known):.0%}) had the event; the median follow-up "
        f"{length} (reverse Kaplan–Meier). If that is not so, look at the event column: 1 is the event.{chosen}"
    ).replace("%)", " %)")


def _halves(follow_ups: Sequence[tuple[Survival, int]]) -> Markup:
    """The caption of the curves by predicted risk."""
    times, events = [one.time for one, _ in follow_ups], [one.event for one, _ in follow_ups]
    p = log_rank(times, events, [call for _, call in follow_ups])
    equals = "= " if p is not None and p >= 0.001 else ""
    return Markup(
        'Share without the event, <span class="mark negative">low risk</span> and '
        '<span class="mark positive">high risk</span>: log-rank p {}{}'
    ).format(equals, p_value(p))


def _steps(follow_ups: Sequence[tuple[Survival, int]], call: int) -> list[tuple[float, float]]:
    """The Kaplan–Meier estimate of the patients with a call, to the end of their follow-up."""
    own = [one for one, of_patient in follow_ups if of_patient == call]
    if not own:
        return []
    steps = kaplan_meier([one.time for one in own], [one.event for one in own])
    return [*steps, (max(one.time for one in own), steps[-1][1])]


def task_cautions(metrics: TaskMetrics) -> tuple[str, ...]:
    """Reasons not to rely on the main figure more than its patients allow, the most serious first."""
    main, measure = metrics.main, metrics.measure
    if main.value is None:
        return (f"{measure} is undefined for these patients.",)
    sentences = []
    chance = metrics.chance.get(measure)
    if main.low is not None and main.high is not None:
        if chance is not None and main.low <= chance <= main.high:
            sentences.append(
                f"The interval includes {figure(chance)} ({figure(main.low)} to {figure(main.high)}): "
                "these patients do not show that the model is better than chance."
            )
        elif chance is not None and main.high < chance:
            sentences.append(f"The whole interval lies below {figure(chance)}: first look for wrong labels or leakage.")
        if chance is not None and main.value in (0, 1):
            sentences.append(f"{measure[0].upper()}{measure[1:]} is {main.value:g}: {NOT_BY_BOOTSTRAP_OF_PAIRS}")
        if main.high - main.low > WIDE_INTERVAL:
            sentences.append(
                f"The interval is {figure(main.high - main.low)} wide: another cohort may give a very different figure."
            )
    elif metrics.bootstrap_rounds:
        sentences.append(SAME_IN_ALL_ROUNDS)
    # How sure a figure of survival is depends on the events; where nobody is censored, nothing is missing.
    counts = {WITH_EVENT: metrics.counts[WITH_EVENT]} if WITH_EVENT in metrics.counts else metrics.counts
    fewest = min(counts.values(), default=metrics.n_patients)
    if fewest < FEW_PATIENTS:
        which = next((name for name, n in counts.items() if n == fewest), "in all")
        few = f"Only {fewest} patient{'s' if fewest != 1 else ''} ({which})"
        sentences.append(f"{few}: with fewer than {FEW_PATIENTS}, even the interval is a rough guide.")
    return tuple(sentences)
