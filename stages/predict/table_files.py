"""Writing of a table of predictions as CSV, Parquet and JSON: the same rows and columns in each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.artifact import whole
from ...data.files.safe_cells import SafeWriter

Cell = str | float | Sequence[str] | None


@dataclass(frozen=True)
class Table:
    """Rows of text, numbers, lists of text and blanks.

    :param numbers: names of the columns that hold numbers.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[str]


def write_csv(path: Path, table: Table) -> None:
    """Write a CSV: numbers with six digits after the point, items of lists with a semicolon between them."""
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow(table.columns)
        writer.writerows(
            [[_text(name, cell) for name, cell in zip(table.columns, row, strict=True)] for row in table.rows]
        )


def write_parquet(path: Path, table: Table) -> None:
    """Write a Parquet file: columns of numbers, of text and of lists of text."""
    import pyarrow as pa  # loads slowly
    from pyarrow import parquet

    lists = {name for row in table.rows for name, cell in zip(table.columns, row, strict=True) if _is_list(cell)}
    arrays = {}
    for place, name in enumerate(table.columns):
        kind = pa.float64() if name in table.numbers else pa.list_(pa.string()) if name in lists else pa.string()
        arrays[name] = pa.array([row[place] for row in table.rows], kind)
    with whole(path) as scratch:
        parquet.write_table(pa.table(arrays), scratch)


def write_json(path: Path, table: Table, about: Mapping[str, Any]) -> None:
    """Write a JSON object with the rows as objects, under ``rows``; blanks are null.

    :param about: what else it holds.
    """
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    with whole(path) as scratch:
        text = json.dumps({**about, "rows": rows}, indent=1, ensure_ascii=False, allow_nan=False)
        scratch.write_text(text + "\n", encoding="utf-8")


def _is_list(cell: Cell) -> bool:
    return cell is not None and not isinstance(cell, str | float | int)


def _text(name: str, cell: Cell) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, float | int):
        return str(cell) if name.endswith("prevalence") else f"{cell:.6f}"
    return "; ".join(cell)
