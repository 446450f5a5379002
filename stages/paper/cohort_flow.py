"""The cohort flow: slides and patients from what was found to what was used, and who was dropped where and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.cohort.slide_match import match_slides
from ...data.cohort.table import CohortTable
from ...data.manifest import Record
from ..features_folder import stage_of
from ..lineage import Lineage
from .described_patient import DescribedPatient

_OF_TILING = ("no tissue", "slide failed in tile", "not tiled", "output of tile")


@dataclass(frozen=True)
class Dropped:
    """Slides or patients that a step leaves out for one reason."""

    reason: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A box of the diagram, and who is left out between it and the next one.

    :param unit: ``slides`` or ``patients``.
    """

    name: str
    unit: str
    number: int
    dropped: tuple[Dropped, ...] = ()

    @property
    def left_out(self) -> int:
        """How many are left out after it."""
        return sum(len(one.names) for one in self.dropped)


@dataclass(frozen=True)
class CohortFlow:
    """Both ways to the patients who were used, and what became of them.

    :param slides, patients: the steps; each number is the one before less those dropped.
    :param tested: fold → how many patients it tests.
    :param with_rna: how many of the used patients have RNA.
    """

    slides: tuple[Step, ...]
    patients: tuple[Step, ...]
    tested: tuple[tuple[int, int], ...]
    with_rna: int

    def rows(self) -> Iterator[tuple[str, int, str, str, int]]:
        """Rows of a table: unit, place of the step, step, reason of being dropped, number."""
        for steps in (self.slides, self.patients):
            for place, step in enumerate(steps, start=1):
                yield step.unit, place, step.name, "", step.number
                for one in step.dropped:
                    yield step.unit, place, step.name, f"dropped: {one.reason}", len(one.names)
        yield "patients", len(self.patients) + 1, "of them with RNA", "", self.with_rna
        for fold, number in self.tested:
            yield "patients", len(self.patients) + 1, f"tested in fold {fold}", "", number

    def dropped(self) -> Iterator[tuple[str, str, str, str]]:
        """Everybody who was dropped: unit, name, the step that they came to, and why."""
        for step in (*self.slides, *self.patients):
            for one in step.dropped:
                for name in one.names:
                    yield step.unit, name, step.name, one.reason


def cohort_flow(
    table: CohortTable | None,
    usable: Sequence[str],
    unusable: Mapping[str, str],
    patients: Sequence[DescribedPatient],
    tested: Mapping[int, int],
) -> CohortFlow:
    """Follow slides and patients.

    :param table: the cohort table; without it, no more is known than which slides were used.
    :param usable: slides that have features.
    :param unusable: the others → why they have none.
    :param patients: those of the split.
    :param tested: fold → how many patients it tests.
    """
    used = [patient for patient in patients if patient.used]
    taken = {slide for patient in used for slide in patient.slides}
    if table is None:
        usable, unusable, left = [slide for slide in usable if slide in taken], {}, {}
    else:
        rows = match_slides([*usable, *unusable], table).rows
        # Those of other patients, on whom the model predicts later, lie in the same folders and are no part of this.
        usable = [slide for slide in usable if slide in rows]
        unusable = {slide: why for slide, why in unusable.items() if slide in rows}
        patient_of = table.patient_of()
        dropped = {patient.patient_id for patient in patients if not patient.used}
        left = {slide: _why_left(patient_of[rows[slide]], dropped) for slide in usable if slide not in taken}
    of_tiling = {slide: why for slide, why in unusable.items() if why.startswith(_OF_TILING)}
    of_features = {slide: why for slide, why in unusable.items() if slide not in of_tiling}
    steps = [("Slides of the cohort found", of_tiling), ("Tiled", of_features), ("With features", left)]
    slides, number = [], len(usable) + len(unusable)
    for name, lost in steps:
        slides.append(Step(name, "slides", number, _by_reason(lost)))
        number -= len(lost)
    slides.append(Step("Slides used", "slides", number))
    lost = {patient.patient_id: patient.reason for patient in patients if not patient.used}
    of_patients = (
        Step("Patients in the cohort table", "patients", len(patients), _by_reason(lost)),
        Step("Patients used", "patients", len(used)),
    )
    return CohortFlow(tuple(slides), of_patients, tuple(sorted(tested.items())), sum(patient.rna for patient in used))


def tiles_of(tiles: Path, features: Path, workspace: Path) -> dict[str, int]:
    """How many tiles the features of each slide have, from their records, or from those of tiling."""
    lineage = Lineage(workspace)
    records: dict[str, Record] = {**lineage.latest(tiles, "tile"), **lineage.latest(features, stage_of(features))}
    counts = {slide: record.stats.get("tiles") for slide, record in records.items()}
    return {slide: int(count) for slide, count in counts.items() if isinstance(count, int | float)}


def _why_left(patient: str, dropped: Collection[str]) -> str:
    if patient in dropped:
        return "of a patient who is dropped"
    return "of a patient who is used with other slides"


def _by_reason(lost: Mapping[str, str]) -> tuple[Dropped, ...]:
    """Group names by reason, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name, reason in lost.items():
        groups.setdefault(reason, []).append(name)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Dropped(reason, tuple(sorted(names))) for reason, names in ordered)
