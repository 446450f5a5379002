"""The expression store: what is written is what is read, and damage is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from expression_frames import counts, written
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import ExpressionError, StoreError
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.store import ExpressionTable, read_expression, write_expression

DATA = Path(__file__).resolve().parents[3] / "../shared/data"


def stored(values: npt.NDArray[np.float32]) -> anndata.AnnData:
    obs = pd.DataFrame(
        {"source_id": [f"s{i}" for i in range(len(values))]}, index=[f"p{i}" for i in range(len(values))]
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(values.shape[1])])
    return anndata.AnnData(values, obs=obs, var=var, uns={"unit": "log2(CPM + 1)", "source": "m.csv"})


def values() -> npt.NDArray[np.float32]:
    matrix = np.random.default_rng(3).normal(size=(20, 30)).astype(np.float32)
    matrix[3, 4] = np.nan
    return matrix


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "expression.zarr"
    write_expression(path, stored(values()))
    table = read_expression(path)
    assert isinstance(table, ExpressionTable)
    assert table.matrix.dtype == np.float32
    np.testing.assert_array_equal(table.matrix, values())
    assert (table.patients[:2], table.genes[-1], table.unit, table.source) == (
        ("p0", "p1"),
        "g29",
        "log2(CPM + 1)",
        "m.csv",
    )
    np.testing.assert_array_equal(table.rows(["p7", "p3"]), values()[[7, 3]])
    assert "p19" in table
    assert "p20" not in table
    with pytest.raises(ExpressionError, match="1 patients have no expression: p20"):
        table.rows(["p1", "p20"])


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, counts())
    digests = set()
    for name in ("a.zarr", "b.zarr", "a.zarr"):
        write_expression(tmp_path / name, read_genomics(path)[0])
        digests.add(digest_of(tmp_path / name))
    assert len(digests) == 1
    write_expression(tmp_path / "c.zarr", read_genomics(path)[0][:, ::-1].copy())
    assert digest_of(tmp_path / "c.zarr") not in digests


def test_any_anndata_reads_it(tmp_path: Path) -> None:
    expression, facts = read_genomics(written(tmp_path, counts()))
    write_expression(tmp_path / "e.zarr", expression)
    again = anndata.io.read_zarr(tmp_path / "e.zarr")
    assert again.obs.columns.tolist() == ["source_id", "missing_genes", "library_size"]
    assert again.var.columns.tolist() == ["source_id", "rows"]
    assert again.uns["input_unit"] == "counts"
    assert again.uns["encoding_version"] == "0.2.0"
    assert again.uns["steps"].tolist() == facts.sentences + facts.warnings


@pytest.mark.parametrize("fault", ["lost chunk", "damaged chunk", "lost metadata", "other AnnData", "later version"])
def test_a_damaged_store_is_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "expression.zarr"
    write_expression(path, stored(values()))
    chunk = next(file for file in sorted((path / "X" / "c").rglob("*")) if file.is_file())
    version = next(file for file in (path / "uns" / "encoding_version").rglob("*") if file.is_file())
    if fault == "lost chunk":
        chunk.unlink()
    elif fault == "damaged chunk":
        chunk.write_bytes(b"\x00" * 40)
    elif fault == "lost metadata":
        (path / "X" / "zarr.json").unlink()
    elif fault == "other AnnData":
        for file in sorted((path / "uns" / "encoding_type").rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (path / "uns" / "encoding_type").rmdir()
    else:
        assert version.exists()
        other = anndata.io.read_zarr(path)
        other.uns["encoding_version"] = "9.0"
        # Not by the store's own writer, which would set its version again.
        write_elem(zarr.open_group(path, mode="w", zarr_format=3), "/", other, dataset_kwargs={"shards": None})
    with pytest.raises(StoreError) as caught:
        read_expression(path)
    assert caught.value.path == str(path)
    assert "wsipipe" in caught.value.hint


def rewritten(path: Path, stored: anndata.AnnData) -> None:
    """Not by the store's own writer, which would set digest and version again."""
    write_elem(zarr.open_group(path, mode="w", zarr_format=3), "/", stored, dataset_kwargs={"shards": None})


@pytest.mark.parametrize("changed", ["patients", "genes", "order of patients", "unit", "libraries"])
def test_other_names_for_the_same_values_are_refused(tmp_path: Path, changed: str) -> None:
    path = tmp_path / "expression.zarr"
    given = stored(values())
    given.obs["library_size"] = np.arange(20.0)
    write_expression(path, given)
    other = anndata.io.read_zarr(path)
    match changed:
        case "patients":
            other.obs_names = ["other", *other.obs_names[1:]]
        case "genes":
            other.var_names = [*other.var_names[1:], other.var_names[0]]
        case "order of patients":
            other.obs_names = other.obs_names[::-1]
        case "unit":
            other.uns["unit"] = "log2(TPM + 1)"
        case _:
            other.obs["library_size"] = np.arange(20.0) + 1
    rewritten(path, other)
    with pytest.raises(StoreError, match="not those that were written"):
        read_expression(path)


def test_a_store_of_the_version_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "expression.zarr"
    write_expression(path, stored(values()))
    before = anndata.io.read_zarr(path)
    del before.uns["content_digest"]
    before.uns["encoding_version"] = "0.1.0"
    before.uns["matrix_digest"] = "sha256:" + hashlib.sha256(values().astype("<f4").tobytes()).hexdigest()
    rewritten(path, before)
    np.testing.assert_array_equal(read_expression(path).matrix, values())


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no expression store"):
        read_expression(tmp_path / "expression.zarr")


@pytest.mark.parametrize("fault", ["float64", "infinite", "patient twice", "no unit"])
def test_what_the_store_does_not_take(tmp_path: Path, fault: str) -> None:
    expression = stored(values())
    if fault == "float64":
        expression.X = values().astype(np.float64)
    elif fault == "infinite":
        expression.X[0, 0] = np.inf
    elif fault == "patient twice":
        expression.obs.index = ["p0", "p0", *expression.obs_names[2:]]
    else:
        del expression.uns["unit"]
    with pytest.raises(ExpressionError):
        write_expression(tmp_path / "e.zarr", expression)
    assert not (tmp_path / "e.zarr").exists()


@pytest.mark.parametrize(
    ("name", "shape", "unit"),
    [
        ("brca/expression_zscore.csv.gz", (931, 1558), "zscore"),
        ("rnaseq/tcga_brca_counts.csv.gz", (112, 20124), "counts"),
    ],
)
def test_real_matrices(tmp_path: Path, name: str, shape: tuple[int, int], unit: str) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip("the real cohort is not here")
    expression, _ = read_genomics(path)
    write_expression(tmp_path / "e.zarr", expression)
    table = read_expression(tmp_path / "e.zarr")
    assert table.matrix.shape == shape
    assert expression.uns["input_unit"] == unit
    raw = pd.read_csv(path, index_col=0)
    gene, patient = table.genes[700], table.patients[50]
    value = float(raw[patient][gene])
    expected = np.log2(value / raw[patient].sum() * 1e6 + 1) if unit == "counts" else value
    assert table.matrix[50, 700] == pytest.approx(expected, rel=1e-6)


def test_real_labels_are_no_expression() -> None:
    path = DATA / "brca/clinical.csv"
    if not path.exists():
        pytest.skip("the real cohort is not here")
    with pytest.raises(ExpressionError, match="table of labels"):
        read_genomics(path)
