"""The slides that are being looked at, kept open: the least recently used is closed when another is opened.

Many threads read at once. A slide is opened once, however many ask for it, and closed when its last reader is done. A
file that was replaced is opened again; one that could not be opened is not tried again before it changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

from ...data.errors import InputError, SlideError
from ...data.slides.readers import open_slide
from ...data.slides.slide import Slide

MOST_OPEN: Final = 4
"""Slides that stay open. One may hold 256 MiB of decoded tiles, or a plain image of 300 MB."""

_Stamp = tuple[int, int, int]


@dataclass(eq=False)
class _Entry:
    """A slide that is open, is being opened, or could not be opened."""

    stamp: _Stamp
    opening: Lock = field(default_factory=Lock)
    slide: Slide | None = None
    fault: InputError | None = None
    readers: int = 0
    dropped: bool = False

    def close_if_idle(self) -> None:
        if self.dropped and not self.readers and self.slide is not None:
            self.slide.close()
            self.slide = None


class OpenSlides:
    """Slides by their path.

    :param most: how many stay open; more are only open while they are being read.
    """

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._lock = Lock()
        self._entries: OrderedDict[tuple[Path, float | None], _Entry] = OrderedDict()

    @contextmanager
    def reading(self, path: Path, mpp_override: float | None = None) -> Iterator[tuple[Slide, _Stamp]]:
        """An open slide, and what tells it from another file of the same path.

        :raises SlideError: it is gone or cannot be opened, with the reason.
        :raises SurroundingsError: it cannot be read now.
        """
        entry = self._entry((path, mpp_override), _stamp(path))
        try:
            with entry.opening:
                if entry.fault is not None:
                    raise entry.fault
                if entry.slide is None:
                    try:
                        entry.slide = open_slide(path, mpp_override=mpp_override)
                    except InputError as error:
                        entry.fault = error
                        raise
                slide = entry.slide
            yield slide, entry.stamp
        finally:
            with self._lock:
                entry.readers -= 1
                entry.close_if_idle()

    def close(self) -> None:
        """Close all slides; those that are being read, when they have been."""
        with self._lock:
            while self._entries:
                self._drop(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, key: tuple[Path, float | None], stamp: _Stamp) -> _Entry:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.stamp != stamp:
                self._drop(key)
                entry = None
            if entry is None:
                entry = self._entries[key] = _Entry(stamp)
            self._entries.move_to_end(key)
            entry.readers += 1
            while len(self._entries) > self._most:
                self._drop(next(iter(self._entries)))
            return entry

    def _drop(self, key: tuple[Path, float | None]) -> None:
        entry = self._entries.pop(key)
        entry.dropped = True
        entry.close_if_idle()


def _stamp(path: Path) -> _Stamp:
    """What tells a file from another of the same path, at no cost.

    :raises SlideError: there is none.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "the disk may not be mounted, or the slide was moved after it was tiled; its results are still there"
        raise SlideError(f"the slide's file cannot be found ({reason})", path=path, hint=hint) from error
    return found.st_ino, found.st_size, found.st_mtime_ns
