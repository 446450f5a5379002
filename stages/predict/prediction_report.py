"""prediction_report: all predictions of a folder in one table and on one page.

    predictions.csv, .parquet, .json    a row a patient and a row a slide
    report.html

Batches accumulate: every slide that was ever requested in this folder has a row. A prediction that is no longer valid
(another model, a changed slide) is marked as stale and left out of the patients' figures; a slide without a prediction
has the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...data.artifact import whole
from ...data.manifest import Record
from ...data.wording import some
from ...models.applicability import Applicability, read_applicability
from ...models.bundle import BundleFacts, folds_of, prevalence_of
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import PatientPrediction, Prevalence
from ..features_folder import stage_of
from ..lineage import Lineage, model_record
from ..pages.asked_question import Question
from ..pages.attention_words import concentration_words
from ..pages.report_page import (
    FailedSlide,
    PredictionReport,
    SlidePrediction,
    StaleSlide,
    facts_of_target,
    prediction_page,
)
from ..pages.targets_page import target_prediction_page
from ..registry import VERSIONS
from ..settings import Presentation, Settings
from ..slide_records import extraction_of, tiling_of
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from ..tile.why_empty import what_to_do, why_empty
from ..train.read_patients import Folds, folds_of_target
from .allowed_folds import allowed_folds
from .earlier_batches import patients_before, why_stale
from .prediction_table import Predictions, combined, predictions_table, targets_table
from .reading import SlideOutput, read_outputs
from .stage import PredictionTask
from .table_files import write_csv, write_json, write_parquet
from .uncertainty import CANNOT_JUDGE, Judge


class PredictionReportSettings(Settings):
    """How predictions are shown."""

    prevalence: float | None = Presentation(None, gt=0, lt=1)
    """The one that probabilities are shown at; default: that of the model's training patients."""
    alpha: float = Presentation(0.1, gt=0, lt=1)
    """Share of patients whose label set may miss their class."""


class PredictionReportStage(Stage[PredictionReportSettings]):
    """The report stage of predictions; its single item is ``predictions``."""

    name = "prediction_report"
    version = VERSIONS["prediction_report"]
    items = "tables"
    closes = True

    def __init__(
        self,
        settings: PredictionReportSettings,
        folder: Path,
        workspace: Path,
        task: PredictionTask,
        *,
        other_patients: bool = False,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.task, self.other_patients = task, other_patients

    def plan(self) -> Plan:
        before = patients_before(self.manifest, self.workspace)
        patient_of = self.task.patient_of(before)
        asked = {slide: patient_of[slide] for slide in sorted(before.keys() | self.task.slides.keys())}
        lineage, model = Lineage(self.workspace), model_record(self.task.model, self.workspace).digest
        predicted = lineage.latest(self.folder, "predict")
        done = upstream(self.manifest, "predict", self.workspace, only=asked, lineage=lineage)
        old = {s for s, why in done.left_out.items() if why.state == "stale" and s not in self.task.slides}
        records = {**done.records, **{slide: predicted[slide] for slide in old}}
        paths = {s: self.workspace / r.outputs["prediction"].path for s, r in records.items()}
        outputs = read_outputs(paths)
        folds = folds_of(self.task.model)
        known = read_applicability(self.task.model, [path for path, _ in folds])
        stale = self._stale(asked, records, outputs, lineage, model, known)
        before_features = (tiling_of(self.task.tiles, self.task.features), extraction_of(self.task.features))
        stages = {stage: folder for folder, stage in before_features}
        stages |= {stage_of(self.task.features): self.task.features, "predict": self.folder}
        read_outputs({s: path for s, path in paths.items() if s not in stale}, folds[0][1].task)
        attempts = {stage: lineage.latest(folder, stage) for stage, folder in stages.items()}
        failed = [_why_not(slide, attempts, lineage) for slide in sorted(asked) if slide not in records]
        made = {slide: record.outputs["prediction"] for slide, record in records.items()}
        inputs: dict[str, Input] = {slide: OutputInput(made[slide]) for slide in records if slide not in stale}
        inputs["failed"] = ValueInput([vars(slide) for slide in failed])
        inputs["stale"] = ValueInput({slide: [why, made[slide].digest] for slide, why in stale.items()})
        inputs["patients"] = ValueInput(asked)
        inputs["models"] = ValueInput({slide: record.inputs["model"].digest for slide, record in records.items()})
        if known is not None:
            inputs["applicability"] = ValueInput(known.digest)
        notes = [f"stale, left out of all figures: {some(sorted(stale), 3)}; predict them again"] if stale else []
        if known is None:
            notes.append(CANNOT_JUDGE)
        work = Predictions(model, records, outputs, stale, failed, asked, known)
        return Plan([Item("predictions", inputs, work)], notes=notes)

    def _stale(
        self,
        asked: Mapping[str, str],
        records: Mapping[str, Record],
        outputs: Mapping[str, SlideOutput],
        lineage: Lineage,
        model: str,
        known: Applicability | None,
    ) -> dict[str, str]:
        """Map slides whose prediction is no longer valid to the reason."""
        bundles = [facts for _, facts in folds_of(self.task.model)]
        patients = self.task.patients(asked)
        in_order = sorted(outputs, key=lambda slide: records[slide].start)
        other = {asked[slide]: outputs[slide].other_patients for slide in in_order}  # a patient's latest one decides
        other |= {asked[slide]: self.other_patients for slide in self.task.slides}
        stale = {}
        for slide, output in outputs.items():
            patient, record = asked[slide], records[slide]
            folds = allowed_folds(bundles, patients[patient], other_patients=other[patient]).folds
            standing = lineage.standing(record)
            if why := why_stale(record, output, model=model, folds=folds, standing=standing, known=known):
                stale[slide] = why
        return stale

    def process(self, item: Item, progress: Progress) -> Outcome:
        work: Predictions = item.payload
        folds = folds_of(self.task.model)
        prevalence, task = prevalence_of(folds, self.settings.prevalence), folds[0][1].task
        page = self.folder / "report.html"
        if isinstance(task, MultiTask):
            reports = self._reports(work, folds, task)
            report = next(iter(reports.values()))
            table = targets_table(reports, work, task)
            text = target_prediction_page(report, reports, Question.asked(folds[0][1].question))
        else:
            report = self._report(work, [facts for _, facts in folds], prevalence)
            table = predictions_table(report, work, task, prevalence)
            text = prediction_page(report)
        files = {kind: self.folder / f"predictions.{kind}" for kind in ("csv", "parquet", "json")}
        write_csv(files["csv"], table)
        write_parquet(files["parquet"], table)
        about = {"model": self.task.model.name, "digest": work.model, "alpha": self.settings.alpha}
        write_json(files["json"], table, {**about, "judged": work.known is not None})
        with whole(page) as scratch:
            scratch.write_text(text, encoding="utf-8")
        stats = {
            "slides": len(report.slides),
            "patients": len(report.patients),
            "failed_slides": len(report.failed),
            "stale_slides": len(report.stale),
            "uncertain_slides": sum(bool(slide.prediction.doubts) for slide in report.slides),
            "asked": dict(work.asked),
        }
        outputs = {"table": files["csv"], "parquet": files["parquet"], "json": files["json"], "page": page}
        return Outcome(outputs=outputs, stats=stats)

    def _reports(self, work: Predictions, folds: Folds, task: MultiTask) -> dict[str, PredictionReport]:
        """Each target's report, as of a model of that target alone."""
        reports = {}
        for name in task.targets:
            own = folds_of_target(folds, name)
            thresholds = {facts.fold: facts.threshold for _, facts in own}
            current = {slide: output for slide, output in work.outputs.items() if slide not in work.stale}
            outputs = {slide: output.of_target(task, name, thresholds) for slide, output in current.items()}
            of_target = replace(work, outputs=outputs)
            reports[name] = self._report(of_target, [facts for _, facts in own], prevalence_of(own, None), name)
        return reports

    def _report(
        self, work: Predictions, bundles: Sequence[BundleFacts], prevalence: Prevalence, target: str = ""
    ) -> PredictionReport:
        current = {slide: output for slide, output in work.outputs.items() if slide not in work.stale}
        by_patient: dict[str, list[SlideOutput]] = {}
        for slide, output in current.items():
            by_patient.setdefault(work.asked[slide], []).append(output)
        first = bundles[0]
        question, task = Question.asked(first.question, first.signature), first.task
        judge = Judge(known=work.known, task=task, question=question, target=target, alpha=self.settings.alpha)
        patients = {
            patient: judge.patient(combined(patient, slides, task, prevalence), slides)
            for patient, slides in sorted(by_patient.items())
        }
        return PredictionReport(
            name=self.folder.name,
            model=self.task.model.name,
            backbone=first.recipe.backbone,
            question=question,
            n_folds=len(bundles),
            prevalence=prevalence if task.has_prevalence else None,
            patients=tuple(patients.values()),
            slides=tuple(
                self._slide(
                    output,
                    work.records[slide],
                    judge.slide(
                        combined(work.asked[slide], [output], task, prevalence), output, patients[work.asked[slide]]
                    ),
                )
                for slide, output in current.items()
            ),
            failed=tuple(work.failed),
            stale=tuple(StaleSlide(slide=slide, reason=why) for slide, why in work.stale.items()),
            alpha=None if judge.held is None else judge.alpha,
            facts=(
                *facts_of_target(first.signature),
                *judge.facts(tuple(patients.values())),
                ("tiles", f"{first.recipe.tile_px} px at {first.recipe.tile['mpp']:g} µm per pixel"),
                ("backbone", f"{first.recipe.backbone}, {first.recipe.pooling_text}"),
                ("backbone weights", first.recipe.weights_digest),
                *([("slide encoder", first.recipe.slide_encoder)] if first.recipe.slide_encoder else ()),
                ("model", work.model),
                ("wsipipe that trained it", first.versions.get("wsipipe", "unknown")),
            ),
        )

    def _slide(self, output: SlideOutput, record: Record, prediction: PatientPrediction) -> SlidePrediction:
        def beside(name: str) -> str | None:
            made = record.outputs.get(name)
            return (self.workspace / made.path).relative_to(self.folder).as_posix() if made else None

        return SlidePrediction(
            slide=output.slide_id,
            n_tiles=output.tiles,
            heatmap=beside("heatmap"),
            top_tiles=beside("top_tiles"),
            geojson=beside("geojson"),
            evidence=beside("evidence"),
            scores=beside("scores"),
            concentration="" if output.concentration is None else concentration_words(output.concentration),
            prediction=prediction,
        )


def _why_not(slide: str, attempts: Mapping[str, Mapping[str, Record]], lineage: Lineage) -> FailedSlide:
    """Find the first stage in which a slide got stuck, and its message.

    :param attempts: stage → its latest record of each slide, in the order of the pipeline.
    """
    for stage, records in attempts.items():
        record = records.get(slide)
        if record is not None and record.error is not None:
            return FailedSlide(slide=slide, reason=f"{stage}: {record.error.message}", hint=record.error.hint)
        if record is not None and record.status == "empty":
            return FailedSlide(slide=slide, reason=f"empty: {why_empty(record)}", hint=what_to_do(record))
        if record is not None and not (standing := lineage.standing(record)).counts:
            reason = f"{stage}: {standing.state}, {standing.why}"
            return FailedSlide(slide=slide, reason=reason, hint="predict it again")
    return FailedSlide(slide=slide, reason="not done yet", hint="predict it again")
