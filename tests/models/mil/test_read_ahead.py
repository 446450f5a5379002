"""Batches step by step: in their order, read while the step before is at work, and no more of them than that."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from wsipipe.data.errors import SurroundingsError
from wsipipe.data.features.bag_file import BagFile
from wsipipe.models.mil.bag_tensors import AnyBag, BagBatch, BagTensors, FiledBag
from wsipipe.models.mil.read_ahead import batches

CPU = torch.device("cpu")


def bag(number: int) -> BagTensors:
    tiles = 3 + number
    edges = torch.arange(tiles, dtype=torch.int32)
    return BagTensors(f"S{number}", torch.full((tiles, 2), float(number)).half(), torch.stack([edges, edges]))


BAGS = [bag(number) for number in range(7)]


@pytest.fixture
def filed(tmp_path: Path) -> list[FiledBag]:
    file = BagFile(tmp_path / "bags")
    return [one.filed(file) for one in BAGS]


def steps_of(bags: list[AnyBag], size: int) -> Iterator[tuple[int, list[AnyBag]]]:
    yield from ((at, bags[at : at + size]) for at in range(0, len(bags), size))


def equal(one: BagBatch, other: BagBatch) -> bool:
    return torch.equal(one.x, other.x) and torch.equal(one.edges, other.edges) and one.sizes == other.sizes


@pytest.mark.parametrize("size", [1, 3])
def test_bags_of_a_file_are_those_in_memory(filed: list[FiledBag], size: int) -> None:
    mixed: list[AnyBag] = [(filed if number % 2 else BAGS)[number] for number in range(len(BAGS))]
    expected = list(batches(steps_of(list(BAGS), size), CPU))
    for bags in (list[AnyBag](filed), mixed):
        found = list(batches(steps_of(bags, size), CPU))
        assert [at for at, _ in found] == [at for at, _ in expected] == list(range(0, len(BAGS), size))
        assert all(equal(one, other) for (_, one), (_, other) in zip(found, expected, strict=True))
    assert [one.bytes for one in filed] == [one.bytes for one in BAGS]
    assert [one.tiles for one in filed] == [one.tiles for one in BAGS]


def test_no_steps() -> None:
    assert list(batches(iter([]), CPU)) == []


def whole_bags() -> int:
    """How many bags this process holds, of those made since it was frozen."""
    gc.collect()
    return sum(type(own) is BagTensors for own in gc.get_objects())


@pytest.fixture
def frozen() -> Iterator[None]:
    """What was there before is looked at no more: that takes seconds in a process that has loaded much."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
def test_one_step_is_taken_ahead_and_no_more(filed: list[FiledBag]) -> None:
    taken: list[int] = []

    def steps() -> Iterator[tuple[int, list[AnyBag]]]:
        for number, one in enumerate(filed):
            taken.append(number)
            yield number, [one]

    assert whole_bags() == 0
    for number, _ in batches(steps(), CPU):
        assert taken == list(range(min(number + 2, len(filed))))
        assert whole_bags() <= 1  # the one that is read ahead; the batch holds numbers of its own


def test_what_cannot_be_read_ends_the_steps_where_it_is_needed(filed: list[FiledBag]) -> None:
    path = filed[0].arrays.file
    content = bytearray(path.read_bytes())
    content[filed[2].arrays.start] ^= 1
    path.write_bytes(content)
    coming = batches(steps_of(list(filed), 1), CPU)
    assert [next(coming)[0], next(coming)[0]] == [0, 1]
    with pytest.raises(SurroundingsError, match="the bag of slide S2 was changed"):
        next(coming)
