"""The process that decodes tiles into batches for a GPU."""

from __future__ import annotations

import os
import pickle
import signal
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.child_process import end_with
from ...data.errors import SlideError
from ...data.slides.readers import open_slide
from ...data.slides.slide import Slide
from ...data.tiling.grid import TileGrid
from ...data.tiling.store import read_tile_at
from .batch_memory import BAD, DECODED, mapped

_MOST_SLIDES = 3
"""Open slides: the present one, and those before and after it."""


class NewMemory(NamedTuple):
    """Announces a batch's memory; its file follows on the same connection. All earlier ones may be forgotten."""

    number: int
    size: int
    side: int
    forget: bool


@dataclass(frozen=True)
class DecodeJob:
    """Neighbouring tiles of a slide, and their places in a batch."""

    memory: int
    """Number of the batch's memory."""
    at: int
    """Place of the first tile."""
    slide: Path
    grid: TileGrid
    coords: NDArray[np.int64]
    """(n, 2) upper left corners in pixels of level 0."""


def serve(connection: Connection, parent: Connection) -> None:
    """Decode what comes over the connection, and answer each job with None or with the error that ended it.

    The state of each tile's place says, as soon as it is done, whether the tile could be decoded.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    slides: OrderedDict[Path, Slide] = OrderedDict()
    batches: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    with suppress(EOFError, OSError):
        while True:
            message: NewMemory | DecodeJob = connection.recv()
            if isinstance(message, NewMemory):
                if message.forget:
                    batches.clear()
                batches[message.number] = _received(connection, message)
                continue
            error = None
            try:
                _decode(message, _opened(slides, message.slide), *batches[message.memory])
            except BaseException as reason:  # noqa: BLE001  the boundary: it fails the slide, in the parent
                error = _portable(reason)
            connection.send(error)


def _received(connection: Connection, message: NewMemory) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    file = recv_handle(connection)
    try:
        return mapped(file, message.size, message.side)
    finally:
        os.close(file)


def _decode(job: DecodeJob, slide: Slide, pixels: NDArray[np.uint8], states: NDArray[np.uint8]) -> None:
    for place, (x, y) in enumerate(job.coords, job.at):
        try:
            pixels[place] = read_tile_at(slide, job.grid, int(x), int(y))
            states[place] = DECODED
        except SlideError:
            states[place] = BAD


def _opened(slides: OrderedDict[Path, Slide], path: Path) -> Slide:
    slide = slides.pop(path, None) or open_slide(path)
    slides[path] = slide
    while len(slides) > _MOST_SLIDES:
        slides.popitem(last=False)[1].close()
    return slide


def _portable(error: BaseException) -> Exception:
    """The error in a form that can be sent."""
    try:
        if isinstance(error, Exception):
            pickle.loads(pickle.dumps(error))
            return error
    except Exception:  # noqa: BLE001  any class may fail in its own way
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")
