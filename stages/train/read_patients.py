"""Patients whose slides were read, and their predictions; of a model of several targets those of each target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ...data.cohort.outcomes import Label
from ...models.bundle import BundleFacts, prevalence_of
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import PatientPrediction, Score

Folds = Sequence[tuple[Path, BundleFacts]]
"""The bundles of a model."""


@dataclass(frozen=True)
class ReadPatient:
    """A patient whose slides were read.

    :param label: None if it is unknown.
    :param slides: for each slide, fold → score.
    :param why: why these folds read them and not others.
    :param label_by: the label by some of the folds, where it differs between them, as a signature's may.
    """

    patient_id: str
    label: Label | None
    slides: Sequence[Mapping[int, Score]]
    why: str = ""
    label_by: Callable[[Collection[int]], Label | None] | None = None

    def by(self, folds: Collection[int]) -> Self:
        """The patient as read by some of the folds."""
        slides = [{fold: score for fold, score in slide.items() if fold in folds} for slide in self.slides]
        label = self.label_by(slides[0].keys()) if self.label_by and slides[0] else self.label
        return replace(self, slides=slides, label=label)


def of_target(patients: Sequence[ReadPatient], task: MultiTask, name: str) -> list[ReadPatient]:
    """The patients who have a label of one target, with that label and the target's part of the scores."""
    own = []
    for patient in patients:
        label = None if patient.label is None else task.label_of(name, patient.label)
        if label is not None:
            slides = [{fold: task.of_target(name, score) for fold, score in slide.items()} for slide in patient.slides]
            own.append(replace(patient, label=label, slides=slides, label_by=None))
    return own


def folds_of_target(folds: Folds, name: str) -> Folds:
    """The bundles as those of a model of one target."""
    return [(path, facts.of_target(name)) for path, facts in folds]


def predictions(patients: Sequence[ReadPatient], folds: Folds, prevalence: float | None) -> list[PatientPrediction]:
    """Predict each patient by the folds that read them.

    :param prevalence: the one that probabilities are shown at; None for that of the training patients.
    """
    shown_at, task = prevalence_of(folds, prevalence), folds[0][1].task
    thresholds = {facts.fold: facts.threshold for _, facts in folds}
    return [
        PatientPrediction.of(
            patient.patient_id,
            patient.slides,
            thresholds,
            task,
            prevalence=shown_at,
            label=patient.label,
            why=patient.why,
        )
        for patient in patients
        if patient.slides[0]
    ]
