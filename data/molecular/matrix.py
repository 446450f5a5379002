"""An expression matrix from a file: CSV, TSV, GCT (also gzipped), Parquet or .h5ad, genes × samples or the reverse.

Only the form is dealt with here: where the names are, which way round the matrix lies, and that every cell is a
number or missing. Values are as in the file. Text is read by pandas' C reader. For 20,000 genes ×
1,000 patients it takes 1.6 to 2.8 s of CPU and pyarrow's 1.1 to 1.3 (``tests/benchmarks/genomics_reading.py``): too
little for a second parser, as R's tables with blanks between the cells need this one in any case.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, cast

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from ..cohort.tcga import tcga_barcode
from ..columns import names, plain_name, plain_names
from ..errors import ExpressionError
from ..wording import some
from .expression_units import Unit
from .origin import origin
from .reading_facts import ReadingFacts

Orientation = Literal["auto", "genes-in-rows", "patients-in-rows"]

_ENSEMBL = re.compile(r"ENS[A-Z]{0,5}G\d{11}")
_FORM = "the first row and the first column hold names, every other cell a number or nothing"


@dataclass(frozen=True)
class RawMatrix:
    """A matrix as the file has it, turned to samples × genes.

    :param values: (n samples, g genes) float64; NaN where the file has nothing.
    :param samples: n names, as written; a name may occur twice.
    :param genes: g names, as written.
    :param facts: how it was read.
    :param gene_sources: g other names of the genes where the source has two; the first is ``genes``.
    :param patients: n patients where a sample sheet says whose the samples are.
    :param library: n library sizes where they are known beside the values.
    :param stated: the unit that header, column or file name state, and which of them.
    """

    values: npt.NDArray[np.float64]
    samples: tuple[str, ...]
    genes: tuple[str, ...]
    facts: ReadingFacts
    gene_sources: tuple[str, ...] | None = None
    patients: tuple[str, ...] | None = None
    library: npt.NDArray[np.float64] | None = None
    stated: tuple[Unit, str] | None = None


def read_matrix(path: Path, orientation: Orientation = "auto") -> RawMatrix:
    """Read a matrix file; its kind is told by its first bytes, then by its name.

    :raises ExpressionError: no such file, empty, damaged, not numbers, or it cannot be told which side has the genes.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
        if path.suffix.lower() == ".h5ad" or magic == b"\x89HDF\r\n\x1a\n":
            return _read_h5ad(path)
        if magic[:4] == b"PAR1":
            table = _read_parquet(path)
        elif magic[:4] == b"PK\x03\x04":
            raise ExpressionError(
                "this is a spreadsheet or a zip file", path=path, hint="save the matrix as CSV or TSV"
            )
        else:
            table = _read_text(path, gzipped=magic[:2] == b"\x1f\x8b")
    except FileNotFoundError as error:
        raise ExpressionError("there is no such file", path=path, hint="check the path of the matrix") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ExpressionError("the gzip file is damaged or cut off", path=path, hint="copy it again") from error
    except UnicodeDecodeError as error:
        raise ExpressionError("the text is not UTF-8", path=path, hint="save the matrix as CSV in UTF-8") from error
    except OSError as error:
        raise ExpressionError(f"could not be read ({error})", path=path, hint="it must be a readable file") from error
    return _turned(table, path, orientation)


@dataclass(frozen=True)
class _Table:
    """Numbers with the names of both sides, as the file has them."""

    corner: str
    rows: list[str]
    columns: list[str]
    values: npt.NDArray[np.float64]
    notes: list[str]
    gct: bool = False


def _read_text(path: Path, *, gzipped: bool) -> _Table:
    # The header is read here and not by pandas, which would rename columns that occur twice.
    with _open(path, gzipped=gzipped) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
        top = text.readline()
        lines = enumerate(chain([top], text), start=1)
        numbered = ((number, line) for number, line in lines if line.strip() and line[0] != "#")
        size = next(numbered, (0, ""))[1] if (gct := _is_gct(top, path)) else ""
        head = list(islice(numbered, 2))
    if len(head) < 2:
        raise ExpressionError("holds a header only" if head else "the file is empty", path=path, hint=_FORM)
    skip, header_line = head[0]
    delimiter = max(("\t", ",", ";", " "), key=header_line.count)
    header, first = ([cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))] for _, line in head)
    if len(header) == len(first) - 1 and plain_name(header[0]) not in (*_gene_corners(), *_patient_corners()):
        header = ["", *header]  # R's write.table leaves the corner out
    if len(header) != len(first):
        what = f"line {head[1][0]} has {len(first)} cells, the header has {len(header)}"
        raise ExpressionError(what, path=path, hint=_FORM)
    if len(header) < 2:
        raise ExpressionError("the file has one column only", path=path, hint=_FORM)
    if all(_is_number(cell) for cell in header[1:]):
        raise ExpressionError("the first row holds numbers, not names", path=path, hint=_FORM)
    try:
        with _open(path, gzipped=gzipped) as binary:
            frame = pd.read_csv(
                binary,
                sep=delimiter,
                header=None,
                names=range(len(header)),
                index_col=False,
                skiprows=skip,
                dtype={0: str},
                skipinitialspace=True,
                low_memory=False,
            )
    except pd.errors.ParserError as error:
        raise ExpressionError(f"is no table ({str(error).strip()})", path=path, hint=_FORM) from error
    if frame[len(header) - 1].isna().any():
        _refuse_short_lines(path, delimiter, len(header), skip, gzipped=gzipped)
    table = _checked(header, frame, path)
    if not gct:
        return table
    if size.split() != [str(len(table.rows)), str(len(table.columns))]:
        what = (
            f"its second line says {size.strip()!r} rows and columns, there are {len(table.rows)}, {len(table.columns)}"
        )
        raise ExpressionError(what, path=path, hint="the file may be cut off: copy it again")
    return replace(table, gct=True)


def _is_gct(top: str, path: Path) -> bool:
    """Whether the first line is that of the Broad's GCT 1.2: its second holds the size, its third the header."""
    if top.startswith("#1.3"):
        raise ExpressionError("GCT 1.3 has rows that are no genes", path=path, hint="save it as GCT 1.2, or as CSV")
    return top.startswith("#1.2")


def _open(path: Path, *, gzipped: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if gzipped else path.open("rb")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _refuse_short_lines(path: Path, delimiter: str, cells: int, skip: int, *, gzipped: bool) -> None:
    """pandas fills a line that was cut off with missing values, silently."""
    with _open(path, gzipped=gzipped) as stream:
        for number, line in enumerate(stream, start=1):
            if number > skip and line.strip() and line.count(delimiter.encode()) < cells - 1:
                what = f"line {number} has {line.count(delimiter.encode()) + 1} cells, the header has {cells}"
                raise ExpressionError(what, path=path, hint="the file may be cut off: copy it again")


def _read_parquet(path: Path) -> _Table:
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # what pyarrow's errors descend from
        raise ExpressionError(f"the Parquet file is damaged ({error})", path=path, hint="write it again") from error
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    header = ["" if name == "index" else str(name) for name in frame.columns]
    return _checked(header, frame.set_axis(range(len(header)), axis=1), path)


def _checked(header: list[str], frame: pd.DataFrame, path: Path) -> _Table:
    """The table in a frame with numbered columns, the first of which holds the rows' names."""
    if frame.empty or len(header) < 2:
        raise ExpressionError("the matrix has no values", path=path, hint=_FORM)
    annotating = plain_names("expression", "annotation")
    annotation = [index for index, name in enumerate(header) if index and plain_name(name) in annotating]
    keep = [index for index in range(1, len(header)) if index not in annotation]
    notes = [f"columns that describe genes left out: {some([header[i] for i in annotation])}"] if annotation else []
    rows = ["" if pd.isna(name) else str(name).strip() for name in frame[0]]
    cells = frame[keep]
    _refuse_text(cells, rows, header, path)
    values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    return _Table(header[0], rows, [header[index] for index in keep], values, notes)


def _refuse_text(cells: pd.DataFrame, rows: list[str], header: list[str], path: Path) -> None:
    words: dict[int, pd.Series[Any]] = {}
    for index, kind in cells.dtypes.items():
        if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
            column = cells[index].dropna().astype(str)
            text = column[~column.map(_is_number)]
            if len(text) or pd.api.types.is_bool_dtype(kind):
                words[cast("int", index)] = text
    if not words:
        return
    index, text = next(iter(words.items()))
    where = f"row {rows[cast('int', text.index[0])]}, column {header[index]}"
    if _is_number(text.iloc[0].replace(",", ".")):
        what = f"numbers are written with commas ({text.iloc[0]!r} in {where})"
        raise ExpressionError(what, path=path, hint="save it with decimal points, and without thousands separators")
    if len(words) > 1 and 2 * len(words) > len(cells.columns):
        what = f"looks like a table of labels, not of expression: {some([header[i] for i in words])} hold words"
        raise ExpressionError(what, path=path, hint="give the expression matrix; labels belong into the cohort table")
    if 2 * len(text) > len(rows):
        what = f"column {header[index]} holds words ({text.iloc[0]!r} and others)"
        raise ExpressionError(what, path=path, hint="remove the column")
    what = f"there is text where a number should be: {text.iloc[0]!r} in {where}"
    raise ExpressionError(what, path=path, hint="leave a cell empty where there is no value")


def _read_h5ad(path: Path) -> RawMatrix:
    try:
        with h5py.File(path) as file:
            matrix, obs, var = (read_elem(file[part]) for part in ("X", "obs", "var"))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ExpressionError(
            f"is no readable .h5ad ({error})", path=path, hint="write it again with anndata"
        ) from error
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    facts = ReadingFacts(["an .h5ad: observations are patients, variables are genes (X is read)"])
    return RawMatrix(dense.astype(np.float64), tuple(map(str, obs.index)), tuple(map(str, var.index)), facts)


def _turned(table: _Table, path: Path, orientation: Orientation) -> RawMatrix:
    """Samples into the rows."""
    if table.gct:
        genes_in_rows, evidence = True, "a GCT file"
    elif orientation == "auto":
        genes_in_rows, evidence = _genes_in_rows(table, path)
    else:
        genes_in_rows, evidence = orientation == "genes-in-rows", "as told"
    facts = ReadingFacts([*table.notes, f"{'genes' if genes_in_rows else 'patients'} are in the rows: {evidence}"])
    whose, stated = origin(path.name, table.corner, genes_in_rows=genes_in_rows)
    facts.sentences += [whose] if whose else []
    if genes_in_rows:
        return RawMatrix(table.values.T, tuple(table.columns), tuple(table.rows), facts, stated=stated)
    return RawMatrix(table.values, tuple(table.rows), tuple(table.columns), facts, stated=stated)


def _genes_in_rows(table: _Table, path: Path) -> tuple[bool, str]:
    """Whether the rows are genes, and how one knows. The first evidence that is on one side only decides."""
    sides = (table.rows, table.columns)
    names_of_sides = ("row names", "column names")
    barcodes = [sum(tcga_barcode(name) is not None for name in side) for side in sides]
    ensembl = [sum(_ENSEMBL.match(name) is not None for name in side) for side in sides]
    known = [len(set(names("expression", "well_known")) & {name.upper() for name in side}) for side in sides]
    for counts, kind, is_gene in ((barcodes, "TCGA barcodes", False), (ensembl, "Ensembl ids", True)):
        most = [2 * count > len(side) for count, side in zip(counts, sides, strict=True)]
        if most[0] != most[1]:
            side = most.index(True)
            return (side == 0) == is_gene, f"{counts[side]} of {len(sides[side])} {names_of_sides[side]} are {kind}"
    if min(known) == 0 < max(known):
        side = known.index(max(known))
        return side == 0, f"{known[side]} well-known genes are among the {names_of_sides[side]}"
    corner = plain_name(table.corner)
    if corner in _gene_corners():
        return True, f"the first column is called {table.corner!r}"
    if corner in _patient_corners():
        return False, f"the first column is called {table.corner!r}"
    lengths = [len(side) for side in sides]
    if max(lengths) > 3 * min(lengths):
        side = lengths.index(max(lengths))
        return (
            side == 0,
            f"a guess, as the {names_of_sides[side]} are the longer side ({max(lengths)} to {min(lengths)})",
        )
    what = f"it cannot be told whether rows or columns are genes ({lengths[0]} rows, {lengths[1]} columns)"
    raise ExpressionError(what, path=path, hint="call the first column 'gene' or 'patient_id'")


def _gene_corners() -> tuple[str, ...]:
    return plain_names("expression", "gene_corner")


def _patient_corners() -> tuple[str, ...]:
    return plain_names("expression", "patient_corner") + plain_names("cohort", "patient_id")
