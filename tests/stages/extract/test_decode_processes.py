"""Decode processes: the pixels of threads, and a slide alone that fails when a process hangs, crashes or is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_made_feed import Kept, Network, embedder_of, features_of
from wsipipe.data.errors import SlideError, SurroundingsError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Mpp, TilePx
from wsipipe.pipeline.demo.slides import write_aperio
from wsipipe.stages.extract.batch_memory import can_be_shared
from wsipipe.stages.extract.feed import TileFeed
from wsipipe.stages.extract.feed_batch import OpenBag
from wsipipe.stages.stage import Item, Silence

pytestmark = pytest.mark.skipif(not can_be_shared(), reason="this system has no memory that processes can share")

SIDE = 32


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Noise, in JPEG tiles of 240 px."""
    folder = tmp_path_factory.mktemp("slides")
    paths = {}
    for seed, (name, side) in enumerate([("a", 512), ("b", 320), ("c", 96)]):
        paths[name] = folder / f"{name}.svs"
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
        write_aperio(paths[name], pixels, mpp=Mpp(0.5))
    return paths


def tiles_of(path: Path, mpp: float) -> TileSet:
    with open_slide(path) as slide:
        its = {"mpp": Mpp(mpp), "tile_px": TilePx(SIDE), "overlap": TilePx(0), "native_tolerance": 0.02}
        grid = plan_grid(slide.level_dimensions, slide.level_downsamples, Mpp(0.5), allow_upsample=False, **its)
        coords = grid.coords()
        scores = np.ones(len(coords), np.float32)
        return TileSet(
            slide_id=path.stem,
            slide_format=slide.format,
            slide_size=slide.dimensions,
            slide_mpp=Mpp(0.5),
            grid=grid,
            min_tissue=0.0,
            coords=coords,
            tissue_fraction=scores,
            sharpness=scores,
            sharpness_mpp=Mpp(8.0),
        )


def fed(
    paths: dict[str, Path],
    mpp: float = 0.5,
    *,
    max_bad_tiles: float = 0.0,
    before: Callable[[int], object] = lambda size: None,
    **how: Any,
) -> dict[str, OpenBag]:
    tiles = {name: tiles_of(path, mpp) for name, path in paths.items()}

    def open_bag(item: Item) -> OpenBag:
        return OpenBag(item, open_slide(paths[item.id]), tiles[item.id], Kept(), max_bad_tiles)

    settings = {"batch_size": 8, "threads": 2, "processes": True} | how
    feed = TileFeed(embedder_of(Network(before), SIDE), Silence(), **settings)
    bags: dict[str, OpenBag] = {}
    for item, bag in feed.run((Item(name, {}) for name in paths), open_bag):
        assert isinstance(bag, OpenBag), bag
        bag.close()
        bags[item.id] = bag
    assert not [process for process in active_children() if process.name == "wsipipe decode"]
    return bags


@pytest.mark.parametrize("mpp", [0.5, 1.2], ids=["native", "resized"])
def test_processes_give_the_pixels_of_threads(slides: dict[str, Path], mpp: float) -> None:
    found, wanted = fed(slides, mpp), fed(slides, mpp, processes=False)
    for name in slides:
        assert np.array_equal(features_of(found[name]), features_of(wanted[name]))
        assert np.array_equal(found[name].sink.coords, wanted[name].sink.coords)  # type: ignore[attr-defined]


def test_tiles_that_cannot_be_decoded_are_left_out_and_too_many_fail_their_slide(
    slides: dict[str, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.svs"
    content = bytearray(slides["a"].read_bytes())
    at = content.index(b"\xff\xd8")  # the first JPEG tile of level 0
    content[at : at + 64] = bytes(64)
    damaged.write_bytes(content)
    paths = {"a": slides["a"], "damaged": damaged, "b": slides["b"]}
    allowed, wanted = fed(paths, max_bad_tiles=0.5), fed(paths, max_bad_tiles=0.5, processes=False)
    assert 0 < len(allowed["damaged"].bad) == len(wanted["damaged"].bad)
    assert np.array_equal(features_of(allowed["damaged"]), features_of(wanted["damaged"]))
    refused = fed(paths)
    assert "tiles cannot be decoded" in str(refused["damaged"].error)
    for name in ("a", "b"):
        assert np.array_equal(features_of(refused[name]), features_of(wanted[name]))


@pytest.mark.parametrize(
    ("sent", "kind", "message"),
    [
        (signal.SIGSTOP, SlideError, "was given up after 5 s"),
        (signal.SIGSEGV, SlideError, "the decoder crashed"),
        (signal.SIGKILL, SurroundingsError, "was killed, probably for want of memory"),
    ],
)
def test_a_process_that_hangs_crashes_or_is_killed_fails_its_slide_alone(
    slides: dict[str, Path], sent: signal.Signals, kind: type[Exception], message: str
) -> None:
    """At the first batch, when most of the first slide is still to be decoded."""
    struck: list[int] = []

    def strike(size: int) -> None:
        if size > 1 and not struck:  # the network's width was found with one tile
            [process] = [process for process in active_children() if process.name == "wsipipe decode"]
            struck.append(process.pid or 0)
            os.kill(struck[0], sent)

    found = fed(slides, before=strike, threads=1, timeout=5)
    assert len(struck) == 1
    assert isinstance(found["a"].error, kind)
    assert message in str(found["a"].error)
    wanted = fed(slides, processes=False)
    for name in ("b", "c"):
        assert np.array_equal(features_of(found[name]), features_of(wanted[name]))


def test_a_run_that_is_cut_short_leaves_no_process(slides: dict[str, Path]) -> None:
    def open_bag(item: Item) -> OpenBag:
        return OpenBag(item, open_slide(slides[item.id]), tiles_of(slides[item.id], 0.5), Kept())

    feed = TileFeed(embedder_of(Network(), SIDE), Silence(), batch_size=8, threads=2, processes=True)
    running = feed.run((Item(name, {}) for name in "cab"), open_bag)
    next(running)
    assert [process for process in active_children() if process.name == "wsipipe decode"]
    running.close()
    assert not [process for process in active_children() if process.name == "wsipipe decode"]
