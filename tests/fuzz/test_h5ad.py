"""Damaged .h5ad files: read, or refused with an error of ours, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hdf5_damage import endless, make_absurd
from scipy import sparse
from trial import Trial
from wsipipe.data.errors import ExpressionError
from wsipipe.data.files import reading_process
from wsipipe.data.matrices.matrix import read_matrix

GENES = ["ACTB", "TP53", "ERBB2", "ESR1", "MKI67", *(f"GENE{number}" for number in range(15))]


def write(path: Path, *, is_sparse: bool) -> Path:
    values = np.random.default_rng(0).poisson(9, (12, 20)).astype(np.float32)
    patients = [f"P{number}" for number in range(12)]
    obs = pd.DataFrame({"age": np.arange(12.0), "site": pd.Categorical(["a", "b"] * 6)}, index=patients)
    var = pd.DataFrame({"symbol": GENES}, index=GENES)
    if is_sparse:
        anndata.AnnData(sparse.csr_matrix(values), obs=obs, var=var).write_h5ad(path, compression="gzip")
    else:
        anndata.AnnData(values, obs=obs, var=var).write_h5ad(path)
    return path


@pytest.mark.parametrize("is_sparse", [False, True])
def test_damaged_matrices(is_sparse: bool, tmp_path: Path, survives: Callable[..., Trial]) -> None:
    survives(read_matrix, write(tmp_path / "whole.h5ad", is_sparse=is_sparse).read_bytes(), "a.h5ad")


def test_a_file_whose_reading_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "_SECONDS", 1)
    path = write(tmp_path / "a.h5ad", is_sparse=False)
    path.write_bytes(endless(path.read_bytes()))
    with pytest.raises(ExpressionError, match=r"not a readable \.h5ad") as caught:
        read_matrix(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


def test_an_absurd_matrix_is_refused_with_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "dense.h5ad", is_sparse=False)
    make_absurd(path, "X", (10**9, 20))
    with pytest.raises(ExpressionError, match=r"`X` has the shape .* may hold 268 MB"):
        read_matrix(path)


def test_a_sparse_matrix_that_is_absurd_as_a_whole_is_refused_with_the_limit(tmp_path: Path) -> None:
    """Its three arrays are small: what it stands for is not."""
    path = tmp_path / "sparse.h5ad"
    patients = pd.DataFrame(index=[f"P{number}" for number in range(10_000)])
    genes = pd.DataFrame(index=[f"GENE{number}" for number in range(20_000)])
    empty = sparse.csr_matrix((len(patients), len(genes)), dtype=np.float32)
    anndata.AnnData(empty, obs=patients, var=genes).write_h5ad(path, compression="gzip")
    with pytest.raises(
        ExpressionError, match=r"`X` has the shape 10,000 × 20,000, which is 1\.6 GB; .* may hold 268 MB"
    ):
        read_matrix(path)


def test_what_is_no_text_and_what_is_no_anndata(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5ad", is_sparse=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"ERBB2", b"ERB\xff2"))
    with pytest.raises(ExpressionError, match=r"surrogates|UTF-8|utf-8"):
        read_matrix(path)
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        del file["obs"]
    with pytest.raises(ExpressionError, match="no obs in it"):
        read_matrix(path)
