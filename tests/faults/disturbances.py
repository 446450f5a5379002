"""What is done to a command while it runs: in its own process, at a moment that no clock decides.

A moment is the n-th time that the process opens, renames, makes or removes something in the workspace, so that a kill
falls between any two steps of writing. Each disturbance is a context manager around the command.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

NOT_POSSIBLE = 77
"""Exit code of a process in which a disturbance could not be made."""
_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}


class AtMoments:
    """Acts in the process at numbered moments.

    :param folder: what happens below it counts.
    :param acts: number of the moment, counted from 1 → what to do; it may be a signal for this process.
    :param count: a file that gets a byte at each moment.
    """

    def __init__(
        self, folder: Path, acts: Mapping[int, int | Callable[[], object]] | None = None, count: Path | None = None
    ) -> None:
        self._folder, self._acts, self._count = str(folder), dict(acts or {}), count

    @contextmanager
    def __call__(self) -> Iterator[None]:
        seen, acting = 0, False
        counter = None if self._count is None else os.open(self._count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen, acting
            if event not in _EVENTS or acting or not str(arguments[0]).startswith(self._folder):
                return
            seen += 1
            if counter is not None:
                os.write(counter, b".")
            act = self._acts.get(seen)
            if act is None:
                return
            if isinstance(act, int):
                os.kill(os.getpid(), act)
            else:
                acting = True
                act()
                acting = False

        sys.addaudithook(watch)
        yield


@contextmanager
def few_files() -> Iterator[None]:
    """The process may have 64 files open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    yield


class LittleMemory:
    """The process may take so many more MiB than it has."""

    def __init__(self, mebibytes: int) -> None:
        self._more = mebibytes << 20

    @contextmanager
    def __call__(self) -> Iterator[None]:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self._more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        yield


class SmallFiles:
    """No file may become larger than so many bytes."""

    def __init__(self, size: int) -> None:
        self._size = size

    @contextmanager
    def __call__(self) -> Iterator[None]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, self._size))
        yield


class SmallDisk:
    """The workspace lies on a disk of its own, in a mount namespace that ends with the process.

    :param spare: pages of 4 KiB that are free; None: the disk is read-only.
    :param after: where the workspace is copied when the command has ended.
    """

    def __init__(self, workspace: Path, after: Path, *, spare: int | None) -> None:
        self._workspace, self._after, self._spare = workspace, after, spare

    @contextmanager
    def __call__(self) -> Iterator[None]:
        pages = sum(-(-file.stat().st_size // 4096) for file in self._workspace.rglob("*") if file.is_file())
        held = self._after.with_name("held")
        self._workspace.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self._workspace, held)
        size = pages + (100 if self._spare is None else self._spare)
        if not _own_mounts() or _mount("-t", "tmpfs", "-o", f"size={4 * size}k", "tmpfs", str(self._workspace)):
            os._exit(NOT_POSSIBLE)
        shutil.copytree(held, self._workspace, dirs_exist_ok=True)
        shutil.rmtree(held)
        if self._spare is None and _mount("-o", "remount,ro", str(self._workspace)):
            os._exit(NOT_POSSIBLE)
        try:
            yield
        finally:
            shutil.copytree(self._workspace, self._after)


def _own_mounts() -> bool:
    new_mounts, new_users, user = 0x00020000, 0x10000000, os.geteuid()
    if ctypes.CDLL(None).unshare(new_mounts | (new_users if user else 0)):
        return False
    if user:
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    return not _mount("--make-rprivate", "/")


def _mount(*words: str) -> int:
    try:
        return subprocess.run(["mount", *words], capture_output=True, check=False).returncode
    except FileNotFoundError:
        return errno.ENOENT


@contextmanager
def a_clock_that_goes_back() -> Iterator[None]:
    """Each look at the clock shows an earlier time."""
    import time

    from wsipipe.pipeline.run import here, outcomes, worker

    class Backwards(datetime):
        looks = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            cls.looks += 1
            return datetime.now(tz) - timedelta(hours=cls.looks)

    for module in (here, outcomes, worker):
        module.datetime = Backwards  # type: ignore[attr-defined]
    began = time.time()
    time.time = lambda: 2 * began - time.clock_gettime(time.CLOCK_REALTIME)
    yield


class Streams:
    """Standard streams of another encoding, or closed.

    :param encoding: of standard output and error.
    :param closed: numbers of the streams that are closed.
    """

    def __init__(self, *, encoding: str = "utf-8", closed: tuple[int, ...] = ()) -> None:
        self._encoding, self._closed = encoding, closed

    @contextmanager
    def __call__(self) -> Iterator[None]:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if number in self._closed:
                os.close(number)
                setattr(sys, name, None)  # as Python begins
            elif number:
                getattr(sys, name).reconfigure(encoding=self._encoding, errors="strict")
        yield


class OtherContent:
    """Gives a file other content, or removes it."""

    def __init__(self, file: Path, content: bytes | None) -> None:
        self._file, self._content = file, content

    def __call__(self) -> None:
        """Do it."""
        if self._content is None:
            self._file.unlink()
        else:
            self._file.write_bytes(self._content)
