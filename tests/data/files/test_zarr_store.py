"""Zarr stores from strangers: no code runs, and what claims absurd sizes is refused before anything is allocated."""

from __future__ import annotations

import json
import os
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from numcodecs import Zstd
from wsipipe.data.errors import StoreError
from wsipipe.data.features.store import FeatureFacts, open_features, read_bag, read_facts, write_features
from wsipipe.data.files.zarr_store import open_zarr
from wsipipe.data.molecular.store import read_expression, write_expression

FACTS = FeatureFacts(
    slide_id="s",
    slide_digest="sha256:s",
    tiles_digest="sha256:t",
    mpp=0.5,
    tile_px=224,
    tile_size_level0=224,
    backbone="b",
    architecture="a",
    pooling="cls",
    width=8,
    weights_digest="sha256:w",
    precision="fp32",
    transform={},
)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "s.zarr"
    numbers = np.random.default_rng(0).normal(size=(300, 8))
    write_features(path, numbers, np.arange(600).reshape(300, 2), FACTS)
    return path


@pytest.fixture
def expression(tmp_path: Path) -> Path:
    path = tmp_path / "expression.zarr"
    names = pd.DataFrame(index=["P1", "P2"]), pd.DataFrame(index=["A", "B", "C"])
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_expression(path, anndata.AnnData(matrix, *names, uns={"unit": "log2(CPM + 1)", "source": "m.csv"}))
    return path


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def shapes(*shape: int) -> Callable[[dict[str, Any]], object]:
    return lambda c: c.update(shape=list(shape))


def shards(*shape: int) -> Callable[[dict[str, Any]], object]:
    return lambda c: c["chunk_grid"]["configuration"].update(chunk_shape=list(shape))


def inner(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda c: c["codecs"][0]["configuration"].update(values)


PICKLE = {"name": "numcodecs.pickle", "configuration": {}}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}
ABSURD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a million million tiles": (shapes(10**12, 8), "claims an array of 1,000,000,000,000 × 8 values"),
    "a width of a billion": (shapes(300, 10**9), "claims an array of 300 × 1,000,000,000 values"),
    "a huge shard": (shards(3 * 10**11, 8), "claims a chunk of 300,000,000,000 × 8 values"),
    "tiny shards": (
        lambda c: (shapes(10**6, 8)(c), shards(1, 8)(c), inner(chunk_shape=[1, 8])(c)),
        "claims 1,000,000 chunks",
    ),
    "tiny chunks": (lambda c: (shards(3 * 10**6, 8)(c), inner(chunk_shape=[1, 1])(c)), "chunks in a shard"),
    "chunks across shards": (inner(chunk_shape=[299, 8]), "no whole number of chunks"),
    "no chunks": (shards(0, 8), r"has the sizes"),
    "a shape of text": (lambda c: c.update(shape=["300", 8]), "has the sizes"),
    "a negative shape": (shapes(-300, 8), "has the sizes"),
    "another number of axes": (shards(300), "chunks of another number of axes"),
    "pickles": (lambda c: c.update(codecs=[PICKLE]), "has the codec 'numcodecs.pickle': only bytes, crc32c"),
    "pickles in shards": (inner(codecs=[{"name": "bytes"}, PICKLE]), "has the codec 'numcodecs.pickle'"),
    "pickles in the index": (inner(index_codecs=[PICKLE]), "has the codec 'numcodecs.pickle'"),
    "shards within shards": (
        lambda c: c["codecs"][0]["configuration"].update(codecs=json.loads(json.dumps(c["codecs"]))),
        "has the codecs sharding_indexed in another order",
    ),
    "compressed twice": (inner(codecs=[{"name": "bytes"}, ZSTD, ZSTD]), "the codecs bytes, zstd, zstd in another"),
    "a compressed index": (inner(index_codecs=[{"name": "bytes"}, ZSTD]), "bytes, zstd in the index"),
    "no codecs": (lambda c: c.update(codecs=[]), "in another order"),
    "codecs by name": (lambda c: c.update(codecs=["bytes"]), "damaged"),
    "objects": (lambda c: c.update(data_type={"name": "struct"}), "values of the type"),
    "text": (lambda c: c.update(data_type="string"), "has the codecs sharding_indexed"),
    "other numbers": (lambda c: c.update(data_type="int16", fill_value=0), "its features are int16"),
    "irregular chunks": (lambda c: c["chunk_grid"].update(name="rectilinear"), "has no regular chunks"),
    "another order": (lambda c: c["codecs"][0]["configuration"].update(index_location="start"), "of another layout"),
    "transformers": (lambda c: c.update(storage_transformers=[{"name": "x"}]), "has storage transformers"),
    "format 2 within": (lambda c: c.update(zarr_format=2), "is not of zarr's format 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_features_are_refused_at_once(features: Path, name: str) -> None:
    edit, said = ABSURD[name]
    change(features / "features" / "zarr.json", edit)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for read in (read_bag, lambda path: open_features(path).features[:]):
        with pytest.raises(StoreError, match=said) as caught:
            read(features)
        assert caught.value.path == str(features)
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def v2_group(path: Path, codecs: list[dict[str, Any]]) -> None:
    """A group of zarr's format 2 whose arrays hold a pickle that runs code."""
    command = b"touch ran"
    code = b"cos\nsystem\n(S'" + command + b"'\ntR."
    path.mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    attributes = {"encoding-type": "wsipipe-features", "encoding-version": "1", **FACTS.model_dump(mode="json")}
    (path / ".zattrs").write_text(json.dumps(attributes))
    for name in ("features", "coords", "X"):
        (path / name).mkdir()
        array = {"zarr_format": 2, "shape": [1, 8], "chunks": [1, 8], "dtype": "|O", "compressor": None, "order": "C"}
        (path / name / ".zarray").write_text(json.dumps({**array, "fill_value": 0, "filters": codecs}))
        (path / name / "0.0").write_bytes(code)


@pytest.mark.parametrize("codecs", [[{"id": "pickle"}], [{"id": "vlen-utf8"}, {"id": "pickle"}]])
def test_a_store_of_format_2_runs_no_code(
    tmp_path: Path, codecs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    v2_group(tmp_path / "s.zarr", codecs)
    for read in (read_facts, read_bag, read_expression):
        with pytest.raises(StoreError, match="format 2, of which reading may run code") as caught:
            read(tmp_path / "s.zarr")
        assert "pickle" not in f"{caught.value} {caught.value.hint}"
    assert not (tmp_path / "ran").exists()


def test_an_array_of_format_2_in_a_store_of_format_3_runs_no_code(
    tmp_path: Path, features: Path, expression: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    v2_group(tmp_path / "other", [{"id": "pickle"}])
    for store, array, read in ((features, "features", read_bag), (expression, "X", read_expression)):
        (store / array / "zarr.json").unlink()
        for file in (".zarray", "0.0"):
            (store / array / file).write_bytes((tmp_path / "other" / "X" / file).read_bytes())
        with pytest.raises(StoreError, match="damaged"):
            read(store)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Consolidated")
def test_consolidated_metadata_are_refused(features: Path) -> None:
    zarr.consolidate_metadata(features)  # they would stand for each array's own, which are checked
    with pytest.raises(StoreError, match="consolidated metadata"):
        read_facts(features)


def bomb(claim: int) -> bytes:
    """A frame of zstd that says it unpacks into so many bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0xC0]) + b"\x58" + struct.pack("<Q", claim) + b"\x01\0\0"


@pytest.mark.parametrize("claim", [4801, 1 << 33, 1 << 62])
def test_a_chunk_that_unpacks_into_more_is_refused(features: Path, expression: Path, claim: int) -> None:
    (expression / "X" / "c" / "0" / "0").write_bytes(bomb(claim))
    with pytest.raises(StoreError, match=f"would unpack into {claim:,} bytes"):
        read_expression(expression)
    shard = features / "features" / "c" / "0" / "0"
    whole = shard.read_bytes()
    frame = bomb(claim)
    shard.write_bytes(frame + whole[len(frame) :])
    with pytest.raises(StoreError, match=f"would unpack into {claim:,} bytes"):
        read_bag(features)


def test_a_real_bomb_is_refused(expression: Path) -> None:
    packed = Zstd(level=1).encode(bytes(1 << 28))
    assert len(packed) < 100_000
    for part in ("X/c/0/0", "obs/_index/c/0", "uns/unit/c"):
        file = expression / part
        whole = file.read_bytes()
        file.write_bytes(packed)
        with pytest.raises(StoreError):
            read_expression(expression)
        file.write_bytes(whole)
    read_expression(expression)


@pytest.mark.parametrize("part", ["uns/unit/c", "uns/content_digest/c", "obs/_index/c/0"])
def test_another_number_of_texts_is_refused(expression: Path, part: str) -> None:
    """The codec would allocate a list of so many before it reads them."""
    file = expression / part
    content = Zstd().decode(file.read_bytes())
    file.write_bytes(Zstd(level=1).encode(b"\xff\xff\xff\xee" + content[4:]))
    with pytest.raises(StoreError, match="texts, and a chunk has"):
        read_expression(expression)


@pytest.mark.parametrize("part", ["uns/unit", "uns/content_digest", "obs/_index"])
def test_compressed_texts_whose_array_does_not_say_so_are_refused(expression: Path, part: str) -> None:
    """The codec would take the first bytes of the frame for their number, and allocate four billion."""
    change(expression / part / "zarr.json", lambda c: c.update(codecs=c["codecs"][:1]))
    with pytest.raises(StoreError, match="claims 4,247,762,216 texts"):
        read_expression(expression)


def test_numbers_that_look_like_a_frame_are_read_where_nothing_is_compressed(tmp_path: Path) -> None:
    values = np.frombuffer(bomb(1 << 62), np.uint8)
    group = zarr.open_group(tmp_path, mode="w", zarr_format=3)
    group.create_array("a", shape=values.shape, dtype="u1", compressors=None, chunks=values.shape)[:] = values
    np.testing.assert_array_equal(np.asarray(open_zarr(tmp_path)["a"]), values)


EXPRESSION: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown kind": (
        lambda s: change(s / "obs" / "zarr.json", lambda c: c["attributes"].pop("_index")),
        "damaged",
    ),
    "no texts": (lambda s: (s / "uns" / "unit" / "zarr.json").unlink(), "does not say its unit and its source"),
    "no uns": (lambda s: (s / "uns" / "zarr.json").unlink(), "damaged"),
    "not AnnData": (lambda s: change(s / "zarr.json", lambda c: c.update(attributes={})), "holds None, not AnnData"),
    "other patients": (lambda s: change(s / "obs" / "_index" / "zarr.json", shapes(3)), "damaged|not the one"),
    "an endless name": (
        lambda s: change(s / "obs" / "zarr.json", lambda c: c["attributes"].update(_index="../" * 50)),
        "damaged",
    ),
    "deep attributes": (lambda s: (s / "zarr.json").write_text('{"a":' * 100_000), "damaged"),
    "numbers of no size": (
        lambda s: (s / "zarr.json").write_text('{"zarr_format": ' + "9" * 10_000 + "}"),
        "more than 300 digits",
    ),
    "a pipe": (lambda s: ((s / "X" / "c/0/0").unlink(), os.mkfifo(s / "X" / "c/0/0")), "is a pipe, not a file"),
    "a folder": (lambda s: ((s / "zarr.json").unlink(), (s / "zarr.json").mkdir()), "is a folder or something"),
}


@pytest.mark.parametrize("name", EXPRESSION)
def test_a_damaged_expression_store_is_refused(expression: Path, name: str) -> None:
    damage, said = EXPRESSION[name]
    damage(expression)
    with pytest.raises(StoreError, match=said) as caught:
        read_expression(expression)
    assert caught.value.path == str(expression)


def test_unknown_encodings_beside_what_is_read_do_no_harm(expression: Path) -> None:
    """Anndata's own reader fails for each that it does not know."""
    change(expression / "layers" / "zarr.json", lambda c: c["attributes"].update({"encoding-version": "9.9"}))
    change(expression / "raw" / "zarr.json", lambda c: c["attributes"].update({"encoding-type": "unheard"}))
    assert read_expression(expression).patients == ("P1", "P2")
