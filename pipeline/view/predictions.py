"""What every model of the workspace says of a slide, as its tables say it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...data.files.own_tables import read_own_rows

OUT_OF_FOLD: Final = " (out of fold)"
"""After a model's name: predictions for the patients who trained it, each by the folds not trained on them."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """A model's prediction for a slide, or for the slide's patient."""

    call: str
    """What it calls, such as ``positive``; empty where the task calls nothing."""
    value: str
    """The number that is shown, such as a probability; of several targets one each."""
    status: str
    """As in the table: ``done``, ``stale``, ``failed``."""
    uncertain: str = ""
    """Why the model should not be relied on here; empty if it may."""
    note: str = ""


def predicted(table: Path) -> dict[str, Said]:
    """Slide → prediction, from ``predictions.csv``.

    :raises StoreError: damaged.
    """
    rows = read_own_rows(table, ("level", "slide_id", "status"), dict)
    return {row["slide_id"]: _said(row, row["status"]) for row in rows if row["level"] == "slide"}


def out_of_fold(table: Path, patients: Path) -> dict[str, Said]:
    """Slide → prediction for its patient, from ``oof_predictions.csv``.

    :param patients: the model's ``patients.csv``, which says whose the slides are.
    :raises StoreError: damaged.
    """
    said = {row["patient_id"]: _by_patient(row) for row in read_own_rows(table, ("patient_id",), dict)}
    used = read_own_rows(patients, ("patient_id", "slides"), lambda row: (row["patient_id"], row["slides"]))
    listed = ((patient, next(csv.reader([cell], delimiter=";"), [])) for patient, cell in used if patient in said)
    return {slide: said[patient] for patient, slides in listed for slide in slides}


def _by_patient(row: Mapping[str, str]) -> Said:
    """Calls are numbers here: those of a binary task mean positive and negative, others are left to the report."""
    said = _said(row, "done")
    binary = "probability" in row and "logit" in row
    return replace(said, call={"1": "positive", "0": "negative"}.get(said.call, "") if binary else "")


def _said(row: Mapping[str, str], status: str) -> Said:
    """Columns are read by name: of one target ``call``, of several ``er call``, each after its value."""
    targets = [name.removesuffix("call").strip() for name in row if name == "call" or name.endswith(" call")]
    if not targets:
        return Said(call="", value=_value(row, ""), status=status, uncertain=_doubt(row), note=row.get("note", ""))
    calls, values = [], []
    for target in targets:
        named = f"{target} " if target else ""
        calls.append(named + row[f"{named}call"] if row[f"{named}call"] else "")
        values.append(_value(row, named))
    return Said(
        call=", ".join(filter(None, calls)),
        value=", ".join(filter(None, values)),
        status=status,
        uncertain=_doubt(row),
        note=row.get("note", ""),
    )


_NOT_THE_VALUE: Final = frozenset({
    "level", "patient_id", "slide_id", "status", "fold", "label", "logit", "uncertain", "time", "event",
})  # fmt: skip


def _value(row: Mapping[str, str], named: str) -> str:
    """The first number of a target: probability, risk, score or measured value, by the task."""
    for name, cell in row.items():
        if name.startswith(named) and name.removeprefix(named) not in _NOT_THE_VALUE:
            try:
                return f"{float(cell):.3g}"
            except ValueError:
                return ""
    return ""


def _doubt(row: Mapping[str, str]) -> str:
    cell = row.get("uncertain", "").strip()
    return "" if cell.casefold() in ("", "no", "false", "0") else cell
