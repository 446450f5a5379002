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
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from .errors import WsipipeError
from .file_names import ASIDE, UNFINISHED
from .plain_files import refuse_pipe
from .surroundings import patiently, surroundings, writing_fault
from .workspace import make_folder, refuse_link, refuse_to_leave

STAGE_FILES = ("manifest.jsonl", ".lock", ".lock-file")
"""Files of which one at least lies in each stage's folder, as soon as the stage runs there."""


_writer = ""
"""What stands before the names of this process's unfinished outputs."""


def write_as(writer: str) -> None:
    """Give the unfinished outputs of this process names of their own.

    A machine that is cut off may still be at work on an item that another one has taken over; each then writes its own
    file or folder, and whichever is complete takes the final name.

    :param writer: a short name, or empty for none.
    """
    global _writer
    _writer = f"{writer}-" if writer else ""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; renamed to ``path`` when the block succeeds, else removed.

    The block may make a file or a folder there. Everything is flushed to the disk (fsync) before the name changes, so
    a record written afterwards never refers to bytes that a power cut can still destroy.

    :raises SurroundingsError: the disk is full or read-only.
    :raises UsageError: a link or ``..`` leads out of the workspace (:mod:`.workspace`).
    """
    refuse_to_leave(path)
    scratch = path.with_name(UNFINISHED + _writer + path.name)
    try:
        make_folder(path.parent)
        remove(scratch)
        yield scratch
        _sync(scratch)
        _take_the_name(scratch, path)
    except WsipipeError:
        _discard(scratch)
        raise
    except Exception as error:
        _discard(scratch)
        fault = writing_fault(error)
        known = None if fault is None else surroundings(fault, path)
        if fault is None or known is None or (fault.errno == errno.ENOENT and path.parent.is_dir()):
            raise
        raise known from error
    except BaseException:
        _discard(scratch)
        raise


@contextmanager
def for_a_while(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, for a file that is needed as long as the block lasts and then removed.

    What a killed process leaves there, :func:`recover` removes.

    :raises UsageError: a link or ``..`` leads out of the workspace.
    """
    refuse_to_leave(path)
    scratch = path.with_name(UNFINISHED + path.name)
    make_folder(path.parent)
    try:
        yield scratch
    finally:
        _discard(scratch)


def _discard(scratch: Path) -> None:
    with suppress(OSError):  # the first error is the one to report; recover() cleans up when the disk is back
        remove(scratch)


def _take_the_name(scratch: Path, path: Path) -> None:
    if path.is_dir() or not _moved(scratch, path):
        # A folder cannot be replaced in one step: the old one is renamed; recover() restores it after a crash here.
        aside = path.with_name(ASIDE + path.name)
        remove(aside)
        _rename(path, aside)
        try:
            _rename(scratch, path)
        except OSError:
            _rename(aside, path)
            raise
        with suppress(
            OSError
        ):  # a file in it that is open elsewhere keeps its place on NFS; recover() removes it later
            remove(aside)
    _sync_folder(path.parent)


def _moved(scratch: Path, path: Path) -> bool:
    try:
        scratch.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False  # another process has just made that folder
    return True


def _rename(old: Path, new: Path) -> None:
    try:
        old.rename(new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(old, new)  # a folder of an image's lower layer, in a container: copied, then removed


def append_lines(path: Path, lines: bytes) -> None:
    """Append lines and flush them to the disk; an incomplete line of a killed run is removed first.

    :raises UsageError: a link stands for the file, or its folder is outside of the workspace.
    """

    def write() -> None:
        refuse_link(path)
        make_folder(path.parent)
        with path.open("ab+", buffering=0) as stream:
            _cut_torn_line(stream.fileno())
            end = os.fstat(stream.fileno()).st_size
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[stream.write(rest) :]
                flush_to_disk(stream.fileno(), path)
            except OSError:  # on a full disk, a part of a line may have been written
                os.ftruncate(stream.fileno(), end)
                raise

    patiently(write, path)


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)


def recover(folder: Path) -> list[str]:
    """Clean up what a killed run left in a stage's folder and its sub-folders; returns a line for each thing done.

    A sub-folder with a manifest or lock of its own is another stage's, which may be running there now: that stage
    cleans it up. No link is followed.

    :raises UsageError: the folder, or a sub-folder, is a link that leads out of the workspace.
    """
    refuse_to_leave(folder / "any")
    done: list[str] = []
    for parent in (folder, *_own_folders(folder)):
        names = sorted(os.listdir(parent)) if parent.is_dir() else []  # noqa: PTH208  of 100,000 outputs
        for name in [name.removeprefix(ASIDE) for name in names if name.startswith(ASIDE)]:
            aside, path = parent / f"{ASIDE}{name}", parent / name
            if name in ("", ".", "..") or path.exists():
                with suppress(OSError):  # still open elsewhere
                    remove(aside)
            else:
                aside.rename(path)
                done.append(f"restored {path.name}")
        for name in [name for name in names if name.startswith(UNFINISHED)]:
            remove(parent / name)
            done.append(f"removed the unfinished {name.removeprefix(UNFINISHED)}")
    return done


def _own_folders(folder: Path) -> Iterator[Path]:
    """The sub-folders that a stage writes to; its outputs, and the folders of other stages, are none."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    for entry in (folder / name for name in folders):
        if entry.suffix == ".zarr" or entry.name.startswith("."):  # unfinished, set aside, or the files of shards
            continue
        refuse_to_leave(entry / "any")
        if not entry.is_symlink() and not any((entry / name).exists() for name in STAGE_FILES):
            yield entry


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists. A link is removed, never what it points to.

    :raises UsageError: its folder is outside of the workspace.
    """
    refuse_to_leave(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_STRAYS = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin", "__macosx"}
)
"""What Windows, macOS and storage boxes leave in any folder that somebody looks into, beside hidden files."""
_HIDDEN_OF_ZARR = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})
"""Of version 2 of its format: hidden, and yet what a store consists of."""


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is no part of a store, whoever has put it there.

    Hidden ones (``.DS_Store``, ``._zarr.json``, ``.nfs…``, ``.~lock…``) and those of file browsers.
    """
    hidden = name.startswith((".", "~$")) and name not in _HIDDEN_OF_ZARR
    return hidden or name.casefold() in _STRAYS


def files_of(path: Path) -> list[Path]:
    """The files that an output consists of: itself, or what lies in its folder and below, sorted, without strays.

    :raises InputError: a pipe or a device is among them.
    """
    if not path.is_dir():
        refuse_pipe(path)
        return [path]
    files = []
    for file in sorted(Path(folder, name) for folder, name in _walk(path)):
        if file.is_file():
            files.append(file)
        else:
            refuse_pipe(file)
    return files


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    for here, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_stray(name)]
        yield from ((here, name) for name in names if not is_stray(name))


def _raise(error: OSError) -> None:
    raise error


def size_of(path: str | Path) -> int:
    """Bytes of a file, or of all files in a folder that belong to it (:func:`files_of`)."""
    return stamp(path)[0]


def stamp(path: str | Path) -> tuple[int, int]:
    """Size and time of a file, or of all files in a folder: cheap to read, and enough to know when to hash again.

    It is asked for 100,000 slides at once, so it takes one call of the system for a file.
    """
    status = os.stat(path)  # noqa: PTH116  Path objects would take twice the time
    if not S_ISDIR(status.st_mode):
        if not S_ISREG(status.st_mode):
            refuse_pipe(Path(path))
        return status.st_size, status.st_mtime_ns
    size, newest = 0, 0
    for file in _files_in(path):
        size += file.st_size
        newest = max(newest, file.st_mtime_ns)
    return size, newest


def _files_in(folder: str | Path) -> Iterator[os.stat_result]:
    """The files of :func:`files_of`, by their sizes and times alone."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_stray(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files_in(entry.path)
            elif entry.is_file():
                yield entry.stat()
            else:
                refuse_pipe(Path(entry.path))


def digest_of(path: Path) -> str:
    """``sha256:…`` of a file's bytes, or of a folder: names and bytes of what belongs to it, sorted by name."""
    if not path.is_dir():
        refuse_pipe(path)
        with path.open("rb") as stream:
            return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
    folder = hashlib.sha256()
    for file in files_of(path):
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
                flush_to_disk(stream.fileno(), part)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no handle on a folder to flush
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
        say_weaker(_NOT_FLUSHED, folder)
        return
    try:
        flush_to_disk(handle, folder)
    finally:
        os.close(handle)


_CANNOT_FLUSH = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
)
"""What file systems answer (SMB, FUSE, some of NFS) that do not flush a folder, or a file that is open for reading."""
_NOT_FLUSHED = "does not flush what is written: results that a power cut takes away may be recorded as done"


def flush_to_disk(handle: int, path: Path) -> None:
    """Have an open file or folder on the disk before going on; where the file system cannot do it, say so once."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
        say_weaker(_NOT_FLUSHED, path)


_said: set[str] = set()


def say_weaker(what: str, path: Path) -> None:
    """Warn, once, of something that the file system of ``path`` does not do; the main process does it for all."""
    if what not in _said and parent_process() is None:
        _said.add(what)
        warnings.warn(f"the file system of {path} {what}", stacklevel=2)
