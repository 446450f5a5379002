"""Failures in the feed: bad tiles, hanging decoders, memory that is too small, and errors in threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made_feed import (
    SIDE,
    Kept,
    Network,
    NoiseSlide,
    bag_of,
    closed,
    embedder_of,
    features_of,
    fed,
    item,
    pixels_of,
    spoilt,
)
from torch import Tensor
from wsipipe.data.errors import SlideError, SurroundingsError
from wsipipe.stages.extract.decode_threads import DecodeThreads
from wsipipe.stages.extract.embed_threads import Pieces
from wsipipe.stages.extract.feed_batch import Batch, OpenBag
from wsipipe.stages.stage import Item


def test_bad_tiles_are_left_out_and_too_many_fail_their_slide_alone() -> None:
    # b is so long that buffers come round again
    slides = [NoiseSlide("a", 50, spoilt(3, 4, 49)), NoiseSlide("b", 400, spoilt(1, 2, 390)), NoiseSlide("c", 11)]
    bags, _ = fed(slides, embedder_of(Network()), lambda it: bag_of(it, 0.05))
    a, b, c = (bags[name] for name in "abc")
    assert isinstance(a, OpenBag)
    assert isinstance(a.error, SlideError)
    assert "at least 3 of 50 tiles cannot be decoded" in str(a.error)
    assert "x=96 y=0" in str(a.error)
    assert isinstance(b, OpenBag)
    assert isinstance(b.sink, Kept)
    assert b.bad == [1, 2, 390]
    good = np.setdiff1d(np.arange(400), b.bad)
    assert [int(x) // SIDE for x, _ in b.sink.coords] == good.tolist()
    colours = np.stack([pixels_of(ord("b"), index).mean((0, 1)) for index in good])
    np.testing.assert_allclose(features_of(b), (colours / 255 - 0.5) / 0.25, atol=1e-5)
    assert len(features_of(c)) == 11


def test_a_slide_of_bad_tiles_only_may_be_allowed() -> None:
    bags, _ = fed([NoiseSlide("a", 9, spoilt(*range(9)))], embedder_of(Network()), lambda it: bag_of(it, 1.0))
    bag = bags["a"]
    assert isinstance(bag, OpenBag)
    assert (bag.error, sorted(bag.bad)) == (None, list(range(9)))


def test_what_is_not_foreseen_fails_one_slide_and_not_the_others() -> None:
    def opened(it: Item) -> OpenBag:
        if it.id == "b":
            raise SlideError("cannot be opened", path=it.id)
        return bag_of(it, sink=Kept((lambda: 1 / 0) if it.id == "c" else lambda: None))

    def read(index: int) -> None:
        if index == 30:
            raise MemoryError

    slides = [NoiseSlide("a", 40), NoiseSlide("b", 5), NoiseSlide("c", 40), NoiseSlide("d", 40, read)]
    bags, _ = fed([*slides, NoiseSlide("e", 3)], embedder_of(Network()), opened)
    assert isinstance(bags["b"], SlideError)
    errors = {name: type(bag.error) for name, bag in bags.items() if isinstance(bag, OpenBag)}
    assert errors == {"a": type(None), "c": ZeroDivisionError, "d": MemoryError, "e": type(None)}


def test_a_batch_that_cannot_be_computed_fails_its_slides() -> None:
    calls: list[int] = []

    def broken(size: int) -> None:
        calls.append(size)
        if len(calls) == 3:  # the first is the look at the width
            raise RuntimeError("no kernel")

    bags, _ = fed([NoiseSlide(name, 8) for name in "abc"], embedder_of(Network(broken)), threads=1)
    assert [str(bags[name].error) for name in "abc"] == ["None", "no kernel", "None"]  # type: ignore[union-attr]


def test_a_decoder_that_hangs_fails_its_slide_and_the_others_go_on() -> None:
    wake = threading.Event()
    hangs = {"b": 5, "c": 0}
    slides = [
        NoiseSlide(name, 30, lambda index, name=name: wake.wait() if index == hangs.get(name) else None)  # type: ignore[misc]
        for name in "abcd"
    ]
    bags, _ = fed(slides, embedder_of(Network()), timeout=3, threads=1)  # returns, though nobody wakes the decoder
    for name, place in (("b", "x=160 y=0"), ("c", "x=0 y=0")):
        bag = bags[name]
        assert isinstance(bag, OpenBag)
        assert isinstance(bag.error, SlideError)
        assert (bag.error.path, place in str(bag.error), "--tile-timeout" in bag.error.hint) == (name, True, True)
        bag.close()
        assert not closed(bag)  # somebody reads it still
    wanted, _ = fed([NoiseSlide("a", 30), NoiseSlide("d", 30)], embedder_of(Network()))
    for name in "ad":
        assert np.array_equal(features_of(bags[name]), features_of(wanted[name]))
    wake.set()


def test_a_slide_that_hangs_while_it_is_opened_fails_and_is_let_go_when_it_wakes() -> None:
    wake = threading.Event()
    late: list[OpenBag] = []

    def open_bag(it: Item) -> OpenBag:
        if it.id == "b":
            wake.wait()
            late.append(bag_of(it))
            return late[0]
        return bag_of(it)

    bags, _ = fed([NoiseSlide(name, 20) for name in "abc"], embedder_of(Network()), open_bag, timeout=3)
    assert isinstance(bags["b"], SlideError)
    assert "--tile-timeout" in bags["b"].hint
    assert len(features_of(bags["a"])) == len(features_of(bags["c"])) == 20
    [opening] = [thread for thread in threading.enumerate() if thread.name == "open"]
    wake.set()
    opening.join(5)
    assert isinstance(late[0].sink, Kept)
    assert (late[0].sink.discarded, closed(late[0])) == (True, True)


def test_what_wakes_late_touches_no_batch() -> None:
    """Its buffer is another batch's by then."""
    wake, decoded = threading.Event(), threading.Event()
    late = NoiseSlide("a", 1, lambda index: wake.wait())
    stuck, next_one = bag_of(item(late)), bag_of(item(NoiseSlide("b", 1)))
    batch = Batch(2, SIDE, pinned=False)
    threads = DecodeThreads(1, lambda _: decoded.set(), failed=lambda error: None)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "decode"]
    threads.submit(batch.add(stuck, 0, 1))
    batch.settle()
    while not decoded.wait(0.05):
        threads.leave_behind(0.2)
    assert isinstance(stuck.error, SlideError)
    assert not batch.decoded.any()
    batch.begin(1)
    decoded.clear()
    threads.submit(batch.add(next_one, 0, 1))
    batch.settle()
    assert decoded.wait(5)
    wake.set()
    thread.join(5)
    assert not thread.is_alive()
    assert np.array_equal(batch.pixels[0], pixels_of(ord("b"), 0))
    assert not batch.pixels[1].any()
    assert threads.close(5)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_out_of_memory_halves_the_batch_and_goes_on(error: RuntimeError) -> None:
    sizes: list[int] = []

    def small(size: int) -> None:
        sizes.append(size)
        if size > 3:
            raise error

    slides = [NoiseSlide("a", 30), NoiseSlide("b", 7)]
    given, report = fed(slides, embedder_of(Network(small)), batch_size=10, threads=1)
    wanted, _ = fed(slides, embedder_of(Network()), batch_size=10)
    for name in "ab":
        np.testing.assert_allclose(features_of(given[name]), features_of(wanted[name]), atol=1e-6)
    assert sizes == [1, 10, 5, *[3] * 16]  # four batches of three pieces and a rest, all of one shape
    assert report.piece == 3
    assert "--batch-size 3" in report.sentences()[1]


def test_a_single_tile_that_does_not_fit_is_told() -> None:
    def never(size: int) -> None:
        raise torch.OutOfMemoryError("too much")

    network = Network()
    embedder = embedder_of(network)
    network.before = never
    with pytest.raises(torch.OutOfMemoryError):
        Pieces(embedder)(torch.zeros((6, SIDE, SIDE, 3), dtype=torch.uint8))


# ----- threads -----


class Panic(BaseException):
    """What libraries written in Rust raise is no ``Exception`` either."""


@pytest.mark.parametrize("error", [RuntimeError("that"), SystemExit("that"), Panic("that")])
@pytest.mark.parametrize("place", ["open", "read", "network", "sink"])
def test_whatever_a_thread_meets_fails_the_slide_and_the_others_go_on(place: str, error: BaseException) -> None:
    calls: list[object] = []

    def fail(*_: object) -> None:
        calls.append(_)
        if place != "network" or len(calls) == 3:  # the first is the look at the width
            raise error

    def open_bag(it: Item) -> OpenBag:
        if place == "open" and it.id == "b":
            fail()
        return bag_of(it, sink=Kept(fail) if place == "sink" and it.id == "b" else None)

    slides = [NoiseSlide(name, 8, fail if place == "read" and name == "b" else lambda _: None) for name in "abc"]
    network = Network(fail if place == "network" else lambda size: None)
    bags, _ = fed(slides, embedder_of(network), open_bag, threads=1)
    bad = bags["b"]
    assert "that" in str(bad if isinstance(bad, Exception) else bad.error)
    assert len(features_of(bags["a"])) == len(features_of(bags["c"])) == 8


def test_features_of_another_shape_fail_their_slides() -> None:
    class Short(Network):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels)[: len(pixels) // 2]

    bags, _ = fed([NoiseSlide(name, 8) for name in "ab"], embedder_of(Short()))
    assert {type(bag.error) for bag in bags.values() if isinstance(bag, OpenBag)} == {IndexError}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_profile_that_cannot_be_written_ends_the_run_before_the_work(tmp_path: Path, threads: int) -> None:
    (tmp_path / "file").touch()
    trace = tmp_path / "file" / "trace.json"
    with pytest.raises(SurroundingsError, match="the profile cannot be written") as caught:
        fed([NoiseSlide("a", 4000)], embedder_of(Network()), profile=trace, threads=threads)
    assert (caught.value.path, "--profile" in caught.value.hint) == (str(trace), True)
    assert not of_the_feed(threading.enumerate())


@pytest.mark.parametrize("tiles", [100, 800])
def test_a_profile_that_cannot_be_written_any_more_ends_the_run(tmp_path: Path, tiles: int) -> None:
    """Of 100 tiles it is written when all is done, of 800 before."""
    folder = tmp_path / "folder"
    network = Network(lambda size: shutil.rmtree(folder, ignore_errors=True))
    with pytest.raises(SurroundingsError, match="the profile cannot be written"):
        fed([NoiseSlide("a", tiles)], embedder_of(network), profile=folder / "trace.json", threads=1)


def test_an_error_that_is_not_foreseen_ends_the_run_and_its_threads() -> None:
    """Here of a decoding thread, where it leaves out a tile."""
    broken: Any = None
    with pytest.raises(TypeError):
        fed([NoiseSlide("a", 4000, spoilt(3))], embedder_of(Network()), lambda it: bag_of(it, broken))
    assert not of_the_feed(threading.enumerate())


def of_the_feed(threads: Iterable[threading.Thread]) -> list[str]:
    return [thread.name for thread in threads if thread.name in {"decode", "embed", "write"}]


def test_an_error_that_is_not_of_memory_is_not_tried_in_halves() -> None:
    sizes: list[int] = []

    def broken(size: int) -> None:
        sizes.append(size)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    network = Network()
    embedder = embedder_of(network)
    network.before = broken
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Pieces(embedder)(torch.zeros((6, SIDE, SIDE, 3), dtype=torch.uint8))
    assert sizes == [6]
