"""cross_validate: predicts every patient by the one fold that was neither trained nor validated on them.

oof_predictions.csv    one row per patient
metrics.json           pooled over the patients with 95 % intervals, and by fold
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...data.artifact import whole
from ...data.cohort.outcomes import Label, label_from_text
from ...data.errors import CohortError
from ...data.features.store import read_bag
from ...data.manifest import Manifest
from ...models.backbones.devices import choose_devices
from ...models.bundle import read_bundle
from ...models.evaluation.metrics import Metrics
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.prediction import TRAINED_AT, PatientPrediction
from ...models.tasks.task import Task
from ..lineage import Lineage
from ..registry import VERSIONS
from ..settings import Runtime, Settings
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .split import features_of, split_output


class CrossValidateSettings(Settings):
    """Evaluation by cross-validation."""

    bootstrap_rounds: int = 2000
    seed: int = 0
    device: str = Runtime("auto")


OOF_COLUMNS: Final = (
    "patient_id", "fold", "label", "probability", "logit", "threshold", "call", "slides", "prevalence",
)  # fmt: skip
"""Columns of ``oof_predictions.csv``. The prevalence is the one that probabilities refer to."""
TASK_COLUMNS: Final = OOF_COLUMNS[:-1]
"""Columns of tasks other than the binary one, before those of the shares, such as the probability of each class."""


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
        rows: list[PatientPrediction] = []
        for test in item.payload:
            if test.stale:
                hint = "run wsipipe train: it trains the fold again, and continues from there"
                raise CohortError(f"is stale: {test.stale}", path=test.bundle, hint=hint)
            bundle = read_bundle(test.bundle, device)
            task = bundle.facts.task
            for patient, (label, stores) in test.patients.items():
                bags = [read_bag(store) for store in stores]
                facts = bundle.facts
                if any(facts.saw(patient, bag.facts.slide_digest) for bag in bags):
                    what = f"was trained on its own test patient {patient}, or on one of their slides"
                    hint = "the split was changed by hand: move the model away, and train again"
                    raise CohortError(what, path=test.bundle, hint=hint)
                logits = [{facts.fold: bundle.read(*bag).logit} for bag in zip(bags, stores, strict=True)]
                rows.append(PatientPrediction.of(patient, logits, {facts.fold: facts.threshold}, task, label=label))
        return write_evaluation(self.folder, rows, self.settings, task)


def write_evaluation(
    folder: Path, rows: Sequence[PatientPrediction], settings: CrossValidateSettings, task: Task
) -> Outcome:
    """Write both files of an evaluation by cross-validation."""
    rows = sorted(rows, key=lambda row: row.patient_id)
    pooled = metrics_of(rows, task, rounds=settings.bootstrap_rounds, seed=settings.seed)
    by_fold = {
        fold: metrics_of([row for row in rows if row.fold == fold], task, rounds=0, seed=settings.seed)
        for fold in sorted({row.fold for row in rows})
    }
    write_oof(folder / "oof_predictions.csv", rows, task)
    write_metrics(folder / "metrics.json", pooled, by_fold)
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


def write_metrics(path: Path, pooled: Metrics | TaskMetrics, by_fold: Mapping[int, Metrics | TaskMetrics]) -> None:
    """Write ``metrics.json``.

    It holds the figures of all patients and of each fold, and the mean and standard deviation of the main one over the
    folds; of the binary task also the prevalence that probabilities refer to.
    """
    mains = [own.main.value for own in by_fold.values() if own.main.value is not None]
    name = "main" if isinstance(pooled, TaskMetrics) else "auc"
    content = {
        **({} if isinstance(pooled, TaskMetrics) else {"prevalence": TRAINED_AT}),
        "pooled": pooled.model_dump(mode="json"),
        "folds": [{"fold": fold, **own.model_dump(mode="json")} for fold, own in by_fold.items()],
        f"{name}_mean": float(np.mean(mains)) if mains else None,
        f"{name}_sd": float(np.std(mains, ddof=1)) if len(mains) > 1 else None,
    }
    with whole(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_metrics(content: Mapping[str, Any]) -> Metrics | TaskMetrics:
    """Read the figures of one set of patients, as ``metrics.json`` holds them; ``fold`` is ignored."""
    figures = {name: value for name, value in content.items() if name != "fold"}
    return TaskMetrics.model_validate(figures) if "figures" in figures else Metrics.model_validate(figures)


def write_oof(path: Path, rows: Sequence[PatientPrediction], task: Task) -> None:
    """Write ``oof_predictions.csv``, one row per patient."""
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if task.name != "binary":
            writer.writerow([*TASK_COLUMNS, *task.share_names])
            writer.writerows([*(getattr(row, name) for name in TASK_COLUMNS), *row.shares] for row in rows)
            return
        writer.writerow(OOF_COLUMNS)
        writer.writerows([[*(getattr(row, name) for name in OOF_COLUMNS[:-1]), TRAINED_AT] for row in rows])


def read_oof(path: Path) -> list[PatientPrediction]:
    """Read ``oof_predictions.csv``, also from versions without the prevalence."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        shares = [name for name in reader.fieldnames or () if name not in OOF_COLUMNS]
        return [
            PatientPrediction(
                patient_id=row["patient_id"],
                label=label_from_text(row["label"]),
                probability=float(row["probability"]),
                logit=float(row["logit"]),
                threshold=float(row["threshold"]),
                call=int(row["call"]),
                slides=int(row["slides"]),
                folds=(int(row["fold"]),),
                shares=tuple(float(row[name]) for name in shares),
            )
            for row in reader
        ]
