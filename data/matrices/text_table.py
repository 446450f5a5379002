"""Reading a matrix from text, CSV or TSV or GCT (also gzipped), into a header and a data frame.

This module handles lines and cells: comments, the separator, separators at the ends of lines, a header without the
title of the first column, a second line of headings. The meaning of columns is found in :mod:`.row_names`. Text is read
by pandas' C parser. For 20,000 genes × 1,000 patients it takes 1.6 to 2.8 s of CPU and pyarrow's 1.1 to 1.3
(``tests/benchmarks/genomics_reading.py``): not enough to justify a second parser, because R's tables with blanks
between the cells need pandas' in any case.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..columns import plain_name, plain_names
from ..errors import ExpressionError
from ..files.packed import opened
from ..wording import some

FORM = "the first row and the first column must hold names, every other cell a number or nothing"
_MOST_COLUMNS = 1_000_000
"""All probes of the largest methylation array; each column takes some 10 µs, however short the file."""
_SEPARATORS = ("\t", ",", ";", " ")


@dataclass(frozen=True)
class Table:
    """A table as read: titles of columns, and cells.

    :param header: a title for each column; empty if it has none.
    :param frame: columns numbered from 0; those that may hold names are text.
    :param notes: sentences on what was skipped.
    :param gct: whether it is a GCT file, whose rows are genes.
    :param measure: the quantity named in a second line of headings; empty without one.
    """

    header: list[str]
    frame: pd.DataFrame
    notes: list[str]
    gct: bool = False
    measure: str = ""


@dataclass(frozen=True)
class _Top:
    """The first lines of a table: header, the first row of data, and how many lines come before the data."""

    header: list[str]
    first: list[str]
    skip: int
    first_line: int
    separator: str
    measure: str


def role_titles() -> frozenset[str]:
    """Titles of columns with names, in the form of :func:`~wsipipe.data.columns.plain_name`."""
    of_genes = (*plain_names("expression", "gene_symbol"), *plain_names("expression", "gene_corner"))
    return frozenset((*of_genes, *patient_titles(), *sample_titles()))


def patient_titles() -> tuple[str, ...]:
    """Titles of columns of patients."""
    return (*plain_names("cohort", "patient_id"), *plain_names("expression", "patient_corner_more"))


def sample_titles() -> tuple[str, ...]:
    """Titles of columns of samples."""
    return plain_names("expression", "patient_corner")


def is_number(cell: str) -> bool:
    """Whether Python can read a cell as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_text(path: Path, *, gzipped: bool, name_column: str | None = None) -> Table:
    """Read a text file.

    :param name_column: title of the column of names, if the user gives it; it is then known to be a title.
    :raises ExpressionError: not a table, a line of another length, or it is not clear which columns the header names.
    """
    lines = _first_lines(path, gzipped=gzipped)
    gct = _is_gct(lines[0][1] if lines else "", path)
    size = ""
    if gct:
        size, lines = (lines[1][1] if len(lines) > 1 else ""), lines[2:]
    top = _top(lines, path)
    header, first = top.header, top.first
    while len(header) > len(first) and not header[-1]:
        header = header[:-1]  # separators at the end of the header line alone
    if len(header) > len(first):
        what = f"line {top.first_line} has {len(first)} cells, the header has {len(header)}"
        raise ExpressionError(what, path=path, hint=FORM)
    titles = (name_column, header[0] if gct else None)
    frame, notes, header = _aligned(path, top, header, gzipped=gzipped, titles=titles)
    if len(header) < 2:
        raise ExpressionError("the file has one column only", path=path, hint=FORM)
    if all(map(is_number, header)):
        raise ExpressionError("the first row holds numbers, not names", path=path, hint=FORM)
    if frame[len(header) - 1].isna().any():
        _refuse_short_lines(path, top, len(header), gzipped=gzipped)
    below = frame[0].str.startswith("!", na=False)
    if below.any():  # GEO's lines below the matrix
        frame = frame[~below].reset_index(drop=True)
    if gct:
        samples = sum(plain_name(title) not in plain_names("expression", "annotation") for title in header[1:])
        if size.split()[:2] != [str(len(frame)), str(samples)]:
            what = f"its second line says {size.strip()!r} rows and columns, there are {len(frame)}, {samples}"
            raise ExpressionError(what, path=path, hint="the file may be cut off: copy it again")
    return Table(header, frame, notes, gct, top.measure)


def _first_lines(path: Path, *, gzipped: bool) -> list[tuple[int, str]]:
    """The first numbered lines down to the fourth that is not a comment; of comments the first and last are kept."""
    found: list[tuple[int, str]] = []
    comment: tuple[int, str] | None = None
    with opened(path, gzipped=gzipped) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
        for number, line in enumerate(text, start=1):
            if number == 1 and line.startswith(("#1.2", "#1.3")):
                found.append((number, line))
            elif line.startswith(("#", "!", '"!')):  # a comment; GEO's series matrices begin with !
                comment = (number, line)
            elif line.strip():
                found.append((number, line))
                if len(found) == 1 and comment is not None and _is_header_of(comment[1], line):
                    found.insert(0, (comment[0], comment[1].removeprefix("#")))
                if len(found) >= 5:
                    break
    return found


def _is_header_of(comment: str, line: str) -> bool:
    """Whether a line that begins with # is the header of the numbers below it (``#gene  P1  P2``)."""
    if not comment.startswith("#"):
        return False
    separator = _separator(comment, line)
    above, below = (_cells(text, separator) for text in (comment, line))
    return len(above) == len(below) > 1 and all(map(is_number, below[1:])) and not all(map(is_number, above[1:]))


def _is_gct(top: str, path: Path) -> bool:
    """Whether the first line is that of the Broad's GCT 1.2: its second holds the size, its third the header."""
    if top.startswith("#1.3"):
        raise ExpressionError("GCT 1.3 has rows that are no genes", path=path, hint="save it as GCT 1.2, or as CSV")
    return top.startswith("#1.2")


def _separator(header: str, first: str) -> str:
    """The separator that is most frequent in both lines: names may contain commas or blanks, numbers do not."""
    both = {sign: min(header.count(sign), first.count(sign)) for sign in _SEPARATORS}
    if any(both.values()):
        return max(_SEPARATORS, key=lambda sign: both[sign])
    return max(_SEPARATORS, key=header.count)


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _top(lines: Sequence[tuple[int, str]], path: Path) -> _Top:
    if len(lines) < 2:
        raise ExpressionError("has only a header" if lines else "the file is empty", path=path, hint=FORM)
    (skip, header_line), (number, first_line) = lines[0], lines[1]
    separator = _separator(header_line, first_line)
    header, first = _cells(header_line, separator), _cells(first_line, separator)
    measure = _measure(header, first, path) if len(lines) > 2 else ""
    if measure:
        skip, (number, first_line) = number, lines[2]
        first = _cells(first_line, separator)
    return _Top(header, first, skip, number, separator, measure)


def _measure(header: Sequence[str], second: Sequence[str], path: Path) -> str:
    """The quantity that a second line of headings gives for all columns (Firehose's ``normalized_count``), or "".

    :raises ExpressionError: samples have several columns of different quantities.
    """
    words = [word for word in dict.fromkeys(second[1:]) if word]
    known = set(plain_names("expression", "measures"))
    if not words or len(second) != len(header) or any(map(is_number, words)):
        return ""
    if len(words) > 1 and set(map(plain_name, words)) & known and len(set(header[1:])) < len(header) - 1:
        what = f"each sample has several columns: {some(words)}"
        raise ExpressionError(what, path=path, hint="give a table of one of these, with one column per sample")
    gene_column = plain_name(second[0]) in plain_names("expression", "gene_corner") + plain_names(
        "expression", "gene_symbol"
    )
    return words[0] if len(words) == 1 and (plain_name(words[0]) in known or gene_column) else ""


def _aligned(
    path: Path, top: _Top, header: list[str], *, gzipped: bool, titles: Sequence[str | None]
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Read the cells and align the header with them.

    If rows are longer than the header, either they end with a separator, so that the last cell of every row is empty,
    or the header lacks the title of the first column, as from R's ``write.table``.

    :param titles: further titles of columns of names, beside the known ones.
    """
    extra = len(top.first) - len(header)
    corner = plain_name(header[0])
    titled = corner in (*role_titles(), *plain_names("expression", "row_numbers")) or header[0] in titles
    wider = f"line {top.first_line} has {len(top.first)} cells, the header has {len(header)}"
    ends_empty = not any(top.first[len(header) :])
    if extra and not (ends_empty or (extra == 1 and not titled)):
        raise ExpressionError(wider, path=path, hint=FORM)
    frame = _parsed(path, top, header if ends_empty else ["", *header], gzipped=gzipped)
    notes: list[str] = []
    if extra and ends_empty:
        filled = frame[list(range(len(header), len(top.first)))].notna().any(axis=1)
        if filled.any():
            if titled or extra > 1:
                row = frame[0].iloc[int(np.argmax(filled.to_numpy()))]
                what = f"the row {row} has more cells than the header's {len(header)}"
                raise ExpressionError(what, path=path, hint=FORM)
            header = ["", *header]
            return _parsed(path, top, header, gzipped=gzipped), notes, header
        if not titled:
            what = (
                f"{wider}, and the last is empty in every row: either {header[0]!r} is the title of the names, or "
                "it is a column and the last column is empty"
            )
            hint = f"remove the separators at the ends of the lines, or use --name-column {header[0]} if it is a title"
            raise ExpressionError(what, path=path, hint=hint)
    elif extra:
        header = ["", *header]
    width = frame.shape[1]
    while width > 1 and not any(header[width - 1 : width]) and frame[width - 1].isna().all():
        width -= 1
    if width < frame.shape[1]:
        notes.append(f"empty columns at the ends of the lines left out: {frame.shape[1] - width}")
        frame = frame[list(range(width))]
    return frame, notes, header[:width]


def _parsed(path: Path, top: _Top, header: Sequence[str], *, gzipped: bool) -> pd.DataFrame:
    """Read all rows, in numbered columns; columns that may hold names, by their titles, as text."""
    width = max(len(header), len(top.first))
    if width > _MOST_COLUMNS:
        what = f"has {width:,} columns, and at most {_MOST_COLUMNS:,} are read"
        raise ExpressionError(what, path=path, hint="write it with a row for each gene")
    roles = role_titles()
    text: dict[Any, Any] = {0: str, **{i: str for i, title in enumerate(header) if plain_name(title) in roles}}
    try:
        with opened(path, gzipped=gzipped) as binary:
            return pd.read_csv(
                binary,
                sep=top.separator,
                header=None,
                names=range(width),
                index_col=False,
                skiprows=top.skip,
                dtype=text,
                skipinitialspace=True,
                low_memory=False,
            )
    except pd.errors.ParserError as error:
        raise ExpressionError(f"is not a table ({str(error).strip()})", path=path, hint=FORM) from error


def _refuse_short_lines(path: Path, top: _Top, cells: int, *, gzipped: bool) -> None:
    """Refuse lines that were cut off; pandas would silently fill them with missing values."""
    separator = top.separator.encode()
    with opened(path, gzipped=gzipped) as stream:
        for number, line in enumerate(islice(stream, top.skip, None), start=top.skip + 1):
            if line.strip() and line.count(separator) < cells - 1 and not line.startswith((b"!", b'"!')):
                what = f"line {number} has {line.count(separator) + 1} cells, the header has {cells}"
                raise ExpressionError(what, path=path, hint="the file may be cut off: copy it again")
