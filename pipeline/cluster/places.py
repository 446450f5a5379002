"""The client's side: a stage's items on the workers of a cluster.

The client keeps the queue, as on one machine (:mod:`..run.work`), and alone writes manifests. A worker has a place for
each of its cores, if the stage's items run side by side; otherwise one, or one for each of its GPUs. An item whose
machine is lost goes back to the queue; one that was in work on two lost machines has failed. So has one that fails on
two of them for their surroundings (a full disk, a share that is gone); a machine on which several items in a row fail
so is not used any more.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, Final

from ...data.errors import SlideError, SurroundingsError, UsageError
from ...stages.stage import Item, Progress, Stage
from ..results import Result
from ..run.work import SECONDS_TO_END, Message, Place, PlacedWorker, Work, death_of
from ..run.worker import InWork, Kind
from .environment import Facts, SharedPlaces, compared, facts_here, refusal, shared_places
from .seat import TOPIC, Death
from .seated import PlaceElsewhere, Seated, end_all
from .session import DaskWorker, Session

_LOOK: Final = 1.0
"""Seconds between two looks at which workers there are."""
_MOST_LOSSES: Final = 2
"""In work on how many lost machines an item has been when it has failed."""
_MOST_FAULTS: Final = 3
"""How many items in a row may fail on a machine for its surroundings, until it is given up."""
_MORE_MEMORY: Final = "give the workers more memory ([cluster] memory, or --memory-limit), then run again"


class ElsewhereStages:
    """Runs stages on a cluster; what the runner is given.

    :param session: the cluster.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def prepared(self, stage: Stage[Any]) -> Stage[Any]:
        """The stage with the kind of device that the workers have, which may decide the precision of its numbers.

        :raises UsageError: the device is one of several of this machine.
        """
        asked = getattr(stage.settings, "device", None)
        if not stage.distributes or asked is None:
            return stage
        if asked not in ("auto", "cpu", "cuda", "mps"):
            what = f"--device {asked} names devices of this machine, and the items run on others"
            raise UsageError(what, hint="give cpu or cuda, or leave it out: a worker uses the GPUs that it was given")
        if asked == "auto":
            asked = "cuda" if stage.uses_device and self._session.has_gpus() else "cpu"
        prepared = copy(stage)
        prepared.settings = stage.settings.model_copy(update={"device": asked})
        return prepared

    def run(
        self, stage: Stage[Any], items: Sequence[Item], progress: Progress, notes: list[str]
    ) -> Generator[Result, None, None]:
        """Run the items on the workers; an executor (:data:`..run.outcomes.Executor`).

        :raises SurroundingsError: a worker's environment differs, or the scheduler does not answer.
        """
        with shared_places(stage.workspace, items) as shared:
            work = _WorkElsewhere(stage, items, progress, notes, session=self._session, shared=shared)
            try:
                yield from work.results()
            finally:
                work.close()

    def close(self) -> None:
        """Leave the cluster."""
        self._session.close()


class _WorkElsewhere(Work):
    """Work on the workers of a cluster.

    :param shared: what each of them must find.
    """

    alone = False

    def __init__(
        self,
        stage: Stage[Any],
        items: Sequence[Item],
        progress: Progress,
        notes: list[str],
        *,
        session: Session,
        shared: SharedPlaces,
    ) -> None:
        super().__init__(stage, sorted(items, key=lambda item: -item.size), progress, notes)
        self._session, self._shared = session, shared
        self._own = facts_here(None)
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._workers: dict[str, DaskWorker] = {}
        """Those that were compared with this machine, by address; some have no place here."""
        self._losses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        """Worker's address → items in a row that failed there for its surroundings."""
        self._tried_elsewhere: set[str] = set()
        """Items that have failed so on one worker."""
        self._begun = False
        self._waits = False
        self._looked = 0.0
        self._alone_since = time.monotonic()
        session.client.subscribe_topic(TOPIC, self._inbox.put)

    def close(self) -> None:
        """Kill what is left, and give back jobs that nothing needs now."""
        with suppress(Exception):
            self._session.client.unsubscribe_topic(TOPIC)
        seats = [(p.worker.id, p.on.address, p.worker) for p in self._elsewhere() if isinstance(p.worker, Seated)]
        if not self._session.lost():
            with suppress(Exception):
                self._session.client.cancel([worker.future for *_, worker in seats])
            if seats:
                end_all(self._session, [s for s, *_ in seats], [address for _, address, _ in seats], SECONDS_TO_END)
            with suppress(Exception):
                self._session.scale(0, 1)

    # ----- places -----

    def _elsewhere(self) -> list[PlaceElsewhere]:
        return [place for place in self._places if isinstance(place, PlaceElsewhere)]

    def _look(self) -> Iterator[Result]:
        """Compare workers that are new and give them places; take back what lost ones had in work."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        settings = self._session.settings
        places_a_job = settings.gpus if self._on_gpu() else self._stage.processes_on(settings.cores)
        self._session.scale(len(self._queue) + sum(len(worker.in_work) for worker in self._working()), places_a_job)
        there = self._session.workers()
        self._looked = time.monotonic()
        for address in self._workers.keys() - there.keys():
            yield from self._lose(self._workers.pop(address))
        if new := [worker for address, worker in there.items() if address not in self._workers]:
            self._welcome(new)
        for place in self._elsewhere():
            if isinstance(place.worker, Seated) and place.worker.future.status in ("cancelled", "lost", "error"):
                yield from self._take_back(place)
        if any(place.error is None for place in self._places):
            self._alone_since = time.monotonic()
            if self._waits:
                self._progress.say("")
            self._waits = False
        elif self._queue:
            self._waits = True
            self._progress.say(f"waiting for a worker{' with a GPU' * self._on_gpu()}")

    def _on_gpu(self) -> bool:
        return str(getattr(self._stage.settings, "device", "")).startswith("cuda")

    def _welcome(self, workers: Sequence[DaskWorker]) -> None:
        """Compare new workers with this machine and give them places.

        :raises SurroundingsError: one of the first differs, before any work. A later one is left out, and noted.
        """
        addresses = [worker.address for worker in workers]
        answers: Mapping[str, Facts | BaseException] = self._session.client.run(
            facts_here, self._shared, workers=addresses, on_error="return"
        )
        unlike: dict[str, list[str]] = {}
        for worker in workers:
            answer = answers.get(worker.address, OSError("it is gone"))
            self._workers[worker.address] = worker
            if what := compared(answer, self._own):
                unlike[worker.name] = what
            else:
                self._places += self._places_on(worker)
        if unlike and not self._begun:
            raise refusal(unlike)
        self._notes += [f"{worker} was not used: {'; '.join(what)}" for worker, what in unlike.items()]
        self._begun = True

    def _places_on(self, worker: DaskWorker) -> list[PlaceElsewhere]:
        stage = self._stage
        if self._on_gpu():
            cores = max(1, worker.cores // max(worker.gpus, 1))
            devices: list[str | None] = [f"cuda:{number}" for number in range(worker.gpus)]
        elif (side_by_side := stage.processes_on(worker.cores)) > 1 or stage.processes:
            cores, devices = max(1, worker.cores // side_by_side), [None] * side_by_side
        else:
            cores, devices = worker.cores, [str(getattr(stage.settings, "device", "cpu"))]
        return [PlaceElsewhere(stage.for_worker(d, cores), d, on=worker, cores=cores) for d in devices]

    def _lose(self, worker: DaskWorker) -> Iterator[Result]:
        """A worker is gone: its places are too, and what it had in work is done elsewhere."""
        for place in [place for place in self._elsewhere() if place.on.address == worker.address]:
            if place.worker is not None:
                yield from self._take_back(place)
            self._places.remove(place)
        gpus = f" ({worker.gpus} GPU{'s' * (worker.gpus > 1)})" if worker.gpus and self._on_gpu() else ""
        self._notes.append(f"worker {worker.name}{gpus} was lost: what it had in work went to the others")

    def _take_back(self, place: PlaceElsewhere) -> Iterator[Result]:
        """Take back what a worker had in work that will not answer any more."""
        worker, place.worker = place.worker, None
        assert isinstance(worker, Seated)
        worker.kill()
        for given in reversed(list(worker.in_work.values())):
            self._losses[given.item.id] += given.begun
            if self._losses[given.item.id] >= _MOST_LOSSES:
                yield self._failure(given, _deadly(given.item, place.on))
            else:
                self._queue.appendleft(given.item)

    def _start(self, place: Place) -> PlacedWorker:
        assert isinstance(place, PlaceElsewhere)
        return Seated(self._session, place, self._inbox)

    def _goes_on(self) -> bool:
        waits = not self._places and time.monotonic() - self._alone_since < self._session.settings.wait * 60
        return bool(self._working()) or (bool(self._queue) and waits)

    # ----- messages -----

    def _messages(self, seconds: float | None) -> Iterator[Message]:
        seats = {p.worker.id: p for p in self._elsewhere() if isinstance(p.worker, Seated)}
        wait = _LOOK if seconds is None else min(seconds, _LOOK)
        while True:
            try:
                _, message = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
            except Empty:
                return
            wait = 0.0
            place = seats.get(message["seat"])
            if place is None or not isinstance(worker := place.worker, Seated) or worker.id != message["seat"]:
                continue  # of one that was ended
            kind, content = message["kind"], pickle.loads(message["content"])
            worker.over |= kind in ("end", "died", "unready", "broken", "stopped")
            if kind == "died" and isinstance(content, Death):
                worker.death = content
            yield place, kind, content

    def _receive(self, place: Place, kind: Kind, content: Any) -> Iterator[Result]:
        assert isinstance(place, PlaceElsewhere)
        assert isinstance(place.worker, Seated)
        match kind:
            case "lost":
                yield from self._take_back(place)
            case "began":
                yield from super()._receive(place, kind, content)
                self._hand_out_ahead(place, place.worker)
            case "result":
                given = place.worker.in_work[content.item.id]
                here = replace(content, start=given.start, worker=place.on.name)  # the clock there may be wrong
                if self._goes_elsewhere(here, place):
                    del place.worker.in_work[here.item.id]
                    self._queue.append(given.item)
                else:
                    yield from super()._receive(place, kind, here)
            case "note":
                yield from super()._receive(place, kind, f"{place.on.name} {content}")
            case _:
                yield from super()._receive(place, kind, content)

    def _hand_out_ahead(self, place: Place, worker: Seated) -> None:
        """Hand out one item more than is in work, so that it is there when that is done; not when few are left."""
        item = self._next_for(place)
        if item is not None and len(self._queue) > len(self._places) and all(i.begun for i in worker.in_work.values()):
            self._queue.remove(item)
            worker.hand_out(item, ahead=True)

    def _answer(self, place: Place, worker: PlacedWorker) -> None:
        if all(given.begun for given in worker.in_work.values()):  # otherwise one is on its way
            super()._answer(place, worker)

    # ----- what failed -----

    def _goes_elsewhere(self, result: Result, place: PlaceElsewhere) -> bool:
        """Whether an item has failed for the surroundings of its worker, and another one may do it."""
        address, error = place.on.address, result.error
        if error is None or error.type != SurroundingsError.__name__:
            self._faults[address] = 0
            return False
        self._faults[address] += 1
        own = [other for other in self._elsewhere() if other.on.address == address]
        if self._faults[address] == _MOST_FAULTS:
            fault = SurroundingsError(error.message, hint=error.hint)
            for other in own:
                other.error = fault
            self._notes.append(f"worker {place.on.name}: given up, its items went to the others: {error.message}")
        others = any(other.error is None and other.on.address != address for other in self._elsewhere())
        if not others or result.item.id in self._tried_elsewhere:
            return False
        self._tried_elsewhere.add(result.item.id)
        self._broke.setdefault(result.item.id, []).extend(own)
        return True

    def _cannot_start(self, place: Place, error: Exception) -> None:
        self._give_up_place(place, error)
        if not any(other.has_worked or other.error is None for other in self._places):
            raise error

    def _name(self, place: Place) -> str | None:
        assert isinstance(place, PlaceElsewhere)
        return f"{place.on.name}{'' if place.device is None else f' {place.device}'}"

    def _death(self, item: Item, place: Place, worker: PlacedWorker) -> SlideError | SurroundingsError:
        assert isinstance(place, PlaceElsewhere)
        death = worker.death if isinstance(worker, Seated) else None
        if death is None or death.limit is None:
            return death_of(item, place.device, worker.exit_code)
        what = f"it needed more than the {death.limit / 1e9:.1f} GB of memory of its worker, {place.on.name}"
        return SurroundingsError(what, path=item.id, hint=_MORE_MEMORY)

    def _false_start(self, worker: PlacedWorker) -> SurroundingsError:
        death = worker.death if isinstance(worker, Seated) else None
        if death is None or death.limit is None:
            return super()._false_start(worker)
        what = f"the processes need more than the {death.limit / 1e9:.1f} GB of memory of their worker as they start"
        return SurroundingsError(what, hint=_MORE_MEMORY)

    def _fail_the_rest(self) -> Iterator[Result]:
        rest = [*self._queue, *self._suspects]
        if not rest:
            return
        errors = [place.error for place in self._places if place.error is not None]
        gpu = " with a GPU" if self._on_gpu() else ""
        why = str(errors[-1]) if errors else f"there was none{gpu} for {self._session.settings.wait:g} min"
        error = SurroundingsError(f"not tried, because no worker is left: {why}", hint="run the same command again")
        for item in rest:
            yield self._failure(InWork.now(item), error)


def _deadly(item: Item, worker: DaskWorker) -> SurroundingsError:
    """The error of an item that was in work on two machines that were lost."""
    return SurroundingsError(
        f"{_MOST_LOSSES} workers were lost while it was in work on them, {worker.name} last",
        path=item.id,
        hint="their logs may say why: no memory left, or the job's time was over; then run again",
    )
