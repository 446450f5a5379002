"""summary: all predictions of a run in one table and on one page; no slide that was asked for is missing there."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ...data.artifact import whole
from ...data.manifest import Record
from ...models.bundle import BundleFacts, folds_of
from ..lineage import Lineage
from ..pages.report_page import (
    FailedSlide,
    PatientPrediction,
    Prediction,
    PredictionReport,
    Question,
    SlidePrediction,
    prediction_page,
)
from ..registry import VERSIONS
from ..settings import Settings
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from .stage import PredictionTask, SlideOutput

COLUMNS = ("level", "patient_id", "slide_id", "status", "probability", "spread", "threshold", "call", "folds", "note")


class SummarySettings(Settings):
    """Nothing to set."""


@dataclass(frozen=True)
class _Predictions:
    records: Mapping[str, Record]
    failed: Sequence[FailedSlide]


class PredictionReportStage(Stage[SummarySettings]):
    """One item, ``predictions``."""

    name = "summary"
    version = VERSIONS["summary"]
    items = "tables"

    def __init__(
        self,
        settings: SummarySettings,
        folder: Path,
        workspace: Path,
        task: PredictionTask,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.task = task

    def plan(self) -> Plan:
        lineage, slides = Lineage(self.workspace), self.task.slides
        done = upstream(self.manifest, "predict", self.workspace, only=slides, lineage=lineage).records
        stages = {"tile": self.task.tiles, "extract": self.task.features, "predict": self.folder}
        attempts = {stage: lineage.latest(folder, stage) for stage, folder in stages.items()}
        failed = [_why_not(slide, attempts, lineage) for slide in sorted(slides) if slide not in done]
        inputs: dict[str, Input] = {slide: OutputInput(r.outputs["prediction"]) for slide, r in done.items()}
        inputs["failed"] = ValueInput([vars(slide) for slide in failed])
        inputs["patients"] = ValueInput(dict(self.task.slides))
        return Plan([Item("predictions", inputs, _Predictions(done, failed))])

    def process(self, item: Item, progress: Progress) -> Outcome:
        work: _Predictions = item.payload
        bundles = [facts for _, facts in folds_of(self.task.model)]
        report = self._report(work, bundles)
        table, page = self.folder / "predictions.csv", self.folder / "report.html"
        write_predictions(table, report, self.task.slides)
        with whole(page) as scratch:
            scratch.write_text(prediction_page(report), encoding="utf-8")
        stats = {"slides": len(report.slides), "patients": len(report.patients), "failed_slides": len(report.failed)}
        return Outcome(outputs={"table": table, "page": page}, stats=stats)

    def _report(self, work: _Predictions, bundles: Sequence[BundleFacts]) -> PredictionReport:
        outputs = {
            slide: SlideOutput.model_validate_json((self.workspace / r.outputs["prediction"].path).read_bytes())
            for slide, r in sorted(work.records.items())
        }
        by_patient: dict[str, list[SlideOutput]] = {}
        for output in outputs.values():
            by_patient.setdefault(output.patient_id, []).append(output)
        first = bundles[0]
        question = first.question
        return PredictionReport(
            name=self.folder.name,
            model=self.task.model.name,
            backbone=first.recipe.backbone,
            question=Question.of(question.label_column, question.positive, question.negative),
            n_folds=len(bundles),
            patients=tuple(
                PatientPrediction(patient=patient, n_slides=len(slides), **_combined(slides))
                for patient, slides in sorted(by_patient.items())
            ),
            slides=tuple(self._slide(output, work.records[slide]) for slide, output in outputs.items()),
            failed=tuple(work.failed),
            facts=(
                ("tiles", f"{first.recipe.tile_px} px at {first.recipe.tile['mpp']:g} µm per pixel"),
                ("backbone", f"{first.recipe.backbone}, {first.recipe.pooling_text}"),
                ("backbone weights", first.recipe.weights_digest),
                ("wsipipe that trained it", first.versions.get("wsipipe", "unknown")),
            ),
        )

    def _slide(self, output: SlideOutput, record: Record) -> SlidePrediction:
        def beside(name: str) -> str | None:
            made = record.outputs.get(name)
            return (self.workspace / made.path).relative_to(self.folder).as_posix() if made else None

        return SlidePrediction(
            slide=output.slide_id,
            patient=output.patient_id,
            n_tiles=output.tiles,
            heatmap=beside("heatmap"),
            top_tiles=beside("top_tiles"),
            geojson=beside("geojson"),
            **_combined([output]),
        )


def _why_not(slide: str, attempts: Mapping[str, Mapping[str, Record]], lineage: Lineage) -> FailedSlide:
    """The first stage that did not bring a slide on, and what it says.

    :param attempts: stage → its last record of each slide, in the chain's order.
    """
    for stage, records in attempts.items():
        record = records.get(slide)
        if record is not None and record.error is not None:
            return FailedSlide(slide=slide, reason=f"{stage}: {record.error.message}", hint=record.error.hint)
        if record is not None and record.status == "empty":
            return FailedSlide(slide=slide, reason="no tissue was found on it", hint="look at its QC image")
        if record is not None and not (standing := lineage.standing(record)).counts:
            reason = f"{stage}: {standing.state}, {standing.why}"
            return FailedSlide(slide=slide, reason=reason, hint="run the same command again")
    return FailedSlide(slide=slide, reason="not done yet", hint="run the same command again")


def _combined(slides: Sequence[SlideOutput]) -> dict[str, Any]:
    """A patient's (or a slide's) prediction: the mean over slides of the mean over folds of the logits.

    The spread is the standard deviation over the folds of their probabilities, the threshold the mean of theirs.
    """
    folds = sorted(slides[0].logits)
    by_fold = {fold: float(np.mean([slide.logits[fold] for slide in slides if fold in slide.logits])) for fold in folds}
    probability = float(expit(np.mean([np.mean(list(slide.logits.values())) for slide in slides])))
    threshold = float(np.mean(list(slides[0].thresholds.values())))
    return {
        "probability": probability,
        "spread": float(np.std(expit(list(by_fold.values())), ddof=1)) if len(folds) > 1 else None,
        "threshold": threshold,
        "positive": probability >= threshold,
        "folds": tuple(folds),
        "why": slides[0].why,
    }


def write_predictions(path: Path, report: PredictionReport, patients: Mapping[str, str]) -> None:
    """``predictions.csv``: a row a patient, a row a slide, and a row for each slide that could not be read."""

    def row(level: str, patient: str, slide: str, p: Prediction) -> list[object]:
        spread = "" if p.spread is None else f"{p.spread:.6f}"
        call = "positive" if p.positive else "negative"
        folds = ";".join(map(str, p.folds))
        return [level, patient, slide, "done", f"{p.probability:.6f}", spread, f"{p.threshold:.6f}", call, folds, p.why]

    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row("patient", p.patient, "", p) for p in report.patients)
        writer.writerows(row("slide", p.patient, p.slide, p) for p in report.slides)
        for failed in report.failed:
            writer.writerow(
                ["slide", patients[failed.slide], failed.slide, "failed", "", "", "", "", "", failed.reason]
            )
