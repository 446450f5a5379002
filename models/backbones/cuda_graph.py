"""A network's computation on a GPU, recorded once for batches of one shape and launched as a whole (CUDA graph).

Otherwise Python launches each of some hundred kernels a batch, and waits for the interpreter's lock in between: with
sixteen threads that decode, a ViT-L lost a third of its rate (``docs/benchmarks.md``). The kernels are the same ones,
hence the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

_BEFORE = 2
"""Calls before the recording: they choose kernels, compile what is to be compiled, and fill caches."""


class CudaGraph:
    """A function of tiles that can be replayed.

    :param compute: a function of a batch on the GPU that runs the same kernels every time.
    :param like: a batch of the shape, type and device that all have.
    :raises RuntimeError: it cannot be recorded: it waits for the GPU in between, or memory is short.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], like: Tensor) -> None:
        self._given = torch.empty_like(like).copy_(like)
        for _ in range(_BEFORE):
            compute(self._given)
        self._graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        try:
            # Other threads allocate pinned memory and wait for events meanwhile, which is allowed only in this mode.
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._found = compute(self._given)
        except RuntimeError:
            _end_recording(like.device, pool)
            raise

    def __call__(self, tiles: Tensor) -> Tensor:
        """Compute a batch on the current stream; the next call overwrites what is returned."""
        self._given.copy_(tiles, non_blocking=True)
        self._graph.replay()
        return self._found


def _end_recording(device: torch.device, pool: tuple[int, int]) -> None:
    """Tell PyTorch's allocator that a recording is over which CUDA has broken off.

    PyTorch before 2.12 does not (its issue 180395), and then never gives back the memory that it keeps for later.
    """
    with suppress(RuntimeError):  # it says so where the recording is over already
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)
