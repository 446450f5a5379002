"""Table 1: the patients who were used, by label and by site, with the columns of the cohort table that describe them.

There are no tests of a difference: they say nothing of a sample that nobody has drawn at random between groups, and
TRIPOD and STROBE advise against them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

import numpy as np

from ...data.cohort.covariates import SITE, read_covariates
from ...data.cohort.outcomes import Survival
from ...data.cohort.table import FIELDS, CohortTable
from ...data.errors import CohortError
from ...data.wording import figure
from ..pages.asked_question import Question
from .described_patient import DescribedPatient

_MOST_VALUES: Final = 12
"""Further categories of a column count together."""
_MOST_COLUMNS: Final = 40
_FEW_NUMBERS: Final = 6
"""Numbers with no more distinct values than this are categories, such as grades."""
_LARGEST_SHARE: Final = 0.5
"""A column of words with more distinct values than this share of the patients is a name, or free text."""


@dataclass(frozen=True)
class CharacteristicRow:
    """One line: a property, one of its values, and a cell for each group."""

    name: str
    value: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Characteristics:
    """Table 1.

    :param groups: name of each column and its number of patients, all patients first.
    :param sites: the same by site: name, then a cell for each of ``site_columns``; empty if no site is known.
    :param left_out: columns of the cohort table that are not in it, each with the reason.
    """

    groups: tuple[tuple[str, int], ...]
    rows: tuple[CharacteristicRow, ...]
    site_columns: tuple[str, ...]
    sites: tuple[tuple[str, ...], ...]
    left_out: tuple[str, ...]


def characteristics(
    table: CohortTable | None,
    patients: Sequence[DescribedPatient],
    question: Question,
    tiles: Mapping[str, int],
    label_columns: Sequence[str],
) -> Characteristics:
    """Describe the patients who are used.

    :param table: the cohort table; without it there is nothing but slides and labels.
    :param patients: those of the split, of whom the used ones count.
    :param tiles: slide → its number of tiles.
    :param label_columns: columns that hold the label; groups show those, not rows.
    """
    used = [patient for patient in patients if patient.used]
    groups = _groups(used, question)
    rows = _rows_of_slides(groups, tiles)
    left_out: list[str] = []
    sites: Mapping[str, str] = {}
    if table is not None:
        shown = 0
        for column in [*(str(name) for name in table.frame.columns if name not in FIELDS), SITE]:
            if column in label_columns:
                continue
            if shown >= _MOST_COLUMNS:
                left_out.append(f"{column} (more than {_MOST_COLUMNS} columns)")
                continue
            found, why = _values(table, column, used)
            if column == SITE and found:
                sites = found
            elif why and column != SITE:
                left_out.append(f"{column} ({why})")
            elif found:
                rows += _rows_of_column(column, found, groups)
                shown += 1
    columns, by_site = _by_site(used, sites, question, tiles)
    return Characteristics(
        tuple((name, len(own)) for name, own in groups), tuple(rows), columns, by_site, tuple(left_out)
    )


Groups = list[tuple[str, list[DescribedPatient]]]


def _groups(used: list[DescribedPatient], question: Question) -> Groups:
    """All patients, then those of each class, or with and without the event."""
    parts: Groups = []
    if used and all(isinstance(patient.label, Survival) for patient in used):
        for name, event in (("With the event", True), ("Censored", False)):
            parts.append((name, [p for p in used if isinstance(p.label, Survival) and p.label.event is event]))
    elif question.task == "binary" or question.classes:
        names = list(question.classes) or [question.negative, question.positive]
        parts = [(name, [p for p in used if p.label == place]) for place, name in enumerate(names)]
        parts = parts[::-1] if question.task == "binary" else parts
    return [("All", used), *parts]


def _rows_of_slides(groups: Groups, tiles: Mapping[str, int]) -> list[CharacteristicRow]:
    def row(name: str, cell: str, of: Sequence[str]) -> CharacteristicRow:
        return CharacteristicRow(name, cell, tuple(of))

    owns = [own for _, own in groups]
    counts = [[sum(tiles.get(slide, 0) for slide in p.slides) for p in own] for own in owns]
    rows = [
        row("Slides", "number", [f"{sum(len(p.slides) for p in own):,}" for own in owns]),
        row("Slides of a patient", "median (range)", [_with_range([len(p.slides) for p in own]) for own in owns]),
        row("Tiles of a patient", "median (quartiles)", [_quartiles(own) for own in counts]),
        row("RNA", "patients (%)", [_part(sum(p.rna for p in own), len(own)) for own in owns]),
    ]
    if any(isinstance(p.label, float) for p in owns[0]):
        labels = [[p.label for p in own if isinstance(p.label, float)] for own in owns]
        rows.append(row("Label", "median (quartiles)", [_quartiles(own) for own in labels]))
    times = [[p.label.time for p in own if isinstance(p.label, Survival)] for own in owns]
    if any(times):
        rows.append(row("Time to event or censoring", "median (quartiles)", [_quartiles(own) for own in times]))
    return rows


def _values(table: CohortTable, column: str, used: Sequence[DescribedPatient]) -> tuple[Mapping[str, str], str]:
    """The value of each used patient, empty where it is missing or there are several; or why there is none."""
    try:
        [found], _ = read_covariates(table, [column], "slide_id")
    except CohortError:
        return {}, "empty"
    values = {patient.patient_id: found.values.get(patient.patient_id, "") for patient in used}
    known = [value for value in values.values() if value]
    if not known:
        return {}, "empty for the patients used"
    if not _are_numbers(known) and len(set(known)) > max(_MOST_VALUES, _LARGEST_SHARE * len(known)):
        return {}, f"{len(set(known)):,} different values"
    return values, ""


def _rows_of_column(column: str, values: Mapping[str, str], groups: Groups) -> list[CharacteristicRow]:
    of_groups = [[values[p.patient_id] for p in own] for _, own in groups]
    known = [[value for value in own if value] for own in of_groups]
    missing = [len(own) - len(there) for own, there in zip(of_groups, known, strict=True)]
    rows = []
    if _are_numbers(known[0]) and len(set(known[0])) > _FEW_NUMBERS:
        cells = [_quartiles([float(value) for value in own]) for own in known]
        rows.append(CharacteristicRow(column, "median (quartiles)", tuple(cells)))
    else:
        counts = [Counter(own) for own in known]
        names = sorted(counts[0], key=lambda value: (-counts[0][value], value))
        by_number = _are_numbers(known[0])
        for value in sorted(names[:_MOST_VALUES], key=lambda value: (float(value) if by_number else 0, value)):
            cells = [_part(own[value], own.total()) for own in counts]
            rows.append(CharacteristicRow(column, value, tuple(cells)))
        if rest := names[_MOST_VALUES:]:
            cells = [_part(sum(own[value] for value in rest), own.total()) for own in counts]
            rows.append(CharacteristicRow(column, f"{len(rest)} other values", tuple(cells)))
    if missing[0]:
        rows.append(CharacteristicRow(column, "missing", tuple(str(n) for n in missing)))
    return rows


def _by_site(
    used: list[DescribedPatient], sites: Mapping[str, str], question: Question, tiles: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Columns and rows of the table by site, the largest first."""
    if not sites:
        return (), ()
    of: dict[str, list[DescribedPatient]] = {}
    for patient in used:
        of.setdefault(sites[patient.patient_id] or "not known", []).append(patient)
    labels = [name for name, _ in _groups(used, question)[1:]]
    rows = []
    for site, own in sorted(of.items(), key=lambda item: (-len(item[1]), item[0])):
        parts = [_part(len(part), len(own)) for _, part in _groups(own, question)[1:]] or [""] * len(labels)
        slides = [slide for patient in own for slide in patient.slides]
        rows.append(
            (
                site,
                f"{len(own):,}",
                *parts[: len(labels)],
                f"{len(slides):,}",
                f"{sum(tiles.get(slide, 0) for slide in slides):,}",
                _part(sum(patient.rna for patient in own), len(own)),
            )
        )
    return ("Site", "Patients", *labels, "Slides", "Tiles", "RNA"), tuple(rows)


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return bool(values) and all(isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _part(n: int, of: int) -> str:
    return f"{n:,} ({n / of:.0%})".replace("%", " %") if of else "0"


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, middle, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75]).tolist()
    return f"{figure(middle)} ({figure(low)} to {figure(high)})".replace("-", "−")


def _with_range(values: Sequence[int]) -> str:
    return f"{np.median(values):g} ({min(values)} to {max(values)})" if values else "–"
