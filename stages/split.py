"""split: joins the cohort table to the slides that have features, and decides who trains, validates and is tested.

splits.csv     every patient's part in every fold
patients.csv   every patient of the table: used, or dropped and why; slides; whether there is RNA
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.artifact import whole
from ..data.cohort import read_cohort
from ..data.errors import CohortError
from ..data.expression import read_expression
from ..data.manifest import Manifest, OutputRecord, Record
from ..data.patient_labels import PatientLabels, patient_labels, patient_sites
from ..data.slide_match import match_slides
from ..data.splits import Splits, make_splits, read_splits, write_splits
from .settings import BiomarkerSettings, SplitSettings
from .stage import FileInput, Input, Item, Outcome, Plan, Progress, Stage, ValueInput, upstream
from .versions import VERSIONS

PATIENT_COLUMNS = ("patient_id", "status", "reason", "label", "slides", "rna")


class SplitStageSettings(SplitSettings, BiomarkerSettings):
    """The split's settings and the question that it is for."""


@dataclass(frozen=True)
class _Cohort:
    splits: Splits
    labels: PatientLabels
    with_rna: frozenset[str]


class SplitStage(Stage[SplitStageSettings]):
    """One item, ``splits``.

    :param table: the cohort table.
    :param tiles, features: folders of the stages whose slides are used.
    :param molecular: the stores that may teach, those that are there; only to say who has been measured.
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
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.table, self.tiles, self.features, self.molecular = table, tiles, features, molecular

    def plan(self) -> Plan:
        settings = self.settings
        table = read_cohort(self.table)
        unusable, usable = slides_with_features(self.tiles, self.features, self.workspace)
        match = match_slides([*usable, *unusable], table)
        labels = patient_labels(
            table,
            settings.label_column,
            settings.positive,
            settings.negative,
            match=match,
            unusable=unusable,
            keep_frozen=settings.tcga_slides == "all",
            drop_conflicts=settings.drop_conflicts,
        )
        sites = patient_sites(table, labels.labels) if settings.split_by == "site" else {}
        splits = make_splits(
            labels.labels,
            settings.folds,
            settings.seed,
            settings.validation_fraction,
            sites or None,
        )
        with_rna = frozenset(patient for store in self.molecular for patient in read_expression(store).patients)
        inputs: dict[str, Input] = {
            "table": FileInput(self.table.resolve()),
            "slides": ValueInput({slide: unusable.get(slide, "usable") for slide in match.rows}),
            "rna": ValueInput(sorted(with_rna)),
        }
        item = Item("splits", inputs, _Cohort(splits, labels, with_rna))
        return Plan([item], notes=[*table.notes, *match.notes(), *labels.notes()])

    def process(self, item: Item, progress: Progress) -> Outcome:
        cohort: _Cohort = item.payload
        write_splits(self.folder / "splits.csv", cohort.splits)
        write_patients(self.folder / "patients.csv", cohort.labels, cohort.with_rna)
        labels = cohort.labels
        stats = {
            "patients": len(labels.labels) + len(labels.dropped),
            "used": len(labels.labels),
            "positive": sum(labels.labels.values()),
            "with_rna": len(cohort.with_rna & labels.labels.keys()),
            "slides": sum(map(len, labels.slides.values())),
            "dropped": dict(labels.reasons),
        }
        return Outcome(
            outputs={"splits": self.folder / "splits.csv", "patients": self.folder / "patients.csv"}, stats=stats
        )


def slides_with_features(tiles: Path, features: Path, workspace: Path) -> tuple[dict[str, str], list[str]]:
    """Slides that cannot be used, with the reason, and those with features.

    :param tiles, features: folders of the stages that made them.
    :raises CohortError: no slide has features.
    """
    unusable: dict[str, str] = {}
    records: dict[str, Record] = {}
    for folder, stage in ((tiles, "tile"), (features, "extract")):
        records = Manifest.of(folder).latest(stage)
        for slide, record in records.items():
            unusable.pop(slide, None)
            if record.status == "empty":
                unusable[slide] = "no tissue on the slide"
            elif record.status == "failed":
                unusable[slide] = f"slide failed in {stage}"
            elif not record.is_whole(workspace):
                unusable[slide] = f"output of {stage} lost"
            elif stage == "tile":
                unusable[slide] = "no features extracted yet"
    usable = [slide for slide in records if slide not in unusable]  # the last stage's: extract
    if not usable:
        raise CohortError("no slide here has features", path=features, hint="run wsipipe extract first")
    return unusable, usable


def write_patients(path: Path, labels: PatientLabels, with_rna: Collection[str] = ()) -> None:
    """Every patient of the table, used or dropped, a row each."""
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(PATIENT_COLUMNS)
        for patient in sorted({*labels.labels, *labels.dropped}):
            used = patient in labels.labels
            writer.writerow(
                [
                    patient,
                    "used" if used else "dropped",
                    labels.dropped.get(patient, ""),
                    labels.labels.get(patient, ""),
                    ";".join(labels.slides.get(patient, ())),
                    "yes" if patient in with_rna else "no",
                ]
            )


@dataclass(frozen=True)
class PatientRow:
    """A line of ``patients.csv``."""

    patient_id: str
    used: bool
    reason: str
    label: int | None
    slides: tuple[str, ...]
    rna: bool


def read_patients(path: Path) -> list[PatientRow]:
    """Read what :func:`write_patients` wrote."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            PatientRow(
                patient_id=row["patient_id"],
                used=row["status"] == "used",
                reason=row["reason"],
                label=int(row["label"]) if row["label"] else None,
                slides=tuple(row["slides"].split(";")) if row["slides"] else (),
                rna=row["rna"] == "yes",
            )
            for row in csv.DictReader(stream)
        ]


@dataclass(frozen=True)
class SplitOutput:
    """What the split stage left for the stages after it."""

    splits: Splits
    record: OutputRecord
    """Of ``splits.csv``."""
    slides_of: Mapping[str, tuple[str, ...]]
    """Patient → slides to use."""


def split_output(manifest: Manifest, workspace: Path) -> SplitOutput:
    """Read it.

    :raises CohortError: the split is not there or not whole.
    """
    split = upstream(manifest, "split", workspace).records.get("splits")
    if split is None:
        raise CohortError("has no splits", path=manifest.path.parent, hint="run wsipipe train from its start")
    patients = read_patients(workspace / split.outputs["patients"].path)
    return SplitOutput(
        splits=read_splits(workspace / split.outputs["splits"].path),
        record=split.outputs["splits"],
        slides_of={patient.patient_id: patient.slides for patient in patients},
    )


def reasons(patients: list[PatientRow]) -> dict[str, int]:
    """Reason → patients dropped for it, the most frequent first."""
    return dict(Counter(row.reason for row in patients if not row.used).most_common())
