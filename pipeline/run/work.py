"""Work on items at several places at once, and what follows when something there dies, hangs or fails.

All workers take items from one queue. An item that takes longer than its stage allows is killed together with its
process; other items are not affected. Items whose process died (a decoder crashed, or the kernel's out-of-memory killer
ended it) are tried once more at the end, and fail if their process dies again. When a device fails, its unfinished
items go back to the queue.

Where the places are, a subclass says: on this machine (:mod:`.processes`), or on those of a cluster.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from ...data.errors import DeviceError, SlideError, SurroundingsError
from ...stages.stage import Item, Progress, Stage
from ..results import Result
from .outcomes import no_device_left, result_of
from .worker import InWork, Kind

_FALSE_STARTS = 2
"""How many processes in a row may die before they ask for an item, until no other is started in their place."""
_MOST_FAILURES = 3
"""How often in a row a device may fail, each time at another item, until it is given up."""
_MOST_PLACES = 2
"""At how many places the device may fail at the same item, until the item itself has failed."""
SECONDS_TO_END = 5.0
"""How long to wait for the end of a process that was killed or is about to end."""
KILLED = -9
"""Exit code of a process that SIGKILL has ended."""
_MOST_UNREAD = 1000
"""Rounds of messages that are read before one of its items is judged to be overdue; more do not fit a connection."""


class PlacedWorker(Protocol):
    """A worker as the work on a stage sees it."""

    in_work: dict[str, InWork]
    """Items that were handed out to it and have no result yet."""
    asked: bool
    """Whether it has asked for an item yet."""

    def hand_out(self, item: Item | None) -> None:
        """Answer its request: with an item, or None to end it."""

    @property
    def exit_code(self) -> int | None:
        """Exit code of its process once that has ended; minus the signal's number if a signal killed it."""

    def kill(self) -> None:
        """Kill it, whatever it is doing."""

    def wait(self, seconds: float) -> None:
        """Wait for its end for so many seconds."""


Message = tuple["Place", Kind, Any]
"""A message of a worker: where it works, the message's kind and its content."""


@dataclass(eq=False)
class Place:
    """A place where one worker at a time runs: a device, or a share of the CPUs."""

    stage: Stage[Any]
    device: str | None
    worker: PlacedWorker | None = None
    has_worked: bool = False
    """An item was handed out here."""
    failures: int = 0
    """How often its device failed since it last finished an item."""
    false_starts: int = 0
    error: Exception | None = None
    """Why no more workers are started here."""


class Work(ABC):
    """The items of a run and the workers that process them."""

    alone: ClassVar[bool] = True
    """Whether items whose process died are tried again each alone, since another may have taken the memory."""

    def __init__(self, stage: Stage[Any], items: Sequence[Item], progress: Progress, notes: list[str]) -> None:
        self._stage, self._progress, self._notes = stage, progress, notes
        self._places: list[Place] = []
        self._queue = deque(items)
        self._suspects: deque[Item] = deque()
        """Items whose process died; each is tried again."""
        self._tried_again: set[str] = set()
        self._broke: dict[str, list[Place]] = {}
        """Item → places where the device failed, or the process died, while it was in work."""

    @abstractmethod
    def _start(self, place: Place) -> PlacedWorker:
        """Start a worker at a place."""

    @abstractmethod
    def _messages(self, seconds: float | None) -> Iterator[Message]:
        """The next messages of the workers, after so many seconds at most (None: as long as it takes)."""

    def results(self) -> Iterator[Result]:
        """Yield the results of all items."""
        while True:
            yield from self._look()
            self._try_suspects_again()
            self._start_workers()
            if not self._goes_on():
                break
            for place, kind, content in self._messages(self._seconds_left()):
                yield from self._receive(place, kind, content)
            yield from self._give_up_the_overdue()
        yield from self._fail_the_rest()

    def kill(self) -> None:
        """Kill all workers."""
        workers = self._working()
        for worker in workers:
            worker.kill()
        until = time.monotonic() + SECONDS_TO_END
        for worker in workers:
            worker.wait(max(0.0, until - time.monotonic()))

    def _look(self) -> Iterator[Result]:
        """Look whether places have come or gone; yields the results of items that fail for that."""
        yield from ()

    def _goes_on(self) -> bool:
        """Whether more results may come."""
        return bool(self._working())

    # ----- workers -----

    def _working(self) -> list[PlacedWorker]:
        return [place.worker for place in self._places if place.worker is not None]

    def _try_suspects_again(self) -> None:
        if self._queue or (self.alone and self._working()):
            return
        for suspect in [self._suspects.popleft() for _ in range(min(len(self._suspects), 1 if self.alone else 10**9))]:
            self._tried_again.add(suspect.id)
            self._queue.append(suspect)

    def _start_workers(self) -> None:
        """Start workers at free places, as many as there are items."""
        for place in self._places:
            starting = sum(not worker.asked for worker in self._working())
            if place.worker is None and starting < len(self._queue) and self._next_for(place) is not None:
                place.worker = self._start(place)

    def _next_for(self, place: Place) -> Item | None:
        """The first item that may be tried here: not one that failed on this device while other devices are left."""
        if place.error is not None:
            return None
        if not self._broke:
            return self._queue[0] if self._queue else None
        usable = {id(other) for other in self._places if other.error is None}
        for item in self._queue:
            broke = {id(other) for other in self._broke.get(item.id, ())}
            if id(place) not in broke or usable <= broke:
                return item
        return None

    def _end(self, place: Place, *, kill: bool) -> tuple[list[InWork], int | None]:
        """End a place's worker; returns the items that it had in work, and its exit code.

        :param kill: kill it at once; otherwise it is about to end by itself.
        """
        worker, place.worker = place.worker, None
        assert worker is not None
        if not kill:
            worker.wait(SECONDS_TO_END)
        worker.kill()
        worker.wait(SECONDS_TO_END)
        return list(worker.in_work.values()), worker.exit_code

    # ----- messages -----

    def _receive(self, place: Place, kind: Kind, content: Any) -> Iterator[Result]:
        worker = place.worker
        assert worker is not None
        match kind:
            case "next":
                place.false_starts = 0
                self._answer(place, worker)
            case "began":
                worker.in_work[content].begin()
            case "result":
                del worker.in_work[content.item.id]
                if content.outcome is not None:
                    place.failures = 0
                yield content
            case "advance":
                self._progress.advance(content)
            case "say":
                self._progress.say(content)
            case "note":
                self._notes.append(content)
            case "end" if worker.in_work:  # the stage's stream has dropped items
                yield from self._died(place)
            case "end":
                self._end(place, kill=False)
            case "died":
                yield from self._died(place)
            case "stopped":
                raise content
            case "unready":
                self._end(place, kill=True)
                self._cannot_start(place, content)
            case "broken":
                yield from self._device_failed(place, *content)

    def _answer(self, place: Place, worker: PlacedWorker) -> None:
        """Hand out the next item to a worker that asks for one, or None to end it."""
        item = self._next_for(place)
        if item is not None:
            self._queue.remove(item)
            place.has_worked = True
        worker.hand_out(item)

    def _cannot_start(self, place: Place, error: Exception) -> None:
        """A worker cannot start.

        :raises Exception: its device does not exist, so that the user has named a wrong one.
        """
        if place.device is not None and not place.has_worked:
            raise error
        self._give_up_place(place, error)

    def _died(self, place: Place) -> Iterator[Result]:
        """A worker has died; only what it had in work can have caused that."""
        worker = place.worker
        assert worker is not None
        in_work, _ = self._end(place, kill=False)
        self._queue.extendleft(given.item for given in reversed(in_work) if not given.begun)
        begun = [given for given in in_work if given.begun]
        for suspect in begun:
            if suspect.item.id in self._tried_again:
                yield self._failure(suspect, self._death(suspect.item, place, worker))
                continue
            self._suspects.append(suspect.item)
            if place.device is not None:  # it may be the device that kills its processes
                self._broke.setdefault(suspect.item.id, []).append(place)
        if not begun:
            place.false_starts += 1
            if place.false_starts == _FALSE_STARTS:
                self._give_up_place(place, self._false_start(worker))

    def _device_failed(self, place: Place, item_id: str | None, error: DeviceError) -> Iterator[Result]:
        """Put unfinished items back into the queue. A new process often helps; if not, the device is given up."""
        in_work, _ = self._end(place, kill=True)
        place.failures += 1
        if place.failures >= _MOST_FAILURES:
            self._give_up_place(place, error)
        for given in reversed(in_work):
            if given.item.id == item_id:
                broke = self._broke.setdefault(item_id, [])
                broke.append(place)
                if len(broke) >= _MOST_PLACES or all(other in broke for other in self._places if other.error is None):
                    yield self._failure(given, error)
                    continue
            self._queue.appendleft(given.item)

    def _give_up_place(self, place: Place, error: Exception) -> None:
        place.error = error
        if (name := self._name(place)) is not None:
            self._notes.append(f"{name}: given up, its items went to the other devices: {error}")

    def _name(self, place: Place) -> str | None:
        """What a place is called in notes; None: it is one of several that are alike."""
        return place.device

    # ----- time -----

    def _deadlines(self) -> Iterator[tuple[float, Place, InWork]]:
        seconds = self._stage.seconds_an_item
        if seconds is None:
            return
        for place in self._places:
            for in_work in list(place.worker.in_work.values()) if place.worker is not None else ():
                if in_work.begun:
                    yield in_work.clock + seconds, place, in_work

    def _seconds_left(self) -> float | None:
        """Seconds until the next item is overdue; None if items have no time limit."""
        deadline = min((deadline for deadline, *_ in self._deadlines()), default=None)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _give_up_the_overdue(self) -> Iterator[Result]:
        for deadline, place, overdue in list(self._deadlines()):
            if time.monotonic() < deadline:
                continue
            for _ in range(_MOST_UNREAD):  # its result may have been sent and not been read yet
                if not (unread := list(self._messages(0.0))):
                    break
                for message in unread:
                    yield from self._receive(*message)
            if place.worker is None or overdue.item.id not in place.worker.in_work:
                continue
            in_work, _ = self._end(place, kill=True)
            yield self._failure(overdue, self._given_up(overdue.item))
            self._queue.extendleft(other.item for other in reversed(in_work) if other is not overdue)

    # ----- what failed -----

    def _failure(self, in_work: InWork, error: Exception) -> Result:
        return result_of(self._stage, in_work.item, error, in_work.start, in_work.clock)

    def _false_start(self, worker: PlacedWorker) -> SurroundingsError:
        """The error of a place where processes die before they ask for an item."""
        what = f"the worker processes die as they start (exit code {worker.exit_code})"
        hint = (
            "their output above may say why: no memory left, or a stage that is defined in a script without "
            'an `if __name__ == "__main__"` guard'
        )
        return SurroundingsError(what, hint=hint)

    def _death(self, item: Item, place: Place, worker: PlacedWorker) -> SlideError | SurroundingsError:
        """The error of an item whose process has died twice."""
        return death_of(item, place.device, worker.exit_code)

    def _given_up(self, item: Item) -> SlideError:
        return SlideError(
            f"given up after {(self._stage.seconds_an_item or 0) / 60:g} min: a decoder or the storage hangs",
            path=item.id,
            hint="check the file and the disk it lies on; if both are sound, raise --timeout and use --retry-failed",
        )

    def _fail_the_rest(self) -> Iterator[Result]:
        """Fail the items that are left when no more workers can be started.

        :raises WsipipeError: all workers died as they started, so nothing is known about any item.
        """
        rest = [*self._queue, *self._suspects]
        if not rest:
            return
        place = self._places[-1]
        assert place.error is not None
        if all(other.false_starts >= _FALSE_STARTS and not other.has_worked for other in self._places):
            raise place.error
        on_device = place.device is not None or isinstance(place.error, DeviceError)
        error = no_device_left(place.error) if on_device else place.error
        for item in rest:
            yield result_of(self._stage, item, error, datetime.now(UTC), time.monotonic())


def death_of(item: Item, device: str | None, exit_code: int | None) -> SlideError | SurroundingsError:
    """The error of an item whose process has died twice.

    :param exit_code: of the process, the second time. Only the system kills: of programs that crash, none ends so.
    """
    if exit_code == KILLED:
        what = "the process that worked on it died: the system killed it, most likely because no memory was left"
        return SurroundingsError(what, path=item.id, hint="free some memory, or take fewer --workers; then run again")
    crash = "a crash in a decoder" if device is None else "a crash in a decoder or on the GPU"
    return SlideError(
        f"the process that worked on it died ({crash}, or out of memory)",
        path=item.id,
        hint="check the file; if it is sound, free some memory and use --retry-failed",
    )
