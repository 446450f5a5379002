"""X, obs and var of an ``.h5ad``, read where a damaged file does no harm (:mod:`..reading_process`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata.io import read_elem
from scipy import sparse

from ..files.hdf5 import refuse_absurd
from ..files.reading_process import UnreadableError, read_in_a_process


@dataclass(frozen=True, eq=False)
class AnnotatedMatrix:
    """What is read of an ``.h5ad``."""

    values: npt.NDArray[np.float64]
    """(n observations, g variables)"""
    obs: pd.DataFrame
    """n rows"""
    var: pd.DataFrame
    """g rows"""


def read_h5ad(path: Path) -> AnnotatedMatrix:
    """Read X as numbers, and the tables of observations and variables.

    :raises UnreadableError: no AnnData, damaged, or larger than what a file of this size may hold.
    :raises OSError: a failure of the machine, for :func:`.surroundings.patiently`.
    :raises SurroundingsError: the storage does not answer, or no memory is left.
    """
    return read_in_a_process(_read, path)


def _read(path: Path) -> AnnotatedMatrix:
    with h5py.File(path, "r") as file:
        for part in ("X", "obs", "var"):
            if part not in file:
                raise UnreadableError(f"no {part} in it")
            _refuse_absurd(part, file[part], path)
        matrix, obs, var = (read_elem(file[part]) for part in ("X", "obs", "var"))
    if not (isinstance(obs, pd.DataFrame) and isinstance(var, pd.DataFrame)):
        raise UnreadableError("its obs and var are no tables")
    shape = tuple(np.shape(matrix))
    if shape != (len(obs), len(var)):
        raise UnreadableError(f"X has the shape {shape}, and obs and var have {len(obs)} and {len(var)} rows")
    refuse_absurd("X", shape, 8, path)
    for table in (obs, var):
        _refuse_what_is_no_text(table)
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    return AnnotatedMatrix(dense.astype(np.float64), obs, var)


def _refuse_absurd(part: str, held: Any, path: Path) -> None:
    """Refuse a part of which any array is absurdly large."""

    def refuse(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            refuse_absurd(f"{part}/{name}" if name else part, item.shape or (), item.dtype.itemsize, path)

    refuse("", held)
    if isinstance(held, h5py.Group):
        held.visititems(refuse)


def _refuse_what_is_no_text(table: pd.DataFrame) -> None:
    """Refuse names that are not UTF-8, which HDF5 lets through and nothing can write again."""
    for names in (table.index.to_series(), table.columns.to_series(), *(column for _, column in table.items())):
        if names.dtype == object or isinstance(names.dtype, pd.StringDtype | pd.CategoricalDtype):
            for name in pd.unique(np.asarray(names, object)):
                if isinstance(name, str):
                    name.encode()  # UnicodeEncodeError
