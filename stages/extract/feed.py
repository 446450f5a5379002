"""The feed: tiles of many slides are decoded into batches, go through the backbone, and their features to the stores.

    decode threads → batches in a ring of buffers → backbone → writing thread → a sink a slide

Batches have one constant shape and run across slides; the tail is padded. So at a given batch size a tile's features
depend on that tile alone, whoever its company is. A buffer is free again when its batch's features are written: what is
in memory is bounded by the ring, whatever the number of tiles and slides. Features are written in the order of the
tiles.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter

import torch

from ...models.backbones.backbone import Embedder
from ..stage import Item, Progress
from .decode_threads import DecodeThreads
from .embed_threads import EmbedThreads, embed_threads
from .feed_batch import Batch, OpenBag
from .feed_report import FeedReport
from .feed_thread import FeedThread, as_exception
from .slide_opening import bag_or_error, let_go, opening_in_a_thread

_BATCH_SIZE = {"cpu": 4}
"""Where it is not given; 64 elsewhere. On a CPU, glibc gives buffers of more than 32 MB back at every free, and larger
batches of a small network have such: 8 tiles a batch ran at 0.8 of the rate of 4."""
_TILES_A_JOB = 8
"""Neighbouring tiles that a thread decodes before it asks for more."""
_AHEAD_BYTES = 256 * 2**20
_MOST_AHEAD = 16
_LEAST_AHEAD = 3
"""Batches that wait, decoded, for the backbone: as many as fit the bytes, between these bounds. They last while a
finished slide is recorded and the next one's first tiles are decoded."""
_OPEN_AHEAD = 8
"""Batches of a slide that are still to be handed out when the next slide is taken and opened. Not sooner: another GPU
may want it."""
_PATIENCE = 5.0
"""Seconds for the threads to end in; whoever is stuck then is left behind."""


class TileFeed:
    """Feeds slides to an embedder.

    :param batch_size: tiles a batch; None: by device.
    :param threads: that decode; None: one a core.
    :param timeout: seconds after which a tile that cannot be read fails its slide.
    :param profile: file for a trace of some batches, chrome's JSON.
    """

    def __init__(
        self,
        embedder: Embedder,
        progress: Progress,
        *,
        batch_size: int | None = None,
        threads: int | None = None,
        timeout: float = 300.0,
        profile: Path | None = None,
    ) -> None:
        self._embedder, self._progress, self._timeout, self._profile = embedder, progress, timeout, profile
        self._batch_size = batch_size or _BATCH_SIZE.get(embedder.device.type, 64)
        self._threads = threads or os.cpu_count() or 1
        self._events: SimpleQueue[Batch | Exception | None] = SimpleQueue()
        """Batches that are written; what ended a thread; None: something else happened that is waited for."""
        self._written: SimpleQueue[Batch | None] = SimpleQueue()
        self._free: list[Batch] = []
        self._filling: Batch | None = None
        self._batches = self._sent = 0
        self._items: Iterator[Item] = iter(())
        self._open_bag: Callable[[Item], OpenBag]
        self._ahead: tuple[Item, Future[OpenBag]] | None = None
        """The next item, while it is being opened."""
        self._open: dict[OpenBag, None] = {}
        self._checked = perf_counter()
        self._tiles, self._resampled = 0, False
        self._writing = self._opening = 0.0
        self.report: FeedReport | None = None
        """What bound it, after :meth:`run`."""

    def run(
        self, items: Iterable[Item], open_bag: Callable[[Item], OpenBag]
    ) -> Generator[tuple[Item, OpenBag | Exception], None, None]:
        """Open the items one after the other, and yield each when all its tiles are done or given up.

        A slide is opened, in a thread, while the last tiles of the one before it are decoded. Those that are not
        yielded when the run is cut short are closed, and their sinks discarded; those that are, are the caller's.

        :raises BackboneError: the network cannot be compiled, where that was asked.
        :raises Exception: what ended one of the threads, such as a profile that cannot be written.
        """
        if self._embedder.compiled:
            with _one_thread_each():  # the kernels are made for so many
                self._embedder.warm_up(self._batch_size)
        self._items, self._open_bag = iter(items), open_bag
        started = perf_counter()
        self._decode = DecodeThreads(self._threads, self._decoded, self._events.put)
        self._embed = embed_threads(
            self._embedder, self._written.put, self._events.put, cores=self._threads, profile=self._profile
        )
        writer = FeedThread("write", self._write, self._events.put)
        writer.start()
        try:
            with _one_thread_each():
                self._open_ahead()
                while self._ahead is not None:
                    yield from self._hand_out(*self._ahead)
                    self._open_ahead()
                self._send()
                while self._open:
                    yield from self._land()
            self.report = self._reported(self._decode, self._embed, perf_counter() - started)
        finally:
            ended = self._decode.close(_PATIENCE)
            self._embed.close()
            self._written.put(None)
            writer.join()
            self._give_up(closing=ended)
        while not self._events.empty():  # a thread may have failed at its very end
            if isinstance(event := self._events.get(), Exception):
                raise event

    def _open_ahead(self) -> None:
        """Take the next item, if there is one, and begin to open it."""
        if self._ahead is not None:
            return
        item = next(self._items, None)
        if item is not None:
            self._ahead = item, opening_in_a_thread(item, self._open_bag)
            self._ahead[1].add_done_callback(lambda _: self._events.put(None))

    def _hand_out(self, item: Item, opening: Future[OpenBag]) -> Iterator[tuple[Item, OpenBag | Exception]]:
        """Give a slide's tiles to the decoding threads, as buffers for them come free."""
        started = perf_counter()
        while not opening.done() and perf_counter() - started < self._timeout:
            yield from self._land()
        self._opening += perf_counter() - started
        self._ahead = None
        bag = bag_or_error(item, opening, self._timeout)
        if isinstance(bag, Exception):
            self._progress.advance(item.size)
            yield item, bag
            return
        self._open[bag] = None
        self._progress.say(item.id)
        self._resampled = self._resampled or not bag.tiles.grid.native
        first = 0
        while first < len(bag.tiles) and bag.error is None:
            if len(bag.tiles) - first <= _OPEN_AHEAD * self._batch_size:
                self._open_ahead()
            batch = self._filling
            if batch is not None and batch.side != bag.tiles.grid.tile_px:
                self._send()
                batch = None
            while batch is None:
                batch = self._filling = self._free_batch(bag.tiles.grid.tile_px)
                if batch is None:
                    yield from self._land()
            count = min(_TILES_A_JOB, batch.room, len(bag.tiles) - first)
            self._decode.submit(batch.add(bag, first, count))
            first += count
            if batch.room == 0:
                self._send()
        yield from self._done(bag, len(bag.tiles) - first)

    def _free_batch(self, side: int) -> Batch | None:
        """A buffer for the next batch, a new one while the ring is not complete; None: all are in work."""
        while self._free:
            batch = self._free.pop()
            if batch.side == side:
                batch.begin(self._sent)
                return batch
            self._batches -= 1  # of another size: it is let go
        if self._batches >= self._most_batches(side):
            return None
        self._batches += 1
        batch = Batch(self._batch_size, side, pinned=self._embedder.device.type == "cuda")
        batch.begin(self._sent)
        return batch

    def _most_batches(self, side: int) -> int:
        ahead = _AHEAD_BYTES // (self._batch_size * side * side * 3)
        being_decoded = -(-self._threads * _TILES_A_JOB // self._batch_size)
        return being_decoded + min(max(ahead, _LEAST_AHEAD), _MOST_AHEAD) + self._embed.waiting + 1

    def _send(self) -> None:
        """No more tiles come into the batch that is being filled."""
        if self._filling is not None:
            self._sent += 1
            batch, self._filling = self._filling, None
            if batch.settle():
                self._decoded(batch)

    def _decoded(self, batch: Batch) -> None:
        self._embed.submit(batch)

    def _land(self) -> Iterator[tuple[Item, OpenBag]]:
        """Wait a moment for a batch to be written; yield the slides that are done with it."""
        tick = min(1.0, self._timeout / 4)
        try:
            batch = self._events.get(timeout=tick)
        except Empty:
            batch = None
        if isinstance(batch, Exception):
            raise batch
        if perf_counter() - self._checked >= tick:
            self._decode.leave_behind(self._timeout)
            self._checked = perf_counter()
        if batch is not None:
            self._free.append(batch)
            self._tiles += batch.filled
            for piece in batch.pieces:
                yield from self._done(piece.bag, piece.count)

    def _done(self, bag: OpenBag, count: int) -> Iterator[tuple[Item, OpenBag]]:
        bag.left -= count
        self._progress.advance(count)
        if bag.left == 0 and bag in self._open:
            del self._open[bag]
            yield bag.item, bag

    def _write(self) -> None:
        """The writing thread: takes batches as they are computed, and writes them in their order."""
        early: dict[int, Batch] = {}
        number = 0
        while (batch := self._written.get()) is not None:
            early[batch.number] = batch
            while (batch := early.pop(number, None)) is not None:
                started = perf_counter()
                _append(batch)
                self._writing += perf_counter() - started
                self._events.put(batch)
                number += 1

    def _give_up(self, *, closing: bool) -> None:
        """What is left when the run is cut short."""
        if self._ahead is not None:
            self._ahead[1].add_done_callback(let_go)
        for bag in self._open:
            bag.sink.discard()
            if closing:
                bag.close()

    def _reported(self, decode: DecodeThreads, embed: EmbedThreads, seconds: float) -> FeedReport:
        return FeedReport(
            seconds=seconds,
            tiles=self._tiles,
            device=self._embedder.device.type,
            precision=self._embedder.precision,
            batch_size=self._batch_size,
            threads=self._threads,
            streams=embed.streams,
            cores=os.cpu_count() or 1,
            decoding=decode.busy,
            computing=embed.busy,
            writing=self._writing,
            opening=self._opening,
            resampled=self._resampled,
            piece=embed.pieces.size,
        )


def _append(batch: Batch) -> None:
    """A batch's features to its slides."""
    for piece in batch.pieces:
        bag = piece.bag
        if batch.error is not None:
            bag.fail(batch.error)
        if bag.error is not None or batch.features is None:
            continue
        decoded = batch.decoded[piece.at : piece.at + piece.count]
        try:
            features = batch.features[piece.at : piece.at + piece.count][decoded]
            coords = bag.tiles.coords[piece.first : piece.first + piece.count][decoded]
            bag.sink.append(features, coords)
        except BaseException as error:  # noqa: BLE001  the boundary: fails this slide, not the others
            bag.fail(as_exception(error))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Decoding and computing threads share the cores among themselves; none starts more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
