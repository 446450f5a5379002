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
EVALUATED: Final = " (evaluated)"
"""After an evaluation's name: predictions of a model for patients whose labels are known."""
_SHARE: Final = "probability of "
_OF_CALL: Final = "probability of the call"


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
    target: str = ""
    """What the patient is known to be, such as ``positive``; empty where the table does not say it."""
    right: bool | None = None
    """Whether the call is the target; None where nothing is called, or no target is known."""


def predicted(table: Path) -> dict[str, Said]:
    """Slide → prediction, from ``predictions.csv``.

    :raises StoreError: damaged.
    """
    rows = read_own_rows(table, ("level", "slide_id", "status"), dict)
    return {row["slide_id"]: _said(row, row["status"]) for row in rows if row["level"] == "slide"}


def of_patients(table: Path, patients: Path, status: str = "done") -> dict[str, Said]:
    """Slide → prediction for its patient beside the patient's label, from a table of patients whose labels are known.

    :param table: ``oof_predictions.csv`` of a model, or ``predictions.csv`` of an evaluation.
    :param patients: the ``patients.csv`` beside it, which says whose the slides are.
    :param status: of the whole table.
    :raises StoreError: damaged.
    """
    said = {row["patient_id"]: _by_patient(row, status) for row in read_own_rows(table, ("patient_id",), dict)}
    return {
        slide: said[patient] for patient, slides in slides_of(patients).items() if patient in said for slide in slides
    }


def slides_of(patients: Path) -> dict[str, list[str]]:
    """Patient → slides, from ``patients.csv``.

    :raises StoreError: damaged.
    """
    used = read_own_rows(patients, ("patient_id", "slides"), lambda row: (row["patient_id"], row["slides"]))
    return {patient: next(csv.reader([cell], delimiter=";"), []) for patient, cell in used}


def _by_patient(row: Mapping[str, str], status: str) -> Said:
    """Labels and calls are numbers here: of classes their places, of a binary task 1 for positive."""
    classes = [name.removeprefix(_SHARE) for name in row if name.startswith(_SHARE) and name != _OF_CALL]
    if "probability" in row and "logit" in row:
        classes = ["negative", "positive"]
    label, call = row.get("label", ""), row.get("call", "")
    named = {str(place): name for place, name in enumerate(classes)}
    known = label in named and call in named
    return replace(
        _said(row, status),
        call=named.get(call, ""),
        target=named.get(label, label) if classes else _in_short(label),
        right=label == call if known else None,
    )


def _in_short(label: str) -> str:
    """A number in as many digits as others are shown; a follow-up, such as ``event at 31.5``, as it is."""
    try:
        return f"{float(label):.3g}"
    except ValueError:
        return label


def _said(row: Mapping[str, str], status: str) -> Said:
    """Columns are read by name: of one target ``call``, of several ``er call``, each after its value.

    A class may be called anything, so that ``probability of low call`` is no target's.
    """
    ending = (name.removesuffix(" call") for name in row if name.endswith(" call"))
    targets = [""] if "call" in row else [target for target in ending if f"{target} spread" in row]
    named = [f"{target} " if target else "" for target in targets or [""]]
    calls = [f"{of}{row[of + 'call']}" for of in named if row.get(f"{of}call")]
    doubts = [f"{of.strip()}: {doubt}" if of else doubt for of in named if (doubt := _doubt(row, of))]
    return Said(
        call=", ".join(calls),
        value=", ".join(filter(None, (_value(row, of) for of in named))),
        status=status,
        uncertain="; ".join(doubts),
        note=row.get("note", ""),
    )


_NOT_THE_VALUE: Final = frozenset({
    "level", "patient_id", "slide_id", "status", "fold", "label", "logit", "call", "uncertain", "time", "event",
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


def _doubt(row: Mapping[str, str], named: str) -> str:
    cell = row.get(f"{named}uncertain", "").strip()
    return "" if cell.casefold() in ("", "no", "false", "0") else cell
