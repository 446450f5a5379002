"""The patients of an evaluation: joined from a cohort table and a workspace, without the model's training patients.

Used and dropped patients are recorded as in training (:mod:`wsipipe.stages.train.split`). There is one further reason
for dropping a patient: all folds of the model were trained on them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ...data.cohort.labels import PatientLabels
from ...data.cohort.outcomes import Label
from ...data.cohort.slide_match import SlideMatch, match_slides
from ...data.cohort.table import CohortTable, read_cohort
from ...data.errors import BundleError, CohortError, StoreError, UsageError
from ...data.features.store import read_facts
from ...data.json_text import read_json
from ...data.manifest import Manifest, OutputRecord, Record
from ...data.molecular.store import store_name
from ...data.wording import some
from ...models.bundle import BundleFacts, folds_of
from ...models.evaluation.metrics import Estimate
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.feature_recipe import FeatureRecipe
from ...models.tasks.question import class_names
from ..features_folder import stage_of
from ..predict.allowed_folds import SAME_IDS, AllowedFolds, PatientSlides, allowed_folds
from ..settings import Presentation, Runtime
from ..slide_records import digest_of_slide, extraction_of, latest, tiling_of
from ..tile.networks import networks_in, recipe_of_tiles, refuse_other_networks
from ..train.audit import Audited
from ..train.question_labels import question_labels
from ..train.settings import AUDIT, BiomarkerSettings, QuestionSettings
from ..train.signature_labels import TargetsElsewhere
from ..train.split import slides_with_features
from .uncertain_slides import UncertainSlides

SEEN_BY_ALL = "every fold of the model was trained on them"
"""The reason for dropping a training patient."""


class ExternalSettings(QuestionSettings):
    """Settings of an evaluation on another cohort: its label column and values, and how they are used."""

    drop_conflicts: bool = False
    other_patients: bool = Runtime(False)  # its effects are among the inputs
    training_patients: bool = Runtime(False)  # as above
    tcga_slides: Literal["diagnostic", "all"] = "diagnostic"
    bootstrap_rounds: int = 2000
    seed: int = 0
    prevalence: float | None = Presentation(None, gt=0, lt=1)
    """The one that probabilities are shown at; default: that of the model's training patients."""
    audit: list[str] = Presentation([], description=AUDIT)

    @classmethod
    def of(cls, model: Path, **given: Any) -> ExternalSettings:
        """Take the model's own question, with the given values that are not None replaced.

        :raises BundleError: there is no model.
        :raises UsageError: a value would mean two classes, or is of another task than the model's.
        """
        question = folds_of(model)[0][1].question
        given = {name: value for name, value in given.items() if value is not None}
        if question.targets and (renamed := [n for n in given if n in BiomarkerSettings.model_fields]):
            raise UsageError(
                f"{renamed[0]} is of one question, and this model has the targets {', '.join(question.targets)}",
                path=model,
                hint="call the table's columns and values as the model's targets do: "
                + ", ".join(own.label_column for own in question.of_targets.values()),
            )
        if question.task == "survival" and "label_column" in given:
            what = "the model's question is of survival, whose labels are in two columns"
            raise UsageError(what, path=model, hint="use --time-column and --event-column")
        if "time_column" in given:
            given["label_column"] = given["time_column"]
        asked = question.model_dump(exclude={"name"}) | given
        try:
            settings = cls.model_validate(asked)
            if class_names(settings.classes) != class_names(question.classes):
                raise UsageError(
                    f"these classes are not the model's, which are {', '.join(class_names(question.classes))}",
                    path=model,
                    hint="name all of them in the model's order, each with this table's values: low=1+|2+",
                )
        except ValidationError as error:
            what = error.errors()[0]["msg"].removeprefix("Value error, ")
            own = f"positive: {question.positive}, negative: {question.negative}; override both"
            hint = f"the model's values are {own}" if question.task == "binary" else f"its task is {question.task}"
            if question.signature:
                hint = f"its target is {question.signature}, scored from this cohort's RNA: no label is needed"
            raise UsageError(what, path=model, hint=hint) from error
        return settings


@dataclass(frozen=True, kw_only=True)
class ExternalTask:
    """A request for an evaluation: the model and the slides."""

    model: Path
    """The trained model's folder."""
    table: Path
    tiles: Path
    features: Path
    """Folders of the stages that made the slides' bags."""
    asked: ExternalSettings

    def audited(self) -> Audited:
        """Read the columns of an audit from the table."""
        return Audited.of(self.asked.audit, self.table, self.asked)


@dataclass(frozen=True)
class ExternalCohort:
    """The patients to evaluate on.

    :param labels: patients that no fold may read are among the dropped.
    :param allowed: patient → folds that may read their slides.
    :param stores: slide → its features, for the slides to read.
    :param tiled, extracted: slide → record, for the slides to read.
    :param slides: matched slide → ``usable``, or why it is not.
    :param known_by_id: patients whose id, but no slide's bytes, some fold contains. They may be other people with the
        same ids.
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
    targets: TargetsElsewhere | None = None
    """Of a signature: the targets that this cohort's RNA gives."""
    uncertain: UncertainSlides | None = None
    """Slides on which ``predict`` would give no call, once they are read; None where the page says it elsewhere."""

    @classmethod
    def of(cls, task: ExternalTask, workspace: Path) -> ExternalCohort:
        """Join the table with the extracted slides, and find the model's training patients among them.

        :raises CohortError: there are some, and nobody has asked for that; or no patient is left.
        """
        bundles = [facts for _, facts in folds_of(task.model)]
        table = read_cohort(task.table)
        unusable, usable = slides_with_features(task.tiles, task.features, workspace)
        match = match_slides([*usable, *unusable], table)
        targets = _targets(bundles, workspace, table)
        labels = question_labels(
            table,
            task.asked,
            match=match,
            unusable=unusable,
            keep_frozen=task.asked.tcga_slides == "all",
            drop_conflicts=task.asked.drop_conflicts,
            to_train=False,
            scores=targets.labels(table.patients) if targets else None,
        )
        made = Manifest.of(task.features).latest(stage_of(task.features))
        tiled, extracted = latest(tiling_of(task.tiles, task.features)), latest(extraction_of(task.features))
        patients = _patients(labels, table, match, tiled)
        allowed = {p: allowed_folds(bundles, patients[p], other_patients=task.asked.other_patients) for p in patients}
        by_id = [patient for patient, folds in allowed.items() if folds.by_id_alone]
        seen = [patient for patient, folds in allowed.items() if len(folds.folds) < len(bundles)]
        if seen and not task.asked.training_patients:
            raise CohortError(
                f"{len(seen)} of {len(allowed)} patients trained this model: {some(seen)}",
                path=task.table,
                hint="take them out of the table; or --training-patients has each read by the folds that did not see "
                f"them, and the page is titled so{f'. {SAME_IDS}' if by_id else ''}",
            )
        labels = without(labels, {patient: SEEN_BY_ALL for patient, folds in allowed.items() if not folds.folds})
        if not labels.labels:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in labels.reasons.items())
            raise CohortError(
                f"no patient is left to evaluate on: {reasons or 'the table is empty'}",
                path=task.table,
                hint=f"look at its slide and label columns{_of_other_values(task.asked)}"
                f"{f'. {SAME_IDS}' if by_id else ''}",
            )
        if targets is not None:
            own = {patient: targets.label(patient, allowed[patient].folds) for patient in labels.labels}
            labels = replace(
                labels, labels={patient: label for patient, label in own.items() if not isinstance(label, str)}
            )
        slides = [slide for own in labels.slides.values() for slide in own]
        return cls(
            bundles=bundles,
            labels=labels,
            allowed={patient: allowed[patient] for patient in labels.labels},
            stores={slide: made[slide].outputs["features"] for slide in slides},
            tiled={slide: tiled[slide] for slide in slides},
            extracted={slide: extracted[slide] for slide in slides},
            slides={slide: unusable.get(slide, "usable") for slide in match.rows},
            known_by_id=by_id,
            notes=[*table.notes, *match.notes(), *labels.notes(), *_same_ids(by_id)],
            targets=targets,
        )

    def label(self, patient: str, folds: Collection[int]) -> Label | None:
        """Return a patient's label, for these folds by themselves; only a signature's may differ between folds."""
        if self.targets is None:
            return self.labels.labels[patient]
        label = self.targets.label(patient, folds)
        return None if isinstance(label, str) else label

    @property
    def partly_seen(self) -> list[str]:
        """Patients that some of the folds were trained on, and that the other folds read."""
        return [patient for patient, allowed in self.allowed.items() if len(allowed.folds) < len(self.bundles)]

    def refuse_other_tiles(self, recipe: FeatureRecipe, task: ExternalTask, workspace: Path) -> None:
        """Refuse slides that were tiled or extracted differently from the model's.

        :raises BundleError: they were; the message names the differences.
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
            refuse_other_networks(recipe.tile, networks_in(record), task.tiles)
        for store in self.stores.values():
            try:
                facts = read_facts(workspace / store.path)
            except StoreError:
                continue  # reported when that slide is read
            return recipe.refuse_other(facts, task.features)

    def differences(self, recipe: FeatureRecipe) -> list[str]:
        """List settings of tiling and extraction that differ from the model's without making the features unusable."""
        here = [
            (recipe.tile, [recipe_of_tiles(record) for record in self.tiled.values()]),
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


def _targets(bundles: Sequence[BundleFacts], workspace: Path, table: CohortTable) -> TargetsElsewhere | None:
    """Score this cohort's patients by the signature of each fold; None if the question is of no signature."""
    signatures = {facts.fold: facts.signature for facts in bundles if facts.signature is not None}
    if not signatures:
        return None
    store = workspace / "genomics" / store_name("rna")
    return TargetsElsewhere.of(signatures, store, workspace, table.patients)


def _patients(
    labels: PatientLabels, table: CohortTable, match: SlideMatch, tiled: Mapping[str, Record]
) -> dict[str, PatientSlides]:
    """Collect the labelled patients with all their slides, on disk or only in the table."""
    slides: dict[str, dict[str, str | None]] = {patient: {} for patient in labels.slides}
    patient_of = table.patient_of()
    for slide, patient in patient_of.items():
        if slide and patient in slides:
            slides[patient][slide] = None
    for slide, row in match.rows.items():
        digest = digest_of_slide(tiled.get(slide))
        if patient_of[row] in slides and digest is not None:
            slides[patient_of[row]][slide] = digest
    return {patient: PatientSlides(patient_id=patient, slides=own) for patient, own in slides.items()}


def _same_ids(patients: Sequence[str]) -> list[str]:
    """Note the patients that match the model's training patients by their id alone."""
    return [f"known to the model by id, but not by slide: {some(patients)}. {SAME_IDS}"] if patients else []


def _of_other_values(asked: ExternalSettings) -> str:
    """How to say the values of another cohort, where a model asks for classes; none if it does not."""
    if not asked.classes:
        return ""
    flags = " ".join(f"--classes {name}=VALUE" for name in class_names(asked.classes))
    return f"; where this cohort has other values for the classes, name them: {flags}"


def without(labels: PatientLabels, gone: Mapping[str, str]) -> PatientLabels:
    """Drop further patients from labels, each with a reason."""
    return replace(
        labels,
        labels={patient: label for patient, label in labels.labels.items() if patient not in gone},
        slides={patient: slides for patient, slides in labels.slides.items() if patient not in gone},
        dropped={**labels.dropped, **gone},
    )


def cross_validated_auc(model: Path) -> Estimate | None:
    """Read the model's own out-of-fold AUC, or the main figure of its task.

    None if it was not copied along with the bundles.

    :raises StoreError: its metrics are damaged.
    """
    file = model / "metrics.json"
    if not file.exists():
        return None
    hint = "copy the model again, or remove it"
    content = read_json(file, StoreError, what="metrics of a model", hint=hint)
    try:
        pooled = content["pooled"]
        of_task = "figures" in pooled
        main = TaskMetrics.model_validate(pooled).main if of_task else Estimate.model_validate(pooled["auc"])
    except (ValueError, KeyError, TypeError) as error:  # pydantic's error is a ValueError
        raise StoreError("holds no metrics of a model", path=file, hint=hint) from error
    return main if main.value is not None else None
