"""The scratch file of bags: what is read is what was added, and what is damaged or gone names its slide."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.errors import SurroundingsError
from wsipipe.data.features.bag_file import BagFile, FiledArrays

DTYPES = ("float16", "float32", "int32")


def arrays_of(seed: int, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 99, shape).astype(DTYPES[n % 3]) for n, shape in enumerate(shapes)]


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=3), max_size=5))
def test_every_slide_is_read_as_it_was_added(tmp_path_factory: pytest.TempPathFactory, slides: list) -> None:
    path = tmp_path_factory.mktemp("bags") / "bags"
    file = BagFile(path)
    added = [arrays_of(n, shapes) for n, shapes in enumerate(slides)]
    filed = [file.add(f"S{n}", arrays) for n, arrays in enumerate(added)]
    for one, arrays in zip(reversed(filed), reversed(added), strict=True):  # in any order, and in another process
        read = pickle.loads(pickle.dumps(one)).read()
        assert [(a.shape, a.dtype) for a in read] == [(a.shape, a.dtype) for a in arrays]
        assert all(np.array_equal(a, b) for a, b in zip(read, arrays, strict=True))
        assert one.bytes == sum(a.nbytes for a in arrays)
    assert file.bytes == sum(one.bytes for one in filed)


def test_an_array_that_is_no_single_stretch_of_memory_is_added_too(tmp_path: Path) -> None:
    every_second = np.arange(24, dtype=np.float16).reshape(4, 6)[:, ::2]
    assert np.array_equal(BagFile(tmp_path / "bags").add("S", [every_second]).read()[0], every_second)


@pytest.fixture
def filed(tmp_path: Path) -> FiledArrays:
    file = BagFile(tmp_path / "bags")
    file.add("before", arrays_of(0, [(5, 4)]))
    return file.add("S1", arrays_of(1, [(7, 4), (2, 9)]))


@pytest.mark.parametrize("damage", ["a bit", "its end", "all of it"])
def test_a_damaged_file_names_the_slide(filed: FiledArrays, damage: str) -> None:
    content = bytearray(filed.file.read_bytes())
    content[-5] ^= 1
    filed.file.write_bytes({"a bit": content, "its end": content[:-20], "all of it": b""}[damage])
    with pytest.raises(SurroundingsError, match="the bag of slide S1 was changed or damaged") as caught:
        filed.read()
    assert caught.value.path == str(filed.file)
    assert "run the same command again" in caught.value.hint


def test_a_file_that_is_gone_names_the_slide(filed: FiledArrays) -> None:
    filed.file.unlink()
    with pytest.raises(SurroundingsError, match="the bag of slide S1 could not be read"):
        filed.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_a_fault_of_the_machine() -> None:
    with pytest.raises(SurroundingsError, match="No space left on device"):
        BagFile(Path("/dev/full")).add("S", arrays_of(0, [(5, 4)]))
