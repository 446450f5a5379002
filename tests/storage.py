"""Storage that fails when a test wants it to: a file that goes away, calls of the system that answer with an error."""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from wsipipe.data import surroundings


class Storage:
    """Pauses take no time; a failure ends at the n-th of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.pauses: list[float] = []
        self._end: Callable[[], object] | None = None
        self._left = 0
        patch.setattr(surroundings.time, "sleep", self._pause)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._left -= 1
        if self._left == 0 and self._end is not None:
            self._end()

    @contextmanager
    def failing(self, path: Path, fault: str, *, pauses: int = 0) -> Iterator[None]:
        """What opens or reads ``path``, or files in it, fails; for so many pauses of the reader, or for the block.

        :param fault: the name of an error of the system, for what Python opens and ``os.pread`` reads; or
            ``vanishes``: it is moved away.
        """
        with self._moved(path, pauses) if fault == "vanishes" else self._refused(path, getattr(errno, fault), pauses):
            yield

    @contextmanager
    def failing_once(self, folder: Path, fault: str, *, at: int) -> Iterator[list[str]]:
        """Only the ``at``-th time that something in ``folder`` is opened or read fails, counted from 0.

        :returns: what was opened or read so far.
        """
        number, seen = getattr(errno, fault), list[str]()

        def fails(file: Any) -> bool:
            name = str(Path(f"/proc/self/fd/{file}").readlink()) if isinstance(file, int) else os.fspath(file)
            if not name.startswith(f"{folder}/"):
                return False
            seen.append(name)
            return len(seen) == at + 1

        with self._patched(fails, number):
            yield seen

    @contextmanager
    def no_more_files(self, *, pauses: int = 0) -> Iterator[None]:
        """The process may open no more files."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        with self._until(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before), pauses):
            yield

    @contextmanager
    def _until(self, end: Callable[[], object], pauses: int) -> Iterator[None]:
        self._left, self._end = pauses, end
        try:
            yield
        finally:
            if self._left > 0 or pauses == 0:
                end()
            self._end = None

    @contextmanager
    def _moved(self, path: Path, pauses: int) -> Iterator[None]:
        away = path.with_name("away-" + path.name)
        path.rename(away)
        with self._until(lambda: away.rename(path), pauses):
            yield

    @contextmanager
    def _refused(self, path: Path, number: int, pauses: int) -> Iterator[None]:
        status = path.stat()
        here = (status.st_dev, status.st_ino)

        def is_here(file: Any) -> bool:
            if isinstance(file, int):
                found = os.fstat(file)
                return (found.st_dev, found.st_ino) == here
            return str(path) in os.fspath(file)

        with self._patched(is_here, number) as patch, self._until(patch.undo, pauses):
            yield

    @contextmanager
    def _patched(self, fails: Callable[[Any], bool], number: int) -> Iterator[pytest.MonkeyPatch]:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((io, "open"), (os, "open"), (os, "pread")):
                real = getattr(module, name)

                def refusing(file: Any, *arguments: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
                    if fails(file):
                        raise OSError(number, os.strerror(number), None if isinstance(file, int) else os.fspath(file))
                    return real(file, *arguments, **named)

                patch.setattr(module, name, refusing)
            patch.setattr("builtins.open", io.open)
            yield patch
