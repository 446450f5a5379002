"""cross_validate: predicts every patient by the one fold that was neither trained nor validated on them.

oof_predictions.csv    one row per patient
metrics.json           pooled over the patients with 95 % intervals, and by fold
applicability.json     what held-out slides and patients say of when the model should not answer

A model of several targets has both for each target, in ``targets/<name>/``, and the mean of the targets in
``metrics.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...data.artifact import whole
from ...data.cohort.outcomes import Label, label_from_text
from ...data.cohort.splits import MOST_FOLDS
from ...data.errors import CohortError, StoreError, UsageError
from ...data.features.store import read_bag
from ...data.files.own_tables import read_own_rows
from ...data.files.safe_cells import SafeWriter
from ...data.json_text import fault, read_json
from ...data.manifest import Json, Manifest
from ...models.backbones.devices import choose_devices
from ...models.bundle import prevalence_of, read_bundle, read_facts
from ...models.evaluation.metrics import Metrics
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.target_facts import Share
from ...models.tasks.binary import BINARY
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import EVEN, PatientPrediction, Prevalence, read_prevalence
from ...models.tasks.target_figures import target_metrics
from ...models.tasks.task import Task
from ..lineage import Lineage
from ..registry import VERSIONS
from ..settings import Presentation, Runtime, Settings
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .held_out import HeldOut
from .read_patients import Folds, ReadPatient, folds_of_target, of_target, predictions
from .split import features_of, split_output


class CrossValidateSettings(Settings):
    """Evaluation by cross-validation."""

    bootstrap_rounds: int = 2000
    seed: int = 0
    prevalence: float | None = Presentation(None, gt=0, lt=1)
    """The one that probabilities are shown at; default: the training patients'."""
    device: str = Runtime("auto")


OOF_COLUMNS: Final = (
    "patient_id", "fold", "label", "probability", "logit", "threshold", "call", "slides", "prevalence",
)  # fmt: skip
"""Columns of ``oof_predictions.csv``. Probability and threshold are at the prevalence, the logit at even prevalence."""


@dataclass(frozen=True)
class _TestFold:
    bundle: Path
    patients: Mapping[str, tuple[Label, tuple[Path, ...]]]
    stale: str
    """Why its training is no longer valid; empty if it is."""


class CrossValidateStage(Stage[CrossValidateSettings]):
    """The cross-validation stage; its single item is ``cross-validation``.

    :param features: folder of the stage whose slides are used.
    :param splits: folder of the split that was trained on; default: the model's own.
    """

    name = "cross_validate"
    version = VERSIONS["cross_validate"]
    items = "models"
    closes = True

    def __init__(
        self,
        settings: CrossValidateSettings,
        folder: Path,
        workspace: Path,
        *,
        features: Path,
        splits: Path | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.features, self.splits = features, splits or folder

    def plan(self) -> Plan:
        split = split_output(Manifest.of(self.splits), self.workspace)
        wanted = range(split.splits.folds)
        features = features_of(split.slides, self.features, self.workspace)
        lineage = Lineage(self.workspace)
        trained = upstream(self.manifest, "train", self.workspace, lineage=lineage)
        stale = {item: standing.why for item, standing in trained.left_out.items() if standing.state == "stale"}
        bundles = {**trained.records, **{i: r for i, r in lineage.latest(self.folder, "train").items() if i in stale}}
        missing = [fold for fold in wanted if f"fold-{fold}" not in bundles]
        if missing:
            raise CohortError(
                f"folds {', '.join(map(str, missing))} are not trained",
                path=self.folder,
                hint="see above for the reason; wsipipe train continues from there",
            )
        inputs: dict[str, Input] = {"splits": OutputInput(split.record), **split.inputs}
        folds = []
        for fold in wanted:
            bundle = bundles[f"fold-{fold}"].outputs["bundle"]
            inputs[f"fold-{fold}"] = OutputInput(bundle)
            patients = {
                patient: (label, tuple(self.workspace / features[slide].path for slide in slides))
                for patient, (label, slides) in split.part(fold, "test").items()
            }
            folds.append(_TestFold(self.workspace / bundle.path, patients, stale.get(f"fold-{fold}", "")))
        inputs |= {f"features of {slide}": OutputInput(store) for slide, store in features.items()}
        return Plan([Item("cross-validation", inputs, folds)])

    def process(self, item: Item, progress: Progress) -> Outcome:
        device = choose_devices(self.settings.device)[0]
        read: list[ReadPatient] = []
        held_out = HeldOut(self.workspace / "tiles" / self.features.parent.name)
        for test in item.payload:
            if test.stale:
                hint = "run wsipipe train: it trains the fold again, and continues from there"
                raise CohortError(f"is stale: {test.stale}", path=test.bundle, hint=hint)
        bundles = [(test.bundle, read_facts(test.bundle)) for test in item.payload]
        task = bundles[0][1].task
        prevalence_of(bundles, self.settings.prevalence)  # refused before slides are read
        for test in item.payload:
            bundle = read_bundle(test.bundle, device)
            for patient, (label, stores) in test.patients.items():
                bags = [read_bag(store) for store in stores]
                facts = bundle.facts
                if any(facts.saw(patient, bag.facts.slide_digest) for bag in bags):
                    what = f"was trained on its own test patient {patient}, or on one of their slides"
                    hint = "the split was changed by hand: move the model away, and train again"
                    raise CohortError(what, path=test.bundle, hint=hint)
                scores = [{facts.fold: bundle.read(*bag).logit} for bag in zip(bags, stores, strict=True)]
                read.append(ReadPatient(patient, label, scores))
                for bag in bags:
                    held_out.add(facts.fold, bag)
        paths = [path for path, _ in bundles]
        if isinstance(task, MultiTask):
            outcome, of_targets = evaluate_targets(self.folder, task, read, bundles, self.settings)
            questions = {name: (task.targets[name], rows) for name, rows in of_targets.items()}
        else:
            rows = predictions(read, bundles, self.settings.prevalence)
            outcome, questions = write_evaluation(self.folder, rows, self.settings, task), {"": (task, rows)}
        known = {"applicability": held_out.write(self.folder, questions, paths)}
        return replace(outcome, outputs={**outcome.outputs, **known})


def evaluate_targets(
    folder: Path,
    task: MultiTask,
    read: Sequence[ReadPatient],
    bundles: Folds,
    settings: CrossValidateSettings,
) -> tuple[Outcome, dict[str, list[PatientPrediction]]]:
    """Write both files of each target, of the patients who have its label, and the metrics of all together.

    :returns: also the predictions of each target.
    """
    read = sorted(read, key=lambda one: one.patient_id)
    rows = {
        name: predictions(of_target(read, task, name), folds_of_target(bundles, name), None) for name in task.targets
    }
    outputs: dict[str, Path] = {}
    metrics, by_fold = {}, {}
    for name, own in rows.items():
        files = {what: target_file(folder, name, what) for what in TARGET_FILES}
        metrics[name], by_fold[name] = _metrics(own, settings, task.targets[name])
        write_oof(files["predictions"], own, task.targets[name])
        write_metrics(files["metrics"], metrics[name], by_fold[name], own[0].prevalence)
        outputs |= {f"{what} of {name}": file for what, file in files.items()}
    rounds, seed = settings.bootstrap_rounds, settings.seed
    pooled = target_metrics(task, rows, metrics, rounds=rounds, seed=seed)
    folds = {}
    for fold in sorted({row.fold for own in rows.values() for row in own}):
        of_fold = {name: [row for row in own if row.fold == fold] for name, own in rows.items()}
        known = {name: own for name, own in of_fold.items() if own}
        folds[fold] = target_metrics(task, known, {n: by_fold[n][fold] for n in known}, rounds=0, seed=seed)
    write_metrics(folder / "metrics.json", pooled, folds, EVEN)
    outcome = Outcome({**outputs, "metrics": folder / "metrics.json"}, {"patients": len(read), **main_figure(pooled)})
    return outcome, rows


TARGET_FILES: Final = {"predictions": "oof_predictions.csv", "metrics": "metrics.json"}
"""Files of each target, in a folder of its name below :data:`TARGETS`."""
TARGETS: Final = "targets"


def target_file(folder: Path, target: str, what: str) -> Path:
    """Where a file of one target is, among those of the model."""
    return folder / TARGETS / target / TARGET_FILES[what]


def _metrics(
    rows: Sequence[PatientPrediction], settings: CrossValidateSettings, task: Task
) -> tuple[Metrics | TaskMetrics, dict[int, Metrics | TaskMetrics]]:
    """The figures of all patients, and of each fold's."""
    pooled = metrics_of(rows, task, rounds=settings.bootstrap_rounds, seed=settings.seed)
    return pooled, {
        fold: metrics_of([row for row in rows if row.fold == fold], task, rounds=0, seed=settings.seed)
        for fold in sorted({row.fold for row in rows})
    }


def write_evaluation(
    folder: Path, rows: Sequence[PatientPrediction], settings: CrossValidateSettings, task: Task
) -> Outcome:
    """Write both files of an evaluation by cross-validation."""
    rows = sorted(rows, key=lambda row: row.patient_id)
    pooled, by_fold = _metrics(rows, settings, task)
    write_oof(folder / "oof_predictions.csv", rows, task)
    write_metrics(folder / "metrics.json", pooled, by_fold, rows[0].prevalence)
    return Outcome(
        outputs={"predictions": folder / "oof_predictions.csv", "metrics": folder / "metrics.json"},
        stats={"patients": len(rows), **main_figure(pooled)},
    )


def metrics_of(rows: Sequence[PatientPrediction], task: Task, *, rounds: int, seed: int) -> Metrics | TaskMetrics:
    """Compute the figures of patients whose labels are all known.

    :param rounds: number of bootstrap rounds; 0 for no intervals.
    """
    return task.figures(rows, rounds=rounds, seed=seed)


def main_figure(metrics: Metrics | TaskMetrics) -> dict[str, Any]:
    """The figure by which methods are compared, for a record: name and value with interval."""
    if isinstance(metrics, TaskMetrics):
        return {metrics.measure: metrics.main.model_dump(mode="json")}
    return {"auc": metrics.auc.model_dump(mode="json")}


def write_metrics(
    path: Path,
    pooled: Metrics | TaskMetrics,
    by_fold: Mapping[int, Metrics | TaskMetrics],
    prevalence: Prevalence,
    further: Mapping[str, Json] = MappingProxyType({}),
) -> None:
    """Write ``metrics.json``.

    It holds the figures of all patients and of each fold, and the mean and standard deviation of the main one over the
    folds; of classes also the prevalence that probabilities are at, unless they are equally frequent.

    :param further: what it holds beside that.
    """
    mains = [own.main.value for own in by_fold.values() if own.main.value is not None]
    name = "main" if isinstance(pooled, TaskMetrics) else "auc"
    content = {
        **({} if isinstance(pooled, TaskMetrics) and prevalence in (EVEN, ()) else {"prevalence": prevalence}),
        "pooled": pooled.model_dump(mode="json"),
        "folds": [{"fold": fold, **own.model_dump(mode="json")} for fold, own in by_fold.items()],
        f"{name}_mean": float(np.mean(mains)) if mains else None,
        f"{name}_sd": float(np.std(mains, ddof=1)) if len(mains) > 1 else None,
        **further,
    }
    with whole(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


class FoldMetrics(Metrics):
    """The figures of one fold's test patients."""

    fold: int = Field(ge=0, lt=MOST_FOLDS)


class FoldTaskMetrics(TaskMetrics):
    """Those of a task other than the binary one."""

    fold: int = Field(ge=0, lt=MOST_FOLDS)


class ModelMetrics(BaseModel):
    """What is read of ``metrics.json``."""

    model_config = ConfigDict(frozen=True)

    prevalence: float = Field(EVEN, gt=0, lt=1)
    """The one that probabilities are at; in files without it all are at even prevalence, or the task has none."""
    pooled: Metrics
    folds: tuple[FoldMetrics, ...]


class ModelTaskMetrics(BaseModel):
    """What is read of ``metrics.json`` of a task other than the binary one."""

    model_config = ConfigDict(frozen=True)

    prevalence: tuple[Share, ...] = ()
    """The share of each class that probabilities are at; empty for equally frequent ones, or without classes."""
    pooled: TaskMetrics
    folds: tuple[FoldTaskMetrics, ...]


def read_metrics(path: Path) -> ModelMetrics | ModelTaskMetrics:
    """Read ``metrics.json``.

    :raises StoreError: there is none, or it is damaged.
    """
    hint = "remove it and run the same command again: it is computed anew"
    content = read_json(path, StoreError, what="metrics", hint=hint)
    try:
        pooled = content.get("pooled") if isinstance(content, dict) else None
        of_task = isinstance(pooled, dict) and "figures" in pooled
        return (ModelTaskMetrics if of_task else ModelMetrics).model_validate(content)
    except ValidationError as error:
        raise StoreError(f"holds no metrics: {fault(error)}", path=path, hint=hint) from error


def task_columns(task: Task, before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    """Columns of a table of predictions, but for the shares → the field of a prediction that each shows.

    :param before, after: fields around those of the task's answer.
    """
    return {**{name: name for name in before}, **task.answer_columns, **{name: name for name in after}}


def write_oof(path: Path, rows: Sequence[PatientPrediction], task: Task = BINARY) -> None:
    """Write ``oof_predictions.csv``, one row per patient."""
    columns = _oof_columns(task)
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow([*columns, *task.share_names])
        writer.writerows([*(getattr(row, field) for field in columns.values()), *row.shares] for row in rows)


def _oof_columns(task: Task) -> dict[str, str]:
    if task.name == "binary":
        return {name: name for name in OOF_COLUMNS}
    return task_columns(task, ("patient_id", "fold", "label"), ("slides",))


def read_oof(path: Path, task: Task = BINARY) -> list[PatientPrediction]:
    """Read ``oof_predictions.csv``; versions without the prevalence had all probabilities at even prevalence.

    :raises StoreError: damaged, or edited into something else.
    """
    columns = {field: name for name, field in _oof_columns(task).items()}
    classes = range(max(2, len(task.classes)))

    def prediction(row: Mapping[str, str]) -> PatientPrediction:
        def number(field: str, missing: float) -> float:
            name = columns.get(field, "")
            value = missing if name not in row else float(row[name])
            if not math.isfinite(value):
                raise ValueError(f"{field} is {value}")
            return value

        probability, call = number("probability", math.nan), row.get("call", "0")
        prevalence = read_prevalence(row.get("prevalence", ""), 0 if task.name == "binary" else len(task.classes))
        label = _label(row["label"], task)
        if label is None or call not in map(str, classes):
            raise ValueError(f"the prediction of {row['patient_id'][:40]!r} is none")
        shares = tuple(float(row[name]) for name in task.share_names)
        if not all(map(math.isfinite, shares)):
            raise ValueError("a probability is no number")
        return PatientPrediction(
            patient_id=row["patient_id"],
            label=label,
            probability=probability,
            logit=number("logit", probability),
            threshold=number("threshold", 0.0),
            call=int(call),
            slides=int(row["slides"]),
            folds=(int(row["fold"]),),
            prevalence=prevalence,
            shares=shares,
        )

    needed = [name for name in _oof_columns(task) if name != "prevalence"]
    return read_own_rows(path, [*needed, *task.share_names], prediction)


def _label(text: str, task: Task) -> Label | None:
    """Read a label of a task as tables of ours hold it; None if it is none."""
    label = label_from_text(text)
    try:
        if label is not None:
            task.value("", label, None)
    except UsageError:
        return None
    return label
