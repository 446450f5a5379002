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

import hand_made_feed
import numpy as np
import pytest
import timm
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
    tiles_of,
)
from numpy.typing import NDArray
from wsipipe.models.backbones.backbone import Embedder
from wsipipe.stages.extract.feed import TileFeed
from wsipipe.stages.extract.feed_batch import OpenBag
from wsipipe.stages.extract.feed_report import FeedReport
from wsipipe.stages.stage import Item, Silence

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


# ----- slides -----


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
        ({"decoding": 194.0, "resampled": True}, ["--threads 4, or tile at the --mpp"]),
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
