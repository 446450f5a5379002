"""Checks of what this process may use: cores, memory, open files, shared memory, the temporary folder."""

from __future__ import annotations

import multiprocessing
import os
import resource
from multiprocessing import shared_memory
from pathlib import Path
from typing import Final

from ...data.allotment import core_limits, machine_memory, memory_limits, usable_cores
from .finding import Finding, Subject, failed, gigabytes, ok, warning
from .scratch import scratch_folder, temporary

_LITTLE_MEMORY: Final = 8 * 2**30
_FEWEST_FILES: Final = 256
_FEW_FILES: Final = 1024
_LITTLE_SHARED: Final = 16 * 2**20
_LITTLE_TEMPORARY: Final = 2**30
_LEAST_TEMPORARY: Final = 64 * 2**20


def cores(subject: Subject) -> Finding:
    """The cores that this process may use, against those of the machine."""
    limits = core_limits()
    usable, whose = usable_cores(), min(limits, key=lambda name: limits[name])
    threads = os.environ.get("OMP_NUM_THREADS")
    by = "" if whose == "machine" else f" of the machine's {limits['machine']:g} (by {whose})"
    further = f"; OMP_NUM_THREADS={threads}" if threads else ""
    return ok(f"{usable}{by}{further}", cores=usable, limits=limits)


def memory(subject: Subject) -> Finding:
    """The memory that this process may use, against that of the machine."""
    machine, limits = machine_memory(), memory_limits()
    if machine is None:
        return ok("the system does not say")
    total, available = machine
    usable = min([available, *limits.values()])
    figures = {"total": total, "available": available, "limits": limits}
    by = "".join(f"; limited to {gigabytes(size)} by {whose}" for whose, size in limits.items() if size < total)
    found = f"{gigabytes(available)} of {gigabytes(total)} available{by}"
    if usable < _LITTLE_MEMORY:
        return warning(found, "little for large slides: use fewer --workers and --threads, or raise it", **figures)
    return ok(found, **figures)


def open_files(subject: Subject) -> Finding:
    """The number of files that this process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = ["no limit" if limit == resource.RLIM_INFINITY else f"{limit:,}" for limit in (soft, hard)]
    found = f"{said[0]} at a time, at most {said[1]}"
    hint = f"`ulimit -n {max(_FEW_FILES, min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536)}` in the shell"
    hint += " or job script that starts wsipipe" + ("" if hard >= _FEW_FILES or hard < 0 else "; root raises the limit")
    figures = {"soft": soft, "hard": hard}
    if soft != resource.RLIM_INFINITY and soft < _FEWEST_FILES:
        return failed(found, hint, **figures)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        return warning(found, hint, **figures)
    return ok(found, **figures)


def shared(subject: Subject) -> Finding:
    """Shared memory, which processes need for their locks; in Docker it is 64 MB, which is enough for wsipipe."""
    multiprocessing.get_context("spawn").Lock()
    block = shared_memory.SharedMemory(create=True, size=2**16)
    block.close()
    block.unlink()
    place = Path("/dev/shm")
    if not place.is_dir():
        return ok("works")
    size = os.statvfs(place)
    free, total = size.f_bavail * size.f_frsize, size.f_blocks * size.f_frsize
    found = f"{gigabytes(free)} of {gigabytes(total)} free in {place}"
    if free < _LITTLE_SHARED:
        return warning(found, "remove what ended programs left there, or start the container with --shm-size=64m")
    return ok(found, free=free, total=total)


def temporary_folder(subject: Subject) -> Finding:
    """The folder for temporary files: whether it can be written to, and what is free."""
    place = temporary()
    with scratch_folder(place, subject) as folder:
        (folder / "file").write_bytes(b"test")
    size = os.statvfs(place)
    free = size.f_bavail * size.f_frsize
    found = f"{place}, {gigabytes(free)} free"
    hint = "free some space, or set TMPDIR to a folder with more"
    if free < _LEAST_TEMPORARY:
        return failed(found, hint, free=free)
    if free < _LITTLE_TEMPORARY:
        return warning(found, hint, free=free)
    return ok(found, free=free)
