"""AnnData: it reads what we write."""

from __future__ import annotations

import time
from pathlib import Path

import anndata
import numpy as np
import pytest
from foreign_files import bag_of, tiles_of_bag
from wsipipe.data.features.store import Bag
from wsipipe.data.interop.anndata import to_anndata, write_anndata


@pytest.fixture(scope="module")
def bag() -> Bag:
    return bag_of(tiles_of_bag())


def test_anndata_reads_what_we_write(tmp_path: Path, bag: Bag) -> None:
    write_anndata(tmp_path / "a.h5ad", bag)
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    for table in (read, to_anndata(bag)):
        assert table.X.dtype == np.float32
        np.testing.assert_array_equal(table.X, bag.features)
        np.testing.assert_array_equal(table.obsm["spatial"], bag.coords)
        assert list(table.obs["slide_id"].unique()) == [bag.slide_id]
        assert (table.obs_names[3], table.var_names[3]) == ("Präparat 7.1:3", "uni2-h:3")
        assert table.obs_names.is_unique
        facts = table.uns["wsipipe"]
        assert (facts["mpp"], facts["weights_digest"]) == (bag.facts.mpp, "sha256:3")
        assert list(facts["transform"]["mean"]) == [0.5, 0.25, 0.125]
        assert "crop" not in facts["transform"]
        np.testing.assert_array_equal(facts["bad_tiles"], bag.facts.bad_tiles)


def test_equal_bags_give_equal_bytes(tmp_path: Path, bag: Bag) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        time.sleep(1.1 if folder.name == "two" else 0)  # formats that write the time do so in seconds
        write_anndata(folder / "a.h5ad", bag)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert len(files) == 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
