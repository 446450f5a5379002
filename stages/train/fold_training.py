"""The training of one fold: from its patients to a fitted network, with settings chosen inside the fold if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from ...data.cohort.outcomes import Label
from ...data.cohort.target_splits import split_patients
from ...data.errors import CohortError, UsageError
from ...models.mil.abmil import ABMIL
from ...models.mil.bag_tensors import AnyBag, Patient
from ...models.mil.momkd import AS_THE_PUBLIC_SCRIPT_STOPS, PATIENCE, PRESETS, MoMKD
from ...models.mil.network import NetworkConfig, SlideNetwork
from ...models.mil.starting_weights import StartingWeights
from ...models.target_facts import TargetFacts
from ...models.tasks.multitask import MultiTask
from ...models.tasks.task import Task
from ...models.training.fit import Epoch, Fit, FitSettings, patient_scores, validate
from ...models.training.methods import find_method
from ...models.training.rna_teacher import SoftTargets
from .fold import FoldCohort, patients_of
from .molecular_data import FoldRna, MolecularData, fold_targets
from .settings import TrainSettings

INNER_FOLDS = 3
"""Number of folds within a fold's own patients for choosing settings."""

Tell = Callable[[str, Epoch], None]
"""Called with the name of a fit and its latest epoch."""


@dataclass(frozen=True)
class FoldData:
    """Everything that the training of a fold uses.

    :param bags: slide → bag, of the cohort's training and validation patients.
    :param width: D, the width of the features.
    :param molecular: RNA and further blocks, if training uses them.
    :param partial: folder for unfinished work.
    :param task: the task of the model, before it has learned from training patients.
    """

    cohort: FoldCohort
    bags: Mapping[str, AnyBag]
    width: int
    molecular: MolecularData | None
    device: torch.device
    partial: Path
    tell: Tell
    task: Task
    start: StartingWeights | None = None
    """Weights of another training to start from."""


@dataclass(frozen=True)
class TrainedFold:
    """A fold's trained network, with the settings and patients of its training."""

    settings: TrainSettings
    """The settings of the training; with nested settings, the chosen ones."""
    network: SlideNetwork
    fitted: Fit
    train: list[Patient]
    validation: list[Patient]
    rna: FoldRna | None
    targets: SoftTargets | None
    choice: list[dict[str, Any]]
    """With nested settings, each candidate with its AUC on the inner folds."""

    def threshold(self) -> tuple[float, str]:
        """Choose the decision threshold on the validation patients; also say how it was chosen."""
        scores, judged = patient_scores(self.network, self.validation), self.validation
        return self.network.task.threshold([p.label for p in judged], [scores[p.patient_id] for p in judged])

    def of_targets(self) -> dict[str, TargetFacts]:
        """Each target's threshold and prevalence, from the patients who have its label; empty without targets."""
        task = self.network.task
        if not isinstance(task, MultiTask):
            return {}
        scores = patient_scores(self.network, self.validation)
        facts = {}
        for name, own in task.targets.items():
            judged = task.known(name, {patient.patient_id: patient.label for patient in self.validation})
            trained = task.known(name, {patient.patient_id: patient.label for patient in self.train})
            of_target = [task.of_target(name, scores[patient]) for patient in judged]
            threshold, threshold_from = own.threshold(list(judged.values()), of_target)
            facts[name] = TargetFacts(
                threshold=threshold,
                threshold_from=threshold_from,
                prevalence=own.prevalence(list(trained.values())),
                validation=own.validate(list(judged.values()), of_target, [None] * len(judged)).auc,
                patients={"train": len(trained), "validation": len(judged)},
            )
        return facts


def train_fold(data: FoldData, settings: TrainSettings) -> TrainedFold:
    """Choose the settings inside the fold if there are several candidates, then train."""
    choice: list[dict[str, Any]] = []
    if settings.nested:
        settings, choice = _chosen(data, settings)
    return replace(_train(data, settings, "state.pt"), choice=choice)


def _train(data: FoldData, settings: TrainSettings, name: str) -> TrainedFold:
    """Train with these settings.

    :param name: name of the file for the unfinished fit.
    """
    cohort, molecular = data.cohort, data.molecular
    data = replace(data, task=data.task.fitted([label for label, _ in cohort.train.values()]))
    seed = settings.seed + cohort.fold
    if molecular is not None and settings.shuffle_rna:
        labels = {patient: label for patient, (label, _) in cohort.train.items()}
        molecular = molecular.shuffled(data.task.strata(labels), seed)
    method = find_method(settings.method)
    with_rna = method.uses_rna and settings.use_rna
    rna = (
        FoldRna.fitted(cohort, molecular, settings, len(data.task.classes))
        if molecular is not None and with_rna
        else None
    )
    targets = None
    if molecular is not None and settings.soft_targets:
        targets = fold_targets(cohort, molecular, settings, data.task)
    train = patients_of(
        cohort.train,
        data.bags,
        expression=rna.rows if rna else None,
        targets=targets.train if targets else None,
        task=data.task,
    )
    validation = patients_of(
        cohort.validation, data.bags, targets=targets.validation if targets else None, task=data.task
    )
    # Named, for else every GPU of the machine is touched, those of the folds beside this one too, and torch warns.
    with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        torch.manual_seed(seed)
        kind = method.network_for(data.task)
        network = kind(_config(kind, settings, data.width, rna, data.start), data.task)
        if data.start is not None:
            assert isinstance(network, ABMIL)  # the stage has refused other methods
            data.start.copy_to(network, frozen=settings.freeze)
        network = network.to(data.device)
    fitted = method.fit(
        network,
        train,
        validation,
        FitSettings(
            epochs=settings.epochs,
            patience=settings.patience or PATIENCE[settings.preset],
            equal_is_gain=settings.preset in AS_THE_PUBLIC_SCRIPT_STOPS,
            least_epochs=3 if settings.preset in AS_THE_PUBLIC_SCRIPT_STOPS else 1,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            bags_per_step=settings.bags_per_step,
            precision=settings.precision,
            seed=seed,
        ),
        resume=data.partial / name,
        tell=lambda epoch: data.tell(name.removesuffix(".pt"), epoch),
    )
    if network.task.compares_patients:
        scores = patient_scores(network, train, together=settings.bags_per_step, precision=settings.precision)
        own = [patient for patient in train if patient.patient_id in scores]
        network.task = network.task.after_fit([p.label for p in own], [scores[p.patient_id] for p in own])
    return TrainedFold(settings, network, fitted, train, validation, rna, targets, [])


def _config(
    network: type[SlideNetwork],
    settings: TrainSettings,
    width: int,
    rna: FoldRna | None,
    start: StartingWeights | None,
) -> NetworkConfig:
    """Build a network's configuration from MoMKD's preset, the sizes in the settings and the network's defaults.

    :raises UsageError: sizes that it cannot have, or that are not those of the weights to start from.
    """
    values: dict[str, Any] = {"in_features": width, "n_genes": len(rna.genes) if rna else 0}
    if issubclass(network, MoMKD):
        values |= PRESETS[settings.preset]
    given = {name: getattr(settings, name) for name in ("hidden", "shared", "slots", "memory")}
    values |= {n: v for n, v in given.items() if v is not None and n in network.Config.model_fields}
    if start is not None:
        for name, size in {"in_features": start.in_features, **start.sizes}.items():
            if values.setdefault(name, size) != size:
                what = f"{name} of its weights is {size}, and here it is {values[name]}"
                hint = "features of init_backbone are needed" if name == "in_features" else f"leave --{name} out"
                raise UsageError(what, path=start.path, hint=hint)
    try:
        return network.Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{settings.method} cannot have {'.'.join(map(str, first['loc']))} = {first['input']}: {first['msg']}"
        raise UsageError(what, hint="choose another value, or use the method's default") from error


def _chosen(data: FoldData, settings: TrainSettings) -> tuple[TrainSettings, list[dict[str, Any]]]:
    """Choose the candidate with the best mean score over inner folds of the fold's own patients; of equals the first.

    Every inner fold selects its genes and fits its RNA teacher anew; sites that are kept apart outside are kept apart
    inside. The fold's test patients are not used.
    """
    candidates = settings.candidates()
    inner = list(_inner_folds(data, settings.seed))
    choice: list[dict[str, Any]] = []
    for number, candidate in enumerate(candidates):
        name = f"candidate {number + 1} of {len(candidates)}"
        scores = [
            _inner_score(replace(data, cohort=cohort), candidate, test, f"{name}, inner fold {i}")
            for i, (cohort, test) in enumerate(inner)
        ]
        changed = {text.partition("=")[0].strip().replace("-", "_") for text in settings.nested}
        choice.append({**{name: getattr(candidate, name) for name in sorted(changed)}, "auc": float(np.mean(scores))})
    best = max(range(len(candidates)), key=lambda number: (choice[number]["auc"], -number))
    return candidates[best], choice


def _inner_folds(data: FoldData, seed: int) -> list[tuple[FoldCohort, dict[str, tuple[Label, tuple[str, ...]]]]]:
    own = {**data.cohort.train, **data.cohort.validation}
    labels = {patient: label for patient, (label, _) in own.items()}
    try:
        sites = {patient: data.cohort.sites[patient] for patient in own} if data.cohort.sites else None
        splits = split_patients(labels, INNER_FOLDS, seed, 0.2, sites, data.task.strata_of_split(labels))
    except CohortError as error:
        apart = f" and {INNER_FOLDS} sites that can be kept apart" if data.cohort.sites else ""
        what = f"nested settings need at least {INNER_FOLDS} patients of each class{apart} in every fold: {error}"
        raise CohortError(what, hint="leave --nested out, or find more patients") from error
    inner = []
    for fold in range(splits.folds):
        train, validation, test = (
            {patient: own[patient] for patient in splits.patients(fold, role)}
            for role in ("train", "validation", "test")
        )
        inner.append((replace(data.cohort, train=train, validation=validation, test_patients=len(test)), test))
    return inner


def _inner_score(
    data: FoldData, settings: TrainSettings, test: Mapping[str, tuple[Label, tuple[str, ...]]], name: str
) -> float:
    """Train with these settings and score an inner fold's test patients; of a binary task by AUC."""
    network = _train(data, settings, f"{name}.pt").network
    return validate(network, patients_of(test, data.bags, task=network.task), together=settings.bags_per_step).score
