"""Checks of the workspace's file system: rights, room, speed, locks, clock."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
import warnings
from contextlib import ExitStack
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from ...data.errors import BusyError, WsipipeError
from ...data.manifest import Manifest
from ...data.surroundings import surroundings
from .finding import Finding, Subject, failed, gigabytes, ok, warning
from .room import need
from .scratch import existing, scratch_folder

_BLOCK: Final = 2**20
_BLOCKS_A_FLUSH: Final = 8
_MOST_BLOCKS: Final = 64
_WRITING_SECONDS: Final = 5.0
_FLUSHES: Final = 20
_SLOW_WRITING: Final = 30e6  # bytes per second
_SLOW_FLUSH: Final = 0.1  # seconds
_LITTLE_ROOM: Final = 5 * 2**30
_LEAST_ROOM: Final = 256 * 2**20
_FEW_NODES: Final = 10_000
_LOCK_SECONDS: Final = 60.0
_JUMP: Final = 0.1  # seconds
_APART: Final = 2.0  # seconds
_COARSE: Final = 1.1  # seconds
_RELEASED: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""No clock that is right shows an earlier time."""


def workspace(subject: Subject) -> Finding:
    """Whether the workspace is there and can be written to."""
    asked, place = Path(subject.workspace), existing(subject.workspace)
    if not place.is_dir():
        return failed(f"{place} is a file", "move it, or choose another --workspace")
    with scratch_folder(place, subject) as folder:
        (folder / "one").write_bytes(b"test")
        (folder / "one").replace(folder / "two")
        if (folder / "two").read_bytes() != b"test":
            return failed(f"{place} gives back other bytes than were written", "check the disk")
    kind = _file_system(place)
    kind = f" ({kind})" if kind else ""
    if place == asked:
        return ok(f"{asked}{kind} can be written to", file_system=kind.strip(" ()"))
    return ok(f"{asked} does not exist yet; {place}{kind} can be written to", file_system=kind.strip(" ()"))


def _file_system(place: Path) -> str:
    """The kind of file system, such as ``ext4`` and ``nfs4``; empty where the system does not say."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real = place.resolve()
    mounts = [(Path(point.replace("\\040", " ")), kind) for _, point, kind, *_ in (line.split() for line in lines)]
    holding = [mount for mount in mounts if real.is_relative_to(mount[0])]
    return max(holding, key=lambda mount: len(mount[0].parts))[1] if holding else ""


def room(subject: Subject) -> Finding:
    """The disk's free room, against what is still to be extracted."""
    size = os.statvfs(existing(subject.workspace))
    free, total = size.f_bavail * size.f_frsize, size.f_blocks * size.f_frsize
    wanted, measured = need(Path(subject.workspace), subject.features, subject.backbone)
    found = f"{gigabytes(free)} of {gigabytes(total)} free" + (f"; {measured}" if measured else "")
    figures = {"free": free, "total": total, "need": wanted, "free_inodes": size.f_favail}
    hint = "free some space, or choose another --workspace"
    if free < max(_LEAST_ROOM, wanted):
        return failed(found, hint, **figures)
    if size.f_files and size.f_favail < _FEW_NODES:
        return warning(f"{found}; only {size.f_favail:,} more files (inodes)", "remove small files", **figures)
    return (warning(found, hint, **figures)) if free < _LITTLE_ROOM else ok(found, **figures)


def speed(subject: Subject) -> Finding:
    """How fast the workspace takes what is written, and how long a record takes to be safe on the disk."""
    with scratch_folder(existing(subject.workspace), subject) as folder:
        try:
            rate, flush = _rate(folder / "large"), _flush_seconds(folder / "records")
        except OSError as error:  # of writing, which does not name the file
            raise surroundings(error, folder) or error from error
    found = f"{rate / 1e6:,.0f} MB/s written and flushed; a record is safe after {1000 * flush:,.1f} ms"
    figures = {"bytes_per_second": round(rate), "fsync_seconds": round(flush, 5)}
    if rate < _SLOW_WRITING or flush > _SLOW_FLUSH:
        return warning(found, "slow: choose a workspace on a local disk", **figures)
    return ok(found, **figures)


def _rate(file: Path) -> float:
    """Bytes a second that a file takes, as it is flushed every few blocks: a slow disk is found slow in seconds."""
    block = os.urandom(_BLOCK)  # a file system that compresses would be fast with zeros
    begin, blocks = time.monotonic(), 0
    with file.open("wb", buffering=0) as stream:
        while blocks < _MOST_BLOCKS and time.monotonic() - begin < _WRITING_SECONDS:
            for _ in range(_BLOCKS_A_FLUSH):
                stream.write(block)
            os.fsync(stream.fileno())
            blocks += _BLOCKS_A_FLUSH
    return blocks * _BLOCK / (time.monotonic() - begin)


def _flush_seconds(file: Path) -> float:
    """Median of the seconds until a record is on the disk."""
    taken: list[float] = []
    with file.open("ab", buffering=0) as stream:
        while len(taken) < _FLUSHES and sum(taken) < _WRITING_SECONDS:
            begin = time.monotonic()
            stream.write(b"a record\n")
            os.fsync(stream.fileno())
            taken.append(time.monotonic() - begin)
    return statistics.median(taken)


def locks(subject: Subject) -> Finding:
    """Whether a lock that one process holds keeps another out, and is free again afterwards."""
    with scratch_folder(existing(subject.workspace), subject) as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ExitStack() as held:
            held.enter_context(Manifest.of(folder).lock())
            while_held = _tried_elsewhere(folder)
        afterwards = _tried_elsewhere(folder)
    if while_held != "busy":
        hint = "two runs would write into each other: choose a workspace on a file system with locks"
        return failed(f"a second process gets a lock that is held ({while_held})", hint)
    if afterwards != "taken":
        return failed(f"a lock is not free after its holder's end ({afterwards})", "choose another --workspace")
    if said:
        return warning(str(said[0].message), "start no two runs on one workspace from two machines")
    return ok("a second process is kept out, and let in afterwards")


def _tried_elsewhere(folder: Path) -> str:
    """What another process comes to that wants the lock: ``busy``, ``taken``, or what went wrong."""
    context = multiprocessing.get_context("spawn")
    answer, connection = context.Pipe(duplex=False)
    process = context.Process(target=_try_lock, args=(folder, connection))
    process.start()
    connection.close()
    try:
        return str(answer.recv()) if answer.poll(_LOCK_SECONDS) else f"no answer in {_LOCK_SECONDS:g} s"
    except EOFError:
        return "the second process died"
    finally:
        process.kill()
        process.join()
        answer.close()


def _try_lock(folder: Path, connection: Connection) -> None:
    try:
        with Manifest.of(folder).lock():
            connection.send("taken")
    except BusyError:
        connection.send("busy")
    except (OSError, WsipipeError) as error:
        connection.send(str(error))


def clock(subject: Subject) -> Finding:
    """Whether the clock goes forward, is about right, and agrees with the times that the file system gives files."""
    wall, steady = time.time(), time.monotonic()
    with scratch_folder(existing(subject.workspace), subject) as folder:
        file = folder / "file"
        file.write_bytes(b"1")
        apart = file.stat().st_mtime - time.time()
        step = _step(file)
    jump = (time.time() - wall) - (time.monotonic() - steady)
    now = datetime.now(UTC)
    figures = {"jump": round(jump, 3), "file_times_apart": round(apart, 3), "file_time_step": round(step, 3)}
    found = f"{now:%Y-%m-%d %H:%M} UTC; file times differ by {abs(apart):.1f} s"
    if now < _RELEASED:
        return warning(found, "the clock is years behind: set it, since records and downloads depend on it", **figures)
    if abs(jump) > _JUMP:
        hint = "something sets the clock back and forth: check NTP, or the virtual machine's time"
        return warning(f"{found}; it jumped by {jump:+.1f} s while it was watched", hint, **figures)
    if abs(apart) > _APART:
        hint = "set the clocks of this machine and of its file server by NTP: records' times would not fit files' times"
        return warning(found, hint, **figures)
    if step > _COARSE:
        hint = "a file that is changed twice in that time looks unchanged; choose a workspace on another disk"
        return warning(f"{found}; files' times are whole {step:.0f} s", hint, **figures)
    return ok(found, **figures)


def _step(file: Path) -> float:
    """Seconds until a file that is written again has another time."""
    begin, first = time.monotonic(), file.stat().st_mtime_ns
    while file.stat().st_mtime_ns == first and time.monotonic() - begin < 3:
        time.sleep(0.02)
        file.write_bytes(b"2")
    return time.monotonic() - begin
