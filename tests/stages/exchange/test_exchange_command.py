"""`wsipipe export` and `wsipipe import` of features: what goes out to TRIDENT or CLAM comes back as it was."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from command import told, wsipipe
from wsipipe.data.features.store import read_bag
from wsipipe.data.units import Mpp
from wsipipe.pipeline.demo.slides import write_aperio

NAME = "0.5mpp-224px/efficientnet-lite0"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).normal((200, 110, 170), 30, size=(700, 900, 3)).clip(0, 255).astype(np.uint8)
    Path("slides").mkdir()
    for name in ("a", "b c"):
        write_aperio(Path("slides") / f"{name}.svs", pixels, mpp=Mpp(0.5))
    assert told("tile", "slides")["tile"]["done"] == 2
    assert told("extract", "--device", "cpu")["extract"]["done"] == 2


def test_there_and_back() -> None:
    mine = read_bag(Path("work/features") / NAME / "a.zarr")
    for program in ("trident", "clam"):
        told("export", program)
        assert told("export", program, "--features", NAME)["export"]["done"] == 2
        assert told("export", program, "--features", NAME)["export"]["done"] == 0
        tiles, features = (f"work/exports/{program}/{name}" for name in ("0.5mpp-224px", NAME))
        told("tile", "slides", "--coordinates", tiles, "-w", program)
        back = told("import", features, "--backbone", "efficientnet-lite0", "-w", program)["extract"]
        assert (back["done"], back["units"]) == (2, 2 * len(mine.coords))
        theirs = read_bag(Path(program) / "features/0.5mpp-224px-imported/efficientnet-lite0-imported/a.zarr")
        np.testing.assert_array_equal(theirs.features, mine.features)
        np.testing.assert_array_equal(theirs.coords, mine.coords)
        assert theirs.facts.slide_digest == mine.facts.slide_digest
        assert (theirs.facts.mpp, theirs.facts.tile_px) == (mine.facts.mpp, mine.facts.tile_px)
        assert theirs.facts.weights_digest.startswith(f"unknown: imported from {program}")


def test_anndata_and_clams_tensors() -> None:
    mine = read_bag(Path("work/features") / NAME / "b c.zarr")
    told("export", "anndata", "--features", NAME)
    data = anndata.read_h5ad(Path("work/exports/anndata") / NAME / "b c.h5ad")
    np.testing.assert_array_equal(data.obsm["spatial"], mine.coords)
    told("export", "clam", "--features", NAME)
    tensor = torch.load(Path("work/exports/clam") / NAME / "pt_files/b c.pt", weights_only=True)
    np.testing.assert_array_equal(tensor.numpy(), mine.features.astype(np.float32))
    result = wsipipe("export", "anndata")
    assert (result.exit_code, "--features" in result.stderr) == (2, True)


def test_features_that_do_not_fit_are_refused_by_name() -> None:
    told("export", "trident", "--features", NAME)
    folder = Path("work/exports/trident") / NAME
    (folder / "a.h5").unlink()
    with h5py.File(folder / "b c.h5", "a") as file:
        file["coords"][0] = (9, 9)
    failures = told("import", folder, "--backbone", "efficientnet-lite0", code=1)["extract"]["failures"]
    said = {failure["item"]: failure["message"] for failure in failures}
    assert "no features of a" in said["a"]
    assert "has features of 11 of the 12 tiles" in said["b c"]
    assert wsipipe("import", "nowhere", "--backbone", "efficientnet-lite0").exit_code == 2
