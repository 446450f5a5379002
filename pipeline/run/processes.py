"""The executor that runs items in several processes: one for each device, or several that share the CPUs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ...stages.stage import Item, Progress, Stage
from ..results import Result
from .work import Message, Place, Work
from .worker import PackedStage, Worker


def run_in_processes(
    stage: Stage[Any], items: Sequence[Item], progress: Progress, notes: list[str]
) -> Generator[Result, None, None]:
    """Run the items in worker processes; an executor (:data:`.outcomes.Executor`).

    On several devices the largest items come first, so that no device works long after the others have ended.

    :raises WsipipeError: a device does not exist; no process can start; or the error that stopped the stage in one.
    """
    work = _WorkHere(stage, items, progress, notes)
    try:
        yield from work.results()
    finally:
        work.kill()


class _WorkHere(Work):
    """Work in processes of this machine."""

    def __init__(self, stage: Stage[Any], items: Sequence[Item], progress: Progress, notes: list[str]) -> None:
        if len(stage.devices) > 1:
            items = sorted(items, key=lambda item: -item.size)
        super().__init__(stage, items, progress, notes)
        if len(stage.devices) > 1:
            count = min(len(stage.devices), len(items))
            self._places = [Place(stage.on(device, count), device) for device in stage.devices]
        else:
            self._places = [Place(stage, None) for _ in range(min(stage.workers, len(items)))]

    def _start(self, place: Place) -> Worker:
        return Worker(PackedStage.of(place.stage), place.device)

    def _messages(self, seconds: float | None) -> Iterator[Message]:
        by_connection = {p.worker.connection: p for p in self._places if isinstance(p.worker, Worker)}
        for connection in wait(list(by_connection), timeout=seconds):
            assert isinstance(connection, Connection)
            place = by_connection[connection]
            if isinstance(worker := place.worker, Worker):
                try:
                    kind, content = worker.receive()
                except (EOFError, OSError):
                    kind, content = "died", None
                yield place, kind, content
