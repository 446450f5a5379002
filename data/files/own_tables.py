"""Tables that wsipipe itself has written into a workspace, read back: damaged or edited ones are refused by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import StoreError
from ..surroundings import patiently
from .safe_cells import plain_cell

T = TypeVar("T")

_AGAIN = "undo the edit, or remove its folder and run the same command again"


def read_own_rows(path: Path, columns: Sequence[str], row: Callable[[Mapping[str, str]], T]) -> list[T]:
    """Read every row of a CSV.

    :param columns: those that ``row`` needs; the table may have others.
    :param row: makes a value of a row's cells by their column; raises ValueError for a cell that cannot be.
    :raises StoreError: not such a table, or a row that cannot be read; the message names its line.
    """
    try:
        text = patiently(path.read_bytes, path).decode("utf-8")
        header, *lines = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"could not be read ({error})", path=path, hint=_AGAIN) from error
    header = [plain_cell(name) for name in header]
    if missing := [name for name in columns if name not in header]:
        raise StoreError(f"has no column {', '.join(missing)}", path=path, hint=_AGAIN)
    rows = []
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            what = f"line {number} has {len(cells)} cells, the header has {len(header)}"
            raise StoreError(what, path=path, hint=_AGAIN)
        try:
            rows.append(row(dict(zip(header, map(plain_cell, cells), strict=True))))
        except (ValueError, csv.Error) as error:
            raise StoreError(f"line {number} cannot be read: {error}", path=path, hint=_AGAIN) from error
    return rows
