"""The feed: tiles of many slides go through decoding threads into batches, through the backbone, back to their slides.

Batches have one constant shape and run across slides; the tail is padded. So at a given batch size a tile's features
depend on that tile alone, whoever its company is. What waits in memory is bounded by the batches in flight, whatever
the number of slides.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.errors import SlideError
from ..data.slide import Slide
from ..data.tiles import TileSet, read_tile
from ..models.backbone import Embedder
from .stage import Item, Progress

_BATCH_SIZE = {"cpu": 4}
"""Where it is not given; 64 elsewhere. On a CPU, glibc gives buffers of more than 32 MB back at every free, and larger
batches of a small network have such: 8 tiles a batch ran at 0.8 of the rate of 4."""
_BATCHES_AHEAD = 3
"""Decoded tiles wait in memory for so many batches at most, beside those that are being computed."""


@dataclass
class OpenBag:
    """A slide in work."""

    item: Item
    slide: Slide
    tiles: TileSet
    features: NDArray[np.float32]
    """(N, width), filled as batches come back."""
    left: int
    """Tiles that are neither done nor given up."""
    bad: list[int] = field(default_factory=list)
    """Indices of tiles that cannot be decoded."""
    error: Exception | None = None
    """Why the slide has failed."""


class TileFeed:
    """Feeds slides to an embedder.

    :param batch_size: tiles a batch; None: by device.
    :param threads: decoding threads; None: one a core.
    :param max_bad_tiles: fraction of undecodable tiles over which a slide is given up.
    """

    def __init__(
        self,
        embedder: Embedder,
        progress: Progress,
        *,
        batch_size: int | None,
        threads: int | None,
        max_bad_tiles: float,
    ) -> None:
        self._embedder, self._progress, self._max_bad_tiles = embedder, progress, max_bad_tiles
        self._on_gpu = embedder.device.type != "cpu"
        self._batch_size = self._chunk = batch_size or _BATCH_SIZE.get(embedder.device.type, 64)
        self._threads = threads or os.cpu_count() or 1
        # On a CPU a batch a core, each computed by one thread, keeps all cores busy without one waiting for another.
        self._streams = 1 if self._on_gpu else self._threads
        self._decoding: deque[tuple[OpenBag, int, Future[NDArray[np.uint8]]]] = deque()
        self._computing: deque[tuple[list[tuple[OpenBag, int]], Future[NDArray[np.float32]]]] = deque()
        self._places: list[tuple[OpenBag, int]] = []
        self._batch = torch.empty(0)

    def run(
        self, items: Iterable[Item], open_bag: Callable[[Item], OpenBag]
    ) -> Iterator[tuple[Item, OpenBag | Exception]]:
        """Open the items one after the other, and yield each when all its tiles are done or given up."""
        with (
            _one_thread_a_batch(self._on_gpu),
            _pool(self._threads, "decode") as decode,
            _pool(self._streams, "compute") as compute,
        ):
            for item in items:
                try:
                    bag = open_bag(item)
                except Exception as error:  # noqa: BLE001  the boundary: a failed slide never stops the others
                    self._progress.advance(item.size)
                    yield item, error
                    continue
                self._progress.say(item.id)
                for index in range(len(bag.tiles)):
                    if bag.error is not None:  # nothing more of this slide is worth decoding
                        yield from self._done(bag, len(bag.tiles) - index)
                        break
                    self._decoding.append((bag, index, decode.submit(read_tile, bag.slide, bag.tiles, index)))
                    if len(self._decoding) >= _BATCHES_AHEAD * self._batch_size:
                        yield from self._take(compute)
            while self._decoding:
                yield from self._take(compute)
            self._launch(compute)
            while self._computing:
                yield from self._land()

    def _take(self, compute: ThreadPoolExecutor) -> Iterator[tuple[Item, OpenBag]]:
        """Put the oldest tile into the batch; one that cannot be decoded is left out and counted, never replaced."""
        bag, index, future = self._decoding.popleft()
        try:
            pixels = future.result()
        except SlideError:
            bag.bad.append(index)
            bag.error = bag.error or self._too_many(bag)
            yield from self._done(bag)
            return
        except Exception as error:  # noqa: BLE001  the boundary: a failed slide never stops the others
            bag.error = bag.error or error
            yield from self._done(bag)
            return
        if not self._places:
            shape = (self._batch_size, *pixels.shape)
            self._batch = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._embedder.device.type == "cuda")
        self._batch[len(self._places)] = torch.from_numpy(pixels)
        self._places.append((bag, index))
        if len(self._places) == self._batch_size:
            self._launch(compute)
            while len(self._computing) > self._streams:
                yield from self._land()

    def _launch(self, compute: ThreadPoolExecutor) -> None:
        if self._places:
            self._computing.append((self._places, compute.submit(self._embed, self._batch)))
            self._places = []

    def _land(self) -> Iterator[tuple[Item, OpenBag]]:
        places, future = self._computing.popleft()
        try:
            features: Iterable[Any] = future.result()
        except Exception as error:  # noqa: BLE001  the boundary: fails the slides of this batch, not the others
            for bag, _ in places:
                bag.error = bag.error or error
            features = (0.0 for _ in places)
        for (bag, index), vector in zip(places, features, strict=False):  # the padding's features are left over
            bag.features[index] = vector
            yield from self._done(bag)

    def _embed(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Features of the whole batch, padding included; in smaller pieces where the GPU's memory does not suffice."""
        while True:
            try:
                parts = [self._embedder(batch[at : at + self._chunk]).cpu() for at in range(0, len(batch), self._chunk)]
                return torch.cat(parts).numpy()
            except torch.OutOfMemoryError:
                if self._chunk == 1:
                    raise
                self._chunk = (self._chunk + 1) // 2
                torch.cuda.empty_cache()

    def _too_many(self, bag: OpenBag) -> SlideError | None:
        if len(bag.bad) <= self._max_bad_tiles * len(bag.tiles):
            return None
        x, y = bag.tiles.coords[bag.bad[0]]
        return SlideError(
            f"at least {len(bag.bad)} of {len(bag.tiles)} tiles cannot be decoded, over the {self._max_bad_tiles:.1%} "
            f"allowed; the first at x={x} y={y}",
            path=bag.slide.path,
            hint="copy the slide again from where it came, or raise --max-bad-tiles to do without these tiles",
        )

    def _done(self, bag: OpenBag, count: int = 1) -> Iterator[tuple[Item, OpenBag]]:
        bag.left -= count
        self._progress.advance(count)
        if bag.left == 0:
            yield bag.item, bag


@contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that drop what they have not begun when the run is cut short."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread_a_batch(on_gpu: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if not on_gpu:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
