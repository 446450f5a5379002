"""The feed: a pipeline that decodes tiles of many slides into batches, embeds them and writes the features.

    decode threads → batches in a ring of buffers → backbone → writing thread → one sink per slide

Batches have one constant shape and continue across slides; the last one is padded. So at a given batch size a tile's
features depend on that tile alone, not on the other tiles of its batch. A buffer is free again when its batch's
features are written: the ring bounds the memory for any number of tiles and slides. Features are written in the order
of the tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter

import torch

from ...data.allotment import usable_cores
from ...models.backbones.backbone import Embedder
from ..stage import Item, Progress
from .batch_memory import can_be_shared
from .decode_processes import ProcessDecoder
from .decode_threads import Decoder, DecodeThreads
from .embed_threads import EmbedThreads, embed_threads
from .feed_batch import Batch, OpenBag
from .feed_report import FeedReport
from .feed_thread import FeedThread, as_exception
from .slide_opening import bag_or_error, let_go, opening_in_a_thread

_BATCH_SIZE = {"cpu": 4, "cuda": 128}
"""Default batch size by device; 64 on others. On an H100 a ViT-L computes 64 at a time at 0.97 of its rate with 256,
and 128 at 0.99 (``docs/benchmarks.md``). On a CPU, glibc returns buffers of more than 32 MB to the system at every
free, and larger batches of a small network need such buffers: 8 tiles per batch ran at 0.8 of the rate of 4."""
_TILES_A_JOB = 8
"""Neighbouring tiles in one job of a decode thread."""
_AHEAD_BYTES = 256 * 2**20
_MOST_AHEAD = 16
_LEAST_AHEAD = 3
"""Bounds of the number of decoded batches that wait for the backbone; between them, as many as fit ``_AHEAD_BYTES``.
They keep it busy while a finished slide is recorded and the next one's first tiles are decoded."""
_OPEN_AHEAD = 8
"""The next slide is taken and opened when this many batches of the current one remain. Not sooner: another GPU may take
it."""
_PATIENCE = 5.0
"""Seconds that the threads have for ending; a thread that is still stuck then is abandoned."""


class TileFeed:
    """The pipeline from slides through an embedder to their sinks.

    :param batch_size: tiles per batch; None for the device's default.
    :param threads: number of decode threads; None for one per core, of which a GPU leaves one for the other threads.
    :param timeout: seconds after which a tile that cannot be read fails its slide.
    :param profile: file for a trace of some batches, chrome's JSON.
    :param processes: whether each decode thread has a process that decodes for it; None for a GPU alone, where the
        system can do it.
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
        processes: bool | None = None,
    ) -> None:
        self._embedder, self._progress, self._timeout, self._profile = embedder, progress, timeout, profile
        self._on_gpu = embedder.device.type == "cuda"
        self._batch_size = batch_size or _BATCH_SIZE.get(embedder.device.type, 64)
        self._threads = threads or max(1, usable_cores() - self._on_gpu)
        self._processes = (self._on_gpu if processes is None else processes) and can_be_shared()
        self._events: SimpleQueue[Batch | Exception | None] = SimpleQueue()
        """Written batches; errors that ended a thread; None to wake the waiting thread when a slide has been opened."""
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
        """Bottleneck and rates, after :meth:`run`."""

    def run(
        self, items: Iterable[Item], open_bag: Callable[[Item], OpenBag]
    ) -> Generator[tuple[Item, OpenBag | Exception], None, None]:
        """Open the items one after the other, and yield each when all its tiles are done or given up.

        A slide is opened in a thread while the last tiles of the previous one are decoded. If the run is cut short,
        slides that were not yielded are closed and their sinks discarded; yielded ones belong to the caller.

        :raises BackboneError: the network should be compiled and cannot be.
        :raises Exception: the error that ended one of the threads, such as a profile that cannot be written.
        """
        if self._embedder.compiled:
            with _one_thread_each():  # kernels are compiled for a number of threads
                self._embedder.warm_up(self._batch_size)
        self._items, self._open_bag = iter(items), open_bag
        started = perf_counter()
        decoder = ProcessDecoder if self._processes else Decoder
        self._decode = DecodeThreads(self._threads, self._decoded, self._events.put, decoder)
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
        while not self._events.empty():  # a thread may have failed while ending
            if isinstance(event := self._events.get(), Exception):
                raise event

    def _open_ahead(self) -> None:
        """Take the next item, if there is one, and start opening it."""
        if self._ahead is not None:
            return
        item = next(self._items, None)
        if item is not None:
            self._ahead = item, opening_in_a_thread(item, self._open_bag)
            self._ahead[1].add_done_callback(lambda _: self._events.put(None))

    def _hand_out(self, item: Item, opening: Future[OpenBag]) -> Iterator[tuple[Item, OpenBag | Exception]]:
        """Submit a slide's tiles to the decode threads, as buffers become free."""
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
        """Take a free buffer for the next batch, or make one while the ring is not complete; None if all are in use."""
        while self._free:
            batch = self._free.pop()
            if batch.side == side:
                batch.begin(self._sent)
                return batch
            self._batches -= 1  # a buffer for another tile size is dropped
        if self._batches >= self._most_batches(side):
            return None
        self._batches += 1
        batch = Batch(self._batch_size, side, pinned=self._on_gpu, shared=self._processes)
        batch.begin(self._sent)
        return batch

    def _most_batches(self, side: int) -> int:
        ahead = _AHEAD_BYTES // (self._batch_size * side * side * 3)
        being_decoded = -(-self._threads * _TILES_A_JOB // self._batch_size)
        return being_decoded + min(max(ahead, _LEAST_AHEAD), _MOST_AHEAD) + self._embed.waiting + 1

    def _send(self) -> None:
        """Close the batch that is being filled, so that it is computed when its tiles are decoded."""
        if self._filling is not None:
            self._sent += 1
            batch, self._filling = self._filling, None
            if batch.settle():
                self._decoded(batch)

    def _decoded(self, batch: Batch) -> None:
        self._embed.submit(batch)

    def _land(self) -> Iterator[tuple[Item, OpenBag]]:
        """Wait up to a second for a batch to be written; yield the slides that it completes."""
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
        """Write computed batches in their order; runs in the writing thread."""
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
        """Discard and close the open slides of a run that is cut short."""
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
            cores=usable_cores(),
            decoding=decode.busy,
            computing=embed.busy,
            writing=self._writing,
            opening=self._opening,
            resampled=self._resampled,
            piece=embed.pieces.size,
        )


def _append(batch: Batch) -> None:
    """Append a batch's features to the sinks of its slides."""
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
    """Limit torch to one core per thread, since the decode and embed threads already fill the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
