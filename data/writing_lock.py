"""The lock of a stage's folder: one run at a time writes to its manifest.

It is the operating system's, which releases it when the process ends. On a file system without such locks a file stands
for it, with the holder's process and host in it; if that process has died on this host, it is taken over.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from .artifact import STAGE_FILES, say_weaker, whole
from .errors import BusyError
from .surroundings import patiently, surroundings
from .workspace import refuse_link

_LOCK: Final = ".lock"
_FILE: Final = ".lock-file"
"""Under a name of its own: an operating system's lock leaves its file behind, which means nothing."""
_HOLDER: Final = ".lock-holder.json"
_HOLDER_SHOWN: Final = 300

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What file systems answer that have no locks (some of NFS, SMB and FUSE)."""


def holder_of(folder: Path) -> str | None:
    """Say which run holds the lock of a stage's folder now; None if none does. Writes nothing."""
    kinds: tuple[tuple[str, type[BaseFileLock]], ...] = ((_LOCK, FileLock), (_FILE, SoftFileLock))
    for name, kind in kinds:
        file = folder / name
        if not file.is_file() or file.is_symlink():
            continue
        lock = kind(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return _held_by(folder / _HOLDER)
        except (OSError, NotImplementedError):
            continue  # read-only, or without locks: nobody can be seen to hold it
        lock.release()
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a stage's folder, as the only writer of its manifest; the folder is made if it is not there.

    :raises BusyError: another run holds it; the message says which.
    :raises UsageError: the folder is outside of the workspace, or a link stands for the manifest or its lock.
    """
    for file in STAGE_FILES:
        refuse_link(folder / file)
    manifest, holder = folder / STAGE_FILES[0], folder / _HOLDER
    hint = "wait until it ends, or stop it; its lock ends with it"
    lock: BaseFileLock = FileLock(folder / _LOCK, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            patiently(lambda: lock.acquire(timeout=0), folder)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            lock = SoftFileLock(folder / _FILE)
            hint = f"wait until it ends, or stop it; if it has ended already, remove {lock.lock_file}"
            say_weaker("has no locks: a file stands for them, which a machine that stops leaves behind", manifest)
            lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"another run is writing here: {_held_by(holder)}", path=folder, hint=hint) from error
    except OSError as error:
        raise surroundings(error, manifest) or error from error
    try:
        _sign(holder)
        yield
    finally:
        with suppress(OSError):  # the file is only for messages; the lock itself is the operating system's
            holder.unlink(missing_ok=True)
        lock.release()


def _held_by(holder: Path) -> str:
    try:
        text = holder.read_text() if holder.is_file() and not holder.is_symlink() else "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"
    return "".join(character if character.isprintable() else " " for character in text[:_HOLDER_SHOWN])


def _sign(holder: Path) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with whole(holder) as scratch:
        scratch.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}))
