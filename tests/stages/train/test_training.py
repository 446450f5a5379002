"""Training as a user runs it, on a planted workspace: every method, what its bundles say, whom they were taught by."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import wsipipe
from PIL import Image
from planted_workspace import Planted, digest_of_slide, make_patients, write_slide
from safetensors.torch import load_file
from scipy.special import expit
from trained_workspace import bundle_facts, same_weights, trained_workspace
from wsipipe.data.cohort.splits import read_splits
from wsipipe.data.features.store import read_bag
from wsipipe.data.manifest import Manifest
from wsipipe.models.bundle import read_bundle, read_facts
from wsipipe.models.evaluation.metrics import youden_threshold
from wsipipe.models.tasks.prediction import threshold_at
from wsipipe.models.training.methods import METHODS, OF_TILES
from wsipipe.stages.predict.reading import SlideOutput
from wsipipe.stages.predict.settings import PredictSettings
from wsipipe.stages.predict.stage import PredictionTask, PredictStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return trained_workspace(tmp_path_factory.getbasetemp())


@pytest.fixture
def mine(trained: Planted, tmp_path: Path) -> Planted:
    return trained.copied(tmp_path / "planted")


def fold_aucs(folder: Path) -> list[float]:
    return [fold["auc"]["value"] for fold in json.loads((folder / "metrics.json").read_text())["folds"]]


@pytest.mark.parametrize("method", OF_TILES)
def test_a_method_learns_and_its_bundles_read_as_the_evaluation_did(trained: Planted, method: str) -> None:
    folder = trained.workspace / "models" / method
    summary = trained.runner().run(trained.trainer(folder, method=method, epochs=5))
    assert (summary.done, summary.failures) == (2, ())
    rows = trained.evaluation(folder)
    splits = read_splits(trained.model / "splits.csv")
    assert {row.patient_id: row.fold for row in rows} == {p: splits.test_fold(p) for p in splits.labels}
    bundles = [read_bundle(folder / f"fold-{fold}", CPU) for fold in (0, 1)]
    assert {bundle.facts.method for bundle in bundles} == {method}
    stores_of = {patient.id: [trained.store(slide) for slide in patient.slides] for patient in trained.patients}
    for row in rows:
        stores = stores_of[row.patient_id]
        readings = [bundles[row.fold].read(read_bag(store), store) for store in stores]
        assert row.logit == pytest.approx(np.mean([reading.logit for reading in readings]), abs=1e-9)
        assert [reading.attention.sum() for reading in readings] == pytest.approx([1] * len(stores), abs=1e-5)
        assert (row.call, row.slides) == (row.probability >= row.threshold, len(stores))
        assert row.threshold == threshold_at(bundles[row.fold].facts.threshold, row.prevalence)
    assert np.mean(fold_aucs(folder)) > 0.8
    for bundle in bundles:  # the threshold is that of the validation patients
        own = splits.patients(bundle.facts.fold, "validation")
        logits = [np.mean([bundle.read(read_bag(store), store).logit for store in stores_of[p]]) for p in own]
        threshold = youden_threshold([splits.labels[p] for p in own], expit(logits))
        assert threshold is not None
        assert bundle.facts.threshold == pytest.approx(threshold, abs=1e-6)


def test_a_method_by_its_name_on_the_command_line_is_the_same_model(trained: Planted, mine: Planted) -> None:
    result = wsipipe(
        "train", "-c", mine.settings, "--name", "other", "--label-column", "er", "--method", "abmil", "--json"
    )
    assert result.exit_code == 0, result.output
    other = mine.workspace / "models/other"
    assert json.loads(result.stdout)["models"]["other"]["auc"] == pytest.approx(
        json.loads((other / "metrics.json").read_text())["pooled"]["auc"]["value"]
    )
    assert (other / "splits.csv").read_bytes() == (mine.model / "splits.csv").read_bytes()
    stage = mine.trainer(mine.workspace / "models/direct", method="abmil")
    mine.runner().run(stage)
    for fold in (0, 1):
        assert same_weights(other / f"fold-{fold}", stage.folder / f"fold-{fold}")
    assert "abmil" in (other / "report.html").read_text()
    unknown = wsipipe("train", "-c", mine.settings, "--method", "abmli")
    assert unknown.exit_code == 2
    assert all(method in unknown.output for method in METHODS)


def test_prediction_reads_with_the_bundles_of_a_baseline(mine: Planted) -> None:
    folder = mine.workspace / "models/baseline"
    mine.runner().run(mine.trainer(folder, method="abmil"))
    rows = {row.patient_id: row for row in mine.evaluation(folder)}
    seen, stranger = next(p for p in mine.patients if len(p.slides) == 2), make_patients(1, seed=9)[0]
    new = "new"
    write_slide(mine, new, next(iter(stranger.slides.values())))
    slides = {**dict.fromkeys(seen.slides, seen.id), new: "nobody"}
    for slide, bag in seen.slides.items():
        write_slide(mine, slide, bag)  # the record names its file, and the copy has its own
    for slide in slides:
        mine.picture(slide).parent.mkdir(exist_ok=True)
        Image.new("RGB", (1120, 1120), (200, 120, 160)).save(mine.picture(slide))
    tiles = mine.workspace / "tiles" / mine.store(new).parents[1].name
    task = PredictionTask(model=folder, tiles=tiles, features=mine.store(new).parent, slides=slides)
    stage = PredictStage(PredictSettings(device="cpu"), mine.workspace / "predictions/baseline", mine.workspace, task)
    summary = mine.runner().run(stage)
    assert (summary.done, summary.failures) == (3, ())
    said = {s: SlideOutput.model_validate_json((stage.folder / f"slides/{s}.json").read_bytes()) for s in slides}
    row = rows[seen.id]  # only the fold that had never seen the patient speaks, and says the same
    assert {tuple(said[slide].logits) for slide in seen.slides} == {(row.fold,)}
    assert np.mean([said[slide].logits[row.fold] for slide in seen.slides]) == pytest.approx(row.logit, abs=1e-9)
    for fold in (0, 1):
        reading = read_bundle(folder / f"fold-{fold}", CPU).read(read_bag(mine.store(new)), mine.store(new))
        assert said[new].logits[fold] == pytest.approx(reading.logit, abs=1e-9)


def test_several_bags_a_step_and_mixed_precision(mine: Planted) -> None:
    arguments = ["train", "-c", mine.settings, "--name", "fast", "--label-column", "er", "--epochs", "8"]
    assert wsipipe(*arguments, "--bags-per-step", "4", "--precision", "bf16").exit_code == 0
    fast = mine.workspace / "models/fast"
    settings = bundle_facts(fast)["training"]["settings"]
    assert (settings["bags_per_step"], settings["precision"]) == (4, "bf16")
    assert np.mean(fold_aucs(fast)) > 0.8
    tensors = load_file(fast / "fold-0/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float32}
    assert wsipipe(*arguments, "--bags-per-step", "4", "--replace").exit_code == 0
    full = load_file(fast / "fold-0/model.safetensors")
    assert any(not torch.equal(tensors[name], full[name]) for name in full)


@pytest.mark.parametrize("fold", [0, 1])
def test_a_bundle_knows_whom_it_was_made_from_and_nobody_else(trained: Planted, fold: int) -> None:
    facts = read_facts(trained.model / f"fold-{fold}")
    tested = read_splits(trained.model / "splits.csv").patients(fold, "test")
    for patient in trained.patients:
        known = patient.id not in tested
        assert facts.saw(patient.id, None) is known
        assert {facts.saw(None, digest_of_slide(slide)) for slide in patient.slides} == {known}
        assert {facts.saw(None, None, slide) for slide in patient.slides} == {known}


def test_patients_without_rna_train_the_histology_side_and_are_counted(trained: Planted) -> None:
    without = {patient.id for patient in trained.patients if patient.rna is None}
    splits = read_splits(trained.model / "splits.csv")
    for fold in (0, 1):
        own = set(splits.patients(fold, "train"))
        stats = Manifest.of(trained.model).latest("train")[f"fold-{fold}"].stats
        assert (stats["train_patients"], stats["train_patients_with_rna"]) == (len(own), len(own - without))
        assert bundle_facts(trained.model, fold)["training"]["patients_with_rna"] == len(own - without)
        assert bundle_facts(trained.model, fold)["patients"]["train"] == len(own)
    assert without & set(splits.patients(0, "train")), "the cohort has none to tell"
    with (trained.model / "patients.csv").open() as stream:
        assert {row["patient_id"] for row in csv.DictReader(stream) if row["rna"] == "no"} == without
