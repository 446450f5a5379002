"""The feed: features do not depend on the batch, order, memory, the end of a run, the bottleneck."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from wsipipe.models.backbones.backbone import Embedder
from wsipipe.stages.extract.feed import TileFeed
from wsipipe.stages.extract.feed_batch import OpenBag
from wsipipe.stages.extract.feed_report import FeedReport
from wsipipe.stages.stage import Item, Silence

sys.path.insert(0, str(Path(__file__).parents[2]))

import hand_made_feed
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
    tiles_of,
)

# ----- features -----


@pytest.fixture(scope="module", params=["test_efficientnet", "test_vit"])
def network(request: pytest.FixtureRequest) -> Embedder:
    """A small network of each kind, with random weights."""
    torch.manual_seed(0)
    size = {"img_size": 64} if request.param == "test_vit" else {}
    return embedder_of(timm.create_model(request.param, pretrained=False, num_classes=0, **size), side=64)


def test_features_do_not_depend_on_company_and_come_in_the_order_of_the_tiles(network: Embedder) -> None:
    """The same bits alone and among others, before and behind them, in a full batch and a padded one."""
    sizes = {"a": 21, "b": 1, "c": 40, "d": 3}

    def run(names: str, threads: int) -> dict[str, NDArray[np.float32]]:
        bags, report = fed([NoiseSlide(name, sizes[name]) for name in names], network, threads=threads)
        assert report.tiles == sum(sizes[name] for name in names)
        for name, bag in bags.items():
            assert isinstance(bag, OpenBag)
            assert isinstance(bag.sink, Kept)
            assert np.array_equal(bag.sink.coords, tiles_of(NoiseSlide(name, sizes[name])).coords)
        return {name: features_of(bag) for name, bag in bags.items()}

    together = run("abcd", 2)
    for others in (run("dcba", 2), run("cb", 1), run("a", 3), run("d", 1)):
        for name, features in others.items():
            assert np.array_equal(features, together[name])
    batch = torch.zeros((8, SIDE, SIDE, 3), dtype=torch.uint8)
    for index in range(21):  # each where it stands, alone in its batch
        batch.zero_()
        batch[index % 5] = torch.from_numpy(pixels_of(ord("a"), index))
        assert np.array_equal(network(batch)[index % 5].numpy(), together["a"][index])


def test_across_batch_shapes_features_agree_to_a_hundred_thousandth(network: Embedder) -> None:
    slides = [NoiseSlide("a", 21), NoiseSlide("b", 9)]
    wanted, _ = fed(slides, network, batch_size=8)
    for batch_size in (1, 5, 64):
        given, _ = fed(slides, network, batch_size=batch_size)
        for name in wanted:
            np.testing.assert_allclose(features_of(given[name]), features_of(wanted[name]), rtol=1e-5, atol=1e-5)


# ----- what goes wrong -----


def spoilt(*indices: int) -> Callable[[int], None]:
    def before(index: int) -> None:
        if index in indices:
            raise SlideError("damaged", path="x")

    return before


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


def test_what_is_not_for_want_of_memory_is_not_tried_in_halves() -> None:
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


def test_a_run_that_is_cut_short_gives_up_what_is_open_and_ends_its_threads() -> None:
    opened: list[OpenBag] = []

    def open_bag(it: Item) -> OpenBag:
        opened.append(bag_of(it))
        return opened[-1]

    feed = TileFeed(embedder_of(Network(lambda size: time.sleep(0.002))), Silence(), batch_size=8, threads=2)
    running = feed.run(map(item, (NoiseSlide(f"s{n:02}", 16) for n in range(200))), open_bag)
    finished = [bag for _, (_, bag) in zip(range(3), running, strict=False)]
    running.close()
    names = {"decode", "embed", "write", "open"}
    for thread in threading.enumerate():
        if thread.name == "open":  # it ends by itself, and lets go of what it has opened
            thread.join(5)
    assert not [thread.name for thread in threading.enumerate() if thread.name in names]
    assert 3 <= len(opened) < 200
    for bag in opened:
        assert isinstance(bag.sink, Kept)
        assert bag.sink.discarded == (bag not in finished)
        assert closed(bag) == (bag not in finished)


def test_a_slide_is_not_taken_before_its_time() -> None:
    """Another GPU may want it: of a long slide nearly all tiles are read before the next is asked for."""
    read: list[int] = []
    taken: list[int] = []

    def items() -> Iterator[Item]:
        for name in "abc":
            taken.append(len(read))
            yield item(NoiseSlide(name, 2000, read.append))

    feed = TileFeed(embedder_of(Network()), Silence(), batch_size=8, threads=2)
    assert [it.id for it, _ in feed.run(items(), bag_of)] == ["a", "b", "c"]
    assert taken[0] == 0
    assert 1500 < taken[1] <= 2000
    assert 3500 < taken[2] <= 4000


# ----- memory -----

PEAK = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("hand_made_feed", sys.argv[1])
it = importlib.util.module_from_spec(spec)
sys.modules["hand_made_feed"] = it
spec.loader.exec_module(it)


class Wide(it.nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)[:, :2048] * 1.0


class Nowhere(it.Kept):
    def append(self, features, coords):
        pass


slide = it.NoiseSlide("a", int(sys.argv[2]))
bags, _ = it.fed([slide], it.embedder_of(Wide()), lambda item: it.bag_of(item, sink=Nowhere()))
assert bags["a"].error is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_tiles() -> None:
    """20,000 tiles are 61 MB of pixels and 164 MB of features: none of that may be held."""

    def peak(tiles: int) -> float:
        command = [sys.executable, "-c", PEAK, hand_made_feed.__file__, str(tiles)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    few, many = peak(2_000), peak(20_000)
    assert many - few < 12  # MiB; the places of the tiles themselves are 0.4


# ----- the bottleneck -----


@pytest.mark.parametrize(
    ("slow", "said"),
    [
        ("read", "bottleneck: decoding"),
        ("network", "bottleneck: backbone"),
        ("sink", "bottleneck: writing"),
        ("open", "bottleneck: opening slides"),
    ],
)
def test_the_bottleneck_is_named(slow: str, said: str) -> None:
    def wait(part: str, seconds: float) -> Callable[..., None]:
        return lambda *_: time.sleep(seconds) if part == slow else None

    def open_bag(it: Item) -> OpenBag:
        wait("open", 0.2)()
        return bag_of(it, sink=Kept(wait("sink", 0.02)))

    slides = [NoiseSlide(name, 60, wait("read", 0.01)) for name in "abcd"]
    embedder = embedder_of(Network(wait("network", 0.04)))
    _, report = fed(slides, embedder, open_bag)
    [sentence] = report.sentences()
    assert sentence.startswith(said)
    assert max(report.busy.values()) > 0.7
    assert min(report.busy.values()) < 0.3
    assert report.tiles == 240


def report(**changes: Any) -> FeedReport:
    usual: dict[str, Any] = {"device": "cuda", "precision": "bf16", "batch_size": 64, "threads": 2, "cores": 16}
    usual |= {"streams": 1, "seconds": 100.0, "tiles": 5000, "decoding": 20.0, "computing": 30.0}
    return FeedReport(**(usual | {"writing": 5.0, "opening": 1.0} | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoding": 194.0}, ["bottleneck: decoding (97 % busy", "backbone 30 %", "50 tiles/s", "try --threads 4"]),
        ({"decoding": 194.0, "resampled": True}, ["--threads 4, or tile at an --mpp"]),
        ({"decoding": 1560.0, "threads": 16}, ["a machine with more cores"]),
        ({"computing": 98.0, "precision": "fp32"}, ["bottleneck: backbone (98 % busy", "--precision bf16"]),
        ({"computing": 98.0}, ["this is the best case"]),
        ({"computing": 196.0, "streams": 2, "device": "cpu", "cores": 2}, ["(98 % busy", "a GPU"]),
        ({"writing": 90.0}, ["bottleneck: writing (90 % busy", "disk"]),
        ({"opening": 90.0}, ["bottleneck: opening slides"]),
    ],
)
def test_the_advice_fits_the_bottleneck(changes: dict[str, Any], said: list[str]) -> None:
    [sentence] = report(**changes).sentences()
    assert [words for words in said if words not in sentence] == []


def test_an_empty_run_reports_no_bottleneck() -> None:
    bags, nothing = fed([], embedder_of(Network()))
    assert (bags, nothing.sentences()) == ({}, [])


def test_a_profile_is_a_trace_of_the_network(tmp_path: Path, network: Embedder) -> None:
    fed([NoiseSlide("a", 400)], network, profile=tmp_path / "new" / "trace.json", threads=1)
    events = json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]
    names = [str(event.get("name")) for event in events]
    assert sum(name.startswith("ProfilerStep") for name in names) >= 10
    assert any("conv" in name for name in names)
