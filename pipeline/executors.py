"""Where items run: in this process, or in several. Either way a result comes back for each, and none stops the others."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..data.artifact import digest_of, size_of, surroundings
from ..data.errors import InputError, SlideError, SurroundingsError, WsipipeError
from ..data.manifest import ErrorRecord, OutputRecord
from ..stages.stage import Item, Outcome, Progress, Silence, Stage


@dataclass(frozen=True)
class Result:
    """What became of an item, ready to be recorded."""

    item: Item
    outcome: Outcome | None
    outputs: dict[str, OutputRecord]
    error: ErrorRecord | None
    start: datetime
    seconds: float
    trace: str = ""


def run_here(stage: Stage[Any], items: Sequence[Item], progress: Progress) -> Iterator[Result]:
    """Run the items in this process, as the stage's stream."""
    taken: dict[str, tuple[datetime, float]] = {}

    def take() -> Iterator[Item]:
        for item in items:
            taken[item.id] = (datetime.now(UTC), time.monotonic())
            yield item

    stage.setup()
    for item, outcome in stage.stream(take(), progress):
        yield _result(stage, item, outcome, *taken.pop(item.id))


def run_in_processes(stage: Stage[Any], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Run the items in fresh processes, a few ahead of the workers.

    A process that dies (a decoder that crashes, the kernel that kills it for its memory) takes down only the item
    it worked on: what was in flight is run again, one process an item, and the one that dies again has failed.
    """
    queue = list(reversed(items))
    while queue:
        suspects: list[Item] = []
        with _pool(stage, workers) as pool:
            flight: dict[Future[Result], Item] = {}
            try:
                while queue or flight:
                    while queue and len(flight) < 2 * workers:
                        item = queue.pop()
                        flight[pool.submit(_work, item)] = item
                    for future in wait(flight, return_when=FIRST_COMPLETED).done:
                        yield future.result()
                        del flight[future]
            except BrokenProcessPool:
                suspects = list(flight.values())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        for item in suspects:
            yield _alone(stage, item)


def _alone(stage: Stage[Any], item: Item) -> Result:
    start, clock = datetime.now(UTC), time.monotonic()
    with _pool(stage, 1) as pool:
        try:
            return pool.submit(_work, item).result()
        except BrokenProcessPool:
            died = SlideError(
                "the process that worked on it died (a crash in a decoder, or no memory left)",
                path=item.id,
                hint="check the file; if it is sound, free some memory and use --retry-failed",
            )
            return _result(stage, item, died, start, clock)


def _pool(stage: Stage[Any], workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(stage,))


_stage: Stage[Any]


def _begin(stage: Stage[Any]) -> None:
    global _stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _stage = stage
    stage.setup()


def _work(item: Item) -> Result:
    start, clock = datetime.now(UTC), time.monotonic()
    outcome: Outcome | Exception
    try:
        outcome = _stage.process(item, Silence())
    except Exception as error:  # noqa: BLE001  the boundary: a failed item never stops the others
        outcome = error
    return _result(_stage, item, outcome, start, clock)


def _result(stage: Stage[Any], item: Item, outcome: Outcome | Exception, start: datetime, clock: float) -> Result:
    seconds = round(time.monotonic() - clock, 3)
    if isinstance(outcome, Exception):
        trace = "".join(traceback.format_exception(outcome))
        return Result(item, None, {}, explain(outcome), start, seconds, trace)
    outputs = {
        name: OutputRecord(
            path=path.relative_to(stage.workspace).as_posix(), bytes=size_of(path), digest=digest_of(path)
        )
        for name, path in outcome.outputs.items()
    }
    return Result(item, outcome, outputs, None, start, seconds)


def explain(error: BaseException) -> ErrorRecord:
    """Say what went wrong and whether another try may help."""
    if isinstance(error, OSError):
        error = surroundings(error, Path(error.filename or ".")) or error
    if isinstance(error, WsipipeError):
        return ErrorRecord(
            type=type(error).__name__, message=str(error), hint=error.hint, retry=not isinstance(error, InputError)
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        short = SurroundingsError("not enough memory", hint="free some memory, or take a smaller --batch-size")
        return explain(short)
    return ErrorRecord(
        type=type(error).__name__,
        message=str(error) or repr(error),
        hint="not foreseen: run again with --debug for the trace, and report it",
        retry=True,
    )


def failed(errors: Iterable[tuple[str, WsipipeError]]) -> Iterator[Result]:
    """Results of items that were rejected before any work."""
    for item, error in errors:
        yield Result(Item(item, {}), None, {}, explain(error), datetime.now(UTC), 0.0)
