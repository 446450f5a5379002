"""external_evaluate: evaluates a trained model on the patients of another workspace.

    readings/<slide>.json  each fold's score of a slide
    patients.csv           every patient of the table: used, or dropped and why
    predictions.csv        one row per patient
    metrics.json           pooled over the patients with 95 % intervals, and each fold's model by itself
    report.html            the page to look at

A model of several targets has predictions and metrics of each in ``targets/<name>/``.

Nothing is fitted here: network, threshold and the processing of slides are the model's, and labels are not used before
all predictions are made. A fold that was trained or validated on one of a patient's slides reads no slide of that
patient (:mod:`wsipipe.stages.predict.allowed_folds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...data.artifact import whole
from ...data.cohort.labels import PatientLabels
from ...data.cohort.target_labels import LabelsOfTargets
from ...models.applicability import Applicability, read_applicability
from ...models.bundle import folds_of, prevalence_of
from ...models.evaluation.metrics import Estimate, Metrics
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import EVEN, Prevalence
from ..lineage import model_record
from ..predict.reading import FoldReader, SlideToRead, read_outputs, write_output
from ..registry import VERSIONS
from ..settings import Runtime, Settings
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from ..train.audit import Audited, write_audits
from ..train.cross_validate import main_figure, write_metrics
from ..train.patient_table import write_patients
from ..train.read_patients import ReadPatient
from .cohort import ExternalCohort, ExternalSettings, ExternalTask, cross_validated_auc, without
from .judged import Judged
from .judged_targets import judge_targets, write_targets
from .uncertain_slides import UncertainSlides


class ReadSlidesSettings(Settings):
    """Settings of reading slides with a model."""

    device: str = Runtime("auto")


class ReadSlidesStage(Stage[ReadSlidesSettings]):
    """The stage that reads slides with the model, without labels; its items are slides."""

    name = "read_slides"
    version = VERSIONS["read_slides"]
    distributes = True

    def __init__(self, settings: ReadSlidesSettings, folder: Path, workspace: Path, task: ExternalTask) -> None:
        super().__init__(settings, folder, workspace)
        self.task = task

    @property
    def sources(self) -> Sequence[Path]:
        return self.task.tiles, self.task.features

    def plan(self) -> Plan:
        folds = folds_of(self.task.model)
        prevalence_of(folds, self.task.asked.prevalence)  # refused before hours of reading
        cohort = ExternalCohort.of(self.task, self.workspace)
        self.task.audited()  # refused now, too
        cohort.refuse_other_tiles(cohort.bundles[0].recipe, self.task, self.workspace)
        model = model_record(self.task.model, self.workspace)
        known = read_applicability(self.task.model, [path for path, _ in folds])
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
                    known=known,
                    sharpness=cohort.tiled[slide_id].stats.get("sharpness_median"),
                )
                items.append(Item(slide_id, slide.inputs(store, model), slide))
        return Plan(items)

    def setup(self) -> None:
        self.reader = FoldReader(self.task.model, self.settings.device)

    def process(self, item: Item, progress: Progress) -> Outcome:
        output = self.reader.read(item.payload).output
        path = write_output(self.folder / "readings" / f"{item.id}.json", output)
        return Outcome({"reading": path}, output.stats)


@dataclass(frozen=True)
class _Judgement:
    """The contents of the evaluation: the patients left after reading, and the outputs for their slides."""

    cohort: ExternalCohort
    labels: PatientLabels
    readings: Mapping[str, Path]
    cross_validated: Estimate | None
    audited: Audited
    known: Applicability | None
    """What the model knows of its training slides."""


class ExternalEvaluateStage(Stage[ExternalSettings]):
    """The evaluation stage; its single item is ``cohort``."""

    name = "external_evaluate"
    version = VERSIONS["external_evaluate"]
    items = "cohorts"
    closes = True

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
        if cohort.targets is not None:
            inputs["expression"] = OutputInput(cohort.targets.record)
        before = cross_validated_auc(self.task.model)
        inputs["cross_validated"] = ValueInput(before.model_dump() if before else None)
        paths = {slide: self.workspace / output.path for slide, output in readings.items()}
        audited = self.task.audited()
        known = read_applicability(self.task.model, [path for path, _ in folds_of(self.task.model)])
        judgement = _Judgement(cohort, labels, paths, before, audited, known)
        return Plan([Item("cohort", inputs | audited.inputs, judgement)], notes=[*notes, *audited.notes])

    def process(self, item: Item, progress: Progress) -> Outcome:
        work: _Judgement = item.payload
        folds = folds_of(self.task.model)
        task = folds[0][1].task
        used = {slide: work.readings[slide] for own in work.labels.slides.values() for slide in own}
        outputs = read_outputs(used, task)
        uncertain = UncertainSlides.of(outputs, work.known)
        cohort = replace(work.cohort, uncertain=uncertain)
        read = [
            ReadPatient(
                patient,
                work.cohort.label(patient, outputs[own[0]].logits.keys()),
                [outputs[slide].logits for slide in own],
                outputs[own[0]].why,
                partial(work.cohort.label, patient),
            )
            for patient, own in work.labels.slides.items()
        ]
        pooled: Metrics | TaskMetrics
        prevalence: Prevalence
        by_fold: Mapping[int, Metrics | TaskMetrics]
        files = {"patients": self.folder / "patients.csv"}
        write_patients(files["patients"], work.labels)
        if isinstance(task, MultiTask) and isinstance(work.labels, LabelsOfTargets):
            judged = judge_targets(self.task, work.labels, folds, task, read, self.folder)
            files |= write_targets(judged, self.folder) | write_audits(self.folder, {})
            text = judged.page(cohort, self.task, work.cross_validated)
            pooled, by_fold, prevalence = judged.pooled, judged.by_fold, EVEN
        else:
            one = Judged.of(
                self.folder.name,
                self.settings,
                work.labels,
                folds,
                read,
                self.settings,
                work.cross_validated,
                work.audited,
            )
            files |= write_audits(self.folder, {} if one.audit is None else {folds[0][1].method: one.audit})
            files["predictions"] = self.folder / "predictions.csv"
            one.write_predictions(files["predictions"])
            text = one.page(cohort, self.task)
            pooled, by_fold, prevalence = one.pooled, one.by_fold, one.rows[0].prevalence
        files |= {"metrics": self.folder / "metrics.json", "page": self.folder / "report.html"}
        write_metrics(files["metrics"], pooled, by_fold, prevalence, uncertain.facts)
        with whole(files["page"]) as scratch:
            scratch.write_text(text, encoding="utf-8")
        return Outcome(files, {"patients": len(read), **main_figure(pooled)})
