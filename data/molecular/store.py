"""The expression store: patients × genes in AnnData's zarr layout.

RNA is in ``expression.zarr``; each further block (:mod:`.blocks`) is beside it in a store of the same layout, named
after the block, with its own features and patients. NaN is a missing value; patients that a block did not measure are
not in its store.

The stores are written by the genomics stage and read by training; any tool that reads AnnData reads them too. Zarr
format 3, without consolidated metadata (which that format does not define yet). Equal content gives equal bytes, so a
digest shows whether anything changed.
"""

from __future__ import annotations

import errno
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata
import numpy as np
import numpy.typing as npt
import zarr
from anndata.io import write_elem

from ..artifact import digest_of_value, whole
from ..cohort.ids import id_key, one_spelling, same_ids
from ..errors import ExpressionError, StoreError
from ..files.zarr_store import UNREADABLE, open_zarr
from ..surroundings import patiently, reading_fault
from ..wording import some
from .block_table import BLOCKS
from .blocks import Block, check_block_unit, feature_name

ENCODING_TYPE = "wsipipe-expression"
ENCODING_VERSION = "0.2.0"
_VALUES_ALONE = "0.1.0"
"""The version before, which is read too: its digest covers the values, but not whose and of which genes they are."""


@dataclass(frozen=True)
class ExpressionTable:
    """Expression, or another block, for training. Patients can be looked up by any spelling of their ids.

    :param patients: n patient ids.
    :param genes: g gene ids; features of another block; or features of joined blocks (:func:`join_blocks`).
    :param matrix: (n, g) float32, RNA on a log scale; NaN where a value is missing.
    :param unit: such as ``log2(CPM + 1)``.
    :param source: name of the file that it was read from.
    :param block: the block; of joined blocks the first.
    :param libraries: (n,) reads that the patients' counts sum to, where the store keeps them.
    """

    patients: tuple[str, ...]
    genes: tuple[str, ...]
    matrix: npt.NDArray[np.float32]
    unit: str
    source: str
    block: Block = "rna"
    libraries: npt.NDArray[np.float64] | None = None

    @cached_property
    def _row_of(self) -> Mapping[str, int]:
        return {id_key(patient): row for row, patient in enumerate(self.patients)}

    def __contains__(self, patient: str) -> bool:
        return id_key(patient) in self._row_of

    def row(self, patient: str) -> int:
        """The row of a patient.

        :raises KeyError: the patient has no expression.
        """
        return self._row_of[id_key(patient)]

    def rows(self, patients: Sequence[str]) -> npt.NDArray[np.float32]:
        """The (len(patients), g) matrix of these patients, in this order.

        :raises ExpressionError: one of them has no expression.
        """
        unknown = [patient for patient in patients if patient not in self]
        if unknown:
            what = f"{len(unknown)} patients have no expression: {some(unknown)}"
            raise ExpressionError(what, path=self.source, hint="leave them out, or add them to the matrix")
        return self.matrix[[self.row(patient) for patient in patients]]


def store_name(block: Block) -> str:
    """The folder name of a block's store."""
    return "expression.zarr" if block == "rna" else f"{block}.zarr"


def join_blocks(tables: Sequence[ExpressionTable]) -> ExpressionTable:
    """Join blocks: all patients of any block, sorted; NaN where a block did not measure a patient.

    RNA's features keep their names, names of others begin with their block (``cnv:ERBB2``).

    :raises ExpressionError: a block occurs twice, or there are none.
    """
    blocks = [table.block for table in tables]
    if not blocks or len(set(blocks)) < len(blocks):
        raise ExpressionError(f"blocks are joined each once, not {', '.join(blocks) or 'none'}")
    if len(tables) == 1 and tables[0].block == "rna":
        return tables[0]
    spelling = one_spelling(patient for table in tables for patient in table.patients)
    patients = sorted(set(spelling.values()))
    row_of = {patient: row for row, patient in enumerate(patients)}
    matrix = np.full((len(patients), sum(len(table.genes) for table in tables)), np.nan, dtype=np.float32)
    start = 0
    for table in tables:
        matrix[[row_of[spelling[p]] for p in table.patients], start : start + len(table.genes)] = table.matrix
        start += len(table.genes)
    return ExpressionTable(
        patients=tuple(patients),
        genes=tuple(feature_name(table.block, gene) for table in tables for gene in table.genes),
        matrix=matrix,
        unit="; ".join(f"{table.block}: {table.unit}" for table in tables),
        source=", ".join(table.source for table in tables),
        block=tables[0].block,
    )


def write_expression(path: Path, expression: anndata.AnnData) -> None:
    """Write the store atomically; an existing one at ``path`` is replaced.

    :param expression: ``X`` (patients × genes) float32, finite or NaN; unique names; ``uns`` with ``unit`` and
        ``source`` (text), ``block`` if it is not RNA, and anything else to store. The keys ``encoding_type``,
        ``encoding_version`` and ``content_digest`` are set here.
    :raises ExpressionError: it does not have this form, or the values of another block than RNA contradict its unit.
    """
    matrix = expression.X
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32 or np.isinf(matrix).any():
        raise ExpressionError("X must be a dense float32 matrix, finite or NaN", path=path)
    for name, axis in (("patient", expression.obs_names), ("gene", expression.var_names)):
        twice = list(axis[axis.duplicated()])
        if twice:
            raise ExpressionError(f"{name} names must be unique: {some(twice)}", path=path)
    if ways := same_ids(map(str, expression.obs_names)):
        what = f"patients whose ids differ only in case, blanks or a .0 are one patient with several rows: {some(ways)}"
        raise ExpressionError(what, path=path, hint="keep one of the rows, or rename those that are other people")
    if not all(isinstance(expression.uns.get(key), str) for key in ("unit", "source")):
        raise ExpressionError("uns must have unit and source", path=path)
    block = expression.uns.get("block", "rna")
    if block not in BLOCKS:
        raise ExpressionError(f"there is no block {block!r}", path=path, hint=f"choose among {', '.join(BLOCKS)}")
    if block != "rna":
        check_block_unit(block, expression.uns["unit"], matrix)
    ours = {
        "encoding_type": ENCODING_TYPE,
        "encoding_version": ENCODING_VERSION,
        "content_digest": _digest_of_content(
            matrix, expression.obs_names, expression.var_names, expression.uns["unit"], block, _libraries(expression)
        ),
    }
    uns = dict(sorted({**expression.uns, **ours}.items()))
    stored = anndata.AnnData(X=matrix, obs=expression.obs, var=expression.var, uns=uns)
    with whole(path) as scratch:
        # shards=None: without it anndata warns that it may shard; write_elem leaves the metadata unconsolidated.
        write_elem(zarr.open_group(scratch, mode="w-", zarr_format=3), "/", stored, dataset_kwargs={"shards": None})


def read_expression(path: str | Path) -> ExpressionTable:
    """Read the store of RNA or of another block.

    :raises StoreError: missing, not a store of wsipipe, of a later version, or its matrix has changed.
    """
    stored = patiently(lambda: _read(Path(path)), path)
    uns, matrix = stored.uns, stored.matrix
    if uns.get("encoding_type") != ENCODING_TYPE:
        what = f"is AnnData, but no expression store of wsipipe (encoding_type {uns.get('encoding_type')!r})"
        raise StoreError(what, path=path, hint="give the matrix to `wsipipe genomics`")
    if (version := uns.get("encoding_version")) not in (ENCODING_VERSION, _VALUES_ALONE):
        what = f"is of version {version}, and this wsipipe reads {ENCODING_VERSION}"
        raise StoreError(what, path=path, hint="run `wsipipe genomics` again, or use the wsipipe that wrote it")
    if "unit" not in uns or "source" not in uns:
        raise StoreError("does not say its unit and its source", path=path, hint=_AGAIN)
    block = next((block for block in BLOCKS if block == uns.get("block", "rna")), None)
    if block is None:
        raise StoreError(f"holds a block {uns['block']!r} that this wsipipe does not know", path=path, hint=_AGAIN)
    patients, genes, libraries = stored.patients, stored.genes, stored.library_sizes
    fits = matrix.dtype == np.float32 and matrix.shape == (len(patients), len(genes))
    if fits and version == _VALUES_ALONE:
        fits = _digest(matrix) == uns.get("matrix_digest")
    elif fits:
        content = _digest_of_content(matrix, patients, genes, uns["unit"], uns.get("block", "rna"), libraries)
        fits = content == uns.get("content_digest")
    if not fits:  # a lost chunk reads as zeros, or as empty names: only the digest notices
        raise StoreError("its matrix, patients or genes are not those that were written", path=path, hint=_AGAIN)
    if twice := same_ids(patients) or [gene for gene, rows in Counter(genes).items() if rows > 1]:
        raise StoreError(f"holds a patient or a gene twice: {some(list(twice))}", path=path, hint=_AGAIN)
    return ExpressionTable(patients, genes, matrix, uns["unit"], uns["source"], block, libraries)


def as_stored(measured: anndata.AnnData, block: Block = "rna") -> ExpressionTable:
    """The table that training would read of a matrix, if it was written and read again."""
    return ExpressionTable(
        tuple(map(str, measured.obs_names)),
        tuple(map(str, measured.var_names)),
        np.asarray(measured.X, dtype=np.float32),
        str(measured.uns["unit"]),
        str(measured.uns["source"]),
        block,
        _libraries(measured),
    )


def _libraries(table: anndata.AnnData) -> npt.NDArray[np.float64] | None:
    return table.obs["library_size"].to_numpy(np.float64) if "library_size" in table.obs else None


_AGAIN = "remove the store and run `wsipipe genomics` again"


@dataclass(frozen=True)
class _Stored:
    """What is read of a store: the parts of AnnData that training needs, and no others."""

    matrix: npt.NDArray[np.float32]
    patients: tuple[str, ...]
    genes: tuple[str, ...]
    library_sizes: npt.NDArray[np.float64] | None
    uns: Mapping[str, str]
    """Its texts."""


def _read(path: Path) -> _Stored:
    if not path.is_dir():
        raise StoreError("there is no expression store", path=path, hint="run `wsipipe genomics` first")
    try:
        store = open_zarr(path)
        if store.attrs.get("encoding-type") != "anndata":
            raise StoreError(f"holds {store.attrs.get('encoding-type')!r}, not AnnData", path=path, hint=_AGAIN)
        obs, uns = store["obs"], store["uns"]
        sizes = np.asarray(obs["library_size"][...], np.float64) if "library_size" in obs else None
        if sizes is not None and sizes.shape != obs[_index_of(obs)].shape:
            raise ValueError("the library sizes are not one a patient")
        return _Stored(
            np.asarray(store["X"][...]),
            _texts(obs[_index_of(obs)]),
            _texts(store["var"][_index_of(store["var"])]),
            sizes,
            {name: str(uns[name][()]) for name in _TEXTS if name in uns},
        )
    except UNREADABLE as error:
        if (cause := reading_fault(error)) is not None and cause.errno != errno.ENOENT:
            raise
        raise StoreError(f"the expression store is damaged ({error})", path=path, hint=_AGAIN) from error


_TEXTS = ("block", "content_digest", "encoding_type", "encoding_version", "matrix_digest", "source", "unit")


def _index_of(frame: zarr.Group) -> str:
    """Name of the array that holds the names of a data frame's rows."""
    return str(frame.attrs["_index"])


def _texts(array: zarr.Array | zarr.Group) -> tuple[str, ...]:
    """The texts of a string array; pandas 3 stores them with a mask of missing ones, of which names have none."""
    if isinstance(array, zarr.Group):
        array = array["values"]
    values = array[...]
    if values.ndim != 1:
        raise ValueError(f"names of the shape {values.shape}")
    return tuple(map(str, values.tolist()))


def _digest_of_content(
    matrix: npt.NDArray[np.float32],
    patients: Iterable[object],
    genes: Iterable[object],
    unit: str,
    block: str,
    libraries: npt.NDArray[np.float64] | None,
) -> str:
    """The digest of a matrix with whose values they are, of which genes, in which unit, and the sizes of libraries."""
    sizes = None if libraries is None else hashlib.sha256(np.asarray(libraries, "<f8").tobytes()).hexdigest()
    names = {"patients": list(map(str, patients)), "genes": list(map(str, genes))}
    return digest_of_value({"matrix": _digest(matrix), **names, "unit": unit, "block": block, "libraries": sizes})


def _digest(matrix: npt.NDArray[np.float32]) -> str:
    little_endian = np.ascontiguousarray(matrix, dtype="<f4")
    return "sha256:" + hashlib.sha256(little_endian.data).hexdigest()
