"""Decoding in processes, for a GPU: threads of one process wait for the interpreter's lock between tiles.

On a machine with 16 cores, one to 16 threads decoded 3,400, 6,500, 7,800, 6,900 and 5,000 tiles a second, and four
processes 15,000 (``docs/benchmarks.md``). A process that hangs is killed, and one that crashes fails a slide alone.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import send_handle
from queue import SimpleQueue

import numpy as np

from ...data.child_process import main_hidden, sigint_blocked
from ...data.errors import SlideError, SurroundingsError
from .batch_memory import BAD, DECODED, PENDING, SharedMemory
from .decode_child import DecodeJob, NewMemory, serve
from .decode_threads import Decoder, Task
from .feed_batch import Batch, OpenBag, Piece
from .feed_thread import as_exception

_MOST_MEMORIES = 64
"""Batches that a process keeps mapped; more than a ring has."""
_SECONDS_TO_DIE = 1.0
"""How long to wait for a killed process: one that waits for a dead disk cannot be killed."""


def _context() -> ForkServerContext:
    """Processes are forks of one that has imported what decoding and resizing need, and knows nothing of CUDA."""
    context = get_context("forkserver")
    context.set_forkserver_preload([serve.__module__, "torch"])
    return context


def prepare() -> None:
    """Start the process that decode processes are forked from, which takes seconds, while something else is done."""
    _context()
    with sigint_blocked(), main_hidden():
        forkserver.ensure_running()


class ProcessDecoder(Decoder):
    """A thread that has its pieces decoded by a process of its own."""

    keeps_hold_of_slides = False

    def __init__(
        self, pieces: SimpleQueue[Piece | None], done: Callable[[Batch], None], failed: Callable[[Exception], None]
    ) -> None:
        super().__init__(pieces, done, failed)
        self._process = DecodeProcess()
        self._seen = 0
        """Tiles of the piece that were done when it was last looked at."""

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._process.end()

    def _decode(self, piece: Piece) -> bool:
        bag, memory = piece.bag, piece.batch.memory
        assert memory is not None
        if bag.error is None:
            self._seen = 0
            if not self._begin(piece, piece.first):
                return False
            try:
                error = self._process.decode(piece, memory)
            except (EOFError, OSError):  # it was killed, or has crashed
                if self._left_behind.is_set():
                    return False
                bag.fail(self._process.why_it_ended(bag, piece.first + self._done_of(piece)))
                self._process = DecodeProcess()
            else:
                if error is not None:
                    bag.fail(as_exception(error))
                with self._lock:
                    if self._left_behind.is_set():  # the buffer may belong to another batch by now
                        return False
                    self._take(piece, memory)
        return self._end()

    def _take(self, piece: Piece, memory: SharedMemory) -> None:
        """Note which tiles were decoded."""
        places = slice(piece.at, piece.at + piece.count)
        states = memory.states[places]
        piece.batch.decoded[places] = states == DECODED
        for offset in np.flatnonzero(states == BAD):
            piece.bag.leave_out(piece.first + int(offset))

    def _done_of(self, piece: Piece) -> int:
        """How many tiles of a piece the process has done by now, at most one less than all."""
        assert piece.batch.memory is not None
        states = piece.batch.memory.states[piece.at : piece.at + piece.count]
        return min(int((states != PENDING).sum()), piece.count - 1)

    def leave_behind(self, seconds: float) -> Task | None:
        with self._lock:
            if self._task is not None and (done := self._done_of(self._task.piece)) > self._seen:
                self._seen = done
                piece = self._task.piece
                self._task = replace(self._task, index=piece.first + done, since=time.monotonic())
        task = super().leave_behind(seconds)
        if task is not None:
            self._process.kill()
        return task


class DecodeProcess:
    """A process that decodes pieces, one at a time."""

    def __init__(self) -> None:
        context = _context()
        self._connection, connection = context.Pipe()
        parent, self._life = context.Pipe(duplex=False)
        self._process = context.Process(target=serve, args=(connection, parent), name="wsipipe decode", daemon=True)
        self._mapped: set[int] = set()
        try:
            with sigint_blocked(), main_hidden():
                self._process.start()
        except BaseException:
            self._connection.close()
            self._life.close()
            raise
        finally:
            connection.close()
            parent.close()

    def decode(self, piece: Piece, memory: SharedMemory) -> Exception | None:
        """Have a piece decoded into its batch, and return the error that ended it before its last tile.

        :raises EOFError, OSError: the process has ended.
        """
        self._announce(memory)
        bag = piece.bag
        coords = bag.tiles.coords[piece.first : piece.first + piece.count]
        self._connection.send(DecodeJob(memory.number, piece.at, bag.slide.path, bag.tiles.grid, coords))
        error: Exception | None = self._connection.recv()
        return error

    def _announce(self, memory: SharedMemory) -> None:
        if memory.number in self._mapped:
            return
        if forget := len(self._mapped) >= _MOST_MEMORIES:
            self._mapped.clear()
        self._mapped.add(memory.number)
        self._connection.send(NewMemory(memory.number, memory.size, memory.side, forget))
        send_handle(self._connection, memory.file, self._process.pid)

    def why_it_ended(self, bag: OpenBag, index: int) -> Exception:
        """The error of the slide whose tile was being decoded when the process ended."""
        self._process.join(_SECONDS_TO_DIE)
        code = self._process.exitcode or 0
        x, y = bag.tiles.coords[index]
        if code == -signal.SIGKILL:
            return SurroundingsError(
                f"the process that decoded the tile at x={x} y={y} was killed, probably for want of memory",
                path=bag.slide.path,
                hint="fewer --threads need less memory; the next run tries it again",
            )
        return SlideError(
            f"the decoder crashed at the tile at x={x} y={y} (exit code {code})",
            path=bag.slide.path,
            hint="copy the slide again from where it came",
        )

    def kill(self) -> None:
        """Kill it, whatever it is doing; its thread then sees the end of the connection."""
        self._process.kill()
        self._process.join(_SECONDS_TO_DIE)

    def end(self) -> None:
        """End it after its last piece."""
        with suppress(OSError):
            self._life.close()
            self._connection.close()
        self._process.join(_SECONDS_TO_DIE)
