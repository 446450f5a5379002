"""The feature store: what is written is read, equal content gives equal bytes, and nothing lost is read as numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import StoreError
from wsipipe.data.features import FeatureFacts, read_bag, read_bags, read_facts, write_features


def facts(width: int = 8, **changes: Any) -> FeatureFacts:
    fields: dict[str, Any] = {
        "slide_id": "a slide é",
        "slide_digest": "sha256:1",
        "tiles_digest": "sha256:2",
        "mpp": 0.5,
        "tile_px": 224,
        "tile_size_level0": 448.0,
        "backbone": "uni2-h",
        "architecture": "vit",
        "pooling": "cls",
        "width": width,
        "weights_digest": "sha256:3",
        "precision": "fp32",
        "transform": {"resize": 224, "mean": [0.5, 0.5, 0.5]},
        "bad_tiles": [[0, 448]],
        "versions": {"torch": "2"},
    }
    return FeatureFacts(**fields | changes)


def numbers(tiles: int, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (float32) and coordinates of a row-major grid."""
    features = np.random.default_rng(seed).normal(size=(tiles, width)).astype(np.float32)
    coords = np.stack([np.arange(tiles) % 100, np.arange(tiles) // 100], axis=1) * 448
    return features, coords


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("tiles", "width"), [(0, 8), (1, 8), (50, 8), (2000, 1280)], ids=str)
def test_what_is_written_is_read(tmp_path: Path, dtype: Literal["float16", "float32"], tiles: int, width: int) -> None:
    features, coords = numbers(tiles, width)
    write_features(tmp_path / "a.zarr", features, coords, facts(width), dtype=dtype)
    bag = read_bag(tmp_path / "a.zarr")
    assert bag.features.dtype == dtype
    np.testing.assert_array_equal(bag.features, features.astype(dtype))
    assert bag.coords.dtype == np.int64
    np.testing.assert_array_equal(bag.coords, coords)
    assert bag.facts == read_facts(tmp_path / "a.zarr") == facts(width)
    assert bag.slide_id == "a slide é"


def test_zeros_are_numbers_like_any_other(tmp_path: Path) -> None:
    write_features(tmp_path / "a.zarr", np.zeros((3, 8)), np.zeros((3, 2), np.int64), facts())
    assert not read_bag(tmp_path / "a.zarr").features.any()


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    features, coords = numbers(20)
    write_features(tmp_path / "a.zarr", features, coords, facts())
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group.attrs["encoding-type"] == "wsipipe-features"
    assert group.attrs["encoding-version"] == "1"
    assert group.attrs["mpp"] == 0.5
    np.testing.assert_array_equal(np.asarray(group["coords"]), coords)


def test_equal_content_gives_equal_bytes_in_few_files(tmp_path: Path) -> None:
    features, coords = numbers(3000, 512)
    for name in ("a.zarr", "b.zarr"):
        write_features(tmp_path / name, features, coords, facts(512))
    assert digest_of(tmp_path / "a.zarr") == digest_of(tmp_path / "b.zarr")
    assert len([file for file in (tmp_path / "a.zarr").rglob("*") if file.is_file()]) == 5
    features[2999, 511] += 1
    write_features(tmp_path / "b.zarr", features, coords, facts(512))  # over the old one
    assert digest_of(tmp_path / "a.zarr") != digest_of(tmp_path / "b.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_the_tile_named(tmp_path: Path, value: float) -> None:
    features, coords = numbers(120)
    features[103, 2] = features[110, 0] = value
    with pytest.raises(
        StoreError, match="2 of 120 tiles have features that are not finite, the first at x=1344 y=448"
    ) as e:
        write_features(tmp_path / "a.zarr", features, coords, facts())
    assert "--precision fp32" in e.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_for_half_precision_says_how_to_keep_it(tmp_path: Path) -> None:
    features, coords = numbers(10)
    features[4, 4] = 70_000
    with pytest.raises(StoreError, match="1 of 10 tiles have features that are too large for float16") as caught:
        write_features(tmp_path / "a.zarr", features, coords, facts())
    assert "--store-dtype float32" in caught.value.hint
    write_features(tmp_path / "a.zarr", features, coords, facts(), dtype="float32")
    assert read_bag(tmp_path / "a.zarr").features[4, 4] == 70_000


def test_bags_are_read_one_at_a_time(tmp_path: Path) -> None:
    for name in "ab":
        write_features(tmp_path / f"{name}.zarr", *numbers(5), facts(slide_id=name))
    bags = read_bags(tmp_path / f"{name}.zarr" for name in "abc")  # the third is not there
    assert [next(bags).slide_id, next(bags).slide_id] == ["a", "b"]
    with pytest.raises(StoreError):
        next(bags)


# ----- damage -----


def shard(store: Path, array: str) -> Path:
    [file] = [file for file in (store / array / "c").rglob("*") if file.is_file()]
    return file


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0xFF
    file.write_bytes(bytes(content))


def rewrite(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((store / "zarr.json").read_text())
    change(content["attributes"])
    (store / "zarr.json").write_text(json.dumps(content))


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def instead(file: str, text: str) -> Callable[[Path], object]:
    return lambda store: (store / file).write_text(text)


Damage = dict[str, Callable[[Path], object]]
NO_JSON = ["{", "[]", "3", "null", '"x"', "{}", '{"zarr_format": 3, "node_type": "group", "attributes": []}']
DAMAGE: Damage = {
    "it is missing": shutil.rmtree,
    "it is a file": lambda s: (shutil.rmtree(s), s.write_text("features")),
    "it is empty": lambda s: (shutil.rmtree(s), s.mkdir()),
    "no zarr.json": lambda s: (s / "zarr.json").unlink(),
    "its JSON is no text": lambda s: (s / "zarr.json").write_bytes(b"\xff\xfe\x00"),
    "no features": lambda s: shutil.rmtree(s / "features"),
    "features are a group": lambda s: shutil.copy(s / "zarr.json", s / "features" / "zarr.json"),
    "no coords": lambda s: shutil.rmtree(s / "coords"),
    "the features' numbers are lost": lambda s: shard(s, "features").unlink(),
    "the coords' numbers are lost": lambda s: shard(s, "coords").unlink(),
    "the features' numbers are cut to nothing": lambda s: cut(shard(s, "features"), 0),
    "the features' numbers are cut short": lambda s: cut(shard(s, "features"), 99),
    "no slide": lambda s: rewrite(s, lambda a: a.pop("slide_id")),
    "a fact too many": lambda s: rewrite(s, lambda a: a.update(more=1)),
    "another width": lambda s: rewrite(s, lambda a: a.update(width=9)),
}
DAMAGE |= {f"its JSON is {text}": instead("zarr.json", text) for text in NO_JSON}
DAMAGE |= {f"the array's JSON is {text}": instead("coords/zarr.json", text) for text in NO_JSON}
DAMAGE |= {
    f"a byte flipped at {place}": lambda s, place=place: flip(shard(s, "features"), place)
    for place in np.linspace(0, 1, 9)
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_an_error_that_names_it_and_never_numbers(tmp_path: Path, damage: str) -> None:
    store = tmp_path / "a.zarr"
    write_features(store, *numbers(50), facts())
    DAMAGE[damage](store)
    with pytest.raises(StoreError) as caught:
        read_bag(store)
    assert caught.value.path == str(store)
    assert "extract" in caught.value.hint


@pytest.mark.parametrize("version", ["2", "0.9", None])
def test_a_store_of_another_version_is_refused(tmp_path: Path, version: str | None) -> None:
    store = tmp_path / "a.zarr"
    write_features(store, *numbers(5), facts())
    rewrite(store, lambda a: a.update({"encoding-version": version}))
    for read in (read_bag, read_facts):
        with pytest.raises(StoreError, match=f"version {version}, not wsipipe-features version 1"):
            read(store)


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    zarr.open_group(
        tmp_path / "other.zarr", mode="w", attributes={"encoding-type": "anndata", "encoding-version": "0.1"}
    )
    with pytest.raises(StoreError, match=r"is anndata version 0\.1"):
        read_facts(tmp_path / "other.zarr")
