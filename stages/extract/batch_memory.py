"""Memory of a batch that decode processes write to, and that a GPU copies from by itself."""

from __future__ import annotations

import mmap
import os
import weakref
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray

PENDING, DECODED, BAD = 0, 1, 2
"""State of a tile's place: not done yet, decoded, or not decodable."""

_numbers: Final = count()


def can_be_shared() -> bool:
    """Whether this system has memory that processes can share without a file or a mount of limited size."""
    return hasattr(os, "memfd_create")


class SharedMemory:
    """The pixels of a batch and the state of each place, in memory that other processes can map.

    It has no name and needs no ``/dev/shm``, which is 64 MB in a Docker container.

    :param size: tiles in the batch.
    :param side: side of the tiles, in pixels.
    :param pinned: register it with CUDA, so that a GPU copies from it while the CPU goes on.
    """

    def __init__(self, size: int, side: int, *, pinned: bool) -> None:
        self.number = next(_numbers)
        """Identifies it among all of this process."""
        self.size, self.side = size, side
        self.file = os.memfd_create(f"wsipipe batch {self.number}")
        weakref.finalize(self, os.close, self.file)
        os.ftruncate(self.file, _bytes(size, side))
        self.pixels, self.states = mapped(self.file, size, side)
        if pinned:
            _pin(self)


def mapped(file: int, size: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Map a batch's memory: pixels (size, side, side, 3), and the state of each place (size,)."""
    memory = mmap.mmap(file, _bytes(size, side))
    pixels = size * side * side * 3
    return (
        np.frombuffer(memory, np.uint8, pixels).reshape(size, side, side, 3),
        np.frombuffer(memory, np.uint8, size, offset=pixels),
    )


def _bytes(size: int, side: int) -> int:
    return size * side * side * 3 + size


def _pin(memory: SharedMemory) -> None:
    """Register the pixels' memory with CUDA; where that fails the copy to the GPU is not asynchronous."""
    import torch  # the processes that decode have no need of it

    cuda, pixels = torch.cuda.cudart(), memory.pixels  # type: ignore[no-untyped-call]
    if int(cuda.cudaHostRegister(pixels.ctypes.data, pixels.nbytes, 0)) == 0:
        weakref.finalize(memory, cuda.cudaHostUnregister, pixels.ctypes.data)
