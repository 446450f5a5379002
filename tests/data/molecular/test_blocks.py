"""Blocks beside RNA: each has its unit, which its values must not contradict, its store and its missing patients."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import zarr
from anndata.io import read_elem, write_elem
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.errors import ExpressionError, StoreError, UsageError
from wsipipe.data.molecular.blocks import (
    BLOCKS,
    UNITS,
    Block,
    block_of,
    check_block_unit,
    feature_name,
    recognise_block_unit,
)
from wsipipe.data.molecular.store import ExpressionTable, join_blocks, read_expression, store_name, write_expression

Matrix = npt.NDArray[np.float32]


def values(kind: str, patients: int = 50, features: int = 20) -> Matrix:
    """What labs have, with a missing value."""
    rng = np.random.default_rng(0)
    shape = (patients, features)
    made = {
        "gistic": lambda: rng.integers(-2, 3, shape),
        "log2 ratio": lambda: rng.normal(0, 0.4, shape),
        "copies": lambda: rng.gamma(4, 10, shape),
        "0/1": lambda: rng.random(shape) < 0.05,
        "mutation counts": lambda: rng.poisson(0.5, shape),
        "zscore": lambda: rng.normal(0, 1, shape),
        "log": lambda: rng.normal(0, 0.3, shape) + rng.normal(8, 2, features),
        "intensity": lambda: 2 ** rng.normal(12, 2, shape),
        "beta": lambda: rng.beta(0.5, 0.5, shape),
        "m value": lambda: rng.normal(0, 3, shape),
        "per cent": lambda: 100 * rng.beta(0.5, 0.5, shape),
    }
    matrix = made[kind]().astype(np.float32)
    matrix[3, 4] = np.nan
    return matrix


@pytest.mark.parametrize(("block", "unit"), [(block, unit) for block, units in UNITS.items() for unit in units])
def test_units_are_recognised_and_confirmed(block: Block, unit: str) -> None:
    recognised, evidence = recognise_block_unit(block, values(unit))
    assert recognised == unit
    assert "from" in evidence
    check_block_unit(block, unit, values(unit))


@pytest.mark.parametrize(
    ("block", "unit", "kind", "way_out"),
    [
        ("cnv", "gistic", "log2 ratio", "log2 ratio"),
        ("cnv", "log2 ratio", "gistic", "gistic"),
        ("cnv", "log2 ratio", "copies", "log2"),
        ("mutation", "0/1", "mutation counts", "any number of mutations"),
        ("protein", "zscore", "log", "unit log"),
        ("protein", "log", "intensity", "take logs"),
        ("methylation", "beta", "m value", "2^m"),
        ("methylation", "beta", "per cent", "100"),
    ],
)
def test_a_wrong_unit_is_contradicted(block: Block, unit: str, kind: str, way_out: str) -> None:
    with pytest.raises(ExpressionError, match=r"these are .* from") as caught:
        check_block_unit(block, unit, values(kind))
    assert way_out in caught.value.hint


def test_values_of_no_unit() -> None:
    with pytest.raises(ExpressionError, match="no unit of cnv") as caught:
        recognise_block_unit("cnv", values("copies"))
    assert "gistic" in caught.value.hint
    with pytest.raises(UsageError, match="methylation has no unit 'gistic'"):
        check_block_unit("methylation", "gistic", values("gistic"))
    with pytest.raises(ExpressionError, match="no patient has a value"):
        check_block_unit("mutation", "0/1", np.full((3, 2), np.nan, dtype=np.float32))


@given(st.sampled_from(BLOCKS), st.text(min_size=1).filter(lambda name: ":" not in name))
def test_names_of_joined_features_can_be_taken_apart(block: Block, name: str) -> None:
    assert block_of(feature_name(block, name)) == (block, name)


# Stores


def adata(matrix: Matrix, unit: str, block: str | None, first: int = 0) -> anndata.AnnData:
    obs = pd.DataFrame(index=[f"P{first + i:03d}" for i in range(len(matrix))])
    uns = {"unit": unit, "source": "m.csv", **({"block": block} if block else {})}
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(matrix.shape[1])]), uns=uns)


@pytest.mark.parametrize(("block", "unit"), [(block, unit) for block, units in UNITS.items() for unit in units])
def test_every_block_has_its_own_store(tmp_path: Path, block: Block, unit: str) -> None:
    path = tmp_path / store_name(block)
    assert path.name == f"{block}.zarr"
    write_expression(path, adata(values(unit), unit, block))
    table = read_expression(path)
    assert (table.block, table.unit, len(table.patients)) == (block, unit, 50)
    np.testing.assert_array_equal(table.matrix, values(unit))
    assert anndata.io.read_zarr(path).uns["block"] == block


def test_rna_need_not_say_so(tmp_path: Path) -> None:
    write_expression(tmp_path / store_name("rna"), adata(values("log"), "log2(CPM + 1)", None))
    assert read_expression(tmp_path / "expression.zarr").block == "rna"


def test_a_store_refuses_what_contradicts_its_unit(tmp_path: Path) -> None:
    with pytest.raises(ExpressionError, match="methylation in beta lies between 0 and 1"):
        write_expression(tmp_path / "methylation.zarr", adata(values("m value"), "beta", "methylation"))
    with pytest.raises(ExpressionError, match="no block 'lipids'") as caught:
        write_expression(tmp_path / "lipids.zarr", adata(values("log"), "log", "lipids"))
    assert "methylation" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_block_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cnv.zarr"
    write_expression(path, adata(values("gistic"), "gistic", "cnv"))
    later = read_elem(zarr.open_group(path, mode="r"))
    later.uns["block"] = "lipids"
    write_elem(zarr.open_group(path, mode="w", zarr_format=3), "/", later, dataset_kwargs={"shards": None})
    with pytest.raises(StoreError, match="lipids"):
        read_expression(path)


def test_joined_blocks_keep_all_patients() -> None:
    rna = ExpressionTable(("A", "B", "C"), ("ESR1", "ERBB2"), np.arange(6, dtype=np.float32).reshape(3, 2), "log", "r")
    cnv = ExpressionTable(("D", "B"), ("ERBB2",), np.array([[2], [-1]], dtype=np.float32), "gistic", "c", "cnv")
    both = join_blocks([rna, cnv])
    assert both.patients == ("A", "B", "C", "D")
    assert both.genes == ("ESR1", "ERBB2", "cnv:ERBB2")
    nan = np.nan
    np.testing.assert_array_equal(both.matrix, [[0, 1, nan], [2, 3, -1], [4, 5, nan], [nan, nan, 2]])
    assert both.unit == "rna: log; cnv: gistic"
    assert join_blocks([rna]) is rna
    assert join_blocks([cnv]).genes == ("cnv:ERBB2",)
    for wrong in ([], [rna, cnv, rna]):
        with pytest.raises(ExpressionError, match="each once"):
            join_blocks(wrong)
