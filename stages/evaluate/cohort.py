"""The patients on whom a model is judged: joined from a cohort table and a workspace, and held against the model.

Who is used, and why another is not, is recorded as in training (:mod:`wsipipe.stages.train.split`). A model adds one
reason: a patient on whom all its folds were trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ...data.cohort.labels import PatientLabels, patient_labels
from ...data.cohort.slide_match import SlideMatch, match_slides
from ...data.cohort.table import CohortTable, read_cohort
from ...data.errors import BundleError, CohortError, StoreError, UsageError
from ...data.features.store import read_facts
from ...data.manifest import Manifest, OutputRecord, Record
from ...data.wording import some
from ...models.bundle import BundleFacts, FeatureRecipe, folds_of
from ...models.evaluation.metrics import Estimate
from ..predict.allowed_folds import SAME_IDS, AllowedFolds, PatientSlides, allowed_folds
from ..settings import Runtime
from ..train.settings import BiomarkerSettings
from ..train.split import slides_with_features

SEEN_BY_ALL = "every fold of the model was trained on them"
"""Why a patient is dropped."""


class ExternalSettings(BiomarkerSettings):
    """Judging a model on another cohort: where that has its labels, and how they are counted."""

    drop_conflicts: bool = False
    other_patients: bool = Runtime(False)  # what it changes is among the inputs
    tcga_slides: Literal["diagnostic", "all"] = "diagnostic"
    bootstrap_rounds: int = 2000
    seed: int = 0

    @classmethod
    def of(cls, model: Path, **given: Any) -> ExternalSettings:
        """The model's own question, but for what is given and not None.

        :raises BundleError: there is no model.
        :raises UsageError: a value is to mean both positive and negative.
        """
        asked = folds_of(model)[0][1].question.model_dump(exclude={"name"})
        asked |= {name: value for name, value in given.items() if value is not None}
        try:
            return cls.model_validate(asked)
        except ValidationError as error:
            what = error.errors()[0]["msg"].removeprefix("Value error, ")
            hint = f"the model's values are positive: {asked['positive']}, negative: {asked['negative']}; override both"
            raise UsageError(what, path=model, hint=hint) from error


@dataclass(frozen=True, kw_only=True)
class ExternalTask:
    """What is asked: which model is to be judged, on whose slides."""

    model: Path
    """The trained model's folder."""
    table: Path
    tiles: Path
    features: Path
    """Folders of the stages that made the slides' bags."""
    asked: ExternalSettings


@dataclass(frozen=True)
class ExternalCohort:
    """The patients to judge.

    :param labels: patients that no fold may judge are among the dropped.
    :param allowed: patient → folds that may read their slides.
    :param stores: slide → its features, of the slides to read.
    :param tiled, extracted: slide → record, of the same.
    :param slides: matched slide → ``usable``, or why it is not.
    :param known_by_id: patients whom some fold knows by an id, and by no slide's bytes. Another cohort's patients may
        only happen to be numbered alike.
    """

    bundles: Sequence[BundleFacts]
    labels: PatientLabels
    allowed: Mapping[str, AllowedFolds]
    stores: Mapping[str, OutputRecord]
    tiled: Mapping[str, Record]
    extracted: Mapping[str, Record]
    slides: Mapping[str, str]
    known_by_id: Sequence[str]
    notes: Sequence[str]

    @classmethod
    def of(cls, task: ExternalTask, workspace: Path) -> ExternalCohort:
        """Join the table to the slides with features, and ask the model whom it knows."""
        bundles = [facts for _, facts in folds_of(task.model)]
        table = read_cohort(task.table)
        unusable, usable = slides_with_features(task.tiles, task.features, workspace)
        match = match_slides([*usable, *unusable], table)
        labels = patient_labels(
            table,
            task.asked.label_column,
            task.asked.positive,
            task.asked.negative,
            match=match,
            unusable=unusable,
            keep_frozen=task.asked.tcga_slides == "all",
            drop_conflicts=task.asked.drop_conflicts,
            one_class_is_enough=True,
        )
        tiled, extracted = Manifest.of(task.tiles).latest("tile"), Manifest.of(task.features).latest("extract")
        patients = _patients(labels, table, match, tiled)
        allowed = {p: allowed_folds(bundles, patients[p], other_patients=task.asked.other_patients) for p in patients}
        by_id = [patient for patient, folds in allowed.items() if folds.by_id_alone]
        labels = without(labels, {patient: SEEN_BY_ALL for patient, folds in allowed.items() if not folds.folds})
        if not labels.labels:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in labels.reasons.items())
            raise CohortError(
                f"no patient is left to judge: {reasons or 'the table is empty'}",
                path=task.table,
                hint=f"look at its slide and label columns. {SAME_IDS if by_id else ''}".strip(),
            )
        slides = [slide for own in labels.slides.values() for slide in own]
        return cls(
            bundles=bundles,
            labels=labels,
            allowed={patient: allowed[patient] for patient in labels.labels},
            stores={slide: extracted[slide].outputs["features"] for slide in slides},
            tiled={slide: tiled[slide] for slide in slides},
            extracted={slide: extracted[slide] for slide in slides},
            slides={slide: unusable.get(slide, "usable") for slide in match.rows},
            known_by_id=by_id,
            notes=[*table.notes, *match.notes(), *labels.notes(), *_same_ids(by_id)],
        )

    @property
    def partly_seen(self) -> list[str]:
        """Patients who trained some of the folds, and are read by the others."""
        return [patient for patient, allowed in self.allowed.items() if len(allowed.folds) < len(self.bundles)]

    def refuse_other_tiles(self, recipe: FeatureRecipe, task: ExternalTask, workspace: Path) -> None:
        """Refuse slides that were tiled or extracted to other bags than the model's.

        :raises BundleError: naming what differs.
        """
        wanted = {name: recipe.tile[name] for name in ("mpp", "tile_px") if name in recipe.tile}
        for record in self.tiled.values():
            has = {name: record.settings.get(name, value) for name, value in wanted.items()}
            other = [f"{name} is {has[name]:g}, not {value:g}" for name, value in wanted.items() if has[name] != value]
            if other:
                flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in wanted.items())
                raise BundleError(
                    f"these tiles are not what the model was trained on: {'; '.join(other)}",
                    path=task.tiles,
                    hint=f"wsipipe tile {flags}, then wsipipe extract --backbone {recipe.backbone}",
                )
        for store in self.stores.values():
            try:
                facts = read_facts(workspace / store.path)
            except StoreError:
                continue  # said of that slide when it is read
            return recipe.refuse_other(facts, task.features)

    def differences(self, recipe: FeatureRecipe) -> list[str]:
        """Settings of tiling and extraction that are not the model's, though its features can be read."""
        here = [
            (recipe.tile, [record.settings for record in self.tiled.values()]),
            (recipe.extract, [record.settings for record in self.extracted.values()]),
        ]
        different = {
            f"{name} {settings[name]}, not {value}": None
            for wanted, all_settings in here
            for settings in all_settings
            for name, value in wanted.items()
            if name in settings and settings[name] != value
        }
        return list(different)


def _patients(
    labels: PatientLabels, table: CohortTable, match: SlideMatch, tiled: Mapping[str, Record]
) -> dict[str, PatientSlides]:
    """The patients who have labels, with all their slides: those on disk, and those that the table alone names."""
    slides: dict[str, dict[str, str | None]] = {patient: {} for patient in labels.slides}
    patient_of = dict(zip(table.frame["slide_id"], table.frame["patient_id"], strict=True))
    for slide, patient in patient_of.items():
        if slide and patient in slides:
            slides[patient][slide] = None
    for slide, row in match.rows.items():
        record = tiled.get(slide)
        if patient_of[row] in slides and record is not None and "slide" in record.inputs:
            slides[patient_of[row]][slide] = record.inputs["slide"].digest
    return {patient: PatientSlides(patient_id=patient, slides=own) for patient, own in slides.items()}


def _same_ids(patients: Sequence[str]) -> list[str]:
    """What to say of patients whom the model knows by their id alone."""
    return [f"known to the model by id, but not by slide: {some(patients)}. {SAME_IDS}"] if patients else []


def without(labels: PatientLabels, gone: Mapping[str, str]) -> PatientLabels:
    """The same with further patients dropped, each with its reason."""
    return replace(
        labels,
        labels={patient: label for patient, label in labels.labels.items() if patient not in gone},
        slides={patient: slides for patient, slides in labels.slides.items() if patient not in gone},
        dropped={**labels.dropped, **gone},
    )


def cross_validated_auc(model: Path) -> Estimate | None:
    """The AUC that a model had out of fold where it was trained; None where that did not travel with its bundles.

    :raises StoreError: its metrics are damaged.
    """
    file = model / "metrics.json"
    if not file.exists():
        return None
    try:
        auc = Estimate.model_validate(json.loads(file.read_text(encoding="utf-8"))["pooled"]["auc"])
    except (ValueError, KeyError, TypeError) as error:  # pydantic's and JSON's errors are ValueErrors
        raise StoreError("holds no metrics of a model", path=file, hint="copy the model again, or remove it") from error
    return auc if auc.value is not None else None
