"""What may happen to the machines of a cluster costs the item in work, and nothing else.

The stage is that of ``copy_stage.py``; what an item does stands in its file. Workers are processes on the loopback.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from copied_texts import last, result, statuses, story, took, write
from copy_stage import copy, runs
from dask_cluster import (
    TESTS,
    all_end,
    begun,
    cluster_of_its_own,
    copy_there,
    dask_worker_of,
    kill,
    one_more_worker,
    small_cluster,
    until,
)
from distributed import LocalCluster
from wsipipe.data.errors import SurroundingsError, UsageError


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with small_cluster() as cluster:
        yield cluster


@pytest.fixture
def address(cluster: LocalCluster) -> str:
    """Where its scheduler listens, once two workers are there: nannies replace those that were killed.

    Those of some versions of Dask forget one now and then.
    """
    try:
        cluster.wait_for_workers(2, 60)
    except TimeoutError:
        cluster.scale(len(cluster.worker_spec) + 1)
        cluster.wait_for_workers(2)
    return str(cluster.scheduler_address)


def tries(place: Path) -> Counter[str]:
    return Counter(took(place))


def meanwhile(what: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    return thread


def test_a_cluster_and_one_machine_give_the_same(tmp_path: Path, address: str) -> None:
    texts = {f"t{n}": "text" * n for n in range(1, 9)} | {"b": "broken", "e": "nothing", "m1": "meet", "m2": "meet"}
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
        write(place, **texts)
    copy(here, workers=2)
    summary = copy_there(there, address)
    assert story(here) == story(there)
    assert (summary.done, summary.empty, [f.item for f in summary.failures]) == (10, 1, ["b"])
    assert sum(worker["items"] for worker in summary.workers.values()) == len(texts)
    assert len(summary.workers) == 2
    assert all(worker["rate"] > 0 for worker in summary.workers.values())
    assert summary.to_json()["workers"] == summary.workers
    assert not list((there / "work").glob(".cluster-*"))


def test_what_dask_sets_for_its_own_threads_does_not_reach_our_processes(tmp_path: Path, address: str) -> None:
    write(tmp_path, v="environment")
    assert copy_there(tmp_path, address).done == 1
    text = (tmp_path / "work/copies/v.txt").read_text()
    assert text == "MALLOC_TRIM_THRESHOLD_=NONE OMP_NUM_THREADS=1 MKL_NUM_THREADS=NONE OPENBLAS_NUM_THREADS=NONE"


def test_a_worker_that_is_killed_costs_its_item_in_work(tmp_path: Path, address: str) -> None:
    write(tmp_path, **{f"t{n}": "fine" for n in range(6)}, a="stay")
    killer = meanwhile(lambda: kill(dask_worker_of(until(lambda: begun(tmp_path, "a"))[0])))
    summary = copy_there(tmp_path, address)
    killer.join()
    assert (summary.done, summary.failures) == (7, ())
    assert tries(tmp_path) == {"a": 2, **{f"t{n}": 1 for n in range(6)}}
    assert any("was lost: what it had in work went to the others" in note for note in summary.notes)


def test_an_item_that_kills_two_workers_has_failed(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="kill the worker", b="fine", c="fine")
    summary = copy_there(tmp_path, address)
    assert (summary.done, [failure.item for failure in summary.failures]) == (2, ["a"])
    assert "2 workers were lost while it was in work on them" in summary.failures[0].message
    assert tries(tmp_path)["a"] == 2


def test_an_item_whose_process_dies_is_tried_once_more_and_the_worker_goes_on(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="exit", b="fine", c="fine")
    summary = copy_there(tmp_path, address)
    assert (summary.done, [failure.item for failure in summary.failures]) == (2, ["a"])
    assert "died (a crash in a decoder" in summary.failures[0].message
    assert tries(tmp_path) == {"a": 2, "b": 1, "c": 1}


def test_an_item_that_needs_more_memory_than_its_worker_has(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="eat", b="fine", c="fine")
    summary = copy_there(tmp_path, address)
    assert (summary.done, [failure.item for failure in summary.failures]) == (2, ["a"])
    assert "it needed more than the 0.4 GB of memory of its worker" in summary.failures[0].message
    assert summary.failures[0].retry


def test_an_item_that_hangs_is_given_up(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="hang", b="fine", c="fine")
    summary = copy_there(tmp_path, address, seconds=3.0)
    assert (summary.done, [failure.item for failure in summary.failures]) == (2, ["a"])
    assert "given up after 0.05 min" in summary.failures[0].message
    assert not any(map(runs, begun(tmp_path, "a")))


def test_a_worker_that_joins_late_gets_work(tmp_path: Path, address: str, cluster: LocalCluster) -> None:
    """Two items that wait for each other's processes end only if there are two."""
    write(tmp_path, a="meet", b="meet")
    cluster.scale(1)
    until(lambda: len(cluster.scheduler_info["workers"]) == 1)

    def join() -> None:
        until(lambda: begun(tmp_path))
        cluster.scale(2)

    joining = meanwhile(join)
    summary = copy_there(tmp_path, address)
    joining.join()
    assert summary.done == 2
    assert len(summary.workers) == 2


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_the_run_after_one_whose_client_ended_goes_on(tmp_path: Path, address: str, ending: signal.Signals) -> None:
    write(tmp_path, a="fine", b="fine" * 9, c="slow", d="slow")
    script = [sys.executable, str(TESTS / "dask_cluster.py"), str(tmp_path), address]
    client = subprocess.Popen(script, stderr=subprocess.DEVNULL)
    until(lambda: len(begun(tmp_path)) == 4 and len(statuses(tmp_path)) == 2)
    client.send_signal(ending)
    assert client.wait() != 0
    all_end(begun(tmp_path))
    assert statuses(tmp_path) == {"a": "done", "b": "done"}
    took(tmp_path)
    write(tmp_path, c="cure", d="dice")
    summary = copy_there(tmp_path, address)
    assert (summary.done, summary.before) == (2, 2)
    assert tries(tmp_path) == {"c": 1, "d": 1}


def test_the_run_after_one_whose_scheduler_ended_goes_on(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="fine", b="fine" * 9, c="slow", d="slow")
    with cluster_of_its_own() as (own, process):

        def end() -> None:
            until(lambda: len(begun(tmp_path)) == 4 and len(statuses(tmp_path)) == 2)
            process.kill()

        ending = meanwhile(end)
        with pytest.raises(SurroundingsError, match=r"the Dask scheduler .* does not answer"):
            copy_there(tmp_path, own)
        ending.join()
        all_end([*begun(tmp_path), *map(dask_worker_of, filter(runs, begun(tmp_path)))])
    took(tmp_path)
    write(tmp_path, c="cure", d="dice")
    assert copy_there(tmp_path, address).done == 2
    assert tries(tmp_path) == {"c": 1, "d": 1}


def test_a_stage_that_needs_a_gpu_goes_to_workers_that_have_one_and_their_loss_is_said(
    tmp_path: Path, address: str
) -> None:
    write(tmp_path, a="meet", b="meet", c="fine")
    with one_more_worker(address, name="gpus", gpus=2):
        summary = copy_there(tmp_path, address, device="auto")
        assert (summary.done, list(summary.workers)) == (3, ["127.0.0.1 gpus"])
        devices = {line.split()[3] for line in (tmp_path / "calls").read_text().splitlines() if line[:3] == "do "}
        assert devices == {"cuda:0", "cuda:1"}
        write(tmp_path, d="kill the worker of a GPU")
        summary = copy_there(tmp_path, address, device="cuda", wait=0.02)
    assert summary.before == 3
    assert "worker 127.0.0.1 gpus (2 GPUs) was lost: what it had in work went to the others" in summary.notes
    assert "no worker is left: there was none with a GPU for 0.02 min" in summary.failures[0].message


def test_a_device_of_this_machine_is_refused(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="fine")
    with pytest.raises(UsageError, match="--device cuda:1 names devices of this machine, and the items run on others"):
        copy_there(tmp_path, address, device="cuda:1")


def test_a_disk_that_is_full_on_one_worker_is_a_failure_of_that_worker(tmp_path: Path, address: str) -> None:
    """Its files may not grow, as where a quota is used up; the others do what it cannot."""
    write(tmp_path, **{f"t{n:02}": "nap" for n in range(16)})
    limited = ("sh", "-c", 'ulimit -f 16; exec "$@"', "sh")
    with one_more_worker(address, before=limited):
        summary = copy_there(tmp_path, address, repeat=20_000)
    assert (summary.done, summary.failures) == (16, ())
    assert [n for n in summary.notes if "127.0.0.1 odd: given up" in n and "could not write: File too large" in n]


def test_a_disk_that_is_full_on_every_worker_fails_items_until_it_is_not(tmp_path: Path, address: str) -> None:
    write(tmp_path, a="full", b="fine")
    summary = copy_there(tmp_path, address)
    assert summary.done == 1
    assert ("the disk is full" in summary.failures[0].message, summary.failures[0].retry) == (True, True)
    assert tries(tmp_path) == {"a": 2, "b": 1}  # another worker might have had space


def test_nothing_depends_on_the_clock_of_a_worker(tmp_path: Path) -> None:
    if not (compiler := shutil.which("gcc")):
        pytest.skip("no compiler for a library that sets the clock")
    source, library = tmp_path / "later.c", tmp_path / "later.so"
    source.write_text(LATER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
        write(place, **{f"t{n}": "nap" for n in range(4)})
    copy(here, workers=1)
    with small_cluster(0) as cluster:
        address = cluster.scheduler_address
        with one_more_worker(address, environment={"LD_PRELOAD": str(library)}):
            begin = datetime.now(UTC)
            summary = copy_there(there, address)
    assert list(summary.workers) == ["127.0.0.1 odd"]
    assert story(here) == story(there)
    assert all(begin <= record.start <= datetime.now(UTC) for record in last(there).values())
    assert result(there, "t1") == "NAP"


LATER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    if (clock == CLOCK_REALTIME) at->tv_sec += 3600;
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
