"""Fitting: it learns what is planted, goes on where it was killed, and what it gives survives the disk."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import BundleError, CohortError, UsageError
from wsipipe.data.features import Bag, FeatureFacts
from wsipipe.models.bag_tensors import BagBatch, BagTensors, PatientBags, bag_tensors
from wsipipe.models.bundle import (
    BagRecipe,
    Bundle,
    BundleFacts,
    Question,
    folds_of,
    read_bundle,
    read_facts,
    seen_hashes,
    write_bundle,
)
from wsipipe.models.fit import Epoch, Fit, FitSettings, fit, patient_logits, validate
from wsipipe.models.momkd import HistologyReadings, MoMKD, MoMKDConfig
from wsipipe.models.tile_graph import knn_edges

WIDTH, GENES = 8, 6


def config(**changes: Any) -> MoMKDConfig:
    sizes = {"hidden": 16, "shared": 8, "slots": 3, "omics_hidden": 8, "omics_embedding": 8, "head_hidden": 8}
    return MoMKDConfig.model_validate({"in_features": WIDTH, "n_genes": GENES, **sizes, **changes})


def model_of(kind: type[MoMKD] = MoMKD, **changes: Any) -> MoMKD:
    torch.manual_seed(0)
    return kind(config(**changes))


def patient(number: int, label: int, *, slides: int = 1, rna: bool = True) -> PatientBags:
    """A patient whose positive slides have, in every second tile, a feature that the negative ones lack."""
    draw = torch.Generator().manual_seed(number)
    bags = []
    for slide in range(slides):
        tiles = 6 + number % 4
        features = torch.randn(tiles, WIDTH, generator=draw)
        features[::2, 0] += 4 * label
        coords = np.stack([np.arange(tiles) % 3, np.arange(tiles) // 3], axis=1)
        bags.append(BagTensors(f"P{number}-{slide}", features.half(), knn_edges(coords)))
    expression = torch.randn(GENES, generator=draw) + label
    return PatientBags(f"P{number}", label, bags, expression if rna else None)


def cohort(first: int, size: int) -> list[PatientBags]:
    """Half of them positive; every third without RNA."""
    return [patient(n, n % 2, slides=1 + n % 2, rna=n % 3 > 0) for n in range(first, first + size)]


def same(one: Fit, other: Fit) -> bool:
    """Whether two fits are equal to the last bit."""
    return (
        (one.history, one.best_epoch) == (other.history, other.best_epoch)
        and one.state.keys() == other.state.keys()
        and all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())
    )


# ----- learning -----


@pytest.mark.parametrize("genes", [GENES, 0], ids=["with RNA", "histology alone"])
def test_it_learns_what_is_planted(genes: int) -> None:
    model = model_of(n_genes=genes)
    train, validation, test = cohort(0, 16), cohort(100, 8), cohort(200, 12)
    if not genes:
        train = [PatientBags(p.patient_id, p.label, p.bags) for p in train]
    fitted = fit(model, train, validation, FitSettings(epochs=12, learning_rate=2e-3))
    best = fitted.history[fitted.best_epoch]
    assert best.validation_auc == 1.0
    assert best.validation_loss < 0.5 < fitted.history[0].validation_loss
    logits = patient_logits(model, test)  # never seen in any way
    assert min(logits[p.patient_id] for p in test if p.label) > max(logits[p.patient_id] for p in test if not p.label)
    assert all(torch.equal(tensor, fitted.state[name]) for name, tensor in model.state_dict().items())
    assert ("omics" in best.losses and best.losses["omics"] > 0) == bool(genes)


def test_the_best_epoch_is_the_highest_auc_and_of_equals_the_lowest_loss() -> None:
    fitted = fit(model_of(), cohort(0, 8), cohort(100, 8), FitSettings(epochs=8, learning_rate=1e-3))
    ranks = [(epoch.validation_auc or 0, -epoch.validation_loss) for epoch in fitted.history]
    assert fitted.best_epoch == ranks.index(max(ranks))


def test_it_stops_when_nothing_is_gained_and_lowers_its_steps_before() -> None:
    fitted = fit(model_of(), cohort(0, 8), cohort(100, 4), FitSettings(epochs=100, patience=9, learning_rate=2e-3))
    aucs = [epoch.validation_auc for epoch in fitted.history]
    assert len(aucs) == aucs.index(max(aucs)) + 1 + 9 < 100
    rates = [epoch.learning_rate for epoch in fitted.history]
    assert rates[0] == 2e-3
    assert rates[-1] == pytest.approx(4e-4)  # a fifth, after five epochs without gain


def test_validation_patients_of_one_class_stop_it_by_their_loss() -> None:
    validation = [p for p in cohort(100, 12) if not p.label]
    patience = 2
    fitted = fit(model_of(), cohort(0, 8), validation, FitSettings(epochs=20, patience=patience, learning_rate=1e-3))
    losses = [epoch.validation_loss for epoch in fitted.history]
    assert {epoch.validation_auc for epoch in fitted.history} == {None}
    assert np.isfinite(losses).all()
    assert fitted.best_epoch == losses.index(min(losses)) > patience  # it went on while the loss fell
    assert len(losses) == min(20, fitted.best_epoch + 1 + patience)


@pytest.mark.parametrize("label", [0, 1])
def test_training_patients_of_one_class_are_refused(label: int) -> None:
    with pytest.raises(CohortError, match="one class only"):
        fit(model_of(), [p for p in cohort(0, 8) if p.label == label], cohort(100, 4), FitSettings())


class CountingMoMKD(MoMKD):
    """Knows whose bags it was trained on: the first feature of the first tile says so."""

    def __init__(self, config: MoMKDConfig) -> None:
        super().__init__(config)
        self.drawn: Counter[float] = Counter()

    def read(self, bags: BagBatch) -> HistologyReadings:
        if self.training:
            self.drawn.update(float(x[0, 0]) for x in bags.split(bags.x))
        return super().read(bags)


def test_patients_with_many_slides_do_not_weigh_more() -> None:
    slides = {0: 1, 2: 9, 4: 1, 1: 4, 3: 1}  # patient: slides; odd ones are positive, and fewer
    train = [patient(number, number % 2, slides=count) for number, count in slides.items()]
    for p in train:
        for place, bag in enumerate(p.bags):
            bag.features[0, 0] = int(p.patient_id[1:]) + place / 16
    model = model_of(CountingMoMKD)
    assert isinstance(model, CountingMoMKD)
    fit(model, train, cohort(100, 4), FitSettings(epochs=20, patience=20))
    draws = sum(model.drawn.values())
    assert draws == 20 * sum(slides.values())
    by_patient: Counter[int] = Counter()
    for mark, times in model.drawn.items():
        by_patient[int(mark)] += times
    for number, share in {0: 1 / 6, 2: 1 / 6, 4: 1 / 6, 1: 1 / 4, 3: 1 / 4}.items():
        spread = (draws * share * (1 - share)) ** 0.5
        assert abs(by_patient[number] - draws * share) < 4 * spread, number
    assert all(model.drawn[2 + place / 16] for place in range(9)), "every slide has its turn"


def test_the_memorys_use_is_told_by_class() -> None:
    model = model_of()
    train = cohort(0, 8)
    fit(model, train, cohort(100, 4), FitSettings(epochs=2))
    for usage in model.slot_shares(train).values():
        assert sum(usage["shares"]) == pytest.approx(1)
        assert usage["active"] == sum(share > 0 for share in usage["shares"])
        assert len(usage["shares"]) == 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"label": 2}, "label is 0 or 1"),
        ({"label": -1}, "label is 0 or 1"),
        ({"target": 1.5}, "probability"),
        ({"target": float("nan")}, "probability"),
        ({"expression": torch.tensor([1.0, float("nan")])}, "must be finite"),
    ],
)
def test_a_patient_that_would_spoil_training_is_refused_by_name(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        replace(patient(7, 1), **changes)
    assert caught.value.path == "P7"


def test_an_epoch_draws_as_many_bags_however_many_a_step_takes() -> None:
    train = cohort(0, 9)
    bags = sum(len(p.bags) for p in train)
    for together in (1, 4, 100):
        model = model_of(CountingMoMKD)
        assert isinstance(model, CountingMoMKD)
        fit(model, train, cohort(100, 4), FitSettings(epochs=2, bags_per_step=together))
        assert model.drawn.total() == 2 * bags


# ----- soft targets -----


def with_targets(patients: list[PatientBags], targets: Iterable[float | None]) -> list[PatientBags]:
    return [replace(p, target=target) for p, target in zip(patients, targets, strict=True)]


def test_with_soft_targets_the_epoch_is_chosen_by_rank_and_the_labels_of_validation_do_not_matter() -> None:
    draw = np.random.default_rng(0)
    train, validation = cohort(0, 12), cohort(100, 10)
    train = with_targets(train, [0.2 + 0.6 * p.label for p in train])
    validation = with_targets(validation, draw.random(10).tolist())
    settings = FitSettings(epochs=8, learning_rate=1e-3)
    fitted = fit(model_of(), train, validation, settings)
    ranks = [epoch.validation_rank for epoch in fitted.history]
    assert None not in ranks
    assert fitted.best_epoch == ranks.index(max(ranks))
    flipped = [replace(p, label=1 - p.label) for p in validation]
    other = fit(model_of(), train, flipped, settings)
    assert [epoch.validation_rank for epoch in other.history] == ranks
    assert [epoch.validation_auc for epoch in other.history] != [epoch.validation_auc for epoch in fitted.history]


def test_ranks_by_hand_and_too_few_of_them() -> None:
    model = model_of()
    validation = cohort(100, 8)
    logits = patient_logits(model, validation)
    order = sorted(validation, key=lambda p: logits[p.patient_id])
    rising = with_targets(order, [0.1 * place for place in range(8)])
    assert validate(model, rising).rank == pytest.approx(1)
    assert validate(model, rising[::-1], together=3).rank == pytest.approx(1)
    assert validate(model, with_targets(order, [1 - 0.1 * place for place in range(8)])).rank == pytest.approx(-1)
    some = with_targets(order, [0.1, 0.2, 0.3, 0.4, *[None] * 4])
    assert validate(model, some).rank is None  # four say too little
    assert validate(model, with_targets(order, [0.5] * 8)).rank is None
    assert validate(model, some).gain == validate(model, validation).auc


# ----- killed and gone on -----


class KilledError(Exception):
    """Stands for the power cut; by then the epoch's state is on the disk."""


@dataclass
class Power:
    """Tells epochs, and fails after one of them."""

    until: int
    told: list[Epoch] = field(default_factory=list)

    def __call__(self, epoch: Epoch) -> None:
        self.told.append(epoch)
        if epoch.epoch == self.until:
            raise KilledError


LONG = FitSettings(epochs=9, patience=9, learning_rate=2e-3, seed=4)
"""Long enough for the learning rate to have fallen by the end."""


@pytest.mark.parametrize(
    ("memory", "kills", "together"),
    [("gradient", range(9), 1), ("momentum", [0, 7], 1), ("gradient", [3], 3)],
    ids=["gradient", "momentum", "three bags a step"],
)
def test_a_killed_fit_goes_on_to_the_same_numbers(
    tmp_path: Path, memory: str, kills: Iterable[int], together: int
) -> None:
    train, validation = cohort(0, 5), cohort(100, 4)
    settings = replace(LONG, bags_per_step=together)
    undisturbed = fit(model_of(memory=memory), train, validation, settings)
    rates = {epoch.learning_rate for epoch in undisturbed.history}
    assert len(rates) > 1 or together > 1
    for until in kills:
        file = tmp_path / f"{until}.pt"
        with pytest.raises(KilledError):
            fit(model_of(memory=memory), train, validation, settings, resume=file, tell=Power(until))
        torch.manual_seed(99)  # another process starts with other random numbers, and another start
        model = MoMKD(config(memory=memory))
        told: list[Epoch] = []
        resumed = fit(model, train, validation, settings, resume=file, tell=told.append)
        assert same(resumed, undisturbed), f"killed after epoch {until}"
        assert told == undisturbed.history
        assert all(torch.equal(tensor, undisturbed.state[name]) for name, tensor in model.state_dict().items())


def test_a_fit_killed_after_every_epoch(tmp_path: Path) -> None:
    train, validation = cohort(0, 6), cohort(100, 4)
    short = FitSettings(epochs=4)
    for until in range(short.epochs):
        with pytest.raises(KilledError):
            fit(model_of(), train, validation, short, resume=tmp_path / "state.pt", tell=Power(until))
    resumed = fit(model_of(), train, validation, short, resume=tmp_path / "state.pt")
    assert same(resumed, fit(model_of(), train, validation, short))
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_another_seed_gives_other_numbers() -> None:
    train, validation = cohort(0, 6), cohort(100, 4)
    fits = [fit(model_of(), train, validation, FitSettings(epochs=1, seed=seed)) for seed in (0, 0, 1)]
    assert same(fits[0], fits[1])
    assert not same(fits[0], fits[2])


# ----- bundles -----


def recipe(**changes: Any) -> BagRecipe:
    fields: dict[str, Any] = {
        "tile": {"mpp": 0.5},
        "extract": {"backbone": "b"},
        "tile_px": 224,
        "backbone": "b",
        "pooling": "cls",
        "weights_digest": "sha256:w",
        "width": WIDTH,
        "neighbours": 8,
    }
    return BagRecipe(**fields | changes)


def facts(model: MoMKD, **changes: Any) -> BundleFacts:
    fields: dict[str, Any] = {
        "question": Question(name="her2", label_column="HER2", positive=["1"], negative=["0"]),
        "fold": 0,
        "folds": 2,
        "splits_digest": "sha256:s",
        "recipe": recipe(),
        "method": "momkd",
        "network": model.config.model_dump(mode="json"),
        "threshold": 0.37,
        "seen": seen_hashes(["P1", "P2"], ["sha256:slide"]),
        "patients": {"train": 1, "validation": 1, "test": 1},
        "genes": ["ERBB2"],
        "gene_panel": {"selection": "anova"},
        "training": {"auc": None, "history": [{"epoch": 0, "validation_auc": 0.5}]},
        "versions": {"wsipipe": "0.1.0"},
    }
    return BundleFacts(**fields | changes)


def slide(tiles: int = 30, **changes: Any) -> Bag:
    fields: dict[str, Any] = {
        "slide_id": "new",
        "slide_digest": "sha256:new",
        "tiles_digest": "sha256:t",
        "mpp": 0.5,
        "tile_px": 224,
        "tile_size_level0": 224.0,
        "backbone": "b",
        "architecture": "a",
        "pooling": "cls",
        "width": WIDTH,
        "weights_digest": "sha256:w",
        "precision": "fp32",
        "transform": {},
    }
    features = np.random.default_rng(5).normal(size=(tiles, WIDTH)).astype(np.float16)
    coords = np.stack([np.arange(tiles) % 6, np.arange(tiles) // 6], axis=1) * 224
    return Bag("new", features, coords, FeatureFacts(**fields | changes))


@pytest.fixture(scope="module")
def trained() -> MoMKD:
    model = model_of()
    fit(model, cohort(0, 6), cohort(100, 4), FitSettings(epochs=2, learning_rate=2e-3))
    return model


@pytest.fixture
def bundle(tmp_path: Path, trained: MoMKD) -> Path:
    path = tmp_path / "her2" / "fold-0"
    write_bundle(path, facts(trained), trained, {"mean": np.arange(3, dtype=np.float32)})
    return path


def test_a_bundle_reads_slides_as_the_trained_model_did(tmp_path: Path, bundle: Path, trained: MoMKD) -> None:
    back = read_bundle(bundle, torch.device("cpu"))
    assert back.facts == facts(trained) == read_facts(bundle)
    bag = slide()
    tensors = bag_tensors(bag, 8)
    with torch.inference_mode():
        wanted = trained.eval().read(BagBatch.of([tensors]))
    given = back.read(bag, tmp_path)
    assert given.logit == pytest.approx(float(wanted.logits[0, 1] - wanted.logits[0, 0]))
    np.testing.assert_array_equal(given.attention, wanted.attention.numpy())
    np.testing.assert_array_equal(given.scores, wanted.scores.numpy())
    assert given.attention.sum() == pytest.approx(1)
    assert not back.network.training
    assert not [name for name in back.network.state_dict() if "omics" in name]  # histology alone


def test_nothing_in_a_bundle_can_run_code_and_equal_content_gives_equal_bytes(
    tmp_path: Path, bundle: Path, trained: MoMKD
) -> None:
    assert sorted(file.name for file in bundle.iterdir()) == ["bundle.json", "genes.safetensors", "model.safetensors"]
    for file in bundle.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError)):
            pickle.loads(file.read_bytes())
    write_bundle(tmp_path / "again", facts(trained), trained, {"mean": np.arange(3, dtype=np.float32)})
    assert digest_of(tmp_path / "again") == digest_of(bundle)
    assert b"P1" not in (bundle / "bundle.json").read_bytes()  # no list of patients
    write_bundle(tmp_path / "no genes", facts(trained), trained, {})
    assert sorted(file.name for file in (tmp_path / "no genes").iterdir()) == ["bundle.json", "model.safetensors"]


def test_who_was_seen(trained: MoMKD) -> None:
    known = facts(trained)
    assert known.saw("P1", None)
    assert known.saw("P2", "sha256:other")
    assert known.saw("renamed", "sha256:slide")
    assert known.saw(None, "sha256:slide")
    assert not known.saw("P3", "sha256:other")
    assert not known.saw("sha256", "P")
    assert not known.saw(None, None)
    assert not facts(trained, seen=[]).saw("P1", "sha256:slide")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backbone": "c"}, "backbone is c, not b"),
        ({"weights_digest": "sha256:x"}, "weights_digest is sha256:x, not sha256:w"),
        ({"pooling": "mean"}, "pooling is mean, not cls"),
        ({"tile_px": 256}, "tile_px is 256, not 224"),
    ],
)
def test_features_of_another_kind_are_refused(bundle: Path, change: dict[str, Any], said: str) -> None:
    back = read_bundle(bundle, torch.device("cpu"))
    with pytest.raises(BundleError) as caught:
        back.read(slide(**change), Path("work/new.zarr"))
    assert said in caught.value.what
    assert caught.value.path == "work/new.zarr"
    assert "--weights FILE" in caught.value.hint


def change_json(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    change(content)
    (bundle / "bundle.json").write_text(json.dumps(content))


def change_tensors(bundle: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(bundle / "model.safetensors")
    change(state)
    save_file(state, bundle / "model.safetensors")


Damage = Callable[[Path], object]
DAMAGE: dict[str, tuple[Damage, str]] = {
    "missing": (shutil.rmtree, "there is no bundle here"),
    "a file": (lambda b: (shutil.rmtree(b), b.write_text("{}")), "there is no bundle here"),
    "no JSON": (lambda b: (b / "bundle.json").unlink(), "there is no bundle here"),
    "torn JSON": (lambda b: (b / "bundle.json").write_text('{"fold": '), "is damaged or no bundle"),
    "a list": (lambda b: (b / "bundle.json").write_text("[]"), "is damaged or no bundle"),
    "a number": (lambda b: (b / "bundle.json").write_text("3"), "is damaged or no bundle"),
    "bytes": (lambda b: (b / "bundle.json").write_bytes(b"\xff\x00"), "is damaged or no bundle"),
    "no facts": (lambda b: change_json(b, lambda c: c.pop("recipe")), "is damaged or no bundle"),
    "a fact too many": (lambda b: change_json(b, lambda c: c.update(more=1)), "is damaged or no bundle"),
    "newer": (lambda b: change_json(b, lambda c: c.update({"encoding-version": "2"})), "is wsipipe-bundle version 2"),
    "something else": (lambda b: (b / "bundle.json").write_text("{}"), "is None version None"),
    "no tensors": (lambda b: (b / "model.safetensors").unlink(), "cannot be read"),
    "torn tensors": (lambda b: (b / "model.safetensors").write_bytes(b"torn"), "cannot be read"),
    "a tensor lost": (lambda b: change_tensors(b, lambda s: s.pop("memory.slots")), "lacks memory.slots"),
    "a tensor too many": (lambda b: change_tensors(b, lambda s: s.update(x=torch.ones(1))), "has the unknown x"),
    "another network": (
        lambda b: change_json(b, lambda c: c["network"].update(slots=5)),
        "has another shape of memory.slots",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_refused_by_name(bundle: Path, damage: str) -> None:
    harm, said = DAMAGE[damage]
    harm(bundle)
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle, torch.device("cpu"))
    assert said in caught.value.what
    assert str(caught.value.path).startswith(str(bundle))
    assert caught.value.hint


def test_the_folds_of_a_model_come_in_order_and_all(tmp_path: Path, bundle: Path, trained: MoMKD) -> None:
    model = bundle.parent
    with pytest.raises(BundleError, match="there is no bundle here") as caught:
        folds_of(model)
    assert caught.value.path == str(model / "fold-1")
    write_bundle(model / "fold-1", facts(trained, fold=1), trained, {})
    assert [(path.name, known.fold) for path, known in folds_of(model)] == [("fold-0", 0), ("fold-1", 1)]
    for other in (
        facts(trained, fold=1, splits_digest="sha256:x"),
        facts(trained, fold=1, recipe=recipe(neighbours=4)),
    ):
        write_bundle(model / "fold-1", other, trained, {})
        with pytest.raises(BundleError, match="is of another training than fold-0"):
            folds_of(model)
    for nothing in (tmp_path / "nowhere", model / "fold-0" / "bundle.json"):
        with pytest.raises(BundleError, match="there is no model here"):
            folds_of(nothing)
    assert isinstance(read_bundle(model / "fold-0", torch.device("cpu")), Bundle)
