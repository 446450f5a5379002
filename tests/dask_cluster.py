"""A small Dask cluster on the loopback, and what happens to its workers, for tests.

As a script it is a cluster in a process of its own, which can be killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))  # worker processes take over the path, and must find the stages

from copy_stage import copy_stage, parent_of, runs  # noqa: E402
from distributed import Client, LocalCluster  # noqa: E402
from wsipipe.pipeline.cluster.choice import elsewhere  # noqa: E402
from wsipipe.pipeline.cluster.settings import ClusterSettings  # noqa: E402
from wsipipe.pipeline.console import Console  # noqa: E402
from wsipipe.pipeline.results import Summary  # noqa: E402
from wsipipe.pipeline.run.runner import Runner  # noqa: E402

PATIENCE = 1800.0


def small_cluster(workers: int = 2, *, memory: str = "400MB") -> LocalCluster:
    """Workers of one core, each a process."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=memory,
        dashboard_address=":0",  # its own port, beside whatever else runs here
        silence_logs=50,
        death_timeout=PATIENCE,  # to start, on a busy machine: a worker that gives up never comes back
    )


def copy_there(place: Path, address: str, *, wait: float = 30.0, **settings: object) -> Summary:
    """Run the copy stage over the texts of ``place`` on a cluster."""
    there = elsewhere(ClusterSettings(kind="address", address=address, wait=wait))
    assert there is not None
    with closing(there):
        return Runner(place / "work", Console(json_only=True), elsewhere=there).run(copy_stage(place, **settings))


def until(what: Callable[[], Any]) -> Any:
    """Wait until something is so, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
    return found


def begun(place: Path, item: str = "") -> list[int]:
    """The processes that have begun an item, or any."""
    calls = place / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return [int(line.split()[2]) for line in lines if line.startswith(f"do {item} " if item else "do ")]


def dask_worker_of(process: int) -> int:
    """The process of Dask's worker of which an item's process is a grandchild."""
    return parent_of(parent_of(process))


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def all_end(processes: list[int]) -> None:
    """Wait until none of these processes runs."""
    until(lambda: not any(map(runs, processes)))


@contextmanager
def one_more_worker(
    address: str,
    *,
    before: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    name: str = "odd",
    gpus: int = 0,
) -> Iterator[None]:
    """A worker that was started by hand, in an environment of its own.

    :param before: words before its command, of a program that starts it.
    """
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--name", name]
    words += [
        "--memory-limit",
        "400MB",
        "--death-timeout",
        str(PATIENCE),
        "--no-dashboard",
        "--local-directory",
        "/tmp",
    ]
    words += ["--resources", f"GPU={gpus}"] if gpus else []
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    own = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    process = subprocess.Popen(
        [*before, *words], env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        with Client(address, set_as_default=False) as client:
            until(lambda: any(w["name"] == name for w in client.scheduler_info()["workers"].values()))
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        with Client(address, set_as_default=False) as client:
            until(lambda: all(w["name"] != name for w in client.scheduler_info()["workers"].values()))


@contextmanager
def cluster_of_its_own(workers: int = 2) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A cluster in a process of its own: its address, and the process."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(workers)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        with small_cluster(int(sys.argv[1])) as cluster:
            sys.stdout.write(f"{cluster.scheduler_address}\n")
            sys.stdout.flush()
            signal.pause()
    else:
        copy_there(Path(sys.argv[1]), sys.argv[2])
