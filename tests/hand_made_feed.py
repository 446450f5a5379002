"""Hand-made slides, sinks and networks for tests of the extraction feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from wsipipe.data.errors import SlideError
from wsipipe.data.features.store import FeatureFacts
from wsipipe.data.slides.slide import Rgb, Slide
from wsipipe.data.tiling.grid import TileGrid
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Level0Px, LevelPx, Mpp, TilePx
from wsipipe.models.backbones.backbone import Backbone, Embedder, ready
from wsipipe.models.backbones.weights import Weights
from wsipipe.stages.extract.feed import TileFeed
from wsipipe.stages.extract.feed_batch import OpenBag
from wsipipe.stages.extract.feed_report import FeedReport
from wsipipe.stages.stage import Item, Silence

SIDE = 32
CPU = torch.device("cpu")


class NoiseSlide(Slide):
    """Each tile is noise of its own, made when it is read.

    :param before: called with the tile's number before each read.
    """

    format = "hand-made"
    reader = "noise"
    level_downsamples = (1.0,)
    mpp = (Mpp(0.5), Mpp(0.5))

    def __init__(self, name: str, count: int, before: Callable[[int], object] = lambda index: None) -> None:
        self.path = Path(name)
        self.level_dimensions = ((SIDE * count, SIDE),)
        self.before = before
        self.seed = sum(name.encode())
        self.closed = False

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        index = x // SIDE
        self.before(index)
        return pixels_of(self.seed, index)

    def close(self) -> None:
        self.closed = True


def pixels_of(seed: int, index: int) -> Rgb:
    return np.random.default_rng((seed, index)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def tiles_of(slide: NoiseSlide) -> TileSet:
    width = slide.level_dimensions[0][0]
    count = width // SIDE
    coords = np.stack([np.arange(count) * SIDE, np.zeros(count, int)], axis=1).astype(np.int64)
    scores = np.ones(count, np.float32)
    grid = TileGrid(
        mpp=Mpp(0.5),
        tile_px=TilePx(SIDE),
        overlap=TilePx(0),
        level=0,
        downsample=1.0,
        level_mpp=Mpp(0.5),
        read_px=LevelPx(SIDE),
        columns=count,
        rows=1,
    )
    return TileSet(
        slide_id=str(slide.path),
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


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.features: list[NDArray[Any]] = []
        self.coords: list[NDArray[np.int64]] = []
        self.discarded = False
        self.before = before

    def append(self, features: NDArray[np.floating[Any]], coords: NDArray[np.int64]) -> None:
        self.before()
        self.features += list(features)
        self.coords += list(coords)

    def finish(self, facts: FeatureFacts) -> None:
        raise AssertionError("the caller's to do")

    def discard(self) -> None:
        self.discarded = True


def item(slide: NoiseSlide) -> Item:
    return Item(str(slide.path), {}, slide, size=slide.level_dimensions[0][0] // SIDE)


def bag_of(it: Item, max_bad_tiles: float = 0.0, sink: Kept | None = None) -> OpenBag:
    return OpenBag(it, it.payload, tiles_of(it.payload), sink or Kept(), max_bad_tiles)


def embedder_of(network: nn.Module, side: int = SIDE) -> Embedder:
    backbone = Backbone(
        name="hand-made",
        architecture="none",
        source="made here",
        interpolation="bicubic",
        pooling="pooled",
        resize=side,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    return ready(backbone, network.eval(), Weights(Path("none"), "random"), device=CPU)


class Network(nn.Module):
    """Mean colours; slow, short of memory, or broken where it is asked to be."""

    def __init__(self, before: Callable[[int], object] = lambda size: None) -> None:
        super().__init__()
        self.before = before

    def forward(self, pixels: Tensor) -> Tensor:
        self.before(len(pixels))
        return pixels.mean((2, 3))


def fed(
    slides: Iterable[NoiseSlide], embedder: Embedder, open_bag: Callable[[Item], OpenBag] = bag_of, **how: Any
) -> tuple[dict[str, OpenBag | Exception], FeedReport]:
    feed = TileFeed(embedder, Silence(), **({"batch_size": 8, "threads": 2} | how))
    given = {it.id: bag for it, bag in feed.run(map(item, slides), open_bag)}
    assert feed.report is not None
    return given, feed.report


def features_of(bag: OpenBag | Exception) -> NDArray[np.float32]:
    assert isinstance(bag, OpenBag)
    assert bag.error is None
    assert isinstance(bag.sink, Kept)
    return np.stack(bag.sink.features)


def closed(bag: OpenBag) -> bool:
    assert isinstance(bag.slide, NoiseSlide)
    return bag.slide.closed


def spoilt(*indices: int) -> Callable[[int], None]:
    def before(index: int) -> None:
        if index in indices:
            raise SlideError("damaged", path="x")

    return before
