"""Predictions of a model of several targets, parted into those of each target as a model of one target gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.cohort.outcomes import Label
from ...models.bundle import BundleFacts, prevalence_of
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import PatientPrediction, Score


@dataclass(frozen=True)
class ReadPatient:
    """A patient whose slides were read.

    :param label: of the targets; None if it is unknown.
    :param slides: for each slide, fold → score.
    """

    patient_id: str
    label: Label | None
    slides: Sequence[Mapping[int, Score]]
    why: str = ""


def rows_of_target(
    name: str,
    patients: Sequence[ReadPatient],
    bundles: Sequence[tuple[Path, BundleFacts]],
    *,
    only_labelled: bool,
) -> list[PatientPrediction]:
    """Predict patients for one target.

    :param bundles: of the folds that read them.
    :param only_labelled: leave out the patients who miss a label of this target.
    """
    whole = bundles[0][1].task
    assert isinstance(whole, MultiTask)
    of_target = [(path, facts.of_target(name)) for path, facts in bundles]
    thresholds = {facts.fold: facts.threshold for _, facts in of_target}
    prevalence, own = prevalence_of(of_target, None), of_target[0][1].task
    rows = []
    for patient in patients:
        label = None if patient.label is None else whole.label_of(name, patient.label)
        if label is None and only_labelled:
            continue
        slides = [{fold: whole.of_target(name, score) for fold, score in slide.items()} for slide in patient.slides]
        rows.append(
            PatientPrediction.of(
                patient.patient_id, slides, thresholds, own, prevalence=prevalence, label=label, why=patient.why
            )
        )
    return rows
