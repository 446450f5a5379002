"""Threads that decode tiles into batches. A thread that hangs is abandoned and replaced by a new one.

They are daemons: a thread that never returns must not keep the process from ending, as those of
``concurrent.futures`` would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Lock

import torch

from ...data.errors import SlideError
from ...data.tiling.store import read_tile
from .feed_batch import Batch, Piece
from .feed_thread import FeedThread, as_exception


@dataclass(frozen=True, eq=False)
class Task:
    """A tile that is being read, and the start time."""

    piece: Piece
    index: int
    since: float


class Decoder(FeedThread):
    """A thread that takes pieces from a queue and decodes them."""

    keeps_hold_of_slides = True
    """Whether a decoder that hangs still reads the slide, so that it cannot be closed."""

    def __init__(
        self, pieces: SimpleQueue[Piece | None], done: Callable[[Batch], None], failed: Callable[[Exception], None]
    ) -> None:
        super().__init__("decode", self._decode_pieces, failed)
        self._pieces, self._done = pieces, done
        self._lock = Lock()
        self._task: Task | None = None
        self._left_behind = Event()
        self.busy = 0.0
        """Seconds spent on tiles."""

    def _decode_pieces(self) -> None:
        torch.set_num_threads(1)  # torch resizes tiles: each decoding thread uses one core
        while (piece := self._pieces.get()) is not None:
            started = time.monotonic()
            if not self._decode(piece):
                return
            self.busy += time.monotonic() - started
            if piece.batch.settle():
                self._done(piece.batch)

    def _decode(self, piece: Piece) -> bool:
        """Decode a piece's tiles; return False if this thread was abandoned meanwhile and must end."""
        bag = piece.bag
        for offset in range(piece.count):
            if bag.error is not None:  # the slide has failed: skip its remaining tiles
                break
            index = piece.first + offset
            if not self._begin(piece, index):
                return False
            try:
                pixels = read_tile(bag.slide, bag.tiles, index)
                with self._lock:
                    if self._left_behind.is_set():  # the buffer may belong to another batch by now
                        return False
                    piece.place(offset, pixels)
            except SlideError:
                bag.leave_out(index)
            except BaseException as error:  # noqa: BLE001  the boundary: a failed slide never stops the others
                bag.fail(as_exception(error))
        return self._end()

    def _begin(self, piece: Piece, index: int) -> bool:
        """Note the tile that is read from now on; return False if this thread was abandoned meanwhile."""
        with self._lock:
            if self._left_behind.is_set():
                return False
            self._task = Task(piece, index, time.monotonic())
            return True

    def _end(self) -> bool:
        """Note that the piece is done; return False if this thread was abandoned meanwhile."""
        with self._lock:
            self._task = None
            return not self._left_behind.is_set()

    def leave_behind(self, seconds: float) -> Task | None:
        """Abandon this thread if its tile has taken longer than ``seconds``, and return that tile.

        An abandoned thread never writes to a batch again.
        """
        with self._lock:
            if self._task is None or time.monotonic() - self._task.since <= seconds:
                return None
            self._left_behind.set()
            return self._task


class DecodeThreads:
    """A fixed number of working decode threads.

    :param decoder: the class of the threads.
    :param done: called, in one of the threads, with each batch whose pieces are all decoded or given up.
    :param failed: called, in the thread, with an error that ends it.
    """

    def __init__(
        self,
        count: int,
        done: Callable[[Batch], None],
        failed: Callable[[Exception], None],
        decoder: type[Decoder] = Decoder,
    ) -> None:
        self._done, self._failed, self._decoder = done, failed, decoder
        self._pieces: SimpleQueue[Piece | None] = SimpleQueue()
        self._decoders = [self._start() for _ in range(count)]
        self._busy_before = 0.0

    def _start(self) -> Decoder:
        decoder = self._decoder(self._pieces, self._done, self._failed)
        decoder.start()
        return decoder

    @property
    def busy(self) -> float:
        """Total seconds that all threads have spent on tiles."""
        return self._busy_before + sum(decoder.busy for decoder in self._decoders)

    def submit(self, piece: Piece) -> None:
        """Queue a piece for decoding."""
        self._pieces.put(piece)

    def leave_behind(self, seconds: float) -> None:
        """Fail the slides of tiles that have taken longer, and replace the threads that hang on them."""
        for place, decoder in enumerate(self._decoders):
            task = decoder.leave_behind(seconds)
            if task is None:
                continue
            self._busy_before += decoder.busy
            self._decoders[place] = self._start()
            bag = task.piece.bag
            bag.read_by_a_stuck_thread = bag.read_by_a_stuck_thread or decoder.keeps_hold_of_slides
            x, y = bag.tiles.coords[task.index]
            bag.fail(
                SlideError(
                    f"the tile at x={x} y={y} was given up after {seconds:g} s: the decoder or the storage hangs",
                    path=bag.slide.path,
                    hint="check the file and its disk; if both are fine, raise --tile-timeout and use --retry-failed",
                )
            )
            if task.piece.batch.settle():
                self._done(task.piece.batch)

    def close(self, patience: float) -> bool:
        """End the threads, each after its tile; return whether all ended within ``patience`` seconds."""
        with suppress(Empty):
            while True:
                self._pieces.get_nowait()
        for _ in self._decoders:
            self._pieces.put(None)
        until = time.monotonic() + patience
        for decoder in self._decoders:
            decoder.join(max(0.0, until - time.monotonic()))
        return not any(decoder.is_alive() for decoder in self._decoders)
