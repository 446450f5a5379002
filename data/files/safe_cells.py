"""CSV files of ours that are safe to open in a spreadsheet, and read back as they were.

A spreadsheet takes a cell for a formula that begins with ``=``, ``+``, ``-`` or ``@``, also in quotes, and a formula
may start programs and send data away (G. Kirkpatrick, CSV injection, 2013). An id or a message may begin so by chance,
or because a stranger wrote the slide's name. Such a cell gets an apostrophe before it, with which spreadsheets
themselves mark text; :func:`plain_cell` takes it away again. Numbers stay numbers. The rule holds for each part of a
cell between semicolons too, where spreadsheets of many countries begin a new cell.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import Any, TextIO

_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n＝＋－＠]", re.UNICODE)
"""How a formula begins. Apostrophes count, so that an id that has one of its own gets another and loses that alone."""
_HARMLESS = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|inf|nan)?")


def safe_cell(value: Any) -> Any:
    """A cell as it is written: text that a spreadsheet would take for a formula gets an apostrophe before it.

    >>> safe_cell("=1+1"), safe_cell("-0.5"), safe_cell(-0.5), safe_cell("P-01"), safe_cell("a;@b")
    ("'=1+1", '-0.5', -0.5, 'P-01', "a;'@b")
    """
    if not isinstance(value, str):
        return value
    return ";".join(f"'{part}" if _is_formula(part) else part for part in value.split(";"))


def plain_cell(text: str) -> str:
    """A cell as it was before :func:`safe_cell`.

    >>> plain_cell("'=1+1"), plain_cell("'quoted'"), plain_cell("-0.5")
    ('=1+1', "'quoted'", '-0.5')
    """
    return ";".join(part[1:] if part.startswith("'") and _is_formula(part[1:]) else part for part in text.split(";"))


def _is_formula(part: str) -> bool:
    return _FORMULA.match(part) is not None and _HARMLESS.fullmatch(part) is None


class SafeWriter:
    """Writes a CSV file with safe cells: to be used for every table that people may open."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows = csv.writer(self, lineterminator="\r\n")  # so that cells with either of them are quoted

    def writerow(self, row: Iterable[Any]) -> None:
        """Write one row."""
        self._rows.writerow([safe_cell(cell) for cell in row])

    def write(self, line: str) -> None:
        """Write a line that the ``csv`` module has made."""
        self._stream.write(line.removesuffix("\r\n") + "\n")

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)
