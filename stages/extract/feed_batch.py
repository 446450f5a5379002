"""The objects that travel through the feed: open slides, and batches of their tiles in reusable buffers."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.errors import SlideError
from ...data.features.store import FeatureFacts
from ...data.slides.slide import Slide
from ...data.tiling.store import TileSet
from ..stage import Item
from .batch_memory import PENDING, SharedMemory


class FeatureSink(Protocol):
    """A destination of a slide's features, in the order of its tiles."""

    def append(self, features: NDArray[np.floating[Any]], coords: NDArray[np.int64]) -> None:
        """Add the features (n, width) of the next n tiles, and their positions (n, 2)."""

    def finish(self, facts: FeatureFacts) -> None:
        """Complete the slide after its last tile."""

    def discard(self) -> None:
        """Remove the appended features, unless finished."""


@dataclass(eq=False)
class OpenBag:
    """A slide in progress, whose tiles are processed by several threads."""

    item: Item
    slide: Slide
    tiles: TileSet
    sink: FeatureSink
    max_bad_tiles: float = 0.0
    """Fraction of undecodable tiles above which the slide fails."""
    bad: list[int] = field(default_factory=list)
    """Indices of tiles that cannot be decoded."""
    error: Exception | None = None
    """The reason why the slide failed."""
    read_by_a_stuck_thread: bool = False
    """Whether a hanging thread still reads it, so that it cannot be closed."""
    left: int = field(init=False)
    """Tiles that are neither done nor given up."""
    _lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        self.left = len(self.tiles)

    def fail(self, error: Exception) -> None:
        """Mark the slide as failed; the first error is kept."""
        with self._lock:
            self.error = self.error or error

    def leave_out(self, index: int) -> None:
        """Leave out and count a tile that cannot be decoded; too many of them fail the slide."""
        with self._lock:
            self.bad.append(index)
            if self.error is not None or len(self.bad) <= self.max_bad_tiles * len(self.tiles):
                return
            x, y = self.tiles.coords[min(self.bad)]
            self.error = SlideError(
                f"at least {len(self.bad)} of {len(self.tiles)} tiles cannot be decoded, over the "
                f"{self.max_bad_tiles:.1%} allowed; the first at x={x} y={y}",
                path=self.slide.path,
                hint="copy the slide again from where it came, or raise --max-bad-tiles to leave these tiles out",
            )

    def close(self) -> None:
        """Close the slide, unless a hanging thread still reads it."""
        if not self.read_by_a_stuck_thread:
            self.slide.close()


@dataclass(frozen=True, eq=False)
class Piece:
    """Neighbouring tiles of one slide in one batch: one decoding job."""

    batch: Batch
    bag: OpenBag
    first: int
    """Index of its first tile in the bag."""
    at: int
    """Index of its first tile in the batch."""
    count: int

    def place(self, offset: int, pixels: NDArray[np.uint8]) -> None:
        """Store the pixels of its tile number ``offset`` in the batch."""
        self.batch.pixels[self.at + offset] = pixels
        self.batch.decoded[self.at + offset] = True


class Batch:
    """A buffer of tiles of one shape, of one or several slides. Places without a decoded tile are zero.

    :param side: side of the tiles, in pixels.
    :param pinned: whether to use pinned memory, which a GPU can copy from by itself.
    :param shared: whether to use memory that decode processes can write to.
    """

    def __init__(self, size: int, side: int, *, pinned: bool, shared: bool = False) -> None:
        self.side = side
        self.memory = SharedMemory(size, side, pinned=pinned) if shared else None
        if self.memory is not None:
            self.tiles = torch.from_numpy(self.memory.pixels)
        else:
            self.tiles = torch.empty((size, side, side, 3), dtype=torch.uint8, pin_memory=pinned)
        self.pixels: NDArray[np.uint8] = self.tiles.numpy()
        """The same memory as ``tiles``."""
        self.decoded = np.zeros(size, bool)
        self._lock = Lock()
        self.begin(0)

    def begin(self, number: int) -> None:
        """Empty the buffer for the feed's batch of that number."""
        self.number = number
        self.pieces: list[Piece] = []
        self.features: NDArray[np.float32] | None = None
        """(size, width), once computed; None if there is nothing to compute, or after an error."""
        self.error: Exception | None = None
        """The reason why it could not be computed."""
        self.decoded[:] = False
        if self.memory is not None:
            self.memory.states[:] = PENDING
        self.filled = 0
        self._unsettled = 1  # the thread that fills it

    @property
    def room(self) -> int:
        """Number of free places."""
        return len(self.decoded) - self.filled

    def add(self, bag: OpenBag, first: int, count: int) -> Piece:
        """Reserve space for ``count`` tiles of a bag, to be decoded."""
        piece = Piece(self, bag, first, self.filled, count)
        self.pieces.append(piece)
        self.filled += count
        with self._lock:
            self._unsettled += 1
        return piece

    def settle(self) -> bool:
        """Count a piece as decoded or given up, or the batch as filled; True if nothing else is outstanding."""
        with self._lock:
            self._unsettled -= 1
            last = self._unsettled == 0
        if last and not self.decoded.all():
            self.pixels[~self.decoded] = 0
        return last
