"""split: joins the cohort table with the extracted slides, and assigns patients to training, validation and test.

splits.csv     every patient's role in every fold
targets.csv, signatures.json
               of a signature: its labels in every fold, and what each fold has taken from its training patients
patients.csv   every patient of the table: used, or dropped and why; slides; whether there is RNA; the site, if the
               split keeps sites apart
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...data.cohort.ids import id_key, look_alikes
from ...data.cohort.labels import PatientLabels, patient_sites
from ...data.cohort.outcomes import Classes, Label
from ...data.cohort.slide_match import SlideMatch, match_slides
from ...data.cohort.splits import Role, Splits, read_splits, write_splits
from ...data.cohort.table import CohortTable, read_cohort
from ...data.cohort.target_splits import split_patients
from ...data.errors import CohortError
from ...data.manifest import Manifest, OutputRecord
from ...data.molecular.store import read_expression, store_name
from ...data.wording import some
from ...models.tasks.multitask import MultiTask
from ...models.training.rna_teacher import measured
from ..registry import VERSIONS
from ..slide_records import identity_of_slide, latest, tiling_of
from ..stage import FileInput, Input, Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from .label_genes import refuse_labels
from .patient_table import read_patients, write_patients
from .question_labels import question_labels
from .settings import QuestionSettings, SplitSettings
from .signature_labels import CohortSignature, FoldTargets
from .usable_slides import features_of as features_of
from .usable_slides import slides_with_features as slides_with_features


class SplitStageSettings(SplitSettings, QuestionSettings):
    """The split's settings together with the question."""


@dataclass(frozen=True)
class _Cohort:
    splits: Splits
    labels: PatientLabels
    with_rna: frozenset[str]
    sites: Mapping[str, str]
    """Patient → site, where sites are kept apart; else empty."""
    targets: FoldTargets | None


class SplitStage(Stage[SplitStageSettings]):
    """The split stage; its single item is ``splits``.

    :param table: the cohort table.
    :param tiles, features: folders of the stages whose slides are used.
    :param molecular: stores of RNA and further blocks; used only to note which patients have any.
    :param expression, gene_sets: of a signature, the store that it is scored from and the .gmt with its genes.
    """

    name = "split"
    version = VERSIONS["split"]
    items = "cohorts"

    def __init__(
        self,
        settings: SplitStageSettings,
        folder: Path,
        workspace: Path,
        *,
        table: Path,
        tiles: Path,
        features: Path,
        molecular: Sequence[Path],
        expression: Path | None = None,
        gene_sets: Path | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.expression, self.gene_sets = expression or workspace / "genomics" / store_name("rna"), gene_sets
        self.table, self.tiles, self.features, self.molecular = table, tiles, features, molecular

    @property
    def sources(self) -> Sequence[Path]:
        return self.tiles, self.features

    def plan(self) -> Plan:
        settings = self.settings
        table = read_cohort(self.table)
        unusable, usable = slides_with_features(self.tiles, self.features, self.workspace)
        match = match_slides([*usable, *unusable], table)
        signature = self._signature()
        labels = question_labels(
            table,
            settings,
            match=match,
            unusable=unusable,
            keep_frozen=settings.tcga_slides == "all",
            drop_conflicts=settings.drop_conflicts,
            to_train=True,
            scores=signature.labels(table.patients) if signature else None,
        )
        if not labels.labels:
            self._refuse_nobody(labels, match)
        if signature is not None:
            labels = signature.stratified(labels)
        _refuse_twins(labels.slides, tiling_of(self.tiles, self.features))
        task = settings.asked()
        splits, sites = folds_of(table, labels, settings)
        targets = signature.by_fold(splits) if signature else None
        if targets is not None:
            splits = targets.when_tested(splits)
            labels = replace(labels, labels=splits.labels)
        stores = [read_expression(store) for store in self.molecular]
        of_targets = [task.known(name, labels.labels) for name in task.targets] if isinstance(task, MultiTask) else []
        of_signature = signature.signature.genes if signature else ()
        suspicious = [
            note for own in of_targets or [dict(labels.labels)] for note in refuse_labels(stores, own, of_signature)
        ]
        spelling = {id_key(patient): patient for patient in table.patients}
        ids = {patient for store in stores for patient in measured(store, store.patients)}
        with_rna = frozenset(spelling.get(id_key(patient), patient) for patient in ids)
        inputs: dict[str, Input] = {
            "table": FileInput(self.table.resolve()),
            "slides": ValueInput({slide: unusable.get(slide, "usable") for slide in match.rows}),
            "rna": ValueInput(sorted(with_rna)),
        }
        if signature is not None:
            own = signature.signature
            inputs |= {"expression": OutputInput(signature.record), "genes": ValueInput([*own.genes, *own.absent])}
        item = Item("splits", inputs, _Cohort(splits, labels, with_rna, sites, targets))
        used, *dropped = labels.notes()
        if stores:
            used += f"; {len(with_rna & labels.labels.keys())} of them have RNA"
            dropped += not_joined(ids, table)
        left_out = _left_out(labels, match, table, unusable)
        of_target = signature.notes() if signature else []
        notes = [*table.notes, *match.notes(), *of_target, used, *dropped, *left_out, *suspicious]
        return Plan([item], notes=notes)

    def _signature(self) -> CohortSignature | None:
        if not self.settings.signature:
            return None
        return CohortSignature.read(self.settings, self.expression, self.gene_sets, self.workspace)

    def _refuse_nobody(self, labels: PatientLabels, match: SlideMatch) -> None:
        """Raise the error for a cohort without usable patients, with the reasons.

        :raises CohortError: always.
        """
        why = ", ".join(f"{reason} ({count})" for reason, count in labels.reasons.items())
        what = f"none of its patients ({len(labels.dropped)}) can be used with the features in {self.features}: {why}"
        hint = "wsipipe status shows the state of the slides; labels come from the table"
        if not match.rows:
            on_disk, in_table = some(match.only_on_disk, 2), some(match.only_in_table, 2) or "none"
            hint = f"slide_id must be the slide's file name: the table has {in_table}; slides here are {on_disk}"
        raise CohortError(what, path=self.table, hint=hint)

    def process(self, item: Item, progress: Progress) -> Outcome:
        cohort: _Cohort = item.payload
        write_splits(self.folder / "splits.csv", cohort.splits)
        write_patients(self.folder / "patients.csv", cohort.labels, cohort.with_rna, cohort.sites)
        labels = cohort.labels
        stats = {
            "patients": len(labels.labels) + len(labels.dropped),
            "used": len(labels.labels),
            **(
                {"positive": labels.counts[labels.classes[1]]}
                if self.settings.task == "binary"
                else {"labels": labels.counts}
            ),
            "with_rna": len(cohort.with_rna & labels.labels.keys()),
            "slides": sum(map(len, labels.slides.values())),
            "dropped": dict(labels.reasons),
        }
        files = {"splits": self.folder / "splits.csv", "patients": self.folder / "patients.csv"}
        if cohort.targets is not None:
            files |= cohort.targets.write(self.folder)
        return Outcome(files, stats)


def folds_of(table: CohortTable, labels: PatientLabels, settings: SplitStageSettings) -> tuple[Splits, dict[str, str]]:
    """Deal the patients to the folds; with them patient → site, where sites are kept apart.

    :raises CohortError: too few patients of a class or sites for the folds, or a patient without a site.
    """
    sites = patient_sites(table, labels.labels) if settings.split_by == "site" else {}
    strata = settings.asked().strata_of_split(labels.labels)
    splits = split_patients(
        labels.labels, settings.folds, settings.seed, settings.validation_fraction, sites or None, strata
    )
    return splits, sites


def not_joined(ids: Collection[str], table: CohortTable) -> list[str]:
    """Note ids of the matrix that match no patient of the table but look similar to one."""
    alike = look_alikes(sorted(ids), table.patients)
    pairs = [f"{written} and {patient}" for written, patient in alike.items()]
    return (
        [f"patients of the matrix not joined, though similar to a patient of the table: {some(pairs)}"] if pairs else []
    )


def _left_out(labels: PatientLabels, match: SlideMatch, table: CohortTable, unusable: Mapping[str, str]) -> list[str]:
    """Note for each reason the slides that are left out although their patients are used.

    Dropped patients are reported separately.
    """
    patient_of = table.patient_of()
    lost: dict[str, list[str]] = {}
    for slide, row in match.rows.items():
        if slide in unusable and slide not in labels.frozen_slides and patient_of[row] in labels.labels:
            lost.setdefault(unusable[slide], []).append(slide)
    return [
        f"slides left out, whose patients have other slides, {reason}: {len(slides)} ({some(slides, 3)})"
        for reason, slides in lost.items()
    ]


def _refuse_twins(slides_of: Mapping[str, Sequence[str]], tiling: tuple[Path, str]) -> None:
    """Refuse a slide that two patients share, since one fold could be trained and tested on it.

    :raises CohortError: there is one; the message names both slides and both patients.
    """
    tiled = latest(tiling)
    first: dict[str, tuple[str, str]] = {}
    for patient, slides in slides_of.items():
        for slide in slides:
            what = "vector" if tiling[1] == "encode" else "bytes"
            own = identity_of_slide(slide, tiled[slide])
            other, of = first.setdefault(own, (slide, patient))
            if of != patient:
                raise CohortError(
                    f"slides {other} of patient {of} and {slide} of patient {patient} have the same {what}",
                    path=tiled[slide].inputs["slide"].path or tiling[0],
                    hint="remove the row that is wrong; if both are one person, give both rows one patient_id",
                )


@dataclass(frozen=True)
class SplitOutput:
    """The output of the split stage, for the stages after it."""

    splits: Splits
    record: OutputRecord
    """The record of ``splits.csv``."""
    slides_of: Mapping[str, tuple[str, ...]]
    """Patient → slides to use."""
    by_site: bool
    """Whether it keeps sites apart."""
    site_of: Mapping[str, str]
    targets: FoldTargets | None = None
    """Of a signature, the labels of each fold."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    """The records of these labels, for the stages that use them."""

    @property
    def sites(self) -> Mapping[str, str]:
        """Patient → site, where sites are kept apart; else empty.

        :raises CohortError: an earlier version split by site, and did not record the sites.
        """
        if not self.by_site:
            return {}
        if not all(self.site_of.get(patient) for patient in self.splits.labels):
            what = "keeps sites apart, but does not say the patients' sites: an earlier version of wsipipe made it"
            hint = "move its splits.csv and patients.csv away, and run wsipipe train: it makes the same split again"
            raise CohortError(what, path=self.record.path, hint=hint)
        return self.site_of

    @property
    def slides(self) -> list[str]:
        """The slides of all patients, in any role."""
        return [slide for patient in self.splits.labels for slide in self.slides_of[patient]]

    def part(self, fold: int, role: Role) -> dict[str, tuple[Label, tuple[str, ...]]]:
        """Return the patients with a role in a fold: patient → label and slides."""
        patients = self.splits.patients(fold, role)
        return {patient: (self.label(patient, fold), self.slides_of[patient]) for patient in patients}

    def label(self, patient: str, fold: int) -> Label:
        """Return a patient's label in a fold; only a signature's may differ between folds."""
        return self.splits.labels[patient] if self.targets is None else self.targets.of[patient][fold]


def split_output(manifest: Manifest, workspace: Path) -> SplitOutput:
    """Read the output of the split stage.

    :raises CohortError: the split is missing or damaged.
    """
    found = upstream(manifest, "split", workspace)
    split = found.records.get("splits")
    if split is None:
        standing = found.left_out.get("splits")
        what = f"its splits are {standing.state}: {standing.why}" if standing else "has no splits"
        raise CohortError(what, path=manifest.path.parent, hint="run wsipipe train from its start")
    classes = _classes(split.settings)
    numbered = classes if isinstance(classes, int) else 0  # a signature is never one of several targets
    patients = read_patients(workspace / split.outputs["patients"].path, classes)
    of_targets = {name: split.outputs[name] for name in ("targets", "signatures") if name in split.outputs}
    return SplitOutput(
        splits=read_splits(workspace / split.outputs["splits"].path, classes),
        record=split.outputs["splits"],
        slides_of={patient.patient_id: patient.slides for patient in patients},
        by_site=split.settings.get("split_by") == "site",
        site_of={patient.patient_id: patient.site for patient in patients},
        targets=FoldTargets.read(manifest.path.parent, numbered) if of_targets else None,
        inputs={name: OutputInput(output) for name, output in of_targets.items()},
    )


def _classes(settings: Mapping[str, Any]) -> Classes:
    """Number of classes of a split's labels, from the settings in its record."""
    if targets := settings.get("targets"):
        return tuple(_classes_of_one(settings["of_targets"][name]) for name in targets)
    return _classes_of_one(settings)


def _classes_of_one(settings: Mapping[str, Any]) -> int:
    return 2 if settings.get("task", "binary") == "binary" else len(settings.get("classes", ()))
