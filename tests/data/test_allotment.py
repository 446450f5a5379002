"""Cores and memory that a process may use, in made cgroup folders of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from wsipipe.data.allotment import core_limits, machine_memory, memory_limits, usable_cores, usable_memory

GIB = 2**30


def made(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


def limits(own: str, folder: Path, **environment: str) -> tuple[float | None, int | None]:
    """Cores and memory by the cgroup."""
    file = folder.parent / "own"
    file.write_text(own + "\n")
    cores = core_limits(file, folder, environment)
    return cores.get("cgroup"), memory_limits(file, folder, environment).get("cgroup")


def test_version_2_the_smallest_of_all_above(tmp_path: Path) -> None:
    folder = made(
        tmp_path / "cgroup",
        {
            "cpu.max": "max 100000",
            "lab/cpu.max": "250000 100000",
            "lab/memory.max": str(4 * GIB),
            "lab/run/cpu.max": "max 100000",
            "lab/run/memory.max": "max",
        },
    )
    assert limits("0::/lab/run", folder) == (2.5, 4 * GIB)
    assert limits("0::/elsewhere", folder) == (None, None)


def test_version_2_in_a_container_that_sees_its_own_cgroup_as_the_root(tmp_path: Path) -> None:
    folder = made(tmp_path / "cgroup", {"cpu.max": "150000 100000", "memory.max": str(GIB)})
    assert limits("0::/", folder) == (1.5, GIB)
    assert limits("0::/system.slice/docker-1234.scope", folder) == (1.5, GIB)


def test_version_1(tmp_path: Path) -> None:
    folder = made(
        tmp_path / "cgroup",
        {
            "cpu,cpuacct/job/cpu.cfs_quota_us": "400000",
            "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/job/memory.limit_in_bytes": str(2 * GIB),
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert limits("4:memory:/job\n1:cpu,cpuacct:/job\n0::/", folder) == (4.0, 2 * GIB)
    assert limits("4:memory:/\n1:cpu,cpuacct:/", folder) == (None, None)


@pytest.mark.parametrize("text", ["", "garbage", "max", "-1 100000", "100000 0", "1 2 3"])
def test_a_quota_that_is_not_understood_is_no_limit(tmp_path: Path, text: str) -> None:
    assert limits("0::/", made(tmp_path / "cgroup", {"cpu.max": text})) == (None, None)


@pytest.mark.parametrize("text", ["", "garbage", "max", "-1"])
def test_a_size_that_is_not_understood_is_no_limit(tmp_path: Path, text: str) -> None:
    assert limits("0::/", made(tmp_path / "cgroup", {"memory.max": text})) == (None, None)


def test_slurm_and_affinity(tmp_path: Path) -> None:
    given = {"SLURM_CPUS_PER_TASK": "3", "SLURM_MEM_PER_NODE": "2048"}
    assert core_limits(tmp_path / "none", tmp_path, given)["Slurm"] == 3
    assert memory_limits(tmp_path / "none", tmp_path, given)["Slurm"] == 2 * GIB
    for names, cores in {("SLURM_CPUS_ON_NODE",): 5, ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"): 2}.items():
        values = dict(zip(names, ("5", "2"), strict=False))
        assert core_limits(tmp_path / "none", tmp_path, values)["Slurm"] == cores
    wrong = {"SLURM_CPUS_PER_TASK": "3(x2)", "SLURM_MEM_PER_NODE": "0"}
    assert "Slurm" not in core_limits(tmp_path / "none", tmp_path, wrong)
    assert "Slurm" not in memory_limits(tmp_path / "none", tmp_path, wrong)
    if hasattr(os, "sched_getaffinity"):
        assert core_limits(tmp_path / "none", tmp_path, {})["affinity"] == len(os.sched_getaffinity(0))


def test_the_machines_memory(tmp_path: Path) -> None:
    file = made(tmp_path, {"meminfo": "MemTotal:  1024 kB\nMemFree: 1 kB\nMemAvailable:  512 kB"}) / "meminfo"
    assert machine_memory(file) == (2**20, 2**19)
    assert machine_memory(tmp_path / "none") is None


def test_the_cores_that_are_used_are_those_that_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Slurm's, or of fewer; half a core is one."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000000")
    assert usable_cores() == max(1, int(min(core_limits().values()))) <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, [min(before)])
            assert usable_cores() == 1
        finally:
            os.sched_setaffinity(0, before)


def test_memory_is_the_least_of_what_is_there_and_what_is_allowed() -> None:
    usable, machine = usable_memory(), machine_memory()
    assert usable is not None
    assert machine is not None
    assert 0 < usable <= min([machine[0], *memory_limits().values()])
