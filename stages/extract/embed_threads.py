"""Threads that run batches through the backbone: one per core on a CPU, CUDA streams with two batches on a GPU.

All batches have the same shape and are computed in the same way: a tile's features are the same, bit for bit, with any
other tiles in its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from ...data.errors import SurroundingsError, is_out_of_memory
from ...data.plain_files import pipe_or_device
from ...models.backbones.backbone import Embedder
from ...models.backbones.cuda_graph import CudaGraph
from .feed_batch import Batch
from .feed_thread import FeedThread, as_exception

IN_FLIGHT = 2
"""Batches submitted to a GPU at a time: it computes the next one while the last one's features are copied back."""
_PROFILED = 20
_WARM_UP = 3
"""Batches before the profiled ones: the first batches choose kernels and fill caches."""


class Pieces:
    """An embedder that splits batches too large for the GPU's memory, halving the size until it fits.

    :param graphs: whether to record the network's kernels at the second batch, and launch them together from then on.
    """

    def __init__(self, embedder: Embedder, *, graphs: bool = False) -> None:
        self._embedder = embedder
        self.size: int | None = None
        """Tiles computed at a time, if that is not the whole batch."""
        self._graphs = graphs
        self._graph: CudaGraph | None = None
        self._shape: torch.Size | None = None
        """Of the batch that was computed last, without a graph."""

    @property
    def recorded(self) -> bool:
        """Whether the network's kernels are launched together."""
        return self._graph is not None

    def forget_recording(self) -> None:
        """Launch the network kernel by kernel from now on, and give back the memory that the recording takes."""
        self._graphs, self._graph = False, None
        torch.cuda.empty_cache()

    def __call__(self, tiles: Tensor) -> Tensor:
        while True:
            try:
                return self._embed(tiles, self.size or len(tiles))
            except RuntimeError as error:
                size = self.size or len(tiles)
                if size == 1 or not is_out_of_memory(error):
                    raise
                self.size = (size + 1) // 2
            torch.cuda.empty_cache()  # after the except block, since the error keeps tensors in memory

    def _embed(self, tiles: Tensor, size: int) -> Tensor:
        if size >= len(tiles):
            return self._compute(tiles)
        parts = [self._compute(tiles[at : at + size]).clone() for at in range(0, len(tiles) - size + 1, size)]
        rest = len(tiles) % size
        if rest:  # the last piece has the same shape as the others, so it starts with tiles that are already done
            parts.append(self._compute(tiles[-size:])[size - rest :])
        return torch.cat(parts)

    def _compute(self, tiles: Tensor) -> Tensor:
        """Compute tiles of the embedder's next shape; the next call may overwrite what is returned."""
        if not self._graphs:
            return self._embedder(tiles)
        if tiles.shape != self._shape:  # the first batch of its shape shows whether it fits the memory
            self._graph, self._shape = None, tiles.shape
            return self._embedder(tiles)
        if self._graph is None:
            with suppress(RuntimeError):
                self._graph = CudaGraph(self._embedder, tiles)
        if self._graph is not None:
            return self._graph(tiles)
        self.forget_recording()  # it cannot be recorded, or found no memory beside
        return self._embedder(tiles)


class EmbedThreads(ABC):
    """Threads that compute batches and pass each on with its features or its error, in any order."""

    streams = 1
    """Batches computed at a time."""
    waiting = 1
    """Batches that should be queued so that the device never waits for one."""

    def __init__(
        self,
        embedder: Embedder,
        done: Callable[[Batch], None],
        failed: Callable[[Exception], None],
        profile: Path | None,
        *,
        graphs: bool = False,
    ) -> None:
        self.pieces = Pieces(embedder, graphs=graphs)
        self._done, self._failed = done, failed
        self._profile = profile
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._lock = Lock()
        self.busy = 0.0
        """Seconds that a batch was being computed, summed over streams."""
        self._threads: list[FeedThread] = []

    def submit(self, batch: Batch) -> None:
        """Queue a batch; one without any decoded tile is passed on at once."""
        if batch.decoded.any():
            self._batches.put(batch)
        else:
            self._done(batch)

    def close(self) -> None:
        """End after the batches in progress; queued ones are dropped."""
        with suppress(Empty):
            while True:
                self._batches.get_nowait()
        for _ in range(self.streams):
            self._batches.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self, *works: Callable[[], None]) -> None:
        self._threads = [FeedThread("embed", work, self._failed) for work in works]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def _work(self) -> None: ...


class PlainThreads(EmbedThreads):
    """Threads for CPU and MPS, each computing one batch at a time.

    On a CPU, one single-threaded batch per core keeps all cores busy without any of them waiting for another.
    """

    def __init__(
        self,
        embedder: Embedder,
        done: Callable[[Batch], None],
        failed: Callable[[Exception], None],
        profile: Path | None,
        *,
        streams: int,
    ) -> None:
        super().__init__(embedder, done, failed, profile)
        self.streams = self.waiting = streams
        self._start(self._profiled, *[self._work] * (streams - 1))

    def _profiled(self) -> None:
        self._work(self._profile)

    def _work(self, profile: Path | None = None) -> None:
        torch.set_num_threads(1)
        with Trace(profile) as trace:
            while (batch := self._batches.get()) is not None:
                started = perf_counter()
                try:
                    batch.features = self.pieces(batch.tiles).cpu().numpy()
                except BaseException as error:  # noqa: BLE001  the boundary: fails the slides of this batch, not the others
                    batch.error = as_exception(error)
                with self._lock:
                    self.busy += perf_counter() - started
                trace.step()
                self._done(batch)


class _Slot(NamedTuple):
    """The device memory, pinned memory and events of one batch in flight."""

    tiles: Tensor
    features: Tensor
    copied: torch.cuda.Event
    begun: torch.cuda.Event
    ended: torch.cuda.Event


class CudaStreams(EmbedThreads):
    """Threads for a CUDA GPU: one submits copies and kernels, another waits for results.

    Tiles are copied to the GPU on a copy stream while the previous batch is computed; features are copied back into
    pinned memory on the compute stream. The submitting thread waits only for a free slot, i.e. for the batch before the
    last.
    """

    waiting = IN_FLIGHT

    def __init__(
        self,
        embedder: Embedder,
        done: Callable[[Batch], None],
        failed: Callable[[Exception], None],
        profile: Path | None,
        *,
        graphs: bool,
    ) -> None:
        super().__init__(embedder, done, failed, profile, graphs=graphs)
        self._device, self._width = embedder.device, embedder.width
        torch.cuda.set_device(self._device)  # otherwise pinned memory would allocate on the first GPU
        self._copying, self._computing = (_stream(self._device) for _ in range(2))
        self._slots: SimpleQueue[_Slot | None] = SimpleQueue()
        for _ in range(IN_FLIGHT):
            self._slots.put(None)
        self._landing: SimpleQueue[tuple[Batch, _Slot] | None] = SimpleQueue()
        torch.cuda.synchronize(self._device)  # the weights were copied on another stream
        self._start(self._work, self._land)

    def _work(self) -> None:
        self._settle_in()
        try:
            with Trace(self._profile) as trace:
                while (batch := self._batches.get()) is not None:
                    slot = self._slots.get()
                    try:
                        if slot is None or slot.tiles.shape != batch.tiles.shape:
                            slot = None  # its memory is free for the new one
                            slot = self._slot_like(batch.tiles)
                        self._submit(batch, slot)
                    except BaseException as error:  # noqa: BLE001  the boundary: fails the slides of this batch, not the others
                        batch.error = as_exception(error)
                        with suppress(RuntimeError):
                            self._copying.synchronize()  # the batch is filled anew as soon as it is handed on
                        self._slots.put(None)
                        self._done(batch)
                    else:
                        self._landing.put((batch, slot))
                    trace.step()
        finally:
            self._landing.put(None)

    def _submit(self, batch: Batch, slot: _Slot) -> None:
        with torch.cuda.stream(self._copying):
            slot.tiles.copy_(batch.tiles, non_blocking=True)
            slot.copied.record()
        with torch.cuda.stream(self._computing):
            slot.copied.wait()
            slot.begun.record()
            slot.features.copy_(self.pieces(slot.tiles), non_blocking=True)
            slot.ended.record()

    def _land(self) -> None:
        self._settle_in()
        while (in_flight := self._landing.get()) is not None:
            batch, slot = in_flight
            try:
                slot.ended.synchronize()
                batch.features = slot.features.numpy().copy()  # the slot is reused by the next batch
                self.busy += slot.begun.elapsed_time(slot.ended) / 1000
            except BaseException as error:  # noqa: BLE001  as above: errors on the device are raised here
                batch.error = as_exception(error)
            self._slots.put(slot)
            self._done(batch)

    def _settle_in(self) -> None:
        """In each of the threads: both settings are a thread's own, and a new one has those of the process."""
        torch.cuda.set_device(self._device)  # else what it calls takes up memory of the first GPU
        torch.set_num_threads(1)  # as in the warm-up: kernels compiled under another number are compiled again

    def _slot_like(self, tiles: Tensor) -> _Slot:
        """Make a slot for batches of a shape; without memory for it, the recorded kernels give up theirs."""
        try:
            return self._new_slot(tiles)
        except RuntimeError as error:
            if not (self.pieces.recorded and is_out_of_memory(error)):
                raise
        self._computing.synchronize()  # the last batch may still be computed by them
        self.pieces.forget_recording()
        return self._new_slot(tiles)

    def _new_slot(self, tiles: Tensor) -> _Slot:
        with torch.cuda.device(self._device):
            return _Slot(
                torch.empty(tiles.shape, dtype=torch.uint8, device=self._device),
                torch.empty((len(tiles), self._width), dtype=torch.float32, pin_memory=True),
                *(_event(timed=timed) for timed in (False, True, True)),
            )


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event(*, timed: bool) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timed, blocking=True)  # type: ignore[no-untyped-call]  # waits asleep


def embed_threads(
    embedder: Embedder,
    done: Callable[[Batch], None],
    failed: Callable[[Exception], None],
    *,
    cores: int,
    profile: Path | None,
    graphs: bool = True,
) -> EmbedThreads:
    """Start the threads for the embedder's device; on a CPU they use ``cores`` cores.

    :param done: called, in one of the threads, with each batch.
    :param failed: called, in the thread, with an error that ends it.
    :param profile: file for a trace (chrome's JSON) of some batches of the first thread.
    :param graphs: whether a CUDA GPU gets a network's kernels together; see :class:`.cuda_graph.CudaGraph`.
    """
    if embedder.device.type == "cuda":
        return CudaStreams(embedder, done, failed, profile, graphs=graphs)
    return PlainThreads(embedder, done, failed, profile, streams=cores if embedder.device.type == "cpu" else 1)


class Trace:
    """A profile by torch of the calling thread and the GPU, over some batches after a warm-up.

    :raises SurroundingsError: the file cannot be written.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def __enter__(self) -> Trace:
        self._profiler = None
        if self._file is not None:
            self._refuse_unwritable(self._file)
            self._profiler = torch.profiler.profile(
                activities=[ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else []),
                schedule=torch.profiler.schedule(wait=0, warmup=_WARM_UP, active=_PROFILED, repeat=1),
                on_trace_ready=self._write,
                acc_events=True,  # of the one cycle that there is; without, some versions warn
            )
            self._profiler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._profiler is not None:
            self._profiler.stop()

    def step(self) -> None:
        """Count a finished batch."""
        if self._profiler is not None:
            self._profiler.step()

    @staticmethod
    def _refuse_unwritable(file: Path) -> None:
        """Check that the file can be written, before the work rather than after it."""
        if what := pipe_or_device(file):
            raise _unwritable(file, f"it is {what}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            existed = file.exists()
            file.open("ab").close()
            if not existed:
                file.unlink()  # a run of few batches leaves no profile, and no empty file
        except OSError as error:
            raise _unwritable(file, error.strerror or "") from error

    def _write(self, profiler: torch.profiler.profile) -> None:
        assert self._file is not None
        with suppress(OSError):
            self._file.unlink()
        profiler.export_chrome_trace(str(self._file))
        if not self._file.exists():  # torch only logs the reason
            raise _unwritable(self._file, "torch has written nothing")


def _unwritable(file: Path, why: str) -> SurroundingsError:
    what, hint = f"the profile cannot be written: {why}", "give --profile a file that can be written"
    return SurroundingsError(what, path=file, hint=hint)
