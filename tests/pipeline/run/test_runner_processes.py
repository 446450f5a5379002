"""The runner with several processes and devices, and after an interrupt or a kill.

The stages are those of ``copy_stage.py``: real ones, small enough to understand.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # worker processes take over the path, and must find the stages

from copied_texts import last, result, statuses, story, took, write  # noqa: E402
from copy_stage import copy, copy_stage  # noqa: E402
from wsipipe.data.errors import (  # noqa: E402
    BusyError,
    SurroundingsError,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(tmp_path, a="apple", b="bread", c="curd")
    return tmp_path


# ----- several processes -----


@pytest.mark.parametrize(
    ("text", "what", "again"),
    [
        ("exit", "died (a crash in a decoder, or out of memory)", False),
        ("die", "died: the system killed it, most likely because no memory was left", True),
    ],
)
def test_a_process_that_dies_takes_only_its_item_with_it(tmp_path: Path, text: str, what: str, again: bool) -> None:
    write(tmp_path, **{f"t{number}": "fine" for number in range(7)} | {"t2": text, "t6": "broken"})
    summary = copy(tmp_path, workers=2)
    assert summary.done == 5
    assert sorted(failure.item for failure in summary.failures) == ["t2", "t6"]
    assert [failure.message for failure in summary.failures if failure.item == "t2"] == [
        f"t2: the process that worked on it {what}"
    ]
    assert len(copy_stage(tmp_path).manifest.records()) == 7
    took(tmp_path)
    assert copy(tmp_path, workers=2, seconds=1800.0).before == 5  # with a time limit, one alone has a process too
    # What crashes a decoder waits for another file; what the system killed is tried again.
    assert set(took(tmp_path)) == ({"t2"} if again else set())


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_hangs_is_given_up_and_the_others_go_on(tmp_path: Path, workers: int) -> None:
    write(tmp_path, a="apple", b="hang", c="curd", d="date")
    summary = copy(tmp_path, workers=workers, seconds=3.0)
    assert (summary.done, [failure.item for failure in summary.failures]) == (3, ["b"])
    assert "given up after 0.05 min" in summary.failures[0].message
    assert "--timeout" in summary.failures[0].hint
    error = last(tmp_path)["b"].error
    assert error is not None
    assert not error.retry  # it waits for another file, or for --retry-failed
    assert copy(tmp_path, workers=workers, seconds=3.0).done == 0


def test_processes_and_one_process_give_the_same(tmp_path: Path) -> None:
    texts = {"a": "apple", "b": "broken", "c": "odd", "d": "liar", "e": "nothing", "f": "full"}
    stories = []
    for workers in (1, 2):
        place = tmp_path / str(workers)
        place.mkdir()
        write(place, **texts)
        copy(place, workers=workers)
        stories.append(story(place))
        pids = {line.split()[2] for line in (place / "calls").read_text().splitlines() if line.startswith("do")}
        assert (str(os.getpid()) in pids) == (workers == 1)
    assert stories[0] == stories[1]


def test_several_devices_share_the_items_and_give_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    texts = {f"t{number:02}": "x" * (1 + number * 7 % 23) for number in range(23)}
    texts |= {
        "meet-1": "meet" * 10,
        "meet-2": "meet" * 10,
    }  # the largest: each device takes one, and waits for the other
    for place in (one, two):
        place.mkdir()
        write(place, **texts, bad="broken", none="nothing")
    (one / "here-already").touch()
    copy(one)
    summary = copy(two, devices=["left", "right"])
    assert (summary.done, summary.empty, [f.item for f in summary.failures]) == (25, 1, ["bad"])
    assert statuses(one) == statuses(two)
    assert {name: result(one, name) for name in texts} == {name: result(two, name) for name in texts}
    lines = [line.split() for line in (two / "calls").read_text().splitlines() if line.startswith("do ")]
    assert {device for *_, device in lines} == {"left", "right"}
    assert {"left: the end", "right: the end"} <= set(summary.notes)
    assert len({process for _, _, process, _ in lines}) == 2
    # Each takes the largest that is left, so that none ends long after the others.
    for device in ("left", "right"):
        sizes = [len(texts[name]) for _, name, _, its in lines if its == device and name in texts]
        assert sizes == sorted(sizes, reverse=True)
    assert copy(two, devices=["left", "right"]).before == 26


@pytest.mark.parametrize("text", ["die", "exit"])
def test_a_device_whose_process_dies_costs_the_item_it_worked_on(tmp_path: Path, text: str) -> None:
    write(tmp_path, **{f"t{number:02}": "text" * 9 for number in range(9)}, deadly=text)
    summary = copy(tmp_path, devices=["left", "right"])
    assert (summary.done, [failure.item for failure in summary.failures]) == (9, ["deadly"])
    assert "died" in summary.failures[0].message


def test_a_device_that_is_not_there_ends_the_command(tmp_path: Path) -> None:
    write(tmp_path, a="apple", b="bread", **{"no-setupright": "x"})
    with pytest.raises(SurroundingsError, match="the machine is not ready"):
        copy(tmp_path, devices=["left", "right"])


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    write(tmp_path, **{"no-setup": "x", "other": "y"})
    summary = copy(tmp_path, workers=2)
    assert {failure.message for failure in summary.failures} == {"the machine is not ready"}
    assert all(record.error and record.error.retry for record in last(tmp_path).values())


# ----- interrupted and killed -----


def test_an_interrupt_keeps_what_is_done_and_frees_the_lock(place: Path) -> None:
    write(place, bb="interrupt")
    with pytest.raises(KeyboardInterrupt):
        copy(place)
    assert statuses(place) == {"a": "done", "b": "done"}
    write(place, bb="better")
    took(place)
    assert copy(place).done == 2
    assert took(place) == ["bb", "c"]


@pytest.fixture
def begun(place: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A run in another process that has done a and b and hangs in the others."""
    write(place, c="slow", d="slow", e="slow")
    workers: int = request.param
    process = subprocess.Popen([sys.executable, str(HERE / "copy_stage.py"), str(place), str(workers)])
    patience = time.monotonic() + 1800
    while sum(line.startswith("do") for line in lines(place)) < 2 + workers or len(statuses(place)) < 2:
        assert time.monotonic() < patience
        assert process.poll() is None
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def lines(place: Path) -> list[str]:
    return (place / "calls").read_text().splitlines() if (place / "calls").exists() else []


def worker_pids(place: Path) -> set[int]:
    return {int(line.split()[2]) for line in lines(place) if line.startswith("do")}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_none_runs(pids: set[int]) -> None:
    patience = time.monotonic() + 1800
    while any(map(runs, pids)):
        assert time.monotonic() < patience, "orphans go on working"
        time.sleep(0.02)


@pytest.mark.parametrize("begun", [1, 2], indirect=True)
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_the_same_run_after_a_killed_one_gives_the_same_records(
    place: Path, begun: subprocess.Popen[bytes], ending: signal.Signals, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pids = worker_pids(place)
    with pytest.raises(BusyError, match=f'"pid": {begun.pid}'):
        copy(place)
    begun.send_signal(ending)
    assert begun.wait() != 0
    wait_until_none_runs(pids)
    (place / "work" / "copies" / ".partial-c.txt").write_text("HALF")  # what a kill in the middle of a write leaves
    took(place)
    texts = {"c": "cure", "d": "dice", "e": "ease"}
    write(place, **texts)
    summary = copy(place)
    assert (summary.done, summary.before) == (3, 2)
    assert took(place) == ["c", "d", "e"]
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    write(undisturbed, a="apple", b="bread", **texts)
    copy(undisturbed)
    assert story(place) == story(undisturbed)
    assert files(place) == files(undisturbed)


def files(place: Path) -> dict[str, bytes]:
    copies = place / "work" / "copies"
    return {file.name: file.read_bytes() for file in copies.iterdir() if file.suffix == ".txt"}


def test_what_a_killed_run_left_is_told(place: Path) -> None:
    copies = place / "work" / "copies"
    copies.mkdir(parents=True)
    (copies / ".partial-a.txt").write_text("HALF")
    assert copy(place).notes == ("removed the unfinished a.txt", "the end")
