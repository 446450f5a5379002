"""Reading a matrix file: CSV, TSV, GCT (also gzipped), Parquet or .h5ad, genes × samples or the reverse.

This module handles only the form: where the names are (:mod:`.row_names`), whether rows are genes
(:mod:`.orientation`), and that every cell is a number or missing (:mod:`.cells`). Values are as in the file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from ..columns import plain_name
from ..errors import ExpressionError, UsageError, about
from ..files.reading_process import UnreadableError
from ..plain_files import refuse_pipe
from ..surroundings import patiently
from ..wording import some
from .cells import named_table
from .expression_units import Unit
from .h5ad import read_h5ad
from .naming import AS_WRITTEN, Naming, Orientation
from .orientation import genes_in_rows
from .origin import origin
from .reading_facts import ReadingFacts
from .row_names import RowNames, row_names
from .text_table import Table, read_text, sample_titles

__all__ = ["Naming", "Orientation", "RawMatrix", "read_matrix", "without"]


_FEW_CELLS = 40_000_000
_CELLS_A_BYTE = 10
"""Of a Parquet file: runs of one value take next to nothing, and unpack to any size."""


@dataclass(frozen=True)
class RawMatrix:
    """A matrix as in the file, with samples in rows.

    :param values: (n samples, g genes) float64; NaN for empty cells.
    :param samples: n names, as written; a name may occur twice.
    :param genes: g names, as written.
    :param facts: report of the reading.
    :param gene_sources: g second names of the genes, if the source has two; the first is ``genes``.
    :param patients: n patients, if a sample sheet or a column gives them.
    :param kinds: n types of sample (``Primary Tumor``), if a sample sheet gives them.
    :param library: n library sizes, if they are known apart from the values.
    :param stated: the unit that header, column or file name state, and which of them.
    :param hinted: the unit that the file's name mentions, and where; used if the values do not decide.
    """

    values: npt.NDArray[np.float64]
    samples: tuple[str, ...]
    genes: tuple[str, ...]
    facts: ReadingFacts
    gene_sources: tuple[str, ...] | None = None
    patients: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    library: npt.NDArray[np.float64] | None = None
    stated: tuple[Unit, str] | None = None
    hinted: tuple[Unit, str] | None = None


def read_matrix(path: Path, orientation: Orientation = "auto", naming: Naming = AS_WRITTEN) -> RawMatrix:
    """Read a matrix file; its format is recognised by its first bytes, then by its name.

    :raises ExpressionError: no such file, empty, damaged, not numbers, or it is not clear which side has the genes or
        what the names are.
    :raises UsageError: a row or column to be left out does not exist.
    """
    refuse_pipe(path, ExpressionError)
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
        if path.suffix.lower() == ".h5ad" or magic == b"\x89HDF\r\n\x1a\n":
            return without(_read_h5ad(path, naming), naming)
        if magic[:4] == b"PAR1":
            table = _read_parquet(path)
        elif magic[:4] == b"PK\x03\x04":
            raise ExpressionError(
                "this is a spreadsheet or a zip file", path=path, hint="save the matrix as CSV or TSV"
            )
        else:
            with about(path):
                table = read_text(path, gzipped=magic[:2] == b"\x1f\x8b", name_column=naming.column)
    except FileNotFoundError as error:
        raise ExpressionError("there is no such file", path=path, hint="check the path of the matrix") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ExpressionError("the gzip file is damaged or cut off", path=path, hint="copy it again") from error
    except UnicodeDecodeError as error:
        raise ExpressionError("the text is not UTF-8", path=path, hint="save the matrix as CSV in UTF-8") from error
    except OSError as error:
        raise ExpressionError(f"could not be read ({error})", path=path, hint="it must be a readable file") from error
    return _turned(table, path, orientation, naming)


def without(raw: RawMatrix, naming: Naming) -> RawMatrix:
    """The matrix without the samples and genes that the user wants left out.

    :raises UsageError: a name does not exist.
    """
    known = {*raw.genes, *raw.samples, *(raw.gene_sources or ())}
    _refuse_unknown([name for name in naming.drop if name not in known and naming.of_all])
    if not naming.drop:
        return raw
    sources = raw.gene_sources or raw.genes
    genes = [i for i, name in enumerate(raw.genes) if name not in naming.drop and sources[i] not in naming.drop]
    samples = [i for i, name in enumerate(raw.samples) if name not in naming.drop]
    raw.facts.sentences.append(f"left out by --drop-columns: {some(naming.drop)}")
    return replace(
        raw,
        values=raw.values[np.ix_(samples, genes)],
        samples=_taken(raw.samples, samples),
        genes=_taken(raw.genes, genes),
        gene_sources=None if raw.gene_sources is None else _taken(raw.gene_sources, genes),
        patients=None if raw.patients is None else _taken(raw.patients, samples),
        kinds=None if raw.kinds is None else _taken(raw.kinds, samples),
        library=None if raw.library is None else raw.library[samples],
    )


def _taken(names: Sequence[str], kept: Sequence[int]) -> tuple[str, ...]:
    return tuple(names[index] for index in kept)


def _refuse_unknown(unknown: Sequence[str]) -> None:
    if unknown:
        what = f"no column or row is called {some(unknown)}"
        raise UsageError(what, path="drop_columns", hint="give --drop-columns the names exactly as in the matrix")


def _read_parquet(path: Path) -> Table:
    """Read a Parquet file; its index becomes a column too, unless it only numbers the rows."""
    try:
        said = parquet.read_metadata(path)
        cells = said.num_rows * said.num_columns
        if cells > max(_FEW_CELLS, _CELLS_A_BYTE * path.stat().st_size):
            what = (
                f"claims {said.num_rows:,} rows of {said.num_columns:,} columns, far more than a file of its size holds"
            )
            raise ExpressionError(what, path=path, hint="if that is right, write it as CSV")
        frame = pd.read_parquet(path)
    except (
        *(pa.ArrowException, OSError),  # pyarrow's own; not each of them is one of Python's, too
        *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError),
    ) as error:  # pandas's, for a damaged description of its columns
        raise ExpressionError(f"the Parquet file is damaged ({error})", path=path, hint="write it again") from error
    index = frame.index
    if not (isinstance(index, pd.RangeIndex) and index.name is None and index.start == 0):
        titles = ["" if name is None else str(name) for name in index.names]
        frame = frame.reset_index(
            names=[title or f"level_{i}" for i, title in enumerate(titles)], allow_duplicates=True
        )
        header = [*titles, *map(str, frame.columns[len(titles) :])]
    else:
        header = list(map(str, frame.columns))
    return Table(header, frame.set_axis(range(len(header)), axis=1), [])


def _turned(table: Table, path: Path, orientation: Orientation, naming: Naming) -> RawMatrix:
    """The matrix of a table, with samples in rows."""
    named = named_table(table, naming, path)
    _refuse_unknown(named.unknown if naming.of_all else ())
    in_rows, evidence = genes_in_rows(named, orientation, path, gct=table.gct)
    facts = ReadingFacts([*named.notes, f"{'genes' if in_rows else 'patients'} are in the rows: {evidence}"])
    whose, stated, hinted = origin(path.name, named.corner, table.measure, genes_in_rows=in_rows)
    facts.sentences += [whose] if whose else []
    whose_columns = named.column_patients if in_rows else named.row_patients
    return RawMatrix(
        values=named.values.T if in_rows else named.values,
        samples=tuple(named.columns if in_rows else named.rows),
        genes=tuple(named.rows if in_rows else named.columns),
        facts=facts,
        gene_sources=tuple(named.row_ids) if in_rows and named.row_ids is not None else None,
        patients=tuple(whose_columns) if whose_columns is not None else None,
        stated=stated,
        hinted=hinted,
    )


def _read_h5ad(path: Path, naming: Naming) -> RawMatrix:
    """Read X, with the names of obs and var from their index, or from a column with names."""
    try:
        read = patiently(lambda: read_h5ad(path), path)
    except UnreadableError as error:
        raise ExpressionError(
            f"is not a readable .h5ad ({error})", path=path, hint="copy it again, or write it again with anndata"
        ) from error
    facts = ReadingFacts(["an .h5ad: observations are patients, variables are genes (X is read)"])
    samples, genes = (_axis_names(frame, naming, path) for frame in (read.obs, read.var))
    for side in (samples, genes):
        facts.sentences += side.notes
    return RawMatrix(
        read.values,
        tuple(samples.names),
        tuple(genes.names),
        facts,
        gene_sources=None if genes.ids is None else tuple(genes.ids),
        patients=None if samples.patients is None else tuple(samples.patients),
    )


def _axis_names(frame: pd.DataFrame, naming: Naming, path: Path) -> RowNames:
    """The names on one side of an AnnData, found as row names of a table whose first column is the index."""
    words = [name for name in frame.columns if isinstance(name, str) and plain_name(name)]
    if not all(str(name).isdecimal() for name in frame.index):  # the index names the samples, whatever is beside it
        words = [name for name in words if plain_name(name) not in sample_titles()]
    table = frame[words].copy()
    title = str(frame.index.name or "")
    table.insert(0, "__index__", frame.index.astype(str))
    numbered = table.set_axis(range(table.shape[1]), axis=1).reset_index(drop=True)
    side_naming = naming if naming.column in (title, *words) else replace(naming, column=None)
    return row_names(Table([title, *words], numbered, []), side_naming, path)
