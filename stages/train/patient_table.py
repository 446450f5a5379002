"""The table of a split, or of an evaluation: every patient, used or dropped and why, with their slides."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...data.artifact import whole
from ...data.cohort.labels import PatientLabels
from ...data.cohort.outcomes import Classes, Label, label_of
from ...data.files.own_tables import read_own_rows
from ...data.files.safe_cells import SafeWriter

PATIENT_COLUMNS = ("patient_id", "status", "reason", "label", "slides", "rna")


def write_patients(
    path: Path, labels: PatientLabels, with_rna: Collection[str] = (), sites: Mapping[str, str] | None = None
) -> None:
    """Write ``patients.csv``: one row for every patient of the table, used or dropped.

    :param sites: patient → site of those that are used; with it there is a column for it.
    """
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow([*PATIENT_COLUMNS, *(["site"] if sites else [])])
        for patient in sorted({*labels.labels, *labels.dropped}):
            used = patient in labels.labels
            writer.writerow(
                [
                    patient,
                    "used" if used else "dropped",
                    labels.dropped.get(patient, ""),
                    labels.labels.get(patient, ""),
                    _joined(labels.slides.get(patient, ())),
                    "yes" if patient in with_rna else "no",
                    *([sites.get(patient, "")] if sites else []),
                ]
            )


@dataclass(frozen=True)
class PatientRow:
    """A row of ``patients.csv``."""

    patient_id: str
    used: bool
    reason: str
    label: Label | None
    slides: tuple[str, ...]
    rna: bool
    site: str = ""
    """Empty where sites are not kept apart, and in files of earlier versions."""


def read_patients(path: Path, classes: Classes = 2) -> list[PatientRow]:
    """Read ``patients.csv``.

    :param classes: how many classes the labels have; 0 if they are numbers or follow-ups; of several targets each.
    :raises StoreError: damaged, or edited into something else.
    """

    def patient(row: Mapping[str, str]) -> PatientRow:
        label = label_of(row["label"], classes)
        if row["status"] not in ("used", "dropped") or (label is None and row["label"]):
            raise ValueError(f"status {row['status'][:40]!r} with label {row['label'][:40]!r}")
        return PatientRow(
            patient_id=row["patient_id"],
            used=row["status"] == "used",
            reason=row["reason"],
            label=label,
            slides=_parted(row["slides"]),
            rna=row["rna"] == "yes",
            site=row.get("site", ""),
        )

    return read_own_rows(path, PATIENT_COLUMNS, patient)


def _joined(slides: Iterable[str]) -> str:
    """Slides in one cell, separated by semicolons; an id that holds one, or begins with a quote, is in quotes."""
    line = io.StringIO()
    csv.writer(line, delimiter=";", lineterminator="").writerow(slides)
    return line.getvalue()


def _parted(cell: str) -> tuple[str, ...]:
    return tuple(next(csv.reader([cell], delimiter=";"), ()))


def reasons(patients: list[PatientRow]) -> dict[str, int]:
    """Count the dropped patients by reason, the most frequent first."""
    return dict(Counter(row.reason for row in patients if not row.used).most_common())
