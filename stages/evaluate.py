"""evaluate: every patient as seen by the one fold that was neither trained nor validated on them.

oof_predictions.csv    a row a patient
metrics.json           pooled over the patients with 95 % intervals, and by fold
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ..data.artifact import whole
from ..data.errors import CohortError
from ..data.features import read_bag
from ..data.manifest import Manifest
from ..models.bundle import read_bundle
from ..models.devices import choose_devices
from ..models.metrics import binary_metrics
from .settings import Runtime, Settings
from .split import split_output
from .stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .versions import VERSIONS


class EvaluateSettings(Settings):
    """Evaluation by cross-validation."""

    bootstrap_rounds: int = 2000
    seed: int = 0
    device: str = Runtime("auto")


@dataclass(frozen=True)
class OutOfFold:
    """A patient's row in ``oof_predictions.csv``."""

    patient_id: str
    fold: int
    label: int
    probability: float
    logit: float
    threshold: float
    call: int
    slides: int

    @classmethod
    def of(cls, patient: str, fold: int, label: int, logit: float, threshold: float, slides: int) -> OutOfFold:
        """The row of a patient whose slides' mean logit is known."""
        probability = float(expit(logit))
        return cls(patient, fold, label, probability, logit, threshold, int(probability >= threshold), slides)


@dataclass(frozen=True)
class _TestFold:
    bundle: Path
    patients: Mapping[str, tuple[int, tuple[Path, ...]]]


class EvaluateStage(Stage[EvaluateSettings]):
    """One item, ``cross-validation``.

    :param features: folder of the stage whose slides are used.
    :param splits: folder of the split that was trained on; default: the model's own.
    """

    name = "evaluate"
    version = VERSIONS["evaluate"]
    items = "models"

    def __init__(
        self,
        settings: EvaluateSettings,
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
        splits, slides_of = split.splits, split.slides_of
        bundles = upstream(self.manifest, "train", self.workspace).records
        missing = [f for f in range(splits.folds) if f"fold-{f}" not in bundles]
        if missing:
            raise CohortError(
                f"folds {', '.join(map(str, missing))} are not trained",
                path=self.folder,
                hint="see why above; wsipipe train goes on from there",
            )
        features = upstream(Manifest.of(self.features), "extract", self.workspace).records
        inputs: dict[str, Input] = {"splits": OutputInput(split.record)}
        folds = []
        for fold in range(splits.folds):
            bundle = bundles[f"fold-{fold}"].outputs["bundle"]
            inputs[f"fold-{fold}"] = OutputInput(bundle)
            patients = {
                p: (
                    splits.labels[p],
                    tuple(self.workspace / features[s].outputs["features"].path for s in slides_of[p]),
                )
                for p in splits.patients(fold, "test")
            }
            folds.append(_TestFold(self.workspace / bundle.path, patients))
        tested = [slide for patient in splits.labels for slide in slides_of[patient]]
        inputs |= {f"features of {slide}": OutputInput(features[slide].outputs["features"]) for slide in tested}
        return Plan([Item("cross-validation", inputs, folds)])

    def process(self, item: Item, progress: Progress) -> Outcome:
        device = choose_devices(self.settings.device)[0]
        rows: list[OutOfFold] = []
        for test in item.payload:
            bundle = read_bundle(test.bundle, device)
            for patient, (label, stores) in test.patients.items():
                logit = float(np.mean([bundle.read(read_bag(store), store).logit for store in stores]))
                facts = bundle.facts
                rows.append(OutOfFold.of(patient, facts.fold, label, logit, facts.threshold, len(stores)))
        return write_evaluation(self.folder, rows, self.settings)


def write_evaluation(folder: Path, rows: Sequence[OutOfFold], settings: EvaluateSettings) -> Outcome:
    """Write both files of an evaluation by cross-validation."""
    rows = sorted(rows, key=lambda row: row.patient_id)
    pooled = _metrics(rows, settings.bootstrap_rounds, settings.seed)
    folds = [
        {"fold": fold, **_metrics([row for row in rows if row.fold == fold], 0, settings.seed)}
        for fold in sorted({row.fold for row in rows})
    ]
    aucs = [fold["auc"]["value"] for fold in folds if fold["auc"]["value"] is not None]
    content = {
        "pooled": pooled,
        "folds": folds,
        "auc_mean": float(np.mean(aucs)) if aucs else None,
        "auc_sd": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
    }
    write_oof(folder / "oof_predictions.csv", rows)
    with whole(folder / "metrics.json") as scratch:
        scratch.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return Outcome(
        outputs={"predictions": folder / "oof_predictions.csv", "metrics": folder / "metrics.json"},
        stats={"patients": len(rows), "auc": pooled["auc"]},
    )


def _metrics(rows: Sequence[OutOfFold], rounds: int, seed: int) -> dict[str, Any]:
    labels, probabilities = [r.label for r in rows], [r.probability for r in rows]
    metrics = binary_metrics(labels, probabilities, [r.call for r in rows], rounds=rounds, seed=seed)
    return metrics.model_dump(mode="json")


def write_oof(path: Path, rows: Sequence[OutOfFold]) -> None:
    """Write ``oof_predictions.csv``."""
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([field.name for field in fields(OutOfFold)])
        writer.writerows([[getattr(row, field.name) for field in fields(OutOfFold)] for row in rows])


def read_oof(path: Path) -> list[OutOfFold]:
    """Read what :func:`write_oof` wrote."""
    kinds: dict[str, Any] = {"patient_id": str, "probability": float, "logit": float, "threshold": float}
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            OutOfFold(**{name: kinds.get(name, int)(value) for name, value in row.items()})
            for row in csv.DictReader(stream)
        ]
