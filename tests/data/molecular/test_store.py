"""The store of expression among what other programs leave beside it."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from wsipipe.data.artifact import digest_of
from wsipipe.data.molecular.store import read_expression, write_expression

STRAYS = [
    ".DS_Store",
    "._zarr.json",
    "obs/.DS_Store",
    "uns/.AppleDouble/a",
    "X/.nfs000000000012",
    "X/c/Thumbs.db",
    "@eaDir/a",
    "obs/@eaDir/zarr.json",
    "desktop.ini",
    ".~lock.zarr.json#",
]


@pytest.mark.parametrize("stray", STRAYS)
def test_a_stray_changes_nothing(tmp_path: Path, stray: str) -> None:
    path = tmp_path / "expression.zarr"
    names = {"obs": pd.DataFrame(index=list("abc")), "var": pd.DataFrame(index=list("wxyz"))}
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_expression(path, anndata.AnnData(matrix, **names, uns={"unit": "log2 tpm", "source": "x"}))
    before = digest_of(path)
    (path / stray).parent.mkdir(parents=True, exist_ok=True)
    (path / stray).write_bytes(b"\0\1stray")
    np.testing.assert_array_equal(read_expression(path).matrix, matrix)
    assert digest_of(path) == before
