"""Columns of the cohort table that may go along with a label, such as grade, ER or site: a value for each patient.

Values are compared as ids are: without regard to case, and ``1.0`` is ``1``. Words that mean missing or not evaluated
(``columns.toml``) are no value. Rows of one patient that have no value are ignored if other rows of theirs have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..columns import label_words
from ..errors import CohortError
from .ids import id_key, one_spelling
from .table import FIELDS, CohortTable

SITE = "site"
_ONE_A_ROW = tuple(field for field in FIELDS if field not in (SITE, "mpp"))


@dataclass(frozen=True)
class Covariate:
    """One column.

    :param name: its name in the table.
    :param values: patient → value in one spelling, for all patients of the table; empty where it is missing, and for
        patients in ``several``.
    :param several: patients whose rows have several different values.
    """

    name: str
    values: Mapping[str, str]
    several: frozenset[str]

    @property
    def is_code(self) -> bool:
        """Whether values that look like numbers are names: sites are, whatever they are called."""
        return self.name == SITE


def read_covariates(table: CohortTable, wanted: Sequence[str], label_column: str) -> tuple[list[Covariate], list[str]]:
    """Read columns of the table, and say what was left out.

    ``site`` is always there for TCGA patients: reading the table takes it from their barcodes.

    :param wanted: names of columns; one string may hold several, separated by commas, if no column is called so.
    :param label_column: the label's own column is left out, and said.
    :raises CohortError: a column that the table lacks, that is empty or tells patients apart; nothing but the label.
    """
    label = table.column(label_column)
    chosen = list(dict.fromkeys(_exact(table, name) for name in _parted(table, wanted)))
    if chosen == [label]:
        what = f"column {label} is the label itself: it cannot be audited against itself"
        raise CohortError(what, path=table.source, hint="name columns that may go along with it: grade, ER, site")
    notes = [f"audit: {label} is the label itself, left out"] if label in chosen else []
    return [_covariate(table, name) for name in chosen if name != label], notes


def _parted(table: CohortTable, wanted: Sequence[str]) -> list[str]:
    columns = {str(column).casefold() for column in table.frame.columns}
    names: list[str] = []
    for text in wanted:
        names += [text] if text.strip().casefold() in columns else [part for part in text.split(",") if part.strip()]
    return names


def _exact(table: CohortTable, name: str) -> str:
    column = table.column(name.strip())
    if column in _ONE_A_ROW:
        what = f"column {column} names slides or patients, and is nothing that goes along with a label"
        raise CohortError(what, path=table.source, hint="name columns such as grade, ER, site or scanner")
    return column


def _covariate(table: CohortTable, column: str) -> Covariate:
    missing = label_words("missing") | label_words("not_evaluated")
    spelling = one_spelling(table.frame[column])
    written: dict[str, dict[str, str]] = {patient: {} for patient in table.patients}
    for patient, value in zip(table.frame["patient_id"], table.frame[column], strict=True):
        if id_key(value) not in missing:
            written[patient][id_key(value)] = spelling[value]
    if not any(written.values()):
        what = f"column {column} is empty for every patient"
        hint = "leave it out, or fill it in"
        if column == SITE:
            hint = "add a site column; only TCGA's barcodes say the site by themselves"
        raise CohortError(what, path=table.source, hint=hint)
    values = {p: next(iter(found.values())) if len(found) == 1 else "" for p, found in written.items()}
    return Covariate(column, values, frozenset(p for p, found in written.items() if len(found) > 1))
