"""Training as a user runs it, on a planted workspace: every method, soft targets, nested settings, odd cohorts."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import told, wsipipe
from PIL import Image
from planted_workspace import GENES, TELLING, WIDTH, Patient, Planted, make_patients, plant, write_rna, write_slide
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from wsipipe.data.expression import read_expression
from wsipipe.data.features import read_bag
from wsipipe.data.manifest import Manifest
from wsipipe.data.splits import Splits, read_splits, write_splits
from wsipipe.models.bag_tensors import BagTensors, bag_tensors
from wsipipe.models.bundle import read_bundle
from wsipipe.models.methods import METHODS
from wsipipe.models.rna_teacher import RnaTeacher, SoftTargets, measured
from wsipipe.stages.evaluate import EvaluateSettings, EvaluateStage, OutOfFold, read_oof
from wsipipe.stages.fold import FoldCohort
from wsipipe.stages.fold_training import FoldTask, train_fold
from wsipipe.stages.predict import PredictionTask, PredictStage, SlideOutput
from wsipipe.stages.settings import PredictSettings, TrainSettings
from wsipipe.stages.stage import Plan
from wsipipe.stages.teaching import Teaching
from wsipipe.stages.train import TrainStage

CPU = torch.device("cpu")
WITHOUT_RNA = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Teachers that are fitted here by hand, as those of training."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A workspace in which MoMKD is trained. Tests that change anything copy it."""
    planted = plant(tmp_path_factory.mktemp("planted"), make_patients(without_rna=WITHOUT_RNA))
    assert wsipipe("train", "-c", planted.settings).exit_code == 0
    return planted


@pytest.fixture
def mine(trained: Planted, tmp_path: Path) -> Planted:
    """A copy to play with."""
    return replace(trained, folder=Path(shutil.copytree(trained.folder, tmp_path / "planted")))


def facts(folder: Path, fold: int = 0) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"fold-{fold}/bundle.json").read_text())
    return content


def files(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bundle.iterdir())}


def evaluate(planted: Planted, folder: Path) -> list[OutOfFold]:
    features = planted.store("S").parent
    stage = EvaluateStage(
        EvaluateSettings(device="cpu", bootstrap_rounds=10),
        folder,
        planted.workspace,
        features=features,
        splits=planted.model,
    )
    assert not planted.runner().run(stage).failures
    return read_oof(folder / "oof_predictions.csv")


def fold_aucs(folder: Path) -> list[float]:
    return [fold["auc"]["value"] for fold in json.loads((folder / "metrics.json").read_text())["folds"]]


# Every method


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_and_its_bundles_read_as_the_evaluation_did(trained: Planted, method: str) -> None:
    folder = trained.workspace / "models" / method
    summary = trained.runner().run(trained.trainer(folder, method=method, epochs=5))
    assert (summary.done, summary.failures) == (2, ())
    rows = evaluate(trained, folder)
    splits = read_splits(trained.model / "splits.csv")
    assert {row.patient_id: row.fold for row in rows} == {p: splits.test_fold(p) for p in splits.labels}
    bundles = [read_bundle(folder / f"fold-{fold}", CPU) for fold in (0, 1)]
    assert {bundle.facts.method for bundle in bundles} == {method}
    slides = {patient.id: list(patient.slides) for patient in trained.patients}
    for row in rows:
        stores = [trained.store(slide) for slide in slides[row.patient_id]]
        readings = [bundles[row.fold].read(read_bag(store), store) for store in stores]
        assert row.logit == pytest.approx(np.mean([reading.logit for reading in readings]), abs=1e-9)
        assert [reading.attention.sum() for reading in readings] == pytest.approx([1] * len(stores), abs=1e-5)
        assert (row.call, row.slides) == (row.probability >= bundles[row.fold].facts.threshold, len(stores))
    assert np.mean(fold_aucs(folder)) > 0.8


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
        assert load_equal(other / f"fold-{fold}", stage.folder / f"fold-{fold}")
    assert "abmil" in (other / "report.html").read_text()
    unknown = wsipipe("train", "-c", mine.settings, "--method", "abmli")
    assert unknown.exit_code == 2
    assert all(method in unknown.output for method in METHODS)


def load_equal(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_prediction_reads_with_the_bundles_of_a_baseline(mine: Planted) -> None:
    folder = mine.workspace / "models/baseline"
    mine.runner().run(mine.trainer(folder, method="abmil"))
    rows = {row.patient_id: row for row in evaluate(mine, folder)}
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
    settings = facts(fast)["training"]["settings"]
    assert (settings["bags_per_step"], settings["precision"]) == (4, "bf16")
    assert np.mean(fold_aucs(fast)) > 0.8
    tensors = load_file(fast / "fold-0/model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float32}
    assert wsipipe(*arguments, "--bags-per-step", "4", "--replace").exit_code == 0
    full = load_file(fast / "fold-0/model.safetensors")
    assert any(not torch.equal(tensors[name], full[name]) for name in full)


def test_patients_without_rna_train_the_histology_side_and_are_counted(trained: Planted) -> None:
    without = {patient.id for patient in trained.patients if patient.rna is None}
    splits = read_splits(trained.model / "splits.csv")
    for fold in (0, 1):
        own = set(splits.patients(fold, "train"))
        stats = Manifest.of(trained.model).latest("train")[f"fold-{fold}"].stats
        assert (stats["train_patients"], stats["train_patients_with_rna"]) == (len(own), len(own - without))
        assert facts(trained.model, fold)["training"]["patients_with_rna"] == len(own - without)
        assert facts(trained.model, fold)["patients"]["train"] == len(own)
    assert without & set(splits.patients(0, "train")), "the cohort has none to tell"
    with (trained.model / "patients.csv").open() as stream:
        assert {row["patient_id"] for row in csv.DictReader(stream) if row["rna"] == "no"} == without


# Leakage: what a fold is tested on may be anything


class FirstFold(TrainStage):
    """Trains fold 0 alone."""

    def plan(self) -> Plan:
        plan = super().plan()
        return replace(plan, items=plan.items[:1])


class LeakyFold(FirstFold):
    """The fault that the tests are to catch: the epoch is chosen on the patients of the test."""

    def plan(self) -> Plan:
        plan = super().plan()
        [item] = plan.items
        cohort: FoldCohort = item.payload
        splits = read_splits(self.splits / "splits.csv")
        slides = {p: ids for p, ids in _slides_of(self.splits).items() if p in splits.patients(0, "test")}
        tested = {p: (splits.labels[p], ids) for p, ids in slides.items()}
        stores = {s: (self.features / f"{s}.zarr", "") for ids in slides.values() for s in ids}
        leaky = replace(cohort, validation={**cohort.validation, **tested}, slides={**cohort.slides, **stores})
        return replace(plan, items=[replace(item, payload=leaky)])


def _slides_of(folder: Path) -> dict[str, tuple[str, ...]]:
    with (folder / "patients.csv").open() as stream:
        return {row["patient_id"]: tuple(row["slides"].split(";")) for row in csv.DictReader(stream)}


def altered(planted: Planted, folder: Path, patients: Sequence[str], what: str) -> Planted:
    """A copy in which these patients have other tiles, other RNA, or the other label; the roles stay."""
    copy = replace(planted, folder=Path(shutil.copytree(planted.folder, folder)))
    draw = np.random.default_rng(1)
    if "features" in what:
        for patient in planted.patients:
            for slide, bag in patient.slides.items() if patient.id in patients else ():
                write_slide(copy, slide, (bag + draw.normal(3, 2, bag.shape)).astype(np.float32))
    if "rna" in what:
        rows = [
            replace(p, rna=(p.rna[::-1] * 2).astype(np.float32)) if p.id in patients and p.rna is not None else p
            for p in planted.patients
        ]
        write_rna(copy, rows)
    if "label" in what:
        # In place and of the same length: its record, and with it the digest that the bundle tells, stay.
        splits = read_splits(copy.model / "splits.csv")
        labels = {p: 1 - label if p in patients else label for p, label in splits.labels.items()}
        write_splits(copy.model / "splits.csv", Splits(labels, splits.roles))
    return copy


def first_fold(planted: Planted, name: str, kind: type[TrainStage] = FirstFold, **settings: object) -> dict[str, bytes]:
    """The bytes of fold 0, trained in a folder of this name."""
    stage = planted.trainer(planted.workspace / "leakage" / name, kind=kind, **{"epochs": 2, **settings})
    summary = planted.runner().run(stage)
    assert (summary.done, summary.failures) == (1, ())
    return files(stage.folder / "fold-0")


LEARNERS: dict[str, dict[str, object]] = {
    "momkd": {},
    "momkd, momentum, several bags": {"memory": "momentum", "bags_per_step": 4},
    "soft targets": {"soft_targets": True},
    "abmil": {"method": "abmil"},
    "abmil, soft targets": {"method": "abmil", "soft_targets": True, "use_rna": False},
    "mean": {"method": "mean"},
    "nested": {"method": "matching", "nested": ["genes=4,8"], "epochs": 1},
}


@pytest.fixture(scope="module")
def cohorts(trained: Planted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Planted]:
    """The workspace as it is, with all patients of fold 0's test altered, and with one of its training altered."""
    splits = read_splits(trained.model / "splits.csv")
    test, train = splits.patients(0, "test"), splits.patients(0, "train")
    without = next(p.id for p in trained.patients if p.id in train and p.rna is None)
    measured = next(p.id for p in trained.patients if p.id in train and p.rna is not None)
    wanted = {
        "as it is": ([], ""),
        "test": (test, "features, rna, label"),
        "features": ([without], "features"),
        "label": ([without], "label"),
        "rna": ([measured], "rna"),
    }
    place = tmp_path_factory.mktemp("cohorts")
    return {name: altered(trained, place / name, *of) for name, of in wanted.items()}


@pytest.mark.parametrize("learner", LEARNERS)
def test_no_byte_of_a_bundle_knows_the_patients_of_its_test(cohorts: dict[str, Planted], learner: str) -> None:
    bundles = {name: first_fold(planted, learner, **LEARNERS[learner]) for name, planted in cohorts.items()}
    as_it_is = bundles.pop("as it is")
    assert bundles.pop("test") == as_it_is
    # The same changes to one patient of the training do show; one without RNA teaches by features and label too.
    learns_from_rna = learner not in ("abmil", "mean")
    for what, bundle in bundles.items():
        changed = bundle["model.safetensors"] != as_it_is["model.safetensors"]
        assert changed is (learns_from_rna or what != "rna"), what


def test_a_leak_would_be_seen(cohorts: dict[str, Planted]) -> None:
    as_it_is, other = (first_fold(cohorts[name], "leaky", LeakyFold, method="abmil") for name in ("as it is", "test"))
    assert other != as_it_is


# Soft targets


@pytest.fixture(scope="module")
def soft(trained: Planted) -> Path:
    """ABMIL with soft targets; RNA does not teach it otherwise."""
    folder = trained.workspace / "models/soft"
    settings = {"method": "abmil", "soft_targets": True, "use_rna": False, "epochs": 6, "patience": 6}
    assert not trained.runner().run(trained.trainer(folder, **settings)).failures
    return folder


def targets_of(planted: Planted, fold: int) -> SoftTargets:
    table = read_expression(planted.workspace / "genomics/expression.zarr")
    splits = read_splits(planted.model / "splits.csv")
    train = {p: splits.labels[p] for p in splits.patients(fold, "train")}
    return SoftTargets.fitted(table, train, splits.patients(fold, "validation"), n_genes=12, seed=fold)


@pytest.mark.parametrize("fold", [0, 1])
def test_soft_targets_choose_the_epoch_by_rank_and_are_accounted_for(trained: Planted, soft: Path, fold: int) -> None:
    training, targets = facts(soft, fold)["training"], targets_of(trained, fold)
    assert facts(soft, fold)["genes"] == []
    assert training["soft_targets"] == targets.description
    table = read_expression(trained.workspace / "genomics/expression.zarr")
    splits = read_splits(trained.model / "splits.csv")
    own = measured(table, splits.patients(fold, "train"))
    labels = [splits.labels[p] for p in own]
    out_of_fold = RnaTeacher(12, seed=fold).fit_out_of_fold(table.rows(own), table.genes, labels)
    assert training["soft_targets"]["out_of_fold_auc"] == pytest.approx(roc_auc_score(labels, out_of_fold))
    assert training["soft_targets"]["train_patients_with_rna"] == len(own)
    ranks = [(epoch["validation_rank"], -epoch["validation_loss"]) for epoch in training["history"]]
    assert training["best_epoch"] == max(range(len(ranks)), key=lambda epoch: (ranks[epoch], -epoch))
    assert len({rank for rank, _ in ranks}) > 1, "there was nothing to choose"
    # What the bundle says of its validation patients is in that order.
    bundle = read_bundle(soft / f"fold-{fold}", CPU)
    slides = {p.id: [trained.store(slide) for slide in p.slides] for p in trained.patients}
    asked = {p: target for p, target in targets.validation.items() if target is not None}
    logits = [np.mean([bundle.read(read_bag(store), store).logit for store in slides[p]]) for p in asked]
    assert spearmanr(logits, list(asked.values())).statistic == pytest.approx(ranks[training["best_epoch"]][0])


def test_soft_targets_without_rna_are_refused(tmp_path: Path) -> None:
    planted = plant(tmp_path, [replace(patient, rna=None) for patient in make_patients(24)])
    for flag in ("--soft-targets", "--shuffle-rna"):
        refused = wsipipe("train", "-c", planted.settings, flag)
        assert refused.exit_code != 0
        assert f"{flag} needs RNA" in refused.output
        assert "wsipipe genomics" in refused.output
        assert not (planted.model / "fold-0").exists()
    result = wsipipe("train", "-c", planted.settings)
    assert result.exit_code == 0
    assert "training on histology alone" in result.output


def test_too_little_rna_for_soft_targets_is_said(tmp_path: Path) -> None:
    patients = make_patients(24)
    few = [p if p.label == "negative" or p.id in ("P01", "P03") else replace(p, rna=None) for p in patients]
    planted = plant(tmp_path, few)
    refused = wsipipe("train", "-c", planted.settings, "--method", "abmil", "--soft-targets")
    assert refused.exit_code == 1
    assert "RNA" in refused.output
    assert "without soft targets" in refused.output


# Nested settings


def test_nested_settings_take_what_learns_and_say_so(mine: Planted) -> None:
    train = ["train", "-c", mine.settings, "--name", "nested", "--label-column", "er"]
    result = wsipipe(*train, "--nested", "learning_rate=1e-6,1e-2", "--method", "abmil")
    assert result.exit_code == 0, result.output
    folder = mine.workspace / "models/nested"
    for fold in (0, 1):
        training = facts(folder, fold)["training"]
        assert [candidate["learning_rate"] for candidate in training["choice"]] == [1e-6, 1e-2]
        slow, fast = (candidate["auc"] for candidate in training["choice"])
        assert fast > max(slow, 0.7)
        assert training["settings"]["learning_rate"] == 1e-2
        assert training["history"][0]["learning_rate"] == 1e-2
    assert not (folder / "partial").exists()
    plain = mine.trainer(mine.workspace / "models/plain", method="abmil", learning_rate=1e-2)
    mine.runner().run(plain)  # the chosen settings train as if they had been given
    assert load_equal(folder / "fold-0", plain.folder / "fold-0")


@pytest.mark.parametrize("wrong", ["rate=1", "epochs=1,2", "hidden", "hidden=", "hidden=7", "memory=gradient,none"])
def test_what_cannot_be_nested_is_a_usage_error(mine: Planted, wrong: str) -> None:
    result = wsipipe("train", "-c", mine.settings, "--nested", wrong)
    assert result.exit_code == 2
    assert wrong.partition("=")[0] in result.output
    names = {"hidden=7": ["multiple of 2"], "memory=gradient,none": ["momentum", "fixed"]}
    for name in names.get(wrong, ["learning_rate", "weight_decay", "slots", "gene_selection"]):
        assert name in result.output


class Watched(dict[str, BagTensors]):
    """Bags that remember which of them were asked for."""

    def __init__(self, bags: Mapping[str, BagTensors]) -> None:
        super().__init__(bags)
        self.read: set[str] = set()

    def __getitem__(self, slide: str) -> BagTensors:
        self.read.add(slide)
        return super().__getitem__(slide)


def test_inner_folds_hold_the_folds_own_patients_alone(trained: Planted, tmp_path: Path) -> None:
    splits = read_splits(trained.model / "splits.csv")
    slides = {patient.id: tuple(patient.slides) for patient in trained.patients}
    train, validation = (
        {p: (splits.labels[p], slides[p]) for p in splits.patients(0, role)} for role in ("train", "validation")
    )
    bags = Watched({s: bag_tensors(read_bag(trained.store(s)), 8) for ids in slides.values() for s in ids})
    cohort = FoldCohort(0, 2, "", train, validation, 0, {}, {}, {})
    teaching = Teaching(read_expression(trained.workspace / "genomics/expression.zarr"))
    told_of: list[str] = []
    task = FoldTask(cohort, bags, WIDTH, teaching, CPU, tmp_path, lambda what, _: told_of.append(what))
    settings = TrainSettings(method="abmil", hidden=16, epochs=1, nested=["weight_decay=0,1"])
    fitted = train_fold(task, settings)
    assert bags.read == {slide for p in (*train, *validation) for slide in slides[p]}
    assert len(told_of) == len(set(told_of)) == 2 * 3 + 1
    assert [patient.patient_id for patient in fitted.train] == list(train)


# Side by side, and killed


def test_folds_side_by_side_are_the_same_folds(trained: Planted, mine: Planted) -> None:
    shutil.rmtree(mine.model / "fold-0")
    shutil.rmtree(mine.model / "fold-1")
    done = told("train", "-c", mine.settings, "--device", "cpu,cpu")
    assert done["train"]["done"] == 2
    assert done["evaluate"]["before"] == 1
    for fold in ("fold-0", "fold-1"):
        assert files(mine.model / fold) == files(trained.model / fold)


def events(folder: Path) -> dict[str, list[int]]:
    """Curve → its steps, in the order in which they were written."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [event.step for event in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}


def killed_in_training(arguments: Sequence[object], model: Path) -> None:
    """Start it and kill it without warning when the first fold has a few epochs."""
    command = [sys.executable, "-c", "from wsipipe.pipeline.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not any(model.glob("partial/*/state.pt")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)


def test_killed_in_training_it_comes_to_the_same(mine: Planted) -> None:
    shutil.rmtree(mine.model)
    train = [
        "train",
        "-c",
        mine.settings,
        "--soft-targets",
        "--bags-per-step",
        "4",
        "--epochs",
        "12",
        "--patience",
        "12",
    ]
    curves = ["--tensorboard"] if _has_tensorboard() else []
    killed_in_training([*train, *curves], mine.model)
    assert list(mine.model.glob("partial/*/state.pt"))
    assert not (mine.model / "fold-0").exists()
    assert wsipipe(*train, *curves).exit_code == 0
    assert not (mine.model / "partial").exists()
    after = {fold: files(mine.model / fold) for fold in ("fold-0", "fold-1")}
    undisturbed = mine.trainer(
        mine.workspace / "models/undisturbed", soft_targets=True, bags_per_step=4, epochs=12, patience=12
    )
    mine.runner().run(undisturbed)
    assert {fold: files(undisturbed.folder / fold) for fold in after} == after
    for fold in after if curves else ():
        drawn = events(mine.model / "tensorboard" / fold)
        epochs = list(range(len(facts(mine.model, int(fold[-1]))["training"]["history"])))
        assert drawn["validation/auc"] == drawn["validation/rank correlation"] == drawn["loss/total"] == epochs
        assert len(list((mine.model / "tensorboard" / fold).iterdir())) == 1


def _has_tensorboard() -> bool:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


# Odd cohorts


def odd_patients() -> list[Patient]:
    """A slide of one tile, a patient with ten slides, a gene that never varies, one that is zero for most, NaN."""
    patients = make_patients(28)
    draw = np.random.default_rng(3)
    one_tile = replace(patients[1], slides={"one": draw.normal(0, 1, (1, WIDTH)).astype(np.float32)})
    another = replace(patients[4], slides={"two": draw.normal(0, 1, (1, WIDTH)).astype(np.float32)})
    ten = {f"ten{n}": draw.normal(0, 1, (5, WIDTH)).astype(np.float32) for n in range(10)}
    odd = [another if p is patients[4] else one_tile if p is patients[1] else p for p in patients]
    odd[2] = replace(odd[2], slides=ten)
    for n, patient in enumerate(odd):
        assert patient.rna is not None
        rna = patient.rna.copy()
        rna[TELLING] = 7.25
        rna[TELLING + 1] = 9.0 if n == 0 else 0.0
        rna[n % GENES] = np.nan
        rna[TELLING + 2] = np.nan if n % 2 else rna[TELLING + 2]
        odd[n] = replace(patient, rna=rna)
    return odd


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = plant(tmp_path_factory.mktemp("odd"), odd_patients())
    result = wsipipe("train", "-c", planted.settings, "--soft-targets", "--epochs", "2")
    assert result.exit_code == 0, result.output
    return planted


def test_an_odd_cohort_trains_and_everyone_is_tested(odd: Planted) -> None:
    rows = {row.patient_id: row for row in read_oof(odd.model / "oof_predictions.csv")}
    assert sorted(rows) == [patient.id for patient in odd.patients]
    assert rows["P02"].slides == 10
    assert all(np.isfinite(row.logit) for row in rows.values())
    for fold in (0, 1):
        assert 0 < len(facts(odd.model, fold)["genes"]) <= 12
        assert f"GENE{TELLING:02d}" not in facts(odd.model, fold)["genes"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bags", [1, 4])
def test_every_method_bears_an_odd_cohort(odd: Planted, method: str, bags: int) -> None:
    folder = odd.workspace / f"models/{method}-{bags}"
    summary = odd.runner().run(odd.trainer(folder, method=method, epochs=1, bags_per_step=bags))
    assert (summary.done, summary.failures) == (2, ())


def test_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    planted = plant(tmp_path, [replace(p, label="negative") for p in make_patients(12)])
    refused = wsipipe("train", "-c", planted.settings)
    assert refused.exit_code == 1
    assert "no row of column er is positive" in refused.output
    assert "--positive" in refused.output


def test_a_class_too_small_for_the_folds_is_refused(tmp_path: Path) -> None:
    patients = [replace(p, label="negative") if n > 6 else p for n, p in enumerate(make_patients(20))]
    planted = plant(tmp_path, patients)
    refused = wsipipe("train", "-c", planted.settings, "--folds", "5")
    assert refused.exit_code == 1
    assert "3 positive and 17 negative patients cannot fill 5 folds" in refused.output
    assert "at most 3 folds" in refused.output
    assert wsipipe("train", "-c", planted.settings, "--folds", "3", "--epochs", "1").exit_code == 0


def test_a_fold_too_small_for_inner_folds_is_refused(tmp_path: Path) -> None:
    patients = [replace(p, label="negative") if n > 8 else p for n, p in enumerate(make_patients(20))]
    planted = plant(tmp_path, patients)
    refused = wsipipe("train", "-c", planted.settings, "--nested", "hidden=8,16", "--epochs", "1")
    assert refused.exit_code == 1
    assert "nested" in refused.output
