"""Bundles: they read slides as the trained model did, hold nothing that runs, and refuse what is not theirs."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damaged_bundles import DAMAGE, WIDTH, change_json, change_text, facts, recipe, slide
from momkd_bags import TAUGHT, model_of
from wsipipe.data.artifact import digest_of
from wsipipe.data.cohort.ids import id_key
from wsipipe.data.errors import BundleError, UsageError
from wsipipe.models.bundle import (
    Bundle,
    folds_of,
    prevalence_of,
    read_bundle,
    read_facts,
    write_bundle,
)
from wsipipe.models.mil.bag_tensors import BagBatch, bag_tensors
from wsipipe.models.mil.momkd import MoMKD
from wsipipe.models.patient_hashes import _slow, hashes_of, unsalted_hash
from wsipipe.models.training.fit import FitSettings, fit


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


def test_one_fold_given_as_the_model_names_the_folder_above(bundle: Path) -> None:
    with pytest.raises(BundleError, match="is one fold of a model, and not the model") as caught:
        folds_of(bundle)
    assert caught.value.path == str(bundle)
    assert caught.value.hint == f"give the folder above: {bundle.parent}"


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


TRANSFORM = {"resize": 224, "crop": None, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
FORMER = {"resize": 224, "crop": None, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("model", "backbone", "features", "said"),
    [
        (TRANSFORM, "b", TRANSFORM, ""),
        (TRANSFORM, "b", TRANSFORM | {"interpolation": "bicubic"}, "interpolation is bicubic, not bilinear"),
        (TRANSFORM, "b", TRANSFORM | {"crop": 200}, "crop is 200, not None"),
        (TRANSFORM, "b", {}, ""),  # imported features
        ({}, "b", TRANSFORM, ""),
        (None, "b", TRANSFORM, ""),  # a network that is not known here
        (None, "uni", {"interpolation": "bilinear"}, "interpolation is bilinear, not bicubic"),
        (None, "uni", FORMER, ""),
        (None, "resnet50", FORMER, ""),
        (None, "resnet50", {"resize": 256, "crop": 224}, "crop is 224, not None; resize is 256, not 224"),
        (None, "test_vit", {"resize": 168, "crop": 160}, "crop is 160, not None; resize is 168, not 160"),
        (None, "virchow", FORMER, ""),
    ],
)
def test_features_of_tiles_that_were_resized_otherwise_are_refused(
    tmp_path: Path, model: dict[str, Any] | None, backbone: str, features: dict[str, Any], said: str
) -> None:
    trained = recipe(transform=model, backbone=backbone)
    facts_of_features = slide().facts.model_copy(update={"transform": features, "backbone": backbone})
    if not said:
        trained.refuse_other(facts_of_features, tmp_path)
        return
    with pytest.raises(BundleError, match="resized otherwise") as caught:
        trained.refuse_other(facts_of_features, tmp_path)
    assert said in caught.value.what
    assert "train again" in caught.value.hint


def test_a_model_whose_backbone_was_corrected_is_refused_before_its_slides_are_extracted(tmp_path: Path) -> None:
    for kept in (None, FORMER):
        with pytest.raises(BundleError, match="its backbone uni2-h prepares tiles otherwise now: interpolation is bil"):
            recipe(backbone="uni2-h", transform=kept).refuse_other_transform(tmp_path)
    recipe(backbone="uni2-h", transform={"interpolation": "bilinear"}).refuse_other_transform(tmp_path)
    recipe(backbone="virchow2").refuse_other_transform(tmp_path)
