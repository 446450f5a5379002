"""A folder of a run on a local disk (``--stage-to``), which goes with the run.

DIR/wsipipe-node1-4711-3f9a/          of one run; what a killed run left, the next one on that host removes
    .lock                             held while the run lives
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from pathlib import Path
from typing import Final, Self

from filelock import FileLock, Timeout

from .surroundings import surroundings

_PREFIX: Final = "wsipipe-"


class ScratchFolder:
    """A folder for as long as the block runs.

    :param place: the folder of all runs, which is made if it is not there.
    :raises SurroundingsError: on entering, the disk is not there or cannot be written to.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self.path = place / f"{_PREFIX}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True)
            _remove_leftovers(self._place)
        except OSError as error:
            raise surroundings(error, self._place) or error from error
        self._lock = FileLock(self.path / ".lock")
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_leftovers(place: Path) -> None:
    """Remove the folders of runs that were killed; those of runs that live, and all else in the place, stay."""
    for folder in place.glob(f"{_PREFIX}*"):
        lock = FileLock(folder / ".lock")
        if not (folder / ".lock").is_file() or folder.is_symlink():
            continue
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
