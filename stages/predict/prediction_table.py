"""The table of predictions: one row per patient, then one per slide; of several targets with columns for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ...data.manifest import Record
from ...models.applicability import Applicability
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import PatientPrediction, Prevalence, prevalence_cell
from ...models.tasks.task import Task
from ..pages.asked_question import Question
from ..pages.doubt_words import UNCERTAIN, set_words
from ..pages.report_page import FailedSlide, PredictionReport
from .reading import SlideOutput
from .table_files import Cell, Table

COLUMNS: Final = (
    "level", "patient_id", "slide_id", "status", "probability", "spread", "threshold", "call", "uncertain", "possible",
    "folds", "note", "prevalence", "model", "date",
)  # fmt: skip
"""Columns of ``predictions.csv``, which has one row per patient, then one per slide. Probability and
threshold are at the prevalence (of several classes the share of each, in their order), the model is the digest of its
bundles, the date is that of reading the slide. ``uncertain`` says why there is no call, ``possible`` is the label at
the level of ``--alpha``: classes, or an interval."""


@dataclass(frozen=True)
class Predictions:
    """The contents of the report, by slide except for the failed ones.

    :param model: digest of the model.
    :param asked: slide → patient, of all slides that were ever requested.
    :param known: what the model knows of its training slides.
    """

    model: str

    records: Mapping[str, Record]
    outputs: Mapping[str, SlideOutput]
    stale: Mapping[str, str]
    failed: Sequence[FailedSlide]
    asked: Mapping[str, str]
    known: Applicability | None = None

    def date(self, slide: str) -> str:
        """When a slide was read."""
        return self.records[slide].start.date().isoformat()


def combined(patient: str, slides: Sequence[SlideOutput], task: Task, prevalence: Prevalence) -> PatientPrediction:
    """Combine slides into a patient's prediction; with one slide, that slide's own."""
    first = slides[0]
    remarks = dict.fromkeys(slide.remarks for slide in slides if slide.remarks)
    why = "; ".join([first.why, *remarks])
    logits = [slide.logits for slide in slides]
    return PatientPrediction.of(patient, logits, first.thresholds, task, prevalence=prevalence, why=why)


def predictions_table(report: PredictionReport, work: Predictions, task: Task, prevalence: Prevalence) -> Table:
    """The rows of ``predictions.csv``: patients, then slides, then those that are stale or failed."""
    share_names, value = task.share_names, _value_column(task)
    columns = [*(value if name == "probability" else name for name in COLUMNS), *share_names]
    dates = _dates(report, work)

    def row(level: str, slide: str, status: str, p: PatientPrediction, note: str, *made: str) -> list[Cell]:
        figures, shares = _answer(report.question, p)
        end = [";".join(map(str, p.folds)), note, _prevalence(report), *made, *shares]
        return [level, p.patient_id, slide, status, *figures, *_doubt(report.question, p), *end]

    rows = [row("patient", "", "done", p, p.why, work.model, dates[p.patient_id]) for p in report.patients]
    for one in report.slides:
        p = one.prediction
        rows.append(row("slide", one.slide, "done", p, p.why, work.model, work.date(one.slide)))
    for slide, why in work.stale.items():
        made_by = work.records[slide].inputs["model"].digest
        if work.outputs[slide].is_of(task):
            before = combined(work.asked[slide], [work.outputs[slide]], task, prevalence)
            rows.append(row("slide", slide, "stale", before, why, made_by, work.date(slide)))
        else:  # of a former model that answered another question
            cells = ["slide", work.asked[slide], slide, "stale", *[None] * 7, why, None, made_by, work.date(slide)]
            rows.append([*cells, *[None] * len(share_names)])
    for failed in report.failed:
        end = [None] * (3 + len(share_names))
        rows.append(["slide", work.asked[failed.slide], failed.slide, "failed", *[None] * 7, _why(failed), *end])
    return Table(columns, rows, frozenset({value, *_numbers(report, ""), *share_names}))


OF_TARGET: Final = ("spread", "threshold", "call", "prevalence")
"""Columns of each target, after its value and before its shares."""
OF_DOUBT: Final = ("uncertain", "possible")
"""Last columns of each target: why there is no call, and its label at the level of ``--alpha``."""


def targets_table(reports: Mapping[str, PredictionReport], work: Predictions, task: MultiTask) -> Table:
    """The rows of ``predictions.csv`` of several targets; the columns of each begin with its name, such as ``er call``.

    A stale prediction has its reason only: the model that made it may have had other targets.

    :param reports: target → what its part of the page shows; of the same patients and slides.
    """
    columns, numbers = ["level", "patient_id", "slide_id", "status"], set()
    for name, own in task.targets.items():
        value = _value_column(own)
        columns += [f"{name} {column}" for column in (value, *OF_TARGET, *own.share_names, *OF_DOUBT)]
        numbers |= {f"{name} {column}" for column in (value, *own.share_names)} | _numbers(reports[name], f"{name} ")
    answers = len(columns) - 4
    first = next(iter(reports.values()))
    dates = _dates(first, work)

    def cells(predictions: Sequence[PatientPrediction]) -> list[Cell]:
        found: list[Cell] = []
        for report, p in zip(reports.values(), predictions, strict=True):
            figures, shares = _answer(report.question, p)
            found += [*figures, _prevalence(report), *shares, *_doubt(report.question, p)]
        return found

    rows: list[list[Cell]] = []
    for patients in zip(*(report.patients for report in reports.values()), strict=True):
        p = patients[0]
        end: list[Cell] = [";".join(map(str, p.folds)), p.why, work.model, dates[p.patient_id]]
        rows.append(["patient", p.patient_id, "", "done", *cells(patients), *end])
    for slides in zip(*(report.slides for report in reports.values()), strict=True):
        p, slide = slides[0].prediction, slides[0].slide
        end = [";".join(map(str, p.folds)), p.why, work.model, work.date(slide)]
        rows.append(["slide", p.patient_id, slide, "done", *cells([one.prediction for one in slides]), *end])
    for slide, why in work.stale.items():
        end = [None, why, work.records[slide].inputs["model"].digest, work.date(slide)]
        rows.append(["slide", work.asked[slide], slide, "stale", *[None] * answers, *end])
    for failed in first.failed:
        end = [None, _why(failed), None, None]
        rows.append(["slide", work.asked[failed.slide], failed.slide, "failed", *[None] * answers, *end])
    return Table([*columns, "folds", "note", "model", "date"], rows, frozenset(numbers))


def _numbers(report: PredictionReport, prefix: str) -> set[str]:
    """Columns of numbers: the prevalences of several classes are one text."""
    one = () if isinstance(report.prevalence, tuple) else ("prevalence",)
    return {f"{prefix}{column}" for column in ("spread", "threshold", *one)}


def _prevalence(report: PredictionReport) -> Cell:
    return None if report.prevalence is None else prevalence_cell(report.prevalence)


def _why(failed: FailedSlide) -> str:
    return f"{failed.reason} → {failed.hint}" if failed.hint else failed.reason


def _value_column(task: Task) -> str:
    """The column of the number that is shown for a patient."""
    return next(name for name, field in task.answer_columns.items() if field == "probability")


def _answer(question: Question, p: PatientPrediction) -> tuple[list[Cell], list[Cell]]:
    """The cells of value, spread, threshold and call, and of the shares; numbers with six digits after the point."""
    threshold: Cell = round(p.threshold, 6)
    if question.task == "binary":
        call = UNCERTAIN if p.doubts else "positive" if p.call else "negative"
    else:
        call = question.call_of(p)
        threshold = threshold if question.words.called and not question.classes else None
    spread = None if p.spread is None else round(p.spread, 6)
    return [round(p.probability, 6), spread, threshold, call], [round(share, 6) for share in p.shares]


def _doubt(question: Question, p: PatientPrediction) -> list[Cell]:
    """The cells of :data:`OF_DOUBT`."""
    return [list(p.doubts) or None, set_words(question, p.label_set)]


def _dates(report: PredictionReport, work: Predictions) -> dict[str, str]:
    """When the last slide of each patient was read."""
    dates: dict[str, str] = {}
    for one in report.slides:
        patient = one.prediction.patient_id
        dates[patient] = max(dates.get(patient, ""), work.date(one.slide))
    return dates
