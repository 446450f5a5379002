"""The training of one fold: from what it may see to a fitted network, with settings chosen inside it if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from ...data.cohort.splits import make_splits
from ...data.errors import CohortError, UsageError
from ...models.mil.bag_tensors import BagTensors, Patient
from ...models.mil.momkd import PATIENCE, PRESETS, MoMKD
from ...models.mil.network import NetworkConfig, SlideNetwork
from ...models.training.fit import Epoch, Fit, FitSettings, patient_logits
from ...models.training.methods import find_method
from ...models.training.rna_teacher import SoftTargets
from .fold import FoldCohort, fold_threshold, patients_of
from .molecular_data import FoldRna, MolecularData, fold_targets
from .settings import TrainSettings

INNER_FOLDS = 3
"""Parts of a fold's own patients that settings are chosen on."""

Tell = Callable[[str, Epoch], None]
"""What is trained just now, and its newest epoch."""


@dataclass(frozen=True)
class FoldTask:
    """All that the training of a fold is given.

    :param bags: slide → bag, of the cohort's training and validation patients.
    :param width: D, of the features.
    :param teaching: what may teach beside labels.
    :param partial: folder that keeps unfinished work.
    """

    cohort: FoldCohort
    bags: Mapping[str, BagTensors]
    width: int
    teaching: MolecularData | None
    device: torch.device
    partial: Path
    tell: Tell


@dataclass(frozen=True)
class TrainedFold:
    """What training gave."""

    settings: TrainSettings
    """The ones trained with: of nested ones, the chosen."""
    network: SlideNetwork
    fitted: Fit
    train: list[Patient]
    validation: list[Patient]
    rna: FoldRna | None
    targets: SoftTargets | None
    choice: list[dict[str, Any]]
    """Of nested settings: each candidate with its AUC on the inner folds."""

    def threshold(self) -> tuple[float, str]:
        """Probability from which a patient is called positive, and where it is from."""
        logits = patient_logits(self.network, self.validation)
        return fold_threshold([p.label for p in self.validation], [logits[p.patient_id] for p in self.validation])


def train_fold(task: FoldTask, settings: TrainSettings) -> TrainedFold:
    """Choose the settings inside the fold where several are allowed, then train."""
    choice: list[dict[str, Any]] = []
    if settings.nested:
        settings, choice = _chosen(task, settings)
    return replace(_train(task, settings, "state.pt"), choice=choice)


def _train(task: FoldTask, settings: TrainSettings, name: str) -> TrainedFold:
    """Train with these settings.

    :param name: of the file that keeps the unfinished fit.
    """
    cohort, teaching = task.cohort, task.teaching
    seed = settings.seed + cohort.fold
    if teaching is not None and settings.shuffle_rna:
        teaching = teaching.shuffled({patient: label for patient, (label, _) in cohort.train.items()}, seed)
    method = find_method(settings.method)
    taught = method.uses_rna and settings.use_rna
    rna = FoldRna.fitted(cohort, teaching, settings) if teaching is not None and taught else None
    targets = fold_targets(cohort, teaching, settings) if teaching is not None and settings.soft_targets else None
    train = patients_of(
        cohort.train,
        task.bags,
        expression=rna.rows if rna else None,
        targets=targets.train if targets else None,
    )
    validation = patients_of(cohort.validation, task.bags, targets=targets.validation if targets else None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = method.network(_config(method.network, settings, task.width, rna)).to(task.device)
    fitted = method.fit(
        network,
        train,
        validation,
        FitSettings(
            epochs=settings.epochs,
            patience=settings.patience or PATIENCE[settings.preset],
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            bags_per_step=settings.bags_per_step,
            precision=settings.precision,
            seed=seed,
        ),
        resume=task.partial / name,
        tell=lambda epoch: task.tell(name.removesuffix(".pt"), epoch),
    )
    return TrainedFold(settings, network, fitted, train, validation, rna, targets, [])


def _config(network: type[SlideNetwork], settings: TrainSettings, width: int, rna: FoldRna | None) -> NetworkConfig:
    """A network's configuration: the preset of MoMKD, what the settings give of its sizes, its own defaults."""
    values: dict[str, Any] = {"in_features": width, "n_genes": len(rna.genes) if rna else 0}
    if issubclass(network, MoMKD):
        values |= PRESETS[settings.preset]
    given = {name: getattr(settings, name) for name in ("hidden", "shared", "slots", "memory")}
    values |= {n: v for n, v in given.items() if v is not None and n in network.Config.model_fields}
    try:
        return network.Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{settings.method} cannot have {'.'.join(map(str, first['loc']))} = {first['input']}: {first['msg']}"
        raise UsageError(what, hint="choose another value, or leave it to the method") from error


def _chosen(task: FoldTask, settings: TrainSettings) -> tuple[TrainSettings, list[dict[str, Any]]]:
    """The candidate with the best mean AUC over inner folds of the fold's own patients; of equals the first.

    Every inner fold selects its genes and fits its teacher anew. The fold's test patients are not among them.
    """
    candidates = settings.candidates()
    inner = list(_inner_folds(task, settings.seed))
    choice: list[dict[str, Any]] = []
    for number, candidate in enumerate(candidates):
        name = f"candidate {number + 1} of {len(candidates)}"
        aucs = [
            _inner_auc(replace(task, cohort=cohort), candidate, test, f"{name}, inner fold {i}")
            for i, (cohort, test) in enumerate(inner)
        ]
        changed = {text.partition("=")[0].strip().replace("-", "_") for text in settings.nested}
        choice.append({**{name: getattr(candidate, name) for name in sorted(changed)}, "auc": float(np.mean(aucs))})
    best = max(range(len(candidates)), key=lambda number: (choice[number]["auc"], -number))
    return candidates[best], choice


def _inner_folds(task: FoldTask, seed: int) -> list[tuple[FoldCohort, dict[str, tuple[int, tuple[str, ...]]]]]:
    own = {**task.cohort.train, **task.cohort.validation}
    try:
        splits = make_splits({patient: label for patient, (label, _) in own.items()}, INNER_FOLDS, seed)
    except CohortError as error:
        what = f"nested settings need {INNER_FOLDS} patients of each class at least among a fold's own: {error}"
        raise CohortError(what, hint="leave --nested out, or find more patients") from error
    inner = []
    for fold in range(splits.folds):
        train, validation, test = (
            {patient: own[patient] for patient in splits.patients(fold, role)}
            for role in ("train", "validation", "test")
        )
        inner.append((replace(task.cohort, train=train, validation=validation, test_patients=len(test)), test))
    return inner


def _inner_auc(
    task: FoldTask, settings: TrainSettings, test: Mapping[str, tuple[int, tuple[str, ...]]], name: str
) -> float:
    trained = _train(task, settings, f"{name}.pt")
    patients = patients_of(test, task.bags)
    logits = patient_logits(trained.network, patients, together=settings.bags_per_step)
    return float(roc_auc_score([p.label for p in patients], [logits[p.patient_id] for p in patients]))
