"""external_evaluate: evaluates a trained model on the patients of another workspace.

    readings/<slide>.json  each fold's score of a slide
    patients.csv           every patient of the table: used, or dropped and why
    predictions.csv        one row per patient
    metrics.json           pooled over the patients with 95 % intervals, and each fold's model by itself
    report.html            the page to look at

Nothing is fitted here: network, threshold and the processing of slides are the model's, and labels are not used before
all predictions are made. A fold that was trained or validated on one of a patient's slides reads no slide of that
patient (:mod:`wsipipe.stages.predict.allowed_folds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...data.artifact import whole
from ...data.cohort.labels import PatientLabels
from ...data.files.safe_cells import SafeWriter
from ...models.bundle import BundleFacts, folds_of, prevalence_of
from ...models.evaluation.metrics import Estimate, Metrics
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.prediction import PatientPrediction, threshold_at
from ...models.tasks.task import Task
from ..lineage import model_record
from ..pages.numbers import figure
from ..pages.report_page import Accounting, Facts, Question
from ..pages.task_page import TaskReport, task_page
from ..predict.reading import FoldReader, SlideToRead, read_outputs, write_output
from ..registry import VERSIONS
from ..settings import Runtime, Settings
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from ..train.cross_validate import TASK_COLUMNS, main_figure, metrics_of, write_metrics
from ..train.patient_table import write_patients
from .cohort import ExternalCohort, ExternalSettings, ExternalTask, cross_validated_auc, without
from .page import ExternalReport, FoldAlone, external_page

PREDICTION_COLUMNS: Final = (
    "patient_id", "label", "probability", "spread", "logit", "threshold", "call", "slides", "folds", "prevalence",
)  # fmt: skip
"""Columns of ``predictions.csv``. Probability and threshold are at the prevalence, the logit at even prevalence."""


class ReadSlidesSettings(Settings):
    """Settings of reading slides with a model."""

    device: str = Runtime("auto")


class ReadSlidesStage(Stage[ReadSlidesSettings]):
    """The stage that reads slides with the model, without labels; its items are slides."""

    name = "read_slides"
    version = VERSIONS["read_slides"]

    def __init__(self, settings: ReadSlidesSettings, folder: Path, workspace: Path, task: ExternalTask) -> None:
        super().__init__(settings, folder, workspace)
        self.task = task

    def plan(self) -> Plan:
        prevalence_of(folds_of(self.task.model), self.task.asked.prevalence)  # refused before hours of reading
        cohort = ExternalCohort.of(self.task, self.workspace)
        cohort.refuse_other_tiles(cohort.bundles[0].recipe, self.task, self.workspace)
        model = model_record(self.task.model, self.workspace)
        items = []
        for patient, slides in cohort.labels.slides.items():
            for slide_id in slides:
                store = cohort.stores[slide_id]
                slide = SlideToRead(
                    slide_id=slide_id,
                    patient_id=patient,
                    store=self.workspace / store.path,
                    allowed=cohort.allowed[patient],
                    other_patients=self.task.asked.other_patients,
                )
                items.append(Item(slide_id, slide.inputs(store, model), slide))
        return Plan(items)

    def setup(self) -> None:
        self.reader = FoldReader(self.task.model, self.settings.device)

    def process(self, item: Item, progress: Progress) -> Outcome:
        output = self.reader.read(item.payload).output
        path = write_output(self.folder / "readings" / f"{item.id}.json", output)
        return Outcome({"reading": path}, {"tiles": output.tiles, "folds": len(output.logits)})


@dataclass(frozen=True)
class _Judgement:
    """The contents of the evaluation: the patients left after reading, and the outputs for their slides."""

    cohort: ExternalCohort
    labels: PatientLabels
    readings: Mapping[str, Path]
    cross_validated: Estimate | None


class ExternalEvaluateStage(Stage[ExternalSettings]):
    """The evaluation stage; its single item is ``cohort``."""

    name = "external_evaluate"
    version = VERSIONS["external_evaluate"]
    items = "cohorts"

    def __init__(self, folder: Path, workspace: Path, task: ExternalTask) -> None:
        super().__init__(task.asked, folder, workspace)
        self.task = task

    def plan(self) -> Plan:
        cohort = ExternalCohort.of(self.task, self.workspace)
        done = upstream(self.manifest, "read_slides", self.workspace, only=cohort.stores)
        readings = {slide: record.outputs["reading"] for slide, record in done.records.items()}
        read = {patient: tuple(s for s in own if s in readings) for patient, own in cohort.labels.slides.items()}
        unread = {patient: "the model could not read their slides" for patient, own in read.items() if not own}
        labels = without(replace(cohort.labels, slides=read), unread)
        notes = [*cohort.notes, *done.notes]
        if not labels.labels:
            return Plan([], notes=notes)  # the reasons have been reported by read_slides
        if cohort.partly_seen:
            notes.append(f"patients that some folds were trained on, read by the others: {len(cohort.partly_seen)}")
        inputs: dict[str, Input] = {
            "table": FileInput(self.task.table.resolve()),
            "slides": ValueInput(dict(cohort.slides)),
            "dropped": ValueInput(dict(labels.dropped)),
            "known_by_id": ValueInput(list(cohort.known_by_id)),
            "model": OutputInput(model_record(self.task.model, self.workspace)),
            **{f"reading of {slide}": OutputInput(readings[slide]) for own in labels.slides.values() for slide in own},
        }
        before = cross_validated_auc(self.task.model)
        inputs["cross_validated"] = ValueInput(before.model_dump() if before else None)
        paths = {slide: self.workspace / output.path for slide, output in readings.items()}
        return Plan([Item("cohort", inputs, _Judgement(cohort, labels, paths, before))], notes=notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        work: _Judgement = item.payload
        thresholds = {facts.fold: facts.threshold for facts in work.cohort.bundles}
        prevalence = prevalence_of(folds_of(self.task.model), self.settings.prevalence)
        task = work.cohort.bundles[0].task
        used = {slide: work.readings[slide] for own in work.labels.slides.values() for slide in own}
        outputs = read_outputs(used, task)

        def predictions(folds: Mapping[int, float]) -> list[PatientPrediction]:
            """Predict the patients that any of these folds may read, by those folds alone."""
            rows = []
            for patient, slides in work.labels.slides.items():
                logits = [{f: logit for f, logit in outputs[s].logits.items() if f in folds} for s in slides]
                if logits[0]:
                    label, why = work.labels.labels[patient], outputs[slides[0]].why
                    row = PatientPrediction.of(
                        patient, logits, folds, task, prevalence=prevalence, label=label, why=why
                    )
                    rows.append(row)
            return rows

        rows = predictions(thresholds)
        alone = {fold: predictions({fold: threshold}) for fold, threshold in thresholds.items()}
        pooled = metrics_of(rows, task, rounds=self.settings.bootstrap_rounds, seed=self.settings.seed)
        by_fold = {fold: metrics_of(own, task, rounds=0, seed=self.settings.seed) for fold, own in alone.items() if own}
        names = ("patients.csv", "predictions.csv", "metrics.json", "report.html")
        patients, table, metrics, page = (self.folder / name for name in names)
        write_patients(patients, work.labels)
        _write_predictions(table, rows, task)
        write_metrics(metrics, pooled, by_fold, prevalence)
        with whole(page) as scratch:
            scratch.write_text(self._page(work, rows, pooled, by_fold, thresholds), encoding="utf-8")
        files = {"patients": patients, "predictions": table, "metrics": metrics, "page": page}
        return Outcome(files, {"patients": len(rows), **main_figure(pooled)})

    def _page(
        self,
        work: _Judgement,
        rows: Sequence[PatientPrediction],
        pooled: Metrics | TaskMetrics,
        by_fold: Mapping[int, Metrics | TaskMetrics],
        thresholds: Mapping[int, float],
    ) -> str:
        if isinstance(pooled, Metrics):
            binary = {fold: own for fold, own in by_fold.items() if isinstance(own, Metrics)}
            shown = {fold: threshold_at(threshold, rows[0].prevalence) for fold, threshold in thresholds.items()}
            return external_page(self._report(work, rows, pooled, binary, shown))
        labels, first = work.labels, work.cohort.bundles[0]
        where = (
            f" Where the model was trained, cross-validation gave {figure(work.cross_validated.value)}."
            if (work.cross_validated)
            else ""
        )
        seen = (
            [f"Patients that some of the folds were trained on, read by the other folds: {n}."]
            if (n := len(work.cohort.partly_seen))
            else []
        )
        other = (
            [f"Slides that were prepared differently: {'; '.join(d)}."]
            if (d := work.cohort.differences(first.recipe))
            else []
        )
        report = TaskReport(
            kind="Evaluation on another cohort",
            run=self.folder.name,
            question=Question.asked(self.settings),
            how=f"Nothing was fitted to this cohort.{where}",
            accounting=_accounting(labels),
            metrics=pooled,
            of_folds=tuple((fold, own) for fold, own in by_fold.items() if isinstance(own, TaskMetrics)),
            patients=tuple(rows),
            share_names=first.task.share_names,
            differences=(*seen, *other),
            facts=self._facts(first, rows, len(thresholds)),
        )
        return task_page(report)

    def _report(
        self,
        work: _Judgement,
        rows: Sequence[PatientPrediction],
        pooled: Metrics,
        by_fold: Mapping[int, Metrics],
        thresholds: Mapping[int, float],
    ) -> ExternalReport:
        labels, first, asked = work.labels, work.cohort.bundles[0], self.settings
        return ExternalReport(
            name=self.folder.name,
            model=self.task.model.name,
            question=Question.asked(asked),
            accounting=_accounting(labels),
            metrics=pooled,
            prevalence=rows[0].prevalence,
            folds=tuple(FoldAlone(fold=f, threshold=thresholds[f], metrics=own) for f, own in by_fold.items()),
            n_folds=len(thresholds),
            cross_validated=work.cross_validated,
            patients=tuple(rows),
            known_by_id=len(work.cohort.known_by_id),
            differences=tuple(work.cohort.differences(first.recipe)),
            facts=self._facts(first, rows, len(thresholds)),
        )

    def _facts(self, first: BundleFacts, rows: Sequence[PatientPrediction], folds: int) -> Facts:
        question = first.question
        values = question.positive if question.task == "binary" else question.classes
        return (
            ("slides", str(sum(row.slides for row in rows))),
            ("features", f"{self.task.features.parent.name}/{self.task.features.name}"),
            ("tiles", f"{first.recipe.tile_px} px at {first.recipe.tile['mpp']:g} µm per pixel"),
            ("backbone", f"{first.recipe.backbone}, {first.recipe.pooling_text}"),
            ("backbone weights", first.recipe.weights_digest),
            ("model", f"{self.task.model.name}, method {first.method}, {folds} folds"),
            ("its question", f"{question.label_column}: {', '.join(values) or question.task}"),
            ("wsipipe that trained it", first.versions.get("wsipipe", "unknown")),
        )


def _accounting(labels: PatientLabels) -> Accounting:
    return Accounting(
        in_table=len(labels.labels) + len(labels.dropped),
        used=len(labels.labels),
        dropped=tuple(labels.reasons.items()),
    )


def _write_predictions(path: Path, rows: Sequence[PatientPrediction], task: Task) -> None:
    """Write ``predictions.csv``."""
    if task.name != "binary":
        columns = ("patient_id", *(name for name in TASK_COLUMNS if name not in ("patient_id", "fold")), "spread")
        with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = SafeWriter(stream)
            writer.writerow([*columns, "folds", *task.share_names])
            for row in rows:
                shown = ["" if (value := getattr(row, name)) is None else value for name in columns]
                writer.writerow([*shown, ";".join(map(str, row.folds)), *row.shares])
        return
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow(PREDICTION_COLUMNS)
        for row in rows:
            values = {name: getattr(row, name) for name in PREDICTION_COLUMNS}
            values |= {"folds": ";".join(map(str, row.folds)), "spread": "" if row.spread is None else row.spread}
            writer.writerow(values.values())
