"""The cores and the memory that a process may use, which may be fewer than the machine's: affinity, cgroups, Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

OWN_CGROUPS: Final = Path("/proc/self/cgroup")
CGROUPS: Final = Path("/sys/fs/cgroup")
_NO_LIMIT: Final = 2**60
"""Version 1 writes 2^63 less a page where there is no limit."""


def core_limits(
    own: Path = OWN_CGROUPS, cgroups: Path = CGROUPS, environment: Mapping[str, str] = os.environ
) -> dict[str, float]:
    """What limits the cores of this process → to how many. The smallest holds.

    :param own: lists the cgroups of the process, as ``/proc/self/cgroup`` does.
    :param cgroups: the folder where they are mounted.
    """
    limits: dict[str, float] = {"machine": os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        limits["affinity"] = len(os.sched_getaffinity(0))
    for folder in _folders("cpu", own, cgroups):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and quota[0].isdecimal() and int(quota[1]) > 0:  # "max" and -1 are no limit
            limits["cgroup"] = min(limits.get("cgroup", _NO_LIMIT), int(quota[0]) / int(quota[1]))
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):  # the first only where --cpus-per-task was given
        with suppress(KeyError, ValueError):
            limits["Slurm"] = min(limits.get("Slurm", _NO_LIMIT), int(environment[name]))
    return limits


def usable_cores() -> int:
    """The number of cores that this process may use, at least one: what all that works in parallel takes by default."""
    return max(1, int(min(core_limits().values())))


def memory_limits(
    own: Path = OWN_CGROUPS, cgroups: Path = CGROUPS, environment: Mapping[str, str] = os.environ
) -> dict[str, int]:
    """What limits the memory of this process → to how many bytes, beside the machine's own size."""
    limits: dict[str, int] = {}
    for folder in _folders("memory", own, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            said = _words(folder / name)
            if said and said[0].isdecimal() and int(said[0]) < _NO_LIMIT:
                limits["cgroup"] = min(limits.get("cgroup", _NO_LIMIT), int(said[0]))
    with suppress(KeyError, ValueError):
        if megabytes := int(environment["SLURM_MEM_PER_NODE"]):  # 0 stands for all
            limits["Slurm"] = megabytes * 2**20
    with suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if 0 <= soft < _NO_LIMIT:
            limits["ulimit -v"] = soft
    return limits


def _folders(controller: str, own: Path, cgroups: Path) -> Iterator[Path]:
    """The folders with the limits of a controller: of the process's cgroup and of all above it, of either version.

    In a container the path may be the host's, which is not seen there; the mounted folder itself then has the limits.
    """
    for line in _lines(own):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            roots = [cgroups, cgroups / "unified"]
        elif controller in controllers.split(","):
            roots = [cgroups / controllers, cgroups / controller]
        else:
            continue
        parts = Path(path.lstrip("/")).parts
        for root in roots:
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file)[:1] for word in line.split()]


def machine_memory(file: Path = Path("/proc/meminfo")) -> tuple[int, int] | None:
    """The machine's memory and how much of it is available, in bytes; None where the system does not say it so."""
    sizes = {line.split(":")[0]: line.split() for line in _lines(file)}
    try:
        return int(sizes["MemTotal"][1]) * 1024, int(sizes["MemAvailable"][1]) * 1024
    except (LookupError, ValueError):
        return None


def usable_memory() -> int | None:
    """The bytes that this process and those that it starts may take; None where the system does not say it."""
    machine = machine_memory()
    sizes = [machine[1]] if machine is not None else []
    return min([*sizes, *memory_limits().values()], default=None)
