"""Slide vectors, from a folder of tiles' features to a model that reads them, as a user makes them."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
import zarr
from command import told, wsipipe
from planted_workspace import WIDTH, Planted, make_patients, plant, write_slide
from safetensors.torch import load_file
from slide_encoder_files import HIDDEN, feather
from trained_workspace import bundle_facts, trained_workspace
from wsipipe.data.features.store import read_bag, read_facts
from wsipipe.data.manifest import Manifest
from wsipipe.models.backbones.weights import digest_of_weights

VECTORS = "0.5mpp-224px/mean-of-efficientnet-lite0"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A workspace whose slides have vectors."""
    planted = plant(tmp_path_factory.mktemp("encoded") / "planted", make_patients())
    told("encode", "-c", planted.settings)
    return planted


@pytest.fixture
def mine(encoded: Planted, tmp_path: Path) -> Planted:
    return encoded.copied(tmp_path / "planted")


def vectors(planted: Planted, name: str = VECTORS) -> Path:
    return planted.workspace / "slide_features" / name


def said(result: object) -> str:
    """The output as running text."""
    return " ".join(str(result.output).replace("│", " ").split())  # type: ignore[attr-defined]


def test_a_slide_vector_is_the_mean_of_its_tiles_and_says_what_it_is(encoded: Planted) -> None:
    stores = sorted(vectors(encoded).glob("*.zarr"))
    assert len(stores) == sum(len(patient.slides) for patient in encoded.patients)
    for store in stores[:5]:
        bag, tiles = read_bag(store), read_bag(encoded.store(store.stem))
        assert bag.features.shape == (1, WIDTH)
        assert bag.features.dtype == np.float32
        np.testing.assert_allclose(bag.features[0], tiles.features.astype(np.float64).mean(axis=0), rtol=1e-6)
        assert bag.coords[0].tolist() == tiles.coords.min(axis=0).tolist()
        assert bag.facts.encoding is not None
        digest = Manifest.of(store.parent).latest("encode")[store.stem].inputs["features"].digest
        assert bag.facts.encoding.model_dump() == {
            "encoder": "mean",
            "weights_digest": "",
            "tile_width": WIDTH,
            "tiles": len(tiles.features),
            "features_digest": digest,
        }
        assert bag.facts.backbone == "efficientnet-lite0"
    assert zarr.open_group(stores[0], mode="r")["features"].shape == (1, WIDTH)  # without wsipipe


def test_tile_stores_know_nothing_of_it(encoded: Planted) -> None:
    assert "encoding" not in dict(zarr.open_group(encoded.store("S01a"), mode="r").attrs)


def test_only_what_changed_is_encoded_again(mine: Planted) -> None:
    done = told("encode", "-c", mine.settings)["encode"]
    assert (done["done"], done["before"]) == (0, len(list(vectors(mine).glob("*.zarr"))))
    before = {store.name: zarr.open_group(store)["features"][:].tobytes() for store in vectors(mine).glob("*.zarr")}
    write_slide(mine, "S01a", np.ones((7, WIDTH), np.float32))
    shutil.rmtree(vectors(mine) / "S02a.zarr")
    assert told("encode", "-c", mine.settings)["encode"]["done"] == 2
    after = {store.name: zarr.open_group(store)["features"][:].tobytes() for store in vectors(mine).glob("*.zarr")}
    assert {name for name in before if before[name] != after[name]} == {"S01a.zarr"}
    assert read_bag(vectors(mine) / "S01a.zarr").features.tolist() == [[1.0] * WIDTH]


def test_shards_make_the_same_vectors(mine: Planted) -> None:
    before = {store.name: zarr.open_group(store)["features"][:].tobytes() for store in vectors(mine).glob("*.zarr")}
    shutil.rmtree(mine.workspace / "slide_features")
    numbers = [told("encode", "-c", mine.settings, "--shard", f"{n}/2")["encode"]["done"] for n in (1, 2)]
    assert sum(numbers) == len(before)
    assert min(numbers) > 0
    after = {store.name: zarr.open_group(store)["features"][:].tobytes() for store in vectors(mine).glob("*.zarr")}
    assert after == before


def test_verify_finds_a_vector_of_another_slide_and_one_that_is_no_number(mine: Planted) -> None:
    assert wsipipe("verify", "-c", mine.settings, "--deep").exit_code == 0
    shutil.rmtree(vectors(mine) / "S01a.zarr")
    shutil.copytree(vectors(mine) / "S02a.zarr", vectors(mine) / "S01a.zarr")
    result = wsipipe("verify", "-c", mine.settings, "--deep")
    assert result.exit_code == 1
    assert "S01a" in result.output


def test_status_and_clean_know_the_folder(mine: Planted) -> None:
    write_slide(mine, "S01a", np.ones((7, WIDTH), np.float32))
    result = wsipipe("status", "-c", mine.settings, "--json")
    rows = [row for row in json.loads(result.stdout)["items"] if row["stage"] == "encode"]
    assert [row["item"] for row in rows if row["state"] == "stale"] == ["S01a"]


def test_mean_and_deviation(mine: Planted) -> None:
    told("encode", "-c", mine.settings, "--encoder", "mean-std")
    bag = read_bag(vectors(mine, "0.5mpp-224px/mean-std-of-efficientnet-lite0") / "S01a.zarr")
    tiles = read_bag(mine.store("S01a")).features.astype(np.float64)
    np.testing.assert_allclose(bag.features[0], np.concatenate([tiles.mean(axis=0), tiles.std(axis=0)]), rtol=1e-5)


def test_a_probe_learns_the_planted_signal(mine: Planted) -> None:
    """The label is planted in the first features of half of the tiles: their mean tells it."""
    flags = ["--name", "er", "--label-column", "er", "--features", VECTORS, "--method", "linear"]
    told("train", "-c", mine.settings, *flags)
    metrics = json.loads((mine.model / "metrics.json").read_text())
    assert metrics["pooled"]["auc"]["value"] > 0.95
    facts = bundle_facts(mine.model)
    assert facts["method"] == "linear"
    model = mine.workspace / "models/er"
    page, settings = (model / "report.html").read_text(), tomllib.loads((model / "tables/settings.toml").read_text())
    for line in ("tile -c settings.toml", "extract -c settings.toml", "encode -c settings.toml"):
        assert f"wsipipe {line}" in page
    assert f"wsipipe train -c settings.toml --name er --features {VECTORS}" in page
    assert settings["encode"] == {"encoder": "mean"}
    assert settings["extract"]["backbone"] == "efficientnet-lite0", "whose features the vectors were made of"
    assert facts["recipe"]["slide_encoder"] == "mean"
    assert facts["recipe"]["encode"] == {"encoder": "mean", "weights_backbone": None}
    history = facts["training"]["history"]
    assert [epoch["figures"]["C"] for epoch in history] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
    assert (mine.model / "report.html").is_file()
    assert json.loads((mine.model / "applicability.json").read_text())
    bytes_before = [(mine.model / f"fold-{fold}/model.safetensors").read_bytes() for fold in (0, 1)]
    shutil.rmtree(mine.model)
    told("train", "-c", mine.settings, *flags)
    assert [(mine.model / f"fold-{fold}/model.safetensors").read_bytes() for fold in (0, 1)] == bytes_before


def test_the_probe_is_mean_pooling_on_the_tiles(mine: Planted) -> None:
    """The mean of the tiles as a vector, or as the network's first step: the same model and the same predictions."""
    common = ["--label-column", "er"]
    told("train", "-c", mine.settings, "--name", "p", "--features", VECTORS, "--method", "linear", *common)
    told("train", "-c", mine.settings, "--name", "m", "--method", "mean", *common)
    tables = [(mine.workspace / f"models/{name}/oof_predictions.csv").read_text().splitlines() for name in ("p", "m")]
    for own, other in zip(*tables, strict=True):
        cells = list(zip(own.split(","), other.split(","), strict=True))
        assert cells[0][0] == cells[0][1]
    logits = [[float(line.split(",")[4]) for line in table[1:]] for table in tables]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-3)  # the solver's tolerance, and float32 of the vectors


def test_methods_and_features_that_do_not_go_together(mine: Planted) -> None:
    common = ["--name", "x", "--label-column", "er"]
    result = wsipipe("train", "-c", mine.settings, *common, "--features", VECTORS, "--method", "abmil")
    assert result.exit_code == 2
    assert "abmil reads tiles" in said(result)
    assert "--method linear" in said(result)
    result = wsipipe("train", "-c", mine.settings, *common, "--method", "linear")
    assert result.exit_code == 2
    assert "linear reads slide vectors" in said(result)
    result = wsipipe("encode", "-c", mine.settings, "--features", VECTORS)
    assert result.exit_code == 2
    assert "holds slide vectors already" in said(result)


def test_a_model_of_vectors_predicts_from_vectors_and_refuses_tiles(mine: Planted) -> None:
    flags = ["--name", "er", "--label-column", "er", "--features", VECTORS, "--method", "linear"]
    told("train", "-c", mine.settings, *flags)
    new = plant(mine.folder.parent / "new", make_patients(6, seed=5), epochs=1)
    told("encode", "-c", new.settings)
    call = ["predict", "-c", new.settings, "--model", mine.model]
    told(*call, "--features", VECTORS)
    slides = sorted((new.workspace / "predictions/er/slides").glob("*.json"))
    output = json.loads(slides[0].read_text())
    assert output["tiles"] == len(read_bag(new.store(slides[0].stem)).features)
    assert "one vector of the whole slide" in output["remarks"]
    assert "concentration" not in output
    page = (new.workspace / "predictions/er/report.html").read_text()
    assert "slide encoder" in page
    assert not list((new.workspace / "predictions/er").glob("heatmaps/*"))
    refused = wsipipe(*call, "--features", "0.5mpp-224px/efficientnet-lite0", "--name", "tiles")
    assert refused.exit_code == 1
    assert "slide encoder is none (one vector a tile), not mean" in said(refused)
    result = told("evaluate", "-c", new.settings, "--model", mine.model, "--training-patients")
    assert result["external_evaluate"]["done"] == 1


def test_a_model_of_tiles_refuses_vectors(tmp_path_factory: pytest.TempPathFactory, mine: Planted) -> None:
    tiles = trained_workspace(tmp_path_factory.getbasetemp()).model
    refused = wsipipe("evaluate", "-c", mine.settings, "--model", tiles, "--features", VECTORS, "--training-patients")
    assert refused.exit_code == 1
    assert "slide encoder is mean, not none" in said(refused)


def test_slides_without_vectors_are_counted(mine: Planted) -> None:
    write_slide(mine, "S01a", np.ones((7, WIDTH), np.float32))
    flags = ["--name", "x", "--label-column", "er", "--features", VECTORS, "--method", "linear"]
    told("train", "-c", mine.settings, *flags)
    table = (mine.workspace / "models/x/patients.csv").read_text()
    assert "output of encode stale" in table
    facts = read_facts(vectors(mine) / "S02a.zarr")
    assert facts.slide_encoder == "mean"


def test_another_file_of_weights_replaces_vectors_only_if_asked(mine: Planted, tmp_path: Path) -> None:
    file = feather(tmp_path / "feather.safetensors", WIDTH)
    call = ["encode", "-c", mine.settings, "--encoder", "abmil", "--weights", file]
    result = wsipipe(*call)
    assert result.exit_code == 2
    assert "does not say on which backbone's features" in said(result)
    call += ["--weights-backbone", "efficientnet-lite0"]
    told(*call)
    store = vectors(mine, "0.5mpp-224px/abmil-of-efficientnet-lite0") / "S01a.zarr"
    first = read_bag(store)
    assert first.features.shape == (1, HIDDEN)
    assert first.facts.encoding is not None
    assert first.facts.encoding.weights_digest == digest_of_weights(file)
    feather(file, WIDTH, seed=1)
    result = wsipipe(*call)
    assert result.exit_code == 2
    assert "--replace" in result.output
    assert read_bag(store).features.tolist() == first.features.tolist()
    told(*call, "--replace")
    assert read_bag(store).features.tolist() != first.features.tolist()


def test_weights_of_another_backbone_fail_each_slide_by_name(mine: Planted, tmp_path: Path) -> None:
    file = feather(tmp_path / "feather.safetensors", WIDTH)
    flags = ["--encoder", "abmil", "--weights", file, "--weights-backbone", "uni2-h"]
    result = wsipipe("encode", "-c", mine.settings, *flags)
    assert result.exit_code == 1
    assert "abmil reads features of uni2-h, and these are of efficientnet-lite0" in said(result)
    result = wsipipe("encode", "-c", mine.settings, "--encoder", "titan")
    assert result.exit_code == 2
    assert "titan cannot be run here" in said(result)


def test_a_model_of_ours_encodes_the_slides_that_it_was_not_trained_on(mine: Planted) -> None:
    """A vector by weights that learned the slide's own label would tell it to whatever reads the vector."""
    flags = ["--name", "own", "--label-column", "er", "--method", "abmil", "--epochs", 1]
    told("train", "-c", mine.settings, *flags)
    fold = mine.workspace / "models/own/fold-0"
    call = ["encode", "-c", mine.settings, "--encoder", "abmil", "--weights"]
    done = told(*call, fold, code=1)["encode"]
    with (mine.workspace / "models/own/oof_predictions.csv").open() as stream:
        tested = {row["patient_id"] for row in csv.DictReader(stream) if row["fold"] == "0"}
    free = {slide for patient in mine.patients if patient.id in tested for slide in patient.slides}
    made = {store.stem for store in vectors(mine, "0.5mpp-224px/abmil-of-efficientnet-lite0").glob("*.zarr")}
    assert made == free
    assert done["done"] == len(free)
    assert len(done["failures"]) == sum(len(patient.slides) for patient in mine.patients) - len(free)
    assert "trained this encoder" in json.dumps(done["failures"])
    network = load_file(fold / "model.safetensors")
    slide = min(free)
    x = torch.from_numpy(read_bag(mine.store(slide)).features).float()
    h = (x @ network["embedding.0.weight"].T + network["embedding.0.bias"]).relu()
    v, u = ((h @ network[f"attention.{n}.weight"].T + network[f"attention.{n}.bias"]) for n in "VU")
    e = (v.tanh() * u.sigmoid()) @ network["attention.w.weight"].T + network["attention.w.bias"]
    vector = read_bag(vectors(mine, "0.5mpp-224px/abmil-of-efficientnet-lite0") / f"{slide}.zarr").features[0]
    np.testing.assert_allclose(vector, (e.softmax(dim=0) * h).sum(dim=0).numpy(), atol=1e-5)


def test_a_comparison_holds_the_probe_against_methods_on_tiles(mine: Planted) -> None:
    """The same splits and patients, the tiles' features for some and slide vectors for others."""
    name = "linear@mean-of-efficientnet-lite0"
    call = ["compare", "-c", mine.settings, "--name", "er", "--epochs", 1, "--methods"]
    told(*call, f"mean,{name}")
    folder = mine.workspace / "comparisons/er"
    with (folder / "comparison.csv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["momkd", "mean", name]
    assert rows[name]["title"] == "Linear probe on mean-of-efficientnet-lite0"
    assert float(rows[name]["auc"]) == pytest.approx(float(rows["mean"]["auc"]), abs=0.01)
    assert bundle_facts(folder / name)["recipe"]["slide_encoder"] == "mean"
    assert "Linear probe on mean-of-efficientnet-lite0" in (folder / "comparison.html").read_text()
    again = told(*call, f"mean,{name}")
    assert again["train"]["done"] == 0
    for wrong, message in (
        ("linear", "linear reads slide vectors, and these are features of tiles"),
        ("linear@titan-of-conch-v1.5", "no features are called 0.5mpp-224px/titan-of-conch-v1.5"),
        ("abmil@mean-of-efficientnet-lite0", "cannot be compared"),
    ):
        result = wsipipe(*call, wrong)
        assert result.exit_code == 2
        assert message in said(result)


def test_a_comparison_on_slide_vectors_has_the_probe_as_its_reference(mine: Planted) -> None:
    result = wsipipe("compare", "-c", mine.settings, "--name", "er", "--features", VECTORS)
    assert result.exit_code == 0, result.output
    with (mine.workspace / "comparisons/er/comparison.csv").open() as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["linear", "linear+soft", "omics"]
    assert rows["linear"]["reference"] == "1"
    assert "against linear" in said(result)


def test_the_cohort_as_anndata_with_labels_and_predictions(mine: Planted) -> None:
    flags = ["--name", "er", "--label-column", "er", "--features", VECTORS, "--method", "linear"]
    told("train", "-c", mine.settings, *flags)
    call = ["export", "anndata", "-c", mine.settings, "--features", VECTORS]
    told(*call, "--model", "er")
    path = mine.workspace / "exports/anndata" / VECTORS / "slides.h5ad"
    data = anndata.read_h5ad(path)
    assert data.shape == (sum(len(patient.slides) for patient in mine.patients), WIDTH)
    by_patient = {patient.id: patient for patient in mine.patients}
    for slide, row in zip(data.obs_names, data.X, strict=True):
        assert row.tobytes() == read_bag(vectors(mine) / f"{slide}.zarr").features.tobytes()
        patient = by_patient[data.obs.loc[slide, "patient_id"]]
        assert slide in patient.slides
        assert data.obs.loc[slide, "er"] == patient.label
        assert data.obs.loc[slide, "tiles"] == len(patient.slides[slide])
    with (mine.model / "oof_predictions.csv").open() as stream:
        said_of = {row["patient_id"]: row for row in csv.DictReader(stream)}
    for _, row in data.obs.iterrows():
        assert row["er: probability"] == pytest.approx(float(said_of[row["patient_id"]]["probability"]))
        assert row["er: fold"] == int(said_of[row["patient_id"]]["fold"])
    assert data.uns["wsipipe"]["encoder"] == "mean"
    assert data.uns["wsipipe"]["backbone"] == "efficientnet-lite0"
    before = path.read_bytes()
    assert told(*call, "--model", "er")["export"]["done"] == 0
    path.unlink()
    told(*call, "--model", "er")
    assert path.read_bytes() == before
    refused = wsipipe("export", "trident", "-c", mine.settings, "--features", VECTORS)
    assert refused.exit_code == 2
    assert "one vector a slide" in said(refused)
    refused = wsipipe(*call, "--model", "other")
    assert refused.exit_code == 2
    assert "has no predictions" in said(refused)
