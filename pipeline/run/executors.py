"""Where items run: in this process, or in several. Either way each gives a result, and none stops the others."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from ...data.artifact import digest_of, size_of
from ...data.errors import BundleError, InputError, SlideError, StoreError, SurroundingsError, WsipipeError
from ...data.manifest import ErrorRecord, OutputRecord
from ...data.surroundings import reading_fault, surroundings
from ...stages.stage import Item, Outcome, Progress, Silence, Stage
from ..results import Result


def run_here(stage: Stage[Any], items: Sequence[Item], progress: Progress) -> Generator[Result, None, None]:
    """Run the items in this process, as the stage's stream."""
    taken: dict[str, tuple[datetime, float]] = {}

    def take() -> Iterator[Item]:
        for item in items:
            taken[item.id] = (datetime.now(UTC), time.monotonic())
            yield item

    stage.setup()
    for item, outcome in stage.stream(take(), progress):
        yield result_of(stage, item, outcome, *taken.pop(item.id))


def run_in_processes(stage: Stage[Any], items: Sequence[Item], workers: int) -> Generator[Result, None, None]:
    """Run the items in fresh processes, a few ahead of the workers.

    A process that dies (a decoder that crashes, the kernel that kills it for its memory) takes down only the item
    it worked on: what was in flight is run again, one process an item, and the one that dies again has failed. One that
    takes longer than the stage allows (a decoder that hangs) dies by its own watchdog.
    """
    queue = list(reversed(items))
    while queue:
        flight: dict[Future[Result], Item] = {}
        with _pool(stage, workers) as pool, suppress(BrokenProcessPool):
            while queue or flight:
                while queue and len(flight) < 2 * workers:
                    flight[_submit(pool, queue[-1])] = queue[-1]
                    queue.pop()
                for future in wait(flight, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del flight[future]
        for future, item in flight.items():
            yield _alone(stage, item) if future.exception() else future.result()


def _alone(stage: Stage[Any], item: Item) -> Result:
    start, clock = datetime.now(UTC), time.monotonic()
    with _pool(stage, 1) as pool:
        try:
            return _submit(pool, item).result()
        except BrokenProcessPool:
            return result_of(stage, item, _why_it_died(stage, item, time.monotonic() - clock), start, clock)


def _why_it_died(stage: Stage[Any], item: Item, seconds: float) -> SlideError:
    if stage.seconds_an_item is not None and seconds >= stage.seconds_an_item:
        return SlideError(
            f"given up after {stage.seconds_an_item / 60:g} min: a decoder hangs, or the storage does",
            path=item.id,
            hint="check the file and the disk it lies on; if both are sound, raise --timeout and use --retry-failed",
        )
    return it_died(item, "a crash in a decoder")


def it_died(item: Item, crash: str) -> SlideError:
    """What to tell of an item whose process has died twice."""
    return SlideError(
        f"the process that worked on it died ({crash}, or no memory left)",
        path=item.id,
        hint="check the file; if it is sound, free some memory and use --retry-failed",
    )


_START: Final = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
"""How processes begin: without this one's threads and locks; where the system can, with the imports already done."""


@contextmanager
def _pool(stage: Stage[Any], workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes. They end in the midst of their work when the block is left by an exception (Ctrl-C), and also
    when this process is killed: else they would go on writing to a workspace whose lock is free.
    """
    context = get_context(_START)
    if _START == "forkserver":
        context.set_forkserver_preload([type(stage).__module__])
    theirs, ours = context.Pipe(duplex=False)  # reading from it ends when this process closes its end or dies
    with theirs, ours:
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(stage, theirs))
        try:
            yield pool
        except BaseException:
            ours.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, item: Item) -> Future[Result]:
    """Submit an item. A process started for it never hears Ctrl-C, which reaches the whole group: we decide."""
    with sigint_blocked():
        return pool.submit(_work, item)


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Processes that are started in the block never hear Ctrl-C: they keep it blocked."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_stage: Stage[Any]
_unready: Exception | None


def _begin(stage: Stage[Any], parent: Connection) -> None:
    global _stage, _unready
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _stage, _unready = stage, None
    try:
        stage.setup()
    except Exception as error:  # noqa: BLE001  told with each item; an error here would only say that the pool is broken
        _unready = error


def end_with(parent: Connection) -> None:
    """End this process when the other end of a pipe is closed, or its process has died."""
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _work(item: Item) -> Result:
    start, clock = datetime.now(UTC), time.monotonic()
    outcome: Outcome | Exception
    try:
        with _watchdog(_stage.seconds_an_item):
            outcome = _unready or _stage.process(item, Silence())
    except Exception as error:  # noqa: BLE001  the boundary: a failed item never stops the others
        outcome = error
    return result_of(_stage, item, outcome, start, clock)


@contextmanager
def _watchdog(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer. Python's own timers do not run while a decoder keeps the
    interpreter's lock; faulthandler's thread needs none."""
    if seconds is None:
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  it has a file number, which is what counts
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def result_of(stage: Stage[Any], item: Item, outcome: Outcome | Exception, start: datetime, clock: float) -> Result:
    """What became of an item: sizes and digests of its outputs, or why it failed."""
    seconds = round(time.monotonic() - clock, 3)
    if isinstance(outcome, Exception):
        trace = "".join(traceback.format_exception(outcome))
        return Result(item, None, {}, explain(outcome, stage.workspace), start, seconds, trace)
    try:
        outputs = {
            name: OutputRecord(
                path=path.relative_to(stage.workspace).as_posix(), bytes=size_of(path), digest=digest_of(path)
            )
            for name, path in outcome.outputs.items()
        }
    except (OSError, ValueError) as error:  # an output that cannot be read back, or is not in the workspace
        return result_of(stage, item, error, start, clock)
    return Result(item, outcome, outputs, None, start, seconds)


def explain(error: BaseException, workspace: Path | None = None) -> ErrorRecord:
    """Say what went wrong and whether another try may help.

    :param workspace: what damaged files of ours lie in.
    """
    if isinstance(error, OSError) and error.errno != errno.ENOENT:  # readers say it of what vanished
        error = surroundings(error, Path(error.filename or ".")) or error
    if isinstance(error, WsipipeError):
        of_the_machine = reading_fault(error) is not None
        retry = of_the_machine or not isinstance(error, InputError) or _may_be_whole_again(error, workspace)
        return ErrorRecord(type=type(error).__name__, message=str(error), hint=error.hint, retry=retry)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        short = SurroundingsError("not enough memory", hint="free some memory, or take a smaller --batch-size")
        return explain(short)
    return ErrorRecord(
        type=type(error).__name__,
        message=str(error) or repr(error),
        hint="not foreseen: run again with --debug for the trace, and report it",
        retry=True,
    )


def _may_be_whole_again(error: InputError, workspace: Path | None) -> bool:
    """Whether it is about a file of ours that lies in the workspace. Made again with equal bytes, such a file is the
    input that it was, so nobody could see by its digest that another try is worth it."""
    if workspace is None or error.path is None or not isinstance(error, StoreError | BundleError):
        return False
    # What is not there could not be written, as features that are not numbers cannot: made again, they are as bad.
    return Path(error.path).is_relative_to(workspace) and Path(error.path).exists()


def failed(errors: Iterable[tuple[str, WsipipeError]]) -> Iterator[Result]:
    """Results of items that were rejected before any work."""
    for item, error in errors:
        yield Result(Item(item, {}), None, {}, explain(error), datetime.now(UTC), 0.0)
