"""A worker: a process that runs items of a stage and sends their results to its parent.

Parent and worker exchange messages over one connection. The worker asks for an item whenever it can take one more, so
that a fast worker gets more items. It ends when no items are left, when its device fails, or when its parent ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, cast

from ...data.artifact import write_as
from ...data.child_process import end_with, main_hidden, sigint_blocked
from ...data.workspace import keep_within
from ...stages.stage import Item, Stage
from .outcomes import device_error, result_of

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

_HAS_FORKSERVER: Final = "forkserver" in get_all_start_methods()
_NOTHING: Final = pickle.dumps(None)

Kind = Literal[
    "next", "began", "result", "advance", "say", "note", "end", "died", "lost", "unready", "broken", "stopped"
]
"""Kinds of a worker's messages: a request for an item; an item's begin, where it was handed out ahead, and its result;
progress (advance, say); a closing note; the end, the process's death, or that nobody answers there any more (lost); and
with an error: it cannot start (unready), its device failed (broken), its stage's stream raised (stopped)."""


@dataclass
class InWork:
    """An item that a worker is processing, and since when."""

    item: Item
    start: datetime
    clock: float
    begun: bool = True
    """Otherwise it was handed out ahead, and waits its turn."""

    @classmethod
    def now(cls, item: Item, *, begun: bool = True) -> Self:
        """An item that is handed out now."""
        return cls(item, datetime.now(UTC), time.monotonic(), begun)

    def begin(self) -> None:
        """Its turn has come."""
        self.start, self.clock, self.begun = datetime.now(UTC), time.monotonic(), True


@dataclass(frozen=True)
class PackedStage:
    """A stage ready to be sent to a process, which alone unpacks it."""

    pickled: bytes
    module: str
    """The module that defines it."""

    @classmethod
    def of(cls, stage: Stage[Any]) -> Self:
        """Pack a stage."""
        return cls(pickle.dumps(stage), type(stage).__module__)


def packed(item: Item) -> bytes:
    """An item as it is sent to a worker; only the runner needs the inputs."""
    return pickle.dumps(replace(item, inputs={}))


class Worker:
    """The parent's side of a worker.

    :param stage: the stage whose items it runs.
    :param device: name of the device that it alone uses; None: it is one of several workers that share the CPUs.
    :param cores: how many threads a computation may use, unless the environment says it.
    :param writer: of unfinished outputs, see :func:`~wsipipe.data.artifact.write_as`.
    """

    def __init__(self, stage: PackedStage, device: str | None, cores: int | None = None, *, writer: str = "") -> None:
        context: SpawnContext | ForkServerContext
        if device in (None, "cpu") and _HAS_FORKSERVER:
            # Forks of a process that has already imported the stage: of the tile stage's 80 MB they share 76, and
            # workers on two CPU devices load PyTorch once.
            context = get_context("forkserver")
            context.set_forkserver_preload([name for name in (__name__, stage.module) if name != "__main__"])
        else:
            context = get_context("spawn")  # CUDA does not survive a fork
        self.connection, connection = context.Pipe()
        parent, self._life = context.Pipe(duplex=False)  # the worker sees when this end is closed, or this process dies
        cores = 1 if device is None else cores
        given = (stage.pickled, device, cores, writer, connection, parent)
        self._process = context.Process(target=_work, args=given, name="wsipipe worker")
        self.in_work: dict[str, InWork] = {}
        """Items that were handed out to it and have no result yet."""
        self.asked = False
        """Whether it has asked for an item yet."""
        try:
            in_script = b"__main__" in stage.pickled  # the stage's class is defined there, and needed
            with sigint_blocked(), nullcontext() if in_script else main_hidden():
                self._process.start()
        except BaseException:
            self.connection.close()
            self._life.close()
            raise
        finally:
            connection.close()
            parent.close()

    def hand_out(self, item: Item | None) -> None:
        """Answer its request: with an item, or None to end it."""
        self.asked = True
        if item is not None:
            self.in_work[item.id] = InWork.now(item)
        self.hand_on(_NOTHING if item is None else packed(item))

    def hand_on(self, item: bytes) -> None:
        """Answer its request with an item that is packed already."""
        with suppress(OSError):  # if it died meanwhile, the next read of its connection shows it
            self.connection.send_bytes(item)

    def receive(self) -> tuple[Kind, Any]:
        """The next message.

        :raises EOFError: it has ended. So does ``OSError``.
        """
        kind, content = self.receive_packed()
        return kind, pickle.loads(content)

    def receive_packed(self) -> tuple[Kind, bytes]:
        """The next message with its content as it was sent, for a process that only hands it on."""
        kind, _, content = self.connection.recv_bytes().partition(b" ")
        return cast("Kind", kind.decode()), content

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid or 0

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process once it has ended; minus the signal's number if a signal killed it."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process, whatever it is doing."""
        self._process.kill()
        self._life.close()
        self.connection.close()

    def wait(self, seconds: float) -> None:
        """Wait for its end for so many seconds: a process that waits for a dead disk cannot even be killed."""
        self._process.join(seconds)


# ----- in the worker's process -----


def _work(
    pickled: bytes, device: str | None, cores: int | None, writer: str, connection: Connection, parent: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    if cores is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    messages = _Messages(connection)
    try:
        stage: Stage[Any] = pickle.loads(pickled)
        keep_within(stage.workspace)
        write_as(writer)
        stage.setup()
    except Exception as error:  # noqa: BLE001  the boundary: the parent decides what to do about it
        messages.send_last("unready", _portable(error))
    try:
        _run(stage, messages)
    except Exception as error:  # noqa: BLE001  as above
        broken = device_error(error)
        if broken is None:
            messages.send_last("stopped", _portable(error))
        else:
            messages.send_last("broken", (None, broken))
    for note in stage.closing_notes() if device is not None else ():
        messages.send("note", f"{device}: {note}")
    messages.send("end")


def _run(stage: Stage[Any], messages: _Messages) -> None:
    taken: dict[str, tuple[datetime, float]] = {}

    def take() -> Iterator[Item]:
        while (item := messages.ask()) is not None:
            taken[item.id] = (datetime.now(UTC), time.monotonic())
            yield item

    for item, outcome in stage.stream(take(), messages):
        error = device_error(outcome) if isinstance(outcome, Exception) else None
        if error is not None:
            messages.send_last("broken", (item.id, error))
        messages.send("result", result_of(stage, item, outcome, *taken.pop(item.id)))


def _portable(error: Exception) -> Exception:
    """The error in a form that can be sent to the parent, with its traceback as a note."""
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  any class may fail in its own way
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in the worker:\n{trace}")
    return error


class _Messages:
    """Sends a worker's messages; also the stage's progress."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, kind: Kind, content: Any = None) -> None:
        with self._lock:
            self._connection.send_bytes(kind.encode() + b" " + pickle.dumps(content))

    def send_last(self, kind: Kind, content: Any) -> NoReturn:
        """Send a message and wait to be killed; the parent now decides what happens to the unfinished items."""
        self.send(kind, content)
        while True:
            threading.Event().wait()

    def ask(self) -> Item | None:
        """Ask the parent for the next item; None if there are no more."""
        self.send("next")
        item: Item | None = pickle.loads(self._connection.recv_bytes())
        return item

    def advance(self, units: int) -> None:
        self.send("advance", units)

    def say(self, text: str) -> None:
        self.send("say", text)
