"""Turning the cells of a table into numbers: rows and columns of words are recognised, or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..columns import plain_name, plain_names
from ..errors import ExpressionError
from ..wording import some
from .naming import Naming
from .no_genes import is_no_gene
from .row_names import RowNames, clean_names, refuse_numbered, row_names
from .text_table import FORM, Table, is_number, patient_titles, sample_titles

_FEW = 20
"""Largest number of rows of words between rows of numbers."""


@dataclass(frozen=True)
class NamedTable:
    """Numbers with names of rows and columns, as in the file.

    :param corner: the title of the column of row names.
    :param values: (rows, columns), NaN for empty cells.
    :param notes: sentences on what was left out.
    :param row_ids: second names of the rows, if there are any.
    :param row_patients, column_patients: patients of the rows or columns, if a column or a row gives them.
    :param unknown: names to be left out that are not in the table.
    """

    corner: str
    rows: list[str]
    columns: list[str]
    values: npt.NDArray[np.float64]
    notes: list[str]
    row_ids: list[str] | None = None
    row_patients: list[str] | None = None
    column_patients: list[str] | None = None
    unknown: tuple[str, ...] = ()


def named_table(table: Table, naming: Naming, path: Path) -> NamedTable:
    """Separate names from values.

    :raises ExpressionError: no names, or words among the values.
    """
    if table.frame.empty or len(table.header) < 2:
        raise ExpressionError("the matrix has no values", path=path, hint=FORM)
    header, frame = table.header, table.frame
    named = row_names(table, naming, path)
    titles = clean_names(header)
    annotating = plain_names("expression", "annotation")
    rest = [index for index in range(len(header)) if index not in named.columns]
    describing = [i for i in rest if plain_name(titles[i]) in annotating and titles[i] not in naming.keep]
    describing += [
        i for i in sorted(named.columns) if plain_name(titles[i]) in annotating and not _named_by(named, titles[i])
    ]
    dropped_columns = [index for index in rest if titles[index] in naming.drop]
    keep = [index for index in rest if index not in {*describing, *dropped_columns}]
    notes = [*table.notes, *named.notes]
    if describing:
        notes.append(f"columns that describe genes left out: {some([header[i] for i in sorted(describing)])}")
    _refuse_one_sample([header[i] for i in keep], path)
    words = _columns_of_words(frame[keep])
    if 2 * len(words) <= len(keep):
        odd = [i for i in words if is_no_gene(titles[i]) and titles[i] not in naming.keep]
        keep = [index for index in keep if index not in odd]
        if odd:
            notes.append(f"columns of words that are not genes left out: {some([header[i] for i in odd])}")
    if not keep:
        raise ExpressionError("the matrix has no values", path=path, hint=FORM)
    columns = clean_names([header[index] for index in keep])
    rows = _Rows(named.names, columns, frame[keep], naming, path, header)
    values, side = rows.numbers()
    found = NamedTable(named.title, named.names, columns, values, notes, named.ids, named.patients)
    found = rows.named_by_a_row(found, side)
    if found.columns is columns:
        refuse_numbered(columns, named.title, naming, path)
    seen = {*titles, *named.names}
    unknown = tuple(name for name in naming.drop if name not in seen)
    dropped_rows = [name for name in named.names if name in naming.drop]
    left = [titles[index] for index in dropped_columns] + dropped_rows
    if left:
        found.notes.append(f"left out by --drop-columns: {some(left)}")
    kept = [index for index, name in enumerate(found.rows) if name not in naming.drop]
    if len(kept) == len(found.rows):
        return _with(found, unknown=unknown)
    return _with(_rows_kept(found, kept), unknown=unknown)


def _named_by(named: RowNames, title: str) -> bool:
    return plain_name(named.title) == plain_name(title)


def _with(table: NamedTable, **changes: Any) -> NamedTable:
    return NamedTable(**{**vars(table), **changes})


def _rows_kept(table: NamedTable, kept: Sequence[int]) -> NamedTable:
    return _with(
        table,
        rows=[table.rows[i] for i in kept],
        values=table.values[list(kept)],
        row_ids=None if table.row_ids is None else [table.row_ids[i] for i in kept],
        row_patients=None if table.row_patients is None else [table.row_patients[i] for i in kept],
    )


def _refuse_one_sample(columns: Sequence[str], path: Path) -> None:
    """Refuse a file of one sample (salmon, kallisto, RSEM): its columns are quantities, and none is a patient."""
    measures = [name for name in columns if plain_name(name) in plain_names("expression", "measures")]
    endings = {name: plain_name(name.replace(".", "_").replace("-", "_").rpartition("_")[2]) for name in columns}
    several = {end for end in endings.values() if end in plain_names("expression", "measures")}
    if len(measures) > 1 or (measures and len(measures) == len(columns)):
        what = f"is the file of one sample: its columns are {some(measures)}"
        raise ExpressionError(
            what, path=path, hint="join all samples into a matrix of one of these, with one column per sample"
        )
    if len(several) > 1 and all(end in several for end in endings.values()):
        what = f"each sample has several columns ({', '.join(sorted(several))}, such as {columns[0]})"
        raise ExpressionError(what, path=path, hint="give a table of one of these, with one column per sample")


def _columns_of_words(cells: pd.DataFrame) -> dict[int, pd.Series[Any]]:
    """Columns with cells that are neither a number nor empty, with those cells."""
    words: dict[int, pd.Series[Any]] = {}
    for index, kind in cells.dtypes.items():
        if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
            column = cells[index].dropna().astype(str)
            text = column[~column.map(is_number)]
            if len(text) or pd.api.types.is_bool_dtype(kind):
                words[cast("int", index)] = text
    return words


@dataclass(frozen=True)
class _Rows:
    """The rows of a table, some of which may hold words instead of numbers."""

    names: list[str]
    columns: list[str]
    cells: pd.DataFrame
    naming: Naming
    path: Path
    header: list[str]

    def numbers(self) -> tuple[npt.NDArray[np.float64], dict[int, list[str]]]:
        """The values, NaN in rows of words; and the words of these rows."""
        words = _columns_of_words(self.cells)
        if not words:
            return self.cells.to_numpy(dtype=np.float64, na_value=np.nan), {}
        side: dict[int, list[str]] = {}
        places = sorted({place for text in words.values() for place in text.index.tolist()[: _FEW + 1]})
        if len(places) <= _FEW and all(map(self._may_hold_words, places)):
            side = {place: clean_names(self.cells.loc[place].tolist()) for place in places}
        else:
            self._refuse(words)
        numeric = self.cells.drop(index=places).apply(pd.to_numeric)
        values = np.full(self.cells.shape, np.nan)
        values[[place for place in range(len(self.names)) if place not in side]] = numeric.to_numpy(dtype=np.float64)
        return values, side

    def _may_hold_words(self, place: int) -> bool:
        name = self.names[place]
        return name in self.naming.drop or _names_samples(name) or (is_no_gene(name) and name not in self.naming.keep)

    def named_by_a_row(self, found: NamedTable, side: dict[int, list[str]]) -> NamedTable:
        """Use a row of names instead of numbered columns, and remove rows of words from the values.

        :raises ExpressionError: both the header and a row could be the names.
        """
        wanted = self.naming.column
        naming_rows = [
            place for place, name in enumerate(found.rows) if name and (_names_samples(name) or name == wanted)
        ]
        naming_rows = [place for place in naming_rows if found.rows[place] not in self.naming.drop]
        chosen = [place for place in naming_rows if found.rows[place] == wanted]
        for place in chosen or naming_rows[:1]:
            title = found.rows[place]
            written = side.get(place)
            if written is None:
                row_values = found.values[place]
                if np.isnan(row_values).any() or (row_values != np.rint(row_values)).any():
                    continue
                written = [f"{value:.0f}" for value in row_values]
            if chosen or all(name.isdecimal() for name in found.columns):
                found.notes.append(f"the columns are named by the row {title!r}")
                found = _with(found, columns=written)
            elif written != found.columns:
                if all(
                    one.casefold().startswith(other.casefold())
                    for one, other in zip(found.columns, written, strict=True)
                ):
                    found.notes.append(f"patients are those of the row {title!r}")
                    found = _with(found, column_patients=written)
                else:
                    what = f"the header and the row {title!r} could both name the columns"
                    hint = f"use --name-column '{title}', or leave the row out with --drop-columns '{title}'"
                    raise ExpressionError(what, path=self.path, hint=hint)
            side = {**side, place: written}
        out = sorted({*side, *naming_rows})
        if not out:
            return found
        left = [found.rows[place] for place in out if found.rows[place] not in self.naming.drop]
        if left:
            found.notes.append(f"rows that are not genes left out: {some(left)}")
        return _rows_kept(found, [place for place in range(len(found.rows)) if place not in out])

    def _refuse(self, words: dict[int, pd.Series[Any]]) -> None:
        header, path = self.header, self.path
        index, text = next(iter(words.items()))
        first = text.iloc[0] if len(text) else "True"
        row = self.names[cast("int", text.index[0])] if len(text) else self.names[0]
        where = f"row {row}, column {header[index]}"
        if is_number(first.replace(",", ".")):
            what = f"numbers are written with commas ({first!r} in {where})"
            raise ExpressionError(what, path=path, hint="save it with decimal points, and without thousands separators")
        if len(words) > 1 and 2 * len(words) > len(self.cells.columns):
            what = f"looks like a table of labels, not of expression: {some([header[i] for i in words])} contain words"
            raise ExpressionError(what, path=path, hint="give the expression matrix; labels belong in the cohort table")
        if 2 * len(text) > len(self.names):
            what = f"column {header[index]} contains words ({first!r} and others)"
            raise ExpressionError(
                what, path=path, hint=f"remove the column, or leave it out: --drop-columns '{header[index]}'"
            )
        what = f"there is text where a number should be: {first!r} in {where}"
        raise ExpressionError(what, path=path, hint="leave cells without a value empty")


def _names_samples(name: str) -> bool:
    """Whether a row of this name contains the names of patients or samples."""
    return len(name) < 40 and plain_name(name) in _sample_titles()


@cache
def _sample_titles() -> frozenset[str]:
    return frozenset((*patient_titles(), *sample_titles()))
