"""external: what a trained model is worth on the patients of another workspace.

    readings/<slide>.json  what each fold says of a slide
    patients.csv           every patient of the table: judged, or dropped and why
    predictions.csv        a row a patient
    metrics.json           pooled over the patients with 95 % intervals, and each fold's model by itself
    report.html            the page to look at

Nothing is fitted here: network, threshold and the way from slide to bag are the model's, and labels are first looked
at when all predictions are made. A fold that was trained or validated on a patient, or on a file with the bytes of one
of the patient's slides, says nothing of that patient.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import expit

from ...data.artifact import whole
from ...data.cohort.labels import PatientLabels
from ...data.features.store import read_bag
from ...models.backbones.devices import choose_devices
from ...models.bundle import folds_of, read_bundle
from ...models.evaluation.metrics import Estimate, Metrics
from ..lineage import model_record
from ..pages.report_page import Accounting, Question
from ..registry import VERSIONS
from ..settings import Runtime, Settings
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from ..train.cross_validate import metrics_of, write_metrics
from ..train.split import write_patients
from .cohort import ExternalCohort, ExternalSettings, ExternalTask, cross_validated_auc, without
from .page import ExternalReport, FoldAlone, JudgedPatient, external_page


class ReadSettings(Settings):
    """Reading slides with a model."""

    device: str = Runtime("auto")


class SlideLogits(BaseModel):
    """What is kept of a slide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_id: str
    logits: dict[int, float]
    """Fold → log-odds of positive, of the folds that may speak."""
    tiles: int


class ReadStage(Stage[ReadSettings]):
    """Items are slides of patients that are to be judged. No label comes near it."""

    name = "read"
    version = VERSIONS["read"]

    def __init__(self, settings: ReadSettings, folder: Path, workspace: Path, task: ExternalTask) -> None:
        super().__init__(settings, folder, workspace)
        self.task = task

    def plan(self) -> Plan:
        cohort = ExternalCohort.of(self.task, self.workspace)
        cohort.refuse_other_tiles(cohort.bundles[0].recipe, self.task, self.workspace)
        model = OutputInput(model_record(self.task.model, self.workspace))
        return Plan(
            [
                Item(
                    slide,
                    {
                        "features": OutputInput(cohort.stores[slide]),
                        "model": model,
                        "folds": ValueInput(list(cohort.folds[patient])),
                    },
                    (self.workspace / cohort.stores[slide].path, cohort.folds[patient]),
                )
                for patient, slides in cohort.labels.slides.items()
                for slide in slides
            ]
        )

    def setup(self) -> None:
        device = choose_devices(self.settings.device)[0]
        self.bundles = {facts.fold: read_bundle(path, device) for path, facts in folds_of(self.task.model)}

    def process(self, item: Item, progress: Progress) -> Outcome:
        store, folds = item.payload
        bag = read_bag(store)
        logits = {fold: self.bundles[fold].read(bag, store).logit for fold in folds}
        output = SlideLogits(slide_id=item.id, logits=logits, tiles=len(bag.coords))
        path = self.folder / "readings" / f"{item.id}.json"
        with whole(path) as scratch:
            scratch.write_text(output.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return Outcome({"reading": path}, {"tiles": output.tiles, "folds": len(folds)})


@dataclass(frozen=True)
class ExternalPrediction:
    """A patient's row in ``predictions.csv``."""

    patient_id: str
    label: int
    probability: float
    spread: float | None
    """Standard deviation over the folds of their probabilities; None where one spoke."""
    logit: float
    """Mean over the folds of the mean over the slides."""
    threshold: float
    """Mean of the folds'."""
    call: int
    slides: int
    folds: tuple[int, ...]

    @classmethod
    def of(
        cls, patient: str, label: int, slides: Sequence[Mapping[int, float]], thresholds: Mapping[int, float]
    ) -> ExternalPrediction:
        """Of a patient whose slides were read by the same folds."""
        folds = tuple(sorted(slides[0]))
        by_fold = [float(np.mean([logits[fold] for logits in slides])) for fold in folds]
        logit, threshold = float(np.mean(by_fold)), float(np.mean([thresholds[fold] for fold in folds]))
        probability = float(expit(logit))
        spread = float(np.std(expit(by_fold), ddof=1)) if len(folds) > 1 else None
        called = int(probability >= threshold)
        return cls(patient, label, probability, spread, logit, threshold, called, len(slides), folds)


@dataclass(frozen=True)
class _Judgement:
    """What the cohort's one item is made from: who is judged after reading, and what was read of their slides."""

    cohort: ExternalCohort
    labels: PatientLabels
    readings: Mapping[str, Path]
    cross_validated: Estimate | None


class ExternalStage(Stage[ExternalSettings]):
    """One item, ``cohort``."""

    name = "external"
    version = VERSIONS["external"]
    items = "cohorts"

    def __init__(self, folder: Path, workspace: Path, task: ExternalTask) -> None:
        super().__init__(task.asked, folder, workspace)
        self.task = task

    def plan(self) -> Plan:
        cohort = ExternalCohort.of(self.task, self.workspace)
        done = upstream(self.manifest, "read", self.workspace, only=cohort.stores)
        readings = {slide: record.outputs["reading"] for slide, record in done.records.items()}
        read = {patient: tuple(s for s in own if s in readings) for patient, own in cohort.labels.slides.items()}
        unread = {patient: "the model could not read their slides" for patient, own in read.items() if not own}
        labels = without(replace(cohort.labels, slides=read), unread)
        notes = [*cohort.notes, *done.notes]
        if not labels.labels:
            return Plan([], notes=notes)  # why the slides could not be read has been said
        if cohort.partly_seen:
            notes.append(f"known to some folds, judged by the others: {len(cohort.partly_seen)} patients")
        inputs: dict[str, Input] = {
            "table": FileInput(self.task.table.resolve()),
            "slides": ValueInput(dict(cohort.slides)),
            "dropped": ValueInput(dict(labels.dropped)),
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
        logits = {
            patient: [SlideLogits.model_validate_json(work.readings[s].read_bytes()).logits for s in slides]
            for patient, slides in work.labels.slides.items()
        }

        def predictions(folds: Mapping[int, float]) -> list[ExternalPrediction]:
            """Of the patients of whom any of these folds may speak, those folds alone heard."""
            heard = {p: [{f: one[f] for f in one if f in folds} for one in own] for p, own in logits.items()}
            return [ExternalPrediction.of(p, work.labels.labels[p], own, folds) for p, own in heard.items() if own[0]]

        task = work.cohort.bundles[0].question.task
        rows = predictions(thresholds)
        alone = {fold: predictions({fold: threshold}) for fold, threshold in thresholds.items()}
        pooled = metrics_of(rows, task, rounds=self.settings.bootstrap_rounds, seed=self.settings.seed)
        by_fold = {fold: metrics_of(own, task, rounds=0, seed=self.settings.seed) for fold, own in alone.items() if own}
        names = ("patients.csv", "predictions.csv", "metrics.json", "report.html")
        patients, table, metrics, page = (self.folder / name for name in names)
        write_patients(patients, work.labels)
        _write_predictions(table, rows)
        write_metrics(metrics, pooled, by_fold)
        with whole(page) as scratch:
            report = self._report(work, rows, pooled, by_fold, thresholds)
            scratch.write_text(external_page(report), encoding="utf-8")
        outputs = {"patients": patients, "predictions": table, "metrics": metrics, "page": page}
        return Outcome(outputs, {"patients": len(rows), "auc": pooled.auc.model_dump()})

    def _report(
        self,
        work: _Judgement,
        rows: Sequence[ExternalPrediction],
        pooled: Metrics,
        by_fold: Mapping[int, Metrics],
        thresholds: Mapping[int, float],
    ) -> ExternalReport:
        labels, first, asked = work.labels, work.cohort.bundles[0], self.settings
        return ExternalReport(
            name=self.folder.name,
            model=self.task.model.name,
            question=Question.of(asked.label_column, asked.positive, asked.negative),
            accounting=Accounting(
                in_table=len(labels.labels) + len(labels.dropped),
                used=len(labels.labels),
                dropped=tuple(labels.reasons.items()),
            ),
            metrics=pooled,
            folds=tuple(FoldAlone(fold=f, threshold=thresholds[f], metrics=own) for f, own in by_fold.items()),
            n_folds=len(thresholds),
            cross_validated=work.cross_validated,
            patients=tuple(
                JudgedPatient(
                    patient=row.patient_id,
                    positive=bool(row.label),
                    called_positive=bool(row.call),
                    **{name: getattr(row, name) for name in ("probability", "spread", "threshold", "slides", "folds")},
                )
                for row in rows
            ),
            known_by_id=len(work.cohort.known_by_id),
            differences=tuple(work.cohort.differences(first.recipe)),
            facts=(
                ("slides", str(sum(row.slides for row in rows))),
                ("features", f"{self.task.features.parent.name}/{self.task.features.name}"),
                ("tiles", f"{first.recipe.tile_px} px at {first.recipe.tile['mpp']:g} µm per pixel"),
                ("backbone", f"{first.recipe.backbone}, {first.recipe.pooling_text}"),
                ("backbone weights", first.recipe.weights_digest),
                ("model", f"{self.task.model.name}, method {first.method}, {len(thresholds)} folds"),
                ("its question", f"{first.question.label_column}: {', '.join(first.question.positive)}"),
                ("wsipipe that trained it", first.versions.get("wsipipe", "unknown")),
            ),
        )


def _write_predictions(path: Path, rows: Sequence[ExternalPrediction]) -> None:
    """Write ``predictions.csv``."""
    names = [field.name for field in fields(ExternalPrediction)]
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = {**vars(row), "folds": ";".join(map(str, row.folds))}
            writer.writerow(["" if values[name] is None else values[name] for name in names])
