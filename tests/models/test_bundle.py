"""Bundles: they read slides as the trained model did, hold nothing that runs, and refuse what is not theirs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from momkd_bags import SMALL, TAUGHT, model_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from wsipipe.data.artifact import digest_of
from wsipipe.data.cohort.ids import id_key
from wsipipe.data.errors import BundleError, UsageError
from wsipipe.data.features.store import Bag, FeatureFacts
from wsipipe.models.bundle import (
    Bundle,
    BundleFacts,
    Question,
    folds_of,
    prevalence_of,
    read_bundle,
    read_facts,
    write_bundle,
)
from wsipipe.models.feature_recipe import FeatureRecipe
from wsipipe.models.mil.bag_tensors import BagBatch, bag_tensors
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.patient_hashes import _slow, hashes_of, unsalted_hash
from wsipipe.models.training.fit import FitSettings, fit

WIDTH = SMALL.in_features


def recipe(**changes: Any) -> FeatureRecipe:
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
    return FeatureRecipe(**fields | changes)


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
        "seen": hashes_of(["P1", "P2"], ["sha256:slide"], ["S1"], "sha256:s"),
        "hashed_by": "scrypt",
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
    fit(model, TAUGHT, TAUGHT[2:4], FitSettings(epochs=2, learning_rate=2e-3))
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
        wanted = trained.eval()(BagBatch.of([tensors]))
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
        ({"mpp": 1.0}, "mpp is 1, not 0.5"),
        ({"mpp": 0.25}, "mpp is 0.25, not 0.5"),
        ({"mpp": 0.52}, "mpp is 0.52, not 0.5"),
    ],
)
def test_features_of_another_kind_are_refused(bundle: Path, change: dict[str, Any], said: str) -> None:
    back = read_bundle(bundle, torch.device("cpu"))
    with pytest.raises(BundleError) as caught:
        back.read(slide(**change), Path("work/new.zarr"))
    assert said in caught.value.what
    assert caught.value.path == "work/new.zarr"
    assert "--weights FILE" in caught.value.hint


@pytest.mark.parametrize("mpp", [0.494, 0.506, 0.5])
def test_scanners_own_resolutions_are_read(bundle: Path, mpp: float) -> None:
    """A level close to the asked mpp is read without resampling, and keeps its own."""
    read_bundle(bundle, torch.device("cpu")).read(slide(mpp=mpp), Path("work/new.zarr"))


def test_a_bundle_of_the_first_version_knows_its_patients_and_asks_for_the_prevalence(bundle: Path) -> None:
    hashes = sorted(unsalted_hash(name) for name in ("p 1", id_key("p 1"), "sha256:slide", f"slide\0{id_key('S1')}"))

    def as_before(content: dict[str, Any]) -> None:
        content.update({"encoding-version": "1", "seen": hashes})
        del content["hashed_by"], content["prevalence"]

    change_json(bundle, as_before)
    facts = read_facts(bundle)
    assert facts.saw("p 1", None)
    assert facts.saw("P-1", None) is (id_key("P-1") == id_key("p 1"))
    assert facts.saw(None, "sha256:slide")
    assert facts.saw(None, None, "S1")
    assert not facts.saw("P2", "sha256:other", "S2")
    with pytest.raises(BundleError, match="training patients were positive") as caught:
        prevalence_of([(bundle, facts)], None)
    assert "--prevalence" in caught.value.hint
    assert prevalence_of([(bundle, facts)], 0.5) == 0.5


def test_one_prevalence_for_all_folds(trained: MoMKD) -> None:
    folds = [(Path(f"fold-{i}"), facts(trained, fold=i, prevalence=p)) for i, p in enumerate((0.1, 0.3))]
    assert prevalence_of(folds, None) == pytest.approx(0.2)
    assert prevalence_of(folds, 0.4) == 0.4
    with pytest.raises(UsageError, match="between 0 and 1"):
        prevalence_of(folds, 1.0)


def test_hashes_of_another_model_differ_and_no_list_of_ids_is_tried_quickly() -> None:
    ids = [f"TCGA-{n:04d}" for n in range(20)]
    assert set(hashes_of(ids, ["sha256:d"], ids, "one")).isdisjoint(hashes_of(ids, ["sha256:d"], ids, "other"))
    assert len(hashes_of(ids, ["sha256:d"], ids, "one")) == 41, "a patient and a slide of one name differ"
    assert hashes_of(ids, [], [], "one") == hashes_of(reversed(ids), [], [], "one")
    assert (
        hashes_of(["P1"], [], [], "one")[0]
        == hashlib.scrypt(b"patient\0" + id_key("P1").encode(), salt=b"wsipipe\0one", n=2048, r=8, p=1, dklen=12).hex()
    )


def test_ids_are_hashed_once_for_all_folds(trained: MoMKD) -> None:
    """1,000 patients cost 1,000 hashes whether the model has one fold or twenty."""
    known = [facts(trained, fold=fold, folds=20) for fold in range(20)]
    _slow.cache_clear()
    for one in known:
        one.saw("P1", "sha256:other", "S1")
        one.saw("P9", "sha256:other", "S9")
    assert _slow.cache_info().misses <= 4


def change_json(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle as earlier versions wrote it, without digests."""
    content = json.loads((bundle / "bundle.json").read_text())
    content["encoding-version"] = "1"
    content.pop("digests", None)
    change(content)
    (bundle / "bundle.json").write_text(json.dumps(content))


def change_tensors(bundle: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    change_json(bundle, lambda _: None)
    state = load_file(bundle / "model.safetensors")
    change(state)
    save_file(state, bundle / "model.safetensors")


def change_text(bundle: Path, old: str, new: str) -> None:
    text = (bundle / "bundle.json").read_text()
    assert text.count(old) == 1
    (bundle / "bundle.json").write_text(text.replace(old, new))


Damage = Callable[[Path], object]
DAMAGE: dict[str, tuple[Damage, str]] = {
    "missing": (shutil.rmtree, "there is no bundle here"),
    "a file": (lambda b: (shutil.rmtree(b), b.write_text("{}")), "there is no bundle here"),
    "no JSON": (lambda b: (b / "bundle.json").unlink(), "there is no bundle here"),
    "torn JSON": (lambda b: (b / "bundle.json").write_text('{"fold": '), "is damaged or not a bundle"),
    "a list": (lambda b: (b / "bundle.json").write_text("[]"), "is damaged or not a bundle"),
    "a number": (lambda b: (b / "bundle.json").write_text("3"), "is damaged or not a bundle"),
    "bytes": (lambda b: (b / "bundle.json").write_bytes(b"\xff\x00"), "is damaged or not a bundle"),
    "no facts": (lambda b: change_json(b, lambda c: c.pop("recipe")), "is damaged or not a bundle"),
    "a fact too many": (lambda b: change_json(b, lambda c: c.update(more=1)), "is damaged or not a bundle"),
    "newer": (lambda b: change_json(b, lambda c: c.update({"encoding-version": "3"})), "is wsipipe-bundle version 3"),
    "no prevalence": (lambda b: change_json(b, lambda c: c.update(prevalence=1.5)), "is damaged or not a bundle"),
    "something else": (lambda b: (b / "bundle.json").write_text("{}"), "is None version None"),
    "no tensors": (lambda b: (b / "model.safetensors").unlink(), "cannot be read"),
    "torn tensors": (lambda b: (b / "model.safetensors").write_bytes(b"torn"), "cannot be read"),
    "a tensor lost": (lambda b: change_tensors(b, lambda s: s.pop("memory.slots")), "missing: memory.slots"),
    "a tensor too many": (
        lambda b: change_tensors(b, lambda s: s.update(x=torch.ones(1))),
        "not expected: x",
    ),
    "a folder for JSON": (
        lambda b: ((b / "bundle.json").unlink(), (b / "bundle.json").mkdir()),
        "cannot be read: it is a folder",
    ),
    "a folder for tensors": (
        lambda b: ((b / "model.safetensors").unlink(), (b / "model.safetensors").mkdir()),
        "cannot be read: it is a folder",
    ),
    "a pipe": (lambda b: ((b / "bundle.json").unlink(), os.mkfifo(b / "bundle.json")), "is a pipe, not a file"),
    "deep JSON": (lambda b: (b / "bundle.json").write_text('{"a":' * 100_000), "lists and objects in each other"),
    "infinity": (lambda b: change_text(b, "0.37", "Infinity"), "Infinity is not a number"),
    "a huge number": (lambda b: change_text(b, "0.37", "9" * 6000), "more than 300 digits"),
    "a threshold over 1": (
        lambda b: change_json(b, lambda c: c.update(threshold=1.5)),
        "threshold: Input should be less",
    ),
    "no folds": (lambda b: change_json(b, lambda c: c.update(folds=0)), "folds: Input should be greater than or equal"),
    "a billion folds": (lambda b: change_json(b, lambda c: c.update(folds=10**9)), "equal to 1000"),
    "a fold beyond": (lambda b: change_json(b, lambda c: c.update(fold=2)), "fold 2 is none of 2"),
    "no neighbours": (
        lambda b: change_json(b, lambda c: c["recipe"].update(neighbours=-1)),
        "recipe.neighbours: Input should be greater than or equal to 1",
    ),
    "a wide layer": (
        lambda b: change_json(b, lambda c: c["network"].update(hidden=10**9)),
        "hidden: Input should be less than or equal to 65536",
    ),
    "many slots": (
        lambda b: change_json(b, lambda c: c["network"].update(slots=10**6)),
        "slots: Input should be less than or equal to 65536",
    ),
    "many genes": (
        lambda b: change_json(b, lambda c: c["network"].update(n_genes=10**10)),
        "n_genes: Input should be less than or equal to 4000000",
    ),
    "the widest layers": (  # 80 GB of them, were they built
        lambda b: change_json(b, lambda c: c["network"].update(hidden=65_536, head_hidden=65_536, shared=65_536)),
        "another shape: ",
    ),
    "another type": (
        lambda b: change_tensors(b, lambda s: s.update(log_tau=s["log_tau"].double())),
        "log_tau is of float64, not of float32",
    ),
    "not finite": (
        lambda b: change_tensors(b, lambda s: s.update(log_tau=s["log_tau"] * torch.nan)),
        "log_tau holds values that are not finite",
    ),
    "another network": (
        lambda b: change_json(b, lambda c: c["network"].update(slots=5)),
        "another shape: memory.slots",
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


@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors", "genes.safetensors"])
def test_a_changed_byte_of_any_file_is_refused(bundle: Path, name: str) -> None:
    file = bundle / name
    whole = file.read_bytes()
    read_bundle(bundle, torch.device("cpu"))
    for place in {0, 7, 8, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BundleError) as caught:
            read_bundle(bundle, torch.device("cpu"))
        assert caught.value.path == str(file)
    for changed in (whole + b"\n", whole[:-1], b" " + whole):
        file.write_bytes(changed)
        with pytest.raises(BundleError, match=r"was changed since|cannot be read|damaged"):
            read_bundle(bundle, torch.device("cpu"))
    file.unlink()
    with pytest.raises(BundleError, match=r"there is no"):
        read_bundle(bundle, torch.device("cpu"))


def test_values_that_were_changed_are_refused_though_the_json_is_whole(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    text = json.dumps({**content, "threshold": 0.9}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="was changed since the bundle was written"):
        read_facts(bundle)
    del content["digests"]  # a bundle of this version has them
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    with pytest.raises(BundleError, match="was changed since the bundle was written"):
        read_facts(bundle)


def test_a_bundle_of_an_earlier_version_is_read_with_a_note(tmp_path: Path, trained: MoMKD) -> None:
    model = tmp_path / "her2"
    for fold in (0, 1):
        write_bundle(model / f"fold-{fold}", facts(trained, fold=fold), trained, {})
    assert len(folds_of(model)) == 2
    change_json(model / "fold-1", lambda _: None)
    with pytest.warns(UserWarning, match="that nobody changed them cannot be checked"):
        assert len(folds_of(model)) == 2
    assert read_bundle(model / "fold-1", torch.device("cpu")).facts == facts(trained, fold=1)


def as_version_1_1(bundle: Path) -> None:
    """Write a bundle again as the version before did: with digests, but without the prevalence and slow hashes."""
    content = json.loads((bundle / "bundle.json").read_text())
    digests = content.pop("digests")
    del content["hashed_by"], content["prevalence"]
    content |= {"encoding-version": "1.1", "seen": [unsalted_hash("P1")]}

    def text(of: dict[str, Any]) -> bytes:
        return (json.dumps(of, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    digests["bundle.json"] = "sha256:" + hashlib.sha256(text(content)).hexdigest()
    (bundle / "bundle.json").write_bytes(text(content | {"digests": digests}))


def test_a_bundle_of_version_1_1_is_checked_and_has_no_prevalence(tmp_path: Path, trained: MoMKD) -> None:
    model = tmp_path / "her2"
    for fold in (0, 1):
        write_bundle(model / f"fold-{fold}", facts(trained, fold=fold, prevalence=0.2), trained, {})
        as_version_1_1(model / f"fold-{fold}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundles = folds_of(model)
    assert [known.saw("P1", None) for _, known in bundles] == [True, True]
    assert not bundles[0][1].saw("P2", None)
    with pytest.raises(BundleError, match="training patients were positive"):
        prevalence_of(bundles, None)
    change_text(model / "fold-0", '"threshold": 0.37', '"threshold": 0.38')
    with pytest.raises(BundleError, match="was changed since the bundle was written"):
        read_facts(model / "fold-0")


def test_a_fold_in_anothers_place_is_refused(bundle: Path, trained: MoMKD) -> None:
    write_bundle(bundle.with_name("fold-1"), facts(trained, fold=0), trained, {})
    with pytest.raises(BundleError, match="is fold 0 of 2, and lies where fold 1 of 2 should be"):
        folds_of(bundle.parent)


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
        with pytest.raises(BundleError, match="is from another training than fold-0"):
            folds_of(model)
    for nothing in (tmp_path / "nowhere", model / "fold-0" / "bundle.json"):
        with pytest.raises(BundleError, match="there is no model here"):
            folds_of(nothing)
    assert isinstance(read_bundle(model / "fold-0", torch.device("cpu")), Bundle)


def test_a_bundle_whose_network_does_not_fit_its_backbone_is_refused(tmp_path: Path, bundle: Path) -> None:
    change_json(bundle, lambda c: c["recipe"].update(width=1280))
    with pytest.raises(BundleError, match=f"takes features of {WIDTH} numbers, and its backbone gives them of 1280"):
        read_facts(bundle)


def test_features_of_another_width_are_refused_by_name(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"width is 99, not {WIDTH}"):
        read_bundle(bundle, torch.device("cpu")).read(slide(width=99), tmp_path / "new.zarr")


CARDS = [
    *[("uni", "cls", 1024), ("virchow2", "cls+mean", 2560), ("virchow2", "cls", 1280), ("test_vit", "pooled", 64)],
    ("uni", "unknown: imported", 7),
]


@pytest.mark.parametrize(("backbone", "pooling", "width"), CARDS)
def test_a_model_is_held_against_its_backbones_card(bundle: Path, backbone: str, pooling: str, width: int) -> None:
    recipe = read_facts(bundle).recipe.model_copy(update={"backbone": backbone, "pooling": pooling, "width": width})
    recipe.refuse_other_width(bundle)
    if pooling.startswith("unknown"):
        return
    with pytest.raises(BundleError, match=f"takes features of 999 numbers, and its backbone {backbone} gives {width}"):
        recipe.model_copy(update={"width": 999}).refuse_other_width(bundle)
