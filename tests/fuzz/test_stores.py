"""Damaged feature and expression stores: refused with an error of ours, or read as they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from trial import Trial
from wsipipe.data.features.store import FeatureFacts, open_features, read_bag, read_facts, write_features
from wsipipe.data.molecular.store import read_expression, write_expression

Survives = Callable[..., Trial]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    facts = FeatureFacts(
        slide_id="s",
        slide_digest="sha256:s",
        tiles_digest="sha256:t",
        mpp=0.5,
        tile_px=224,
        tile_size_level0=224,
        backbone="b",
        architecture="a",
        pooling="cls",
        width=64,
        weights_digest="sha256:w",
        precision="fp32",
        transform={"mean": [0.5, 0.5, 0.5], "size": 224},
        versions={"torch": "2.10"},
    )
    numbers = np.random.default_rng(0).normal(size=(20_000, 64))  # several chunks in the shard
    write_features(tmp_path / "s.zarr", numbers, np.arange(40_000).reshape(20_000, 2), facts)
    return tmp_path / "s.zarr"


@pytest.mark.parametrize("part", ["zarr.json", "features/zarr.json", "coords/zarr.json"])
def test_metadata_of_features(survives: Survives, features: Path, part: str) -> None:
    whole = read_bag(features)

    def read(_: Path) -> None:
        read_facts(features)
        bag, store = read_bag(features), open_features(features)
        if bag.features.shape == whole.features.shape:
            np.testing.assert_array_equal(store.features[[5, 3, 19_999]], whole.features[[5, 3, 19_999]])

    survives(read, (features / part).read_bytes(), features / part)


@pytest.mark.parametrize("part", ["features", "coords"])
def test_numbers_of_features(survives: Survives, features: Path, part: str) -> None:
    whole = read_bag(features)

    def read(_: Path) -> None:
        bag, store = read_bag(features), open_features(features)
        np.testing.assert_array_equal(bag.features, whole.features)
        np.testing.assert_array_equal(bag.coords, whole.coords)
        np.testing.assert_array_equal(store.coords[100:200], whole.coords[100:200])

    file = features / part / "c" / "0" / "0"
    survives(read, file.read_bytes(), file)


PARTS = [
    *("zarr.json", "X/zarr.json", "X/c/0/0", "obs/zarr.json", "obs/_index/zarr.json", "obs/_index/c/0"),
    *("obs/library_size/zarr.json", "obs/library_size/c/0", "var/_index/c/0", "uns/zarr.json", "uns/unit/zarr.json"),
    *("uns/unit/c", "uns/content_digest/c"),
]


@pytest.mark.parametrize("part", PARTS)
def test_expression(survives: Survives, tmp_path: Path, part: str) -> None:
    store = tmp_path / "expression.zarr"
    obs = pd.DataFrame({"library_size": np.arange(20.0)}, index=[f"P{number}" for number in range(20)])
    var = pd.DataFrame(index=[f"GENE{number}" for number in range(30)])
    matrix = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    texts = {"unit": "log2(CPM + 1)", "source": "m.csv", "steps": np.array(["a", "b"], dtype=object)}
    write_expression(store, anndata.AnnData(matrix, obs, var, uns=texts))

    def read(_: Path) -> None:
        np.testing.assert_array_equal(read_expression(store).matrix, matrix)

    survives(read, (store / part).read_bytes(), store / part)
