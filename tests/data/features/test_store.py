"""The feature store: what is written is read, equal content gives equal bytes, and nothing lost is read as numbers."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import zarr
from damaged_stores import DAMAGE, facts, flip, numbers, rewrite, shard
from hypothesis import given, settings
from hypothesis import strategies as st
from wsipipe.data.artifact import digest_of, recover, size_of
from wsipipe.data.errors import StoreError, SurroundingsError, UsageError
from wsipipe.data.features.store import (
    FeatureFacts,
    FeatureWriter,
    open_features,
    read_bag,
    read_bags,
    read_facts,
    write_features,
)


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


# ----- the first version of the format -----


def test_a_store_of_the_first_version_is_read() -> None:
    """The file was written by the version of wsipipe that came before stores were streamed."""
    store = Path(__file__).parent / "feature_store_v1" / "slide.zarr"
    bag = read_bag(store)
    assert bag.features.dtype == np.float16
    np.testing.assert_array_equal(bag.features, np.arange(480).reshape(60, 8) / 4 - 60)
    np.testing.assert_array_equal(bag.coords, [[x * 448, y * 448] for y in range(6) for x in range(10)])
    assert bag.facts == FeatureFacts(
        slide_id="slide 1 é",
        slide_digest="sha256:" + 64 * "1",
        tiles_digest="sha256:" + 64 * "2",
        mpp=0.4992,
        tile_px=224,
        tile_size_level0=448.0,
        backbone="efficientnet-lite0",
        architecture="tf_efficientnet_lite0",
        pooling="mean",
        width=8,
        weights_digest="sha256:" + 64 * "3",
        precision="fp32",
        transform={"resize": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        bad_tiles=[[4480, 448]],
        versions={"wsipipe": "0.1.0", "torch": "2.15.0"},
    )


def test_its_content_is_laid_out_as_it_was(tmp_path: Path) -> None:
    """Else older versions could not read what this one writes. (How zstd packs it may change with zstd.)"""
    old, new = Path(__file__).parent / "feature_store_v1" / "slide.zarr", tmp_path / "new.zarr"
    bag = read_bag(old)
    write_features(new, bag.features, bag.coords, bag.facts)
    for name in ("features", "coords"):
        ours, theirs = (zarr.open_array(store / name, mode="r") for store in (new, old))
        for what in ("shape", "chunks", "shards", "dtype", "compressors", "filters"):
            assert getattr(ours, what) == getattr(theirs, what)
        np.testing.assert_equal(ours.fill_value, theirs.fill_value)
        assert shard(new, name).relative_to(new) == shard(old, name).relative_to(old)
    assert size_of(new) <= size_of(old) + 16


# ----- written as they come -----

WIDE = 2048
"""At this width in float16 a chunk holds 256 tiles."""


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 tiles: two chunks and most of a third."""
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    write_features(path, *numbers(700, WIDE), facts(WIDE))
    return path


@settings(max_examples=15, deadline=None)
@given(pieces=st.lists(st.integers(0, 699), max_size=12), spare=st.sampled_from([0, 1, 5000]))
def test_pieces_give_the_bytes_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, whole_store: Path, pieces: list[int], spare: int
) -> None:
    features, coords = numbers(700, WIDE)
    path = tmp_path_factory.mktemp("pieces") / "a.zarr"
    with FeatureWriter(path, width=WIDE, dtype="float16", most=700 + spare) as writer:
        for start, stop in itertools.pairwise([0, *sorted(pieces), 700]):
            writer.append(features[start:stop].astype(np.float16 if start % 2 else np.float32), coords[start:stop])
            assert writer.tiles == stop
        writer.finish(facts(WIDE))
    assert digest_of(path) == digest_of(whole_store)


@pytest.mark.parametrize("tiles", [1, 255, 256, 257, 512, 513])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zarr_itself_writes_the_same_chunks(tmp_path: Path, tiles: int, dtype: Literal["float16", "float32"]) -> None:
    """The shard is put together here; zarr's own writer is the judge of it."""
    features, coords = numbers(tiles, WIDE)
    write_features(tmp_path / "a.zarr", features, coords, facts(WIDE), dtype=dtype)
    ours = zarr.open_group(tmp_path / "a.zarr", mode="r")["features"]
    assert isinstance(ours, zarr.Array)
    theirs = zarr.create_array(
        tmp_path / "theirs.zarr",
        shape=ours.shape,
        dtype=ours.dtype,
        chunks=ours.chunks,
        shards=ours.shards,
        compressors=ours.compressors,
        fill_value=np.nan,
    )
    theirs[...] = features.astype(dtype)
    assert ours.chunks[0] == min(tiles, 256 if dtype == "float16" else 128)
    np.testing.assert_array_equal(np.asarray(ours), features.astype(dtype))
    assert shard(tmp_path / "a.zarr", "features").stat().st_size == (tmp_path / "theirs.zarr/c/0/0").stat().st_size


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    features, coords = numbers(256, WIDE)
    peaks = []
    for times in (4, 40):
        tracemalloc.start()
        with FeatureWriter(tmp_path / "a.zarr", width=WIDE, dtype="float16", most=256 * times) as writer:
            for _ in range(times):
                writer.append(features, coords)
            writer.finish(facts(WIDE))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= peaks[0] + 100_000  # bytes; the features of the difference are 37 million


def test_what_is_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    features, coords = numbers(700, WIDE)
    store = tmp_path / "a.zarr"
    with FeatureWriter(store, width=WIDE, dtype="float16", most=700) as writer:
        writer.append(features, coords)
    assert list(tmp_path.iterdir()) == []

    def interrupted() -> None:
        with FeatureWriter(store, width=WIDE, dtype="float16", most=700) as writer:
            writer.append(features, coords)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    writer = FeatureWriter(store, width=WIDE, dtype="float16", most=700)
    writer.append(features, coords)
    writer.discard()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    write_features(store, *numbers(5), facts())
    before = digest_of(store)
    features, coords = numbers(700, WIDE)
    with FeatureWriter(store, width=WIDE, dtype="float16", most=800) as writer:
        writer.append(features, coords)
        assert digest_of(store) == before
        features[3, 3] = np.nan
        with pytest.raises(StoreError, match="1 of 704 tiles have features that are not finite, the first at x=1344"):
            writer.append(features[:4], coords[:4])
        with pytest.raises(UsageError, match="closed"):
            writer.append(features[:1], coords[:1])
    assert digest_of(store) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_killed_writer_is_cleaned_up_after(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy as np; from pathlib import Path; from wsipipe.data.features.store import FeatureWriter\n"
        "writer = FeatureWriter(Path(sys.argv[1]), width=2048, dtype='float16', most=600)\n"
        "writer.append(np.ones((600, 2048), np.float32), np.zeros((600, 2), np.int64))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    store = tmp_path / "a.zarr"
    killed = subprocess.run([sys.executable, "-c", script, str(store)], check=False)
    assert killed.returncode == -9
    assert not store.exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert recover(tmp_path) == ["removed the unfinished a.zarr"]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_no_trace(tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    script = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from wsipipe.data.errors import SurroundingsError\n"
        "from wsipipe.data.features.store import FeatureWriter\n"
        "writer = FeatureWriter(Path(sys.argv[1]), width=2048, dtype='float16', most=2000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))\n"
        "features = np.random.default_rng(0).normal(size=(2000, 2048))\n"
        "try: writer.append(features, np.zeros((2000, 2), np.int64))\n"
        "except SurroundingsError as error: print(error.what)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.zarr")]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert said.stdout == "could not write: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_the_machine_s_fault(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file in the way")
    with pytest.raises(SurroundingsError):
        FeatureWriter(tmp_path / "features" / "a.zarr", width=8, dtype="float16", most=5)


def test_calls_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    features, coords = numbers(6)
    calls: dict[str, Callable[[FeatureWriter], object]] = {
        "at most 5": lambda writer: writer.append(features, coords),
        r"features \(2, 7\)": lambda writer: writer.append(features[:2, :7], coords[:2]),
        r"coords \(1, 2\)": lambda writer: writer.append(features[:2], coords[:1]),
        "the facts state 9": lambda writer: writer.finish(facts(9)),
    }
    for message, call in calls.items():
        with (
            pytest.raises(UsageError, match=message),
            FeatureWriter(tmp_path / "a.zarr", width=8, dtype="float16", most=5) as writer,
        ):
            call(writer)
    assert list(tmp_path.iterdir()) == []


# ----- read when asked for -----

INDICES: dict[str, Any] = {
    "a slice": slice(100, 300),
    "all": slice(None),
    "from behind": slice(-5, None),
    "beyond the end": slice(650, 9999),
    "nothing": slice(30, 30),
    "every seventh": slice(3, 690, 7),
    "backwards": slice(None, None, -100),
    "one": 513,
    "the last": -1,
    "out of order": [699, 0, 256, 255, 1],
    "twice": np.array([5, 5, 600, 5]),
    "none": np.array([], np.int64),
    "a mask": np.arange(700) % 90 == 2,
    "an empty mask": np.zeros(700, bool),
}


@pytest.mark.parametrize("kind", INDICES)
def test_rows_are_chosen_as_numpy_chooses_them(whole_store: Path, kind: str) -> None:
    features, coords = numbers(700, WIDE)
    store = open_features(whole_store)
    rows = store.features[INDICES[kind]]
    assert rows.dtype == store.features.dtype == np.float16
    np.testing.assert_array_equal(rows, features.astype(np.float16)[INDICES[kind]])
    places = store.coords[INDICES[kind]]
    assert places.dtype == np.int64
    np.testing.assert_array_equal(places, coords[INDICES[kind]])


def test_an_open_store_says_what_it_is(whole_store: Path) -> None:
    store = open_features(whole_store)
    assert store.shape == store.features.shape == (700, WIDE)
    assert store.coords.shape == (700, 2)
    assert len(store) == len(store.features) == 700
    assert store.facts == facts(WIDE)
    for wrong in (700, [0, 700], np.ones(699, bool)):
        with pytest.raises(IndexError):
            store.features[wrong]


def test_only_the_chunks_that_are_asked_for_are_read(whole_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    shutil.copytree(whole_store, store)
    flip(shard(store, "features"), 0.5)  # in the middle of three chunks of 256 tiles
    slide = open_features(store)
    good = np.r_[600, 0:256, 512:700]
    np.testing.assert_array_equal(slide.features[good], numbers(700, WIDE)[0].astype(np.float16)[good])
    assert slide.coords[:].shape == (700, 2)
    for rows in (slice(256, 257), [0, 300], 511):
        with pytest.raises(StoreError, match="damaged"):
            slide.features[rows]


def test_a_store_whose_numbers_are_lost_never_reads_as_numbers(whole_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    shutil.copytree(whole_store, store)
    slide = open_features(store)
    shard(store, "features").unlink()
    shard(store, "coords").unlink()
    for rows in (slide.features, slide.coords):
        with pytest.raises(StoreError, match="a part of it is lost"):
            rows[3:5]


# ----- damage -----


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
