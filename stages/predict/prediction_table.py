"""The table of predictions: one row per patient, then one per slide; of several targets with columns for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...data.artifact import whole
from ...data.files.safe_cells import SafeWriter
from ...data.manifest import Record
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import PatientPrediction, Prevalence, prevalence_cell
from ...models.tasks.task import Task
from ..pages.asked_question import Question
from ..pages.report_page import FailedSlide, PredictionReport
from .reading import SlideOutput

COLUMNS: Final = (
    "level", "patient_id", "slide_id", "status", "probability", "spread", "threshold", "call", "folds", "note",
    "prevalence", "model", "date",
)  # fmt: skip
"""Columns of ``predictions.csv``, which has one row per patient, then one per slide. Probability and
threshold are at the prevalence (of several classes the share of each, in their order), the model is the digest of its
bundles, the date is that of reading the slide."""


@dataclass(frozen=True)
class Predictions:
    """The contents of the report, by slide except for the failed ones.

    :param model: digest of the model.
    :param asked: slide → patient, of all slides that were ever requested.
    """

    model: str

    records: Mapping[str, Record]
    outputs: Mapping[str, SlideOutput]
    stale: Mapping[str, str]
    failed: Sequence[FailedSlide]
    asked: Mapping[str, str]

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


def write_predictions(
    path: Path, report: PredictionReport, work: Predictions, task: Task, prevalence: Prevalence
) -> None:
    """Write ``predictions.csv``."""

    share_names = task.share_names
    value = _value_column(task)
    blank = [""] * 5

    def row(level: str, slide: str, status: str, p: PatientPrediction, note: str, *made: str) -> list[object]:
        figures, shares = _answer(report.question, p)
        shown = ["" if report.prevalence is None else prevalence_cell(report.prevalence), *made]
        return [level, p.patient_id, slide, status, *figures, ";".join(map(str, p.folds)), note, *shown, *shares]

    date, dates = work.date, _dates(report, work)
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow([*(value if name == "probability" else name for name in COLUMNS), *share_names])
        for p in report.patients:
            writer.writerow(row("patient", "", "done", p, p.why, work.model, dates[p.patient_id]))
        for one in report.slides:
            p = one.prediction
            writer.writerow(row("slide", one.slide, "done", p, p.why, work.model, date(one.slide)))
        for slide, why in work.stale.items():
            made_by = work.records[slide].inputs["model"].digest
            if work.outputs[slide].is_of(task):
                before = combined(work.asked[slide], [work.outputs[slide]], task, prevalence)
                writer.writerow(row("slide", slide, "stale", before, why, made_by, date(slide)))
            else:  # of a former model that answered another question
                cells = ["slide", work.asked[slide], slide, "stale", *blank, why, "", made_by, date(slide)]
                writer.writerow([*cells, *([""] * len(share_names))])
        for failed in report.failed:
            note = f"{failed.reason} → {failed.hint}" if failed.hint else failed.reason
            end = [""] * (3 + len(share_names))
            writer.writerow(["slide", work.asked[failed.slide], failed.slide, "failed", *blank, note, *end])


OF_TARGET: Final = ("spread", "threshold", "call", "prevalence")
"""Columns of each target, after its value and before its shares."""


def write_target_predictions(
    path: Path, reports: Mapping[str, PredictionReport], work: Predictions, task: MultiTask
) -> None:
    """Write ``predictions.csv`` of several targets; the columns of each begin with its name, such as ``er call``.

    A stale prediction has its reason only: the model that made it may have had other targets.

    :param reports: target → what its part of the page shows; of the same patients and slides.
    """
    header = ["level", "patient_id", "slide_id", "status"]
    for name, own in task.targets.items():
        header += [f"{name} {column}" for column in (_value_column(own), *OF_TARGET, *own.share_names)]
    answers = len(header) - 4
    first = next(iter(reports.values()))
    dates = _dates(first, work)

    def cells(predictions: Sequence[PatientPrediction]) -> list[object]:
        found: list[object] = []
        for report, p in zip(reports.values(), predictions, strict=True):
            figures, shares = _answer(report.question, p)
            found += [*figures, "" if report.prevalence is None else prevalence_cell(report.prevalence), *shares]
        return found

    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow([*header, "folds", "note", "model", "date"])
        for patients in zip(*(report.patients for report in reports.values()), strict=True):
            p = patients[0]
            end = [";".join(map(str, p.folds)), p.why, work.model, dates[p.patient_id]]
            writer.writerow(["patient", p.patient_id, "", "done", *cells(patients), *end])
        for slides in zip(*(report.slides for report in reports.values()), strict=True):
            p, slide = slides[0].prediction, slides[0].slide
            end = [";".join(map(str, p.folds)), p.why, work.model, work.date(slide)]
            writer.writerow(["slide", p.patient_id, slide, "done", *cells([one.prediction for one in slides]), *end])
        for slide, why in work.stale.items():
            end = ["", why, work.records[slide].inputs["model"].digest, work.date(slide)]
            writer.writerow(["slide", work.asked[slide], slide, "stale", *[""] * answers, *end])
        for failed in first.failed:
            note = f"{failed.reason} → {failed.hint}" if failed.hint else failed.reason
            writer.writerow(
                ["slide", work.asked[failed.slide], failed.slide, "failed", *[""] * answers, "", note, "", ""]
            )


def _value_column(task: Task) -> str:
    """The column of the number that is shown for a patient."""
    return next(name for name, field in task.answer_columns.items() if field == "probability")


def _answer(question: Question, p: PatientPrediction) -> tuple[list[str], list[str]]:
    """The cells of value, spread, threshold and call, and of the shares."""
    spread = "" if p.spread is None else f"{p.spread:.6f}"
    figures = [f"{p.probability:.6f}", spread, f"{p.threshold:.6f}", "positive" if p.call else "negative"]
    if question.task != "binary":
        threshold = f"{p.threshold:.6f}" if question.words.called and not question.classes else ""
        figures[2:] = [threshold, question.call_of(p)]
    return figures, [f"{share:.6f}" for share in p.shares]


def _dates(report: PredictionReport, work: Predictions) -> dict[str, str]:
    """When the last slide of each patient was read."""
    dates: dict[str, str] = {}
    for one in report.slides:
        patient = one.prediction.patient_id
        dates[patient] = max(dates.get(patient, ""), work.date(one.slide))
    return dates
