"""The worker's side: a Dask task that keeps one of wsipipe's worker processes busy.

The client sends items to a seat, the seat hands them to its process (:mod:`..run.worker`) and its messages back. The
process does the work and not Dask's own, because a decoder may hang, crash or take all memory: then that process is
killed, and Dask's goes on. A seat ends its process when the client cancels the task or goes away, when Dask's worker
closes, and when the worker's processes together need more memory than the worker has.

    client ──(call on the worker)──▶ seat ──(pipe)──▶ process
    client ◀──(events of Dask)────── seat ◀──(pipe)── process
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..run.usage import memory_of
from ..run.work import KILLED
from ..run.worker import Kind, PackedStage, Worker

TOPIC: Final = "wsipipe"
"""The topic of Dask's events that the messages go by."""
NOTHING: Final = ("", pickle.dumps(None))
"""What ends a worker that asks for an item."""
_LOOK: Final = 0.2
"""Seconds between two looks whether the work is still wanted."""
_PAUSE: Final = 0.5
"""Seconds between two messages of progress."""
_OF_MEMORY: Final = 0.95
"""Share of the worker's memory that its processes may take together."""
_SHARE: Final = 50
"""Looking at memory may take one part in so many of the time."""


@dataclass(frozen=True)
class Order:
    """What a seat needs to begin.

    :param seat: its number, which messages carry.
    :param device: of its process; None: one of several that share the worker's CPUs.
    """

    seat: str
    stage: PackedStage
    device: str | None
    cores: int


@dataclass(frozen=True)
class Death:
    """The end of a seat's process.

    :param limit: the worker's memory in bytes, if its processes needed more.
    """

    exit_code: int | None
    limit: int | None = None


_STARTING: Final = threading.Lock()
_seats: Final[dict[str, _Seat]] = {}
"""The seats of this process."""


def sit(order: Order) -> None:
    """Work until no items are left, or the work is not wanted any more; the task that Dask runs."""
    from distributed import get_worker, secede

    seat = _Seat(order, get_worker())
    if (order.device or "").startswith("cuda"):
        secede()  # the GPU is counted as a resource; a worker may have more of them than threads
    _seats[order.seat] = seat
    try:
        seat.work()
    finally:
        del _seats[order.seat]
        seat.end()


def deliver(seat: str, items: Sequence[tuple[str, bytes]]) -> None:
    """Give items to a seat of this worker, called by the client; each with its id, packed."""
    if (found := _seats.get(seat)) is not None:
        found.deliver(items)


def end(seats: Sequence[str]) -> None:
    """Kill the processes of those of these seats that are here, called by the client."""
    for seat in seats:
        if (found := _seats.get(seat)) is not None:
            found.end()


@dataclass
class _Progress:
    """Progress that is kept for a moment: a message for every batch of tiles would be many."""

    units: int = 0
    words: bytes | None = None
    sent: float = field(default_factory=time.monotonic)


class _Seat:
    """A process and what goes to and from it.

    :param worker: Dask's worker.
    """

    def __init__(self, order: Order, worker: Any) -> None:
        self._order, self._dask, self._key = order, worker, worker.get_current_task()
        self._lock = threading.Lock()
        self._stock: deque[tuple[str, bytes]] = deque()
        self._hungry = self._ended = False
        self._progress = _Progress()
        self.memory, self._looked, self._pause = 0, 0.0, 1.0
        with _may_have_children():
            self._process = Worker(order.stage, order.device, order.cores, writer=order.seat[:8])

    def work(self) -> None:
        """Hand items and messages on until the process ends."""
        while self._is_wanted():
            self._send_progress(late=True)
            if (limit := self._lacks_memory()) is not None:
                self.end()
                self._send("died", pickle.dumps(Death(KILLED, limit)))
                return
            if not self._process.connection.poll(_LOOK):
                continue
            try:
                kind, content = self._process.receive_packed()
            except (EOFError, OSError):
                self._process.wait(_PAUSE)
                self._send("died", pickle.dumps(Death(self._process.exit_code)))
                return
            if self._pass_on(kind, content):
                return

    def deliver(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Take items of the client."""
        with self._lock:
            self._stock.extend(items)
            self._feed()

    def end(self) -> None:
        """Kill the process."""
        if not self._ended:
            self._ended = True
            self._process.kill()
            self._process.wait(_PAUSE)

    def _pass_on(self, kind: Kind, content: bytes) -> bool:
        """Hand on a message; returns whether it is the last one."""
        match kind:
            case "next":
                with self._lock:
                    self._hungry = True
                    self._feed()
                    if not self._hungry:
                        return False
            case "advance":
                self._progress.units += pickle.loads(content)
                return False
            case "say":
                self._progress.words = content
                return False
        self._send_progress()
        self._send(kind, content)
        return kind in ("end", "unready", "broken", "stopped")

    def _feed(self) -> None:
        """Give the process an item, if it waits for one and there is one."""
        if not (self._hungry and self._stock):
            return
        item_id, item = self._stock.popleft()
        self._hungry = False
        self._process.hand_on(item)
        if item_id:
            self._send("began", pickle.dumps(item_id))

    def _send_progress(self, *, late: bool = False) -> None:
        """Send the progress that was kept.

        :param late: only if that was long ago.
        """
        now, kept = time.monotonic(), self._progress
        if late and now - kept.sent < _PAUSE:
            return
        self._progress = _Progress()
        if kept.units:
            self._send("advance", pickle.dumps(kept.units))
        if kept.words is not None:
            self._send("say", kept.words)

    def _send(self, kind: Kind, content: bytes) -> None:
        self._dask.log_event(TOPIC, {"seat": self._order.seat, "kind": kind, "content": content})

    def _is_wanted(self) -> bool:
        """Whether the client still waits for this task, and Dask's worker goes on."""
        from distributed.core import Status

        task = self._dask.state.tasks.get(self._key)
        running = self._dask.status in (Status.running, Status.paused)
        return not self._ended and running and task is not None and task.state in ("executing", "long-running")

    def _lacks_memory(self) -> int | None:
        """The worker's memory in bytes, if its processes need more and this one needs most of them."""
        limit = self._dask.memory_manager.memory_limit
        begin = time.monotonic()
        if limit is None or begin - self._looked < self._pause:
            return None
        self._looked, self.memory = begin, memory_of(Path("/proc") / str(self._process.pid))
        self._pause = max(1.0, _SHARE * (time.monotonic() - begin))
        seats = list(_seats.values())
        too_much = sum(seat.memory for seat in seats) > _OF_MEMORY * limit
        return int(limit) if too_much and self.memory == max(seat.memory for seat in seats) else None


@contextmanager
def _may_have_children() -> Iterator[None]:
    """Let this process start others: Dask's nanny starts its worker as a daemon, to which multiprocessing forbids it.

    They end with it all the same (:func:`wsipipe.data.child_process.end_with`).
    """
    settings: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    with _STARTING:
        _forget_what_dask_set()
        before = settings.get("daemon")
        settings["daemon"] = False
        try:
            yield
        finally:
            settings["daemon"] = before


def _forget_what_dask_set() -> None:
    """Take back the variables that Dask's nanny sets for tasks in threads of its own process.

    Its trim threshold makes glibc give memory back after each region of a slide and ask for it again for the next,
    which was a tenth of the time of tiling; and how many threads a computation takes, the worker's cores say.
    """
    from dask import config

    for name, value in config.get("distributed.nanny.pre-spawn-environ", {}).items():
        if os.environ.get(name) == str(value):
            del os.environ[name]
