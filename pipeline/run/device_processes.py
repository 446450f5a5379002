"""Several GPUs: a process each, and one queue of items between them, the largest first.

The parent hands out an item whenever a process asks for one, so that no GPU waits while another has slides to spare.
A process that dies takes down only what it had in work: those items are tried again, each in a process of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from ...data.errors import WsipipeError
from ...stages.stage import Item, Progress, Stage
from ..results import Result
from .executors import end_with, it_died, result_of, sigint_blocked


def run_on_devices(
    stage: Stage[Any], items: Sequence[Item], devices: Sequence[str], progress: Progress, notes: list[str]
) -> Generator[Result, None, None]:
    """Run the items on several devices.

    :param notes: what each device's process says at its end is added here.
    :raises WsipipeError: a process cannot begin, for want of its device, say.
    """
    lost: list[Item] = []
    yield from _round(stage, sorted(items, key=lambda item: -item.size), devices, progress, notes, lost)
    for item in lost:
        start, clock = datetime.now(UTC), time.monotonic()
        again: list[Item] = []
        yield from _round(stage, [item], devices[:1], progress, notes, again)
        if again:
            yield result_of(stage, item, it_died(item, "a crash in a decoder or on the GPU"), start, clock)


def _round(
    stage: Stage[Any],
    items: Sequence[Item],
    devices: Sequence[str],
    progress: Progress,
    notes: list[str],
    lost: list[Item],
) -> Generator[Result, None, None]:
    """Hand out all items once; what processes had in work when they died is added to ``lost``."""
    queue = deque(items)
    in_work: dict[Connection, dict[str, Item]] = {}
    with _processes(stage, devices[: len(items)]) as connections:
        in_work = {connection: {} for connection in connections}
        while in_work:
            for connection in wait(list(in_work)):
                assert isinstance(connection, Connection)
                try:
                    kind, told = connection.recv()
                except (EOFError, OSError):  # it has ended, or died
                    lost.extend(in_work.pop(connection).values())
                    continue
                match kind:
                    case "next":
                        item = queue.popleft() if queue else None
                        if item is not None:
                            in_work[connection][item.id] = item
                        with suppress(OSError):  # it died meanwhile: seen when it is read next
                            connection.send(item and replace(item, inputs={}))  # they are the runner's, and stay
                    case "result":
                        del in_work[connection][told.item.id]
                        yield told
                    case "advance":
                        progress.advance(told)
                    case "say":
                        progress.say(told)
                    case "note":
                        notes.append(told)
                    case "unready":
                        raise told
    lost.extend(queue)  # every process died before it was given out


@contextmanager
def _processes(stage: Stage[Any], devices: Sequence[str]) -> Iterator[list[Connection]]:
    """A process for each device; killed when the block is left early, or when this process dies."""
    context = get_context("spawn")  # CUDA does not survive a fork
    theirs, ours = context.Pipe(duplex=False)  # reading from it ends when this process dies
    begun: list[tuple[SpawnProcess, Connection]] = []
    try:
        with sigint_blocked():  # Ctrl-C reaches the whole group: we decide
            for device in devices:
                here, there = context.Pipe()
                share = stage.on(device, len(devices))
                process = context.Process(target=_serve, args=(share, device, there, theirs))
                process.start()
                there.close()
                begun.append((process, here))
        yield [connection for _, connection in begun]
    finally:
        for process, connection in begun:
            connection.close()
            process.join(timeout=5)
            process.kill()
            process.join()
        theirs.close()
        ours.close()


def _serve(stage: Stage[Any], device: str, parent: Connection, life: Connection) -> None:
    """What a process does: ask for items until there are none, and tell their results."""
    threading.Thread(target=end_with, args=(life,), daemon=True).start()
    told = _Told(parent)
    taken: dict[str, tuple[datetime, float]] = {}

    def take() -> Iterator[Item]:
        while (item := told.ask()) is not None:
            taken[item.id] = (datetime.now(UTC), time.monotonic())
            yield item

    try:
        stage.setup()
    except Exception as error:  # noqa: BLE001  told to the parent, where the command ends with it
        told.send("unready", error if isinstance(error, WsipipeError) else RuntimeError(f"{error!r}"))
        return
    for item, outcome in stage.stream(take(), told):
        told.send("result", result_of(stage, item, outcome, *taken.pop(item.id)))
    for note in stage.closing_notes():
        told.send("note", f"{device}: {note}")


class _Told:
    """Progress that is told to the parent."""

    def __init__(self, parent: Connection) -> None:
        self._parent, self._lock = parent, threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        with self._lock:
            self._parent.send((kind, content))

    def ask(self) -> Item | None:
        self.send("next", None)
        item: Item | None = self._parent.recv()
        return item

    def advance(self, units: int) -> None:
        self.send("advance", units)

    def say(self, text: str) -> None:
        self.send("say", text)
