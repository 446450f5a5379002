"""Real slides of several scanners, broken ones among them, through the commands a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_process import ran
from wsipipe.data.features.store import read_bag

TILED = {"CMU-1-Small-Region", "dicom-cmu-1-small-region", "giardia_40x_region", "ilc_breast_20x_region"}
NO_MPP = {"celiac_10x_nompp", "tcga-cr-7395-01a-01-ts1"}
UNREADABLE = {"broken": "OpenSlide", "small": "too small", "unopenable": "compression", "unreadable": "marker"}


def wsipipe(*arguments: object) -> tuple[int | None, dict[str, Any]]:
    ended = ran(*arguments, "--json")
    return ended.code, json.loads(ended.out.splitlines()[-1])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides") / "work"


@pytest.fixture(scope="module")
def tiling(shared: Path, workspace: Path) -> tuple[int | None, dict[str, Any]]:
    code, answer = wsipipe("tile", shared / "slides", "-w", workspace)
    return code, answer["stages"][0]


def test_what_can_be_tiled_is_and_the_rest_says_why(tiling: tuple[int | None, dict[str, Any]], workspace: Path) -> None:
    code, stage = tiling
    assert code == 1
    assert (stage["done"], stage["empty"]) == (len(TILED), 1)  # the fluorescence slide is empty, not failed
    failures = {failure["item"]: failure for failure in stage["failures"]}
    assert failures.keys() == NO_MPP | UNREADABLE.keys()
    for slide in NO_MPP:
        assert "--mpp-override" in failures[slide]["hint"]
        assert "`mpp` column" in failures[slide]["hint"]
    for slide, reason in UNREADABLE.items():
        assert reason in failures[slide]["message"]
        assert failures[slide]["hint"]
    for slide in TILED:
        assert (workspace / f"tiles/0.5mpp-224px/{slide}.h5").is_file()
        assert (workspace / f"tiles/0.5mpp-224px/qc/{slide}.jpg").is_file()


@pytest.mark.usefixtures("tiling")
def test_slides_without_mpp_pass_with_one(shared: Path, workspace: Path) -> None:
    slide = shared / "slides/tcga-cr-7395-01a-01-ts1.svs"
    code, answer = wsipipe("tile", slide, "-w", workspace, "--mpp-override", 0.5)
    assert (code, answer["stages"][0]["done"]) == (0, 1)
    coarse = shared / "slides/celiac_10x_nompp.tif"
    code, answer = wsipipe("tile", coarse, "-w", workspace, "--mpp-override", 1.0)
    assert code == 1
    assert "coarser" in answer["stages"][0]["failures"][0]["message"]
    code, answer = wsipipe("tile", coarse, "-w", workspace, "--mpp-override", 1.0, "--mpp", 1.0)
    assert (code, answer["stages"][0]["done"]) == (0, 1)


def test_svs_and_dicom_of_one_slide_give_nearly_the_same_features(shared: Path, tmp_path: Path) -> None:
    """The DICOM copy was compressed anew (2.5 grey values apart in the mean): its features are near, not equal."""
    both = [shared / "slides/CMU-1-Small-Region.svs", shared / "slides/dicom-cmu-1-small-region"]
    assert wsipipe("tile", *both, "-w", tmp_path)[0] == 0
    code, answer = wsipipe("extract", "-w", tmp_path, "--device", "cpu")
    assert (code, answer["stages"][0]["done"]) == (0, 2)
    folder = tmp_path / "features/0.5mpp-224px/efficientnet-lite0"
    svs, dicom = (read_bag(folder / f"{path.stem}.zarr") for path in both)
    assert (svs.coords == dicom.coords).all()
    a, b = (bag.features / np.linalg.norm(bag.features.astype(float), axis=1, keepdims=True) for bag in (svs, dicom))
    cosines = a @ b.T
    # Nearly every tile's nearest neighbour in the other copy is itself.
    assert (cosines.argmax(axis=1) == np.arange(len(cosines))).mean() > 0.9
