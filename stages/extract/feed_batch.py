"""What travels through the feed: slides in work, and batches of their tiles in buffers that are used again."""

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


class FeatureSink(Protocol):
    """Where a slide's features go, in the order of its tiles."""

    def append(self, features: NDArray[np.floating[Any]], coords: NDArray[np.int64]) -> None:
        """Features (n, width) of the next n tiles, and their places (n, 2)."""

    def finish(self, facts: FeatureFacts) -> None:
        """That was all of them."""

    def discard(self) -> None:
        """Give up what was appended, if it is not finished."""


@dataclass(eq=False)
class OpenBag:
    """A slide in work. Its tiles come and go in several threads."""

    item: Item
    slide: Slide
    tiles: TileSet
    sink: FeatureSink
    max_bad_tiles: float = 0.0
    """Fraction of undecodable tiles over which the slide is given up."""
    bad: list[int] = field(default_factory=list)
    """Indices of tiles that cannot be decoded."""
    error: Exception | None = None
    """Why the slide has failed."""
    read_by_a_stuck_thread: bool = False
    """It cannot be closed."""
    left: int = field(init=False)
    """Tiles that are neither done nor given up."""
    _lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        self.left = len(self.tiles)

    def fail(self, error: Exception) -> None:
        """The first error counts."""
        with self._lock:
            self.error = self.error or error

    def leave_out(self, index: int) -> None:
        """A tile that cannot be decoded is left out and counted, never replaced; too many fail the slide."""
        with self._lock:
            self.bad.append(index)
            if self.error is not None or len(self.bad) <= self.max_bad_tiles * len(self.tiles):
                return
            x, y = self.tiles.coords[min(self.bad)]
            self.error = SlideError(
                f"at least {len(self.bad)} of {len(self.tiles)} tiles cannot be decoded, over the "
                f"{self.max_bad_tiles:.1%} allowed; the first at x={x} y={y}",
                path=self.slide.path,
                hint="copy the slide again from where it came, or raise --max-bad-tiles to do without these tiles",
            )

    def close(self) -> None:
        """Let go of the slide."""
        if not self.read_by_a_stuck_thread:
            self.slide.close()


@dataclass(frozen=True, eq=False)
class Piece:
    """Neighbouring tiles of one slide in one batch: what one thread decodes at a time."""

    batch: Batch
    bag: OpenBag
    first: int
    """Index of its first tile in the bag."""
    at: int
    """Place of its first tile in the batch."""
    count: int

    def place(self, offset: int, pixels: NDArray[np.uint8]) -> None:
        """Put the pixels of its tile number ``offset`` where they belong."""
        self.batch.pixels[self.at + offset] = pixels
        self.batch.decoded[self.at + offset] = True


class Batch:
    """Tiles of one constant shape, whosever they are. What holds no decoded tile is zero.

    :param side: of the tiles, in pixels.
    :param pinned: memory from which a GPU copies by itself.
    """

    def __init__(self, size: int, side: int, *, pinned: bool) -> None:
        self.side = side
        self.tiles = torch.empty((size, side, side, 3), dtype=torch.uint8, pin_memory=pinned)
        self.pixels: NDArray[np.uint8] = self.tiles.numpy()
        """The same memory."""
        self.decoded = np.zeros(size, bool)
        self._lock = Lock()
        self.begin(0)

    def begin(self, number: int) -> None:
        """Empty it: it is the feed's batch of that number now."""
        self.number = number
        self.pieces: list[Piece] = []
        self.features: NDArray[np.float32] | None = None
        """(size, width), once computed; None where there is nothing to compute, or an error."""
        self.error: Exception | None = None
        """Why it could not be computed."""
        self.decoded[:] = False
        self.filled = 0
        self._unsettled = 1  # whoever fills it

    @property
    def room(self) -> int:
        return len(self.decoded) - self.filled

    def add(self, bag: OpenBag, first: int, count: int) -> Piece:
        """Take in ``count`` tiles of a bag, to be decoded."""
        piece = Piece(self, bag, first, self.filled, count)
        self.pieces.append(piece)
        self.filled += count
        with self._lock:
            self._unsettled += 1
        return piece

    def settle(self) -> bool:
        """A piece is decoded or given up, or no more are coming; True for the last to say so."""
        with self._lock:
            self._unsettled -= 1
            last = self._unsettled == 0
        if last and not self.decoded.all():
            self.pixels[~self.decoded] = 0
        return last
