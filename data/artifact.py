"""Writing outputs atomically, and digests of their contents.

An output is written under a temporary name beside its final path and renamed when complete, so that a killed process
never leaves half a file under the final name. :func:`recover` cleans up after such a process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SurroundingsError

_SCRATCH = ".partial-"
_ASIDE = ".aside-"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; renamed to ``path`` when the block succeeds, else removed.

    The block may make a file or a folder there. Everything is flushed to the disk (fsync) before the name changes, so
    a record written afterwards never refers to bytes that a power cut can still destroy.

    :raises SurroundingsError: the disk is full or read-only.
    """
    scratch = path.with_name(_SCRATCH + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(scratch)
        yield scratch
        _sync(scratch)
        _take_the_name(scratch, path)
    except OSError as error:
        _discard(scratch)
        known = surroundings(error, path)
        if known is None:
            raise
        raise known from error
    except BaseException:
        _discard(scratch)
        raise


def _discard(scratch: Path) -> None:
    with suppress(OSError):  # the first error is the one to report; recover() cleans up when the disk is back
        remove(scratch)


def _take_the_name(scratch: Path, path: Path) -> None:
    if path.is_dir():
        # A folder cannot be replaced in one step: the old one is renamed; recover() restores it after a crash here.
        aside = path.with_name(_ASIDE + path.name)
        remove(aside)
        path.rename(aside)
        try:
            scratch.rename(path)
        except OSError:
            aside.rename(path)
            raise
        remove(aside)
    else:
        scratch.replace(path)
    _sync_folder(path.parent)


def recover(folder: Path) -> list[str]:
    """Clean up what a killed run left in ``folder`` and its sub-folders; returns a line for each thing done."""
    done: list[str] = []
    for parent in (folder, *sorted(p for p in folder.glob("*") if p.is_dir() and p.suffix != ".zarr")):
        for aside in parent.glob(_ASIDE + "*"):
            path = aside.with_name(aside.name.removeprefix(_ASIDE))
            if path.exists():
                remove(aside)
            else:
                aside.rename(path)
                done.append(f"restored {path.name}")
        for scratch in parent.glob(_SCRATCH + "*"):
            remove(scratch)
            done.append(f"removed the unfinished {scratch.name.removeprefix(_SCRATCH)}")
    return done


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists. A link is removed, never what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def surroundings(error: OSError, path: Path) -> SurroundingsError | None:
    """The error for the user if the machine, not the data, is at fault; None for any other ``OSError``."""
    hints = {
        errno.ENOSPC: "free some space and run the same command again: finished items are kept",
        errno.EDQUOT: "your quota is used up: free some space and run the same command again",
        errno.EROFS: "the workspace must be on a file system that can be written to",
        errno.EACCES: "get write permission there, or choose another --workspace",
        errno.EPERM: "get write permission there, or choose another --workspace",
        errno.ENOTDIR: "a file is in the way of a folder: move it, or choose another --workspace",
        errno.EEXIST: "a file is in the way of a folder: move it, or choose another --workspace",
        errno.EIO: "the disk reports an error: check it, then run the same command again",
    }
    if error.errno not in hints:
        return None
    what = "write" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else "read or write"
    return SurroundingsError(f"could not {what}: {os.strerror(error.errno)}", path=path, hint=hints[error.errno])


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, or of all files in a folder: cheap to read, and enough to know when to hash again."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def digest_of(path: Path) -> str:
    """``sha256:…`` of a file's bytes, or of a folder: its files' names and bytes, sorted by name."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    folder = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        folder.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\n".encode())
    return "sha256:" + folder.hexdigest()


def digest_of_value(value: object) -> str:
    """``sha256:…`` of any JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    for part in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if part.is_dir():
            _sync_folder(part)
        elif part.is_file():
            with part.open("rb") as stream:
                os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no handle on a folder to flush
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
