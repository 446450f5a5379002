"""What a fold chooses by itself, soft targets and nested settings, and from whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from command import wsipipe
from planted_workspace import WIDTH, Planted, make_patients, plant
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from trained_workspace import bundle_facts, same_weights, trained_workspace
from wsipipe.data.cohort.splits import make_splits, read_splits
from wsipipe.data.errors import CohortError
from wsipipe.data.features.store import read_bag
from wsipipe.data.molecular.store import read_expression
from wsipipe.models.bundle import read_bundle
from wsipipe.models.mil.bag_tensors import BagTensors, bag_tensors
from wsipipe.models.tasks.binary import BINARY
from wsipipe.models.training.fit import Epoch, patient_scores
from wsipipe.models.training.rna_teacher import RnaTeacher, SoftTargets, measured
from wsipipe.stages.stage import Silence
from wsipipe.stages.train.fold import FoldCohort, patients_of
from wsipipe.stages.train.fold_training import FoldData, Tell, _inner_folds, train_fold
from wsipipe.stages.train.molecular_data import MolecularData
from wsipipe.stages.train.settings import TrainSettings
from wsipipe.stages.train.stage import TrainStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Teachers that are fitted here by hand, as those of training."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return trained_workspace(tmp_path_factory.getbasetemp())


@pytest.fixture
def mine(trained: Planted, tmp_path: Path) -> Planted:
    return trained.copied(tmp_path / "planted")


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
    training, targets = bundle_facts(soft, fold)["training"], targets_of(trained, fold)
    assert bundle_facts(soft, fold)["genes"] == []
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
        training = bundle_facts(folder, fold)["training"]
        assert [candidate["learning_rate"] for candidate in training["choice"]] == [1e-6, 1e-2]
        slow, fast = (candidate["auc"] for candidate in training["choice"])
        assert fast > max(slow, 0.7)
        assert training["settings"]["learning_rate"] == 1e-2
        assert training["history"][0]["learning_rate"] == 1e-2
    assert not (folder / "partial").exists()
    plain = mine.trainer(mine.workspace / "models/plain", method="abmil", learning_rate=1e-2)
    mine.runner().run(plain)  # the chosen settings train as if they had been given
    assert same_weights(folder / "fold-0", plain.folder / "fold-0")


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


def first_fold(trained: Planted, partial: Path, tell: Tell = lambda what, epoch: None) -> tuple[FoldData, Watched]:
    """The training of fold 0, with the bags of everyone in reach."""
    splits = read_splits(trained.model / "splits.csv")
    slides = {patient.id: tuple(patient.slides) for patient in trained.patients}
    train, validation = (
        {p: (splits.labels[p], slides[p]) for p in splits.patients(0, role)} for role in ("train", "validation")
    )
    bags = Watched({s: bag_tensors(read_bag(trained.store(s)), 8) for ids in slides.values() for s in ids})
    cohort = FoldCohort(0, 2, "", train, validation, 0, {}, {}, {})
    teaching = MolecularData(read_expression(trained.workspace / "genomics/expression.zarr"))
    return FoldData(cohort, bags, WIDTH, teaching, CPU, partial, tell, BINARY), bags


def test_inner_folds_hold_the_folds_own_patients_alone(trained: Planted, tmp_path: Path) -> None:
    told_of: list[str] = []
    task, bags = first_fold(trained, tmp_path, lambda what, _: told_of.append(what))
    settings = TrainSettings(method="abmil", hidden=16, epochs=1, nested=["genes=5,4"])
    fitted = train_fold(task, settings)
    own = {**task.cohort.train, **task.cohort.validation}
    assert bags.read == {slide for _, slides in own.values() for slide in slides}
    assert len(told_of) == len(set(told_of)) == 2 * 3 + 1
    assert [patient.patient_id for patient in fitted.train] == list(task.cohort.train)
    # Genes are nothing to ABMIL: both candidates are worth the same, what inner folds by hand give, and the first wins.
    inner = make_splits({patient: label for patient, (label, _) in own.items()}, 3, settings.seed)
    aucs = []
    for fold in range(3):
        parts = {role: {p: own[p] for p in inner.patients(fold, role)} for role in ("train", "validation", "test")}
        cohort = replace(task.cohort, train=parts["train"], validation=parts["validation"])
        by_hand = replace(task, cohort=cohort, partial=tmp_path / f"by hand {fold}")
        network = train_fold(by_hand, settings.model_copy(update={"nested": []})).network
        tested = patients_of(parts["test"], bags, task=BINARY)
        logits = patient_scores(network, tested)
        aucs.append(roc_auc_score([p.label for p in tested], [logits[p.patient_id] for p in tested]))
    assert fitted.choice == [{"genes": genes, "auc": pytest.approx(np.mean(aucs))} for genes in (5, 4)]
    assert fitted.settings.genes == 5


def test_inner_folds_keep_sites_apart_as_the_outer_ones_do(trained: Planted, tmp_path: Path) -> None:
    data, _ = first_fold(trained, tmp_path)
    own = {**data.cohort.train, **data.cohort.validation}
    place_of = {p: number for number, p in enumerate(sorted(own))}
    sites = {p: f"site {place_of[p] // 2 % 5}" for p in own}
    inner = _inner_folds(replace(data, cohort=replace(data.cohort, sites=sites)), 0)
    assert sorted(p for _, test in inner for p in test) == sorted(own)
    for cohort, test in inner:
        within = {sites[p] for p in test}
        assert within.isdisjoint(sites[p] for part in (cohort.train, cohort.validation) for p in part)
    with pytest.raises(CohortError, match="3 sites that can be kept apart"):
        _inner_folds(replace(data, cohort=replace(data.cohort, sites=dict.fromkeys(own, "one"))), 0)


class Drawn(TrainStage):
    """Keeps the curve that TensorBoard would be given."""

    drawn: list[Epoch]

    @contextmanager
    def _curves(self, fold: str) -> Iterator[Callable[[Epoch], None]]:
        self.drawn = []
        yield self.drawn.append


class Counted(Silence):
    """Progress as a number."""

    units = 0

    def advance(self, units: int) -> None:
        self.units += units


def test_inner_folds_count_as_work_but_draw_no_curve(mine: Planted) -> None:
    folder = mine.workspace / "models/drawn"
    stage = mine.trainer(folder, kind=Drawn, method="abmil", nested=["genes=5,4"], epochs=2)
    item = replace(stage.plan().items[0], fingerprint="sha256:f")
    counted = Counted()
    stage.process(item, counted)
    assert counted.units == item.size == 2 * (1 + 2 * 3)
    assert isinstance(stage, Drawn)
    assert [epoch.epoch for epoch in stage.drawn] == [0, 1]


# What training is told


def test_every_setting_of_fitting_is_heard(trained: Planted, tmp_path: Path) -> None:
    task, _ = first_fold(trained, tmp_path)
    number = count()

    def weights(fold: int = 0, **changes: object) -> bytes:
        settings = TrainSettings.model_validate({"method": "abmil", "hidden": 16, "epochs": 2, **changes})
        partial = tmp_path / f"{next(number)}"
        fitted = train_fold(replace(task, cohort=replace(task.cohort, fold=fold), partial=partial), settings)
        return b"".join(tensor.numpy().tobytes() for tensor in fitted.network.state_dict().values())

    changes: list[dict[str, object]] = [
        {},
        {"seed": 1},
        {"clip": 0.01},
        {"weight_decay": 0.5},
        {"learning_rate": 1e-3},
        {"bags_per_step": 3},
        {"precision": "bf16"},
        {"hidden": 24},
        {"soft_targets": True},
        {"soft_targets": True, "shuffle_rna": True},
    ]
    given = [weights(**change) for change in changes]
    assert len(set(given)) == len(given)
    torch.rand(1)  # whatever else this process draws
    assert weights() == given[0]  # the same seed gives the same numbers
    assert weights(fold=1) == given[1]  # each fold adds its number to the seed
    stopped = train_fold(task, TrainSettings(method="abmil", hidden=16, epochs=30, patience=2)).fitted
    gains = [epoch.rank[0] for epoch in stopped.history]
    assert len(gains) - 1 - gains.index(max(gains)) == 2


def test_a_fold_too_small_for_inner_folds_is_refused(tmp_path: Path) -> None:
    patients = [replace(p, label="negative") if n > 8 else p for n, p in enumerate(make_patients(20))]
    planted = plant(tmp_path, patients)
    refused = wsipipe("train", "-c", planted.settings, "--nested", "hidden=8,16", "--epochs", "1")
    assert refused.exit_code == 1
    assert "nested" in refused.output
