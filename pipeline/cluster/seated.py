"""The client's side of one worker process on another machine: it is given items, and ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event
from typing import Any
from uuid import uuid4

from ...stages.stage import Item
from ..run.work import Place
from ..run.worker import InWork, PackedStage, packed
from .seat import NOTHING, Death, Order, deliver, end, sit
from .session import DaskWorker, Session


@dataclass(eq=False)
class PlaceElsewhere(Place):
    """A place on a worker of the cluster."""

    on: DaskWorker = field(kw_only=True)
    cores: int = field(kw_only=True)


class Seated:
    """The client's side of a worker on another machine, which is a task of Dask."""

    def __init__(self, session: Session, place: PlaceElsewhere, inbox: SimpleQueue[Any]) -> None:
        self.id = uuid4().hex
        self.in_work: dict[str, InWork] = {}
        self.asked = self.over = False
        """``over``: it has sent its last message."""
        self.death: Death | None = None
        self._session, self._address, self._inbox = session, place.on.address, inbox
        order = Order(self.id, PackedStage.of(place.stage), place.device, place.cores)
        on_gpu = (place.device or "").startswith("cuda")
        self.future = session.client.submit(
            sit,
            order,
            key=f"{place.stage.name}-{self.id}",
            workers=[self._address],
            resources={"GPU": 1} if on_gpu else None,
            pure=False,
        )

    @property
    def exit_code(self) -> int | None:
        return self.death.exit_code if self.death else None

    def hand_out(self, item: Item | None, *, ahead: bool = False) -> None:
        """Answer its request: with an item, or None to end it.

        :param ahead: it has not asked yet, and begins the item when it is done with another.
        """
        self.asked = True
        given = NOTHING
        if item is not None:
            self.in_work[item.id] = InWork.now(item, begun=not ahead)
            given = item.id, packed(item)
        self._session.client.loop.add_callback(self._deliver, given)

    async def _deliver(self, given: tuple[str, bytes]) -> None:
        try:
            await self._session.client.run(deliver, self.id, [given], workers=[self._address])
        except Exception:  # noqa: BLE001  whatever it is, the item has not arrived, and goes to another worker
            self._inbox.put((0.0, {"seat": self.id, "kind": "lost", "content": NOTHING[1]}))

    def kill(self) -> None:
        self.future.cancel()

    def wait(self, seconds: float) -> None:
        if not self.over:
            self.over = True
            end_all(self._session, [self.id], [self._address], seconds)


def end_all(session: Session, seats: Sequence[str], addresses: Sequence[str], seconds: float) -> None:
    """Kill the processes of seats, and wait until they are gone, for so many seconds: a worker may not answer."""
    ended = Event()

    async def call() -> None:
        with suppress(Exception):  # it has ended itself, or its machine is gone
            await session.client.run(end, list(seats), workers=list(set(addresses)), on_error="ignore")
        ended.set()

    if not session.lost():
        session.client.loop.add_callback(call)
        ended.wait(seconds)
