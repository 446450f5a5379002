"""Commands that are killed or interrupted: nothing is lost, and the next run ends as an undisturbed one does."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from commands import alive, left_behind, meaning
from disturbances import AtMoments
from own_process import PATIENCE, Running, forked, spawned
from projects import COMMANDS, Steps, spread, workspace_of
from wsipipe.data.manifest import Manifest

SHORTLY = {"tile": signal.SIGINT, "predict": signal.SIGTERM, "train": signal.SIGHUP}
ENDED = "interrupted; finished items are kept, and the same command continues from here"


def finish(project: Path, command: str, steps: Steps) -> None:
    """Run the command again: only what was in flight is done, and it ends as an undisturbed run does."""
    manifests = {file: file.read_bytes() for file in project.rglob("manifest.jsonl")}
    ended = forked(project, *COMMANDS[command]).ended()
    assert ended.code == 0, ended.err
    assert meaning(project) == steps.after[command]
    assert left_behind(project) == []
    for file, before in manifests.items():
        assert file.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "a record was lost"
        done = {(r.stage, r.item, r.start) for r in Manifest(file).records() if r.status == "done"}
        assert len(done) == len({(stage, item) for stage, item, _ in done}), "something was done twice"


def gone(running: Running) -> None:
    """Wait until no process of a command is left."""
    patience = time.monotonic() + PATIENCE
    while alive(running.pid):
        assert time.monotonic() < patience, "processes go on working"
        time.sleep(0.01)


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_moment_it_goes_on_to_the_same(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    if command not in steps.after:
        pytest.skip("in the long round")
    moments = spread(steps.moments[command], 12) if long else [steps.moments[command] * 3 // 4]
    for moment in moments:
        place = tmp_path / str(moment)
        place.mkdir()
        project = steps.before(command, place)
        killed = AtMoments(project / workspace_of(command), {moment: signal.SIGKILL})
        assert forked(project, *COMMANDS[command], disturbed=(killed,)).ended().code == -signal.SIGKILL, moment
        finish(project, command, steps)


@pytest.mark.parametrize("number", range(50))
def test_killed_from_outside_at_a_random_moment(number: int, steps: Steps, long: bool, tmp_path: Path) -> None:
    """The whole group of processes, started from nothing, at a moment that a clock decides."""
    if not long:
        pytest.skip("in the long round")
    draw = random.Random(number)
    command = draw.choice(list(COMMANDS))
    project = steps.before(command, tmp_path)
    running = spawned(project, *COMMANDS[command])
    time.sleep(draw.uniform(0, 8))
    os.killpg(running.pid, signal.SIGKILL)
    assert running.ended().code in (0, -signal.SIGKILL)  # 0: it was quicker
    gone(running)
    finish(project, command, steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_it_says_so_and_goes_on_to_the_same(
    command: str, number: signal.Signals, steps: Steps, long: bool, tmp_path: Path
) -> None:
    if command not in steps.after or (not long and SHORTLY.get(command) != number):
        pytest.skip("in the long round")
    for moment in spread(steps.moments[command], 6) if long else [steps.moments[command] * 2 // 3]:
        place = tmp_path / str(moment)
        place.mkdir()
        project = steps.before(command, place)
        once = AtMoments(project / workspace_of(command), {moment: number})
        ended = forked(project, *COMMANDS[command], disturbed=(once,)).ended()
        assert (ended.code, ended.err.count(ENDED), ended.out) == (130, 1, ""), ended.err
        assert "Traceback" not in ended.err
        finish(project, command, steps)


@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_twice_it_ends_at_once(command: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    if command not in steps.after or (not long and command != "extract"):
        pytest.skip("in the long round")
    for moment in spread(steps.moments[command], 6) if long else [steps.moments[command] // 2]:
        place = tmp_path / str(moment)
        place.mkdir()
        project = steps.before(command, place)
        both = {moment: signal.SIGTERM, moment + 1: signal.SIGTERM}
        twice = AtMoments(project / workspace_of(command), both)
        ended = forked(project, *COMMANDS[command], disturbed=(twice,)).ended()
        assert ended.code == 130
        assert 1 <= ended.err.count(ENDED) <= 2
        assert "Traceback" not in ended.err
        finish(project, command, steps)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("library", ["pydantic_core", "libtorch_cpu"])
def test_interrupted_while_it_starts(
    number: signal.Signals, library: str, steps: Steps, long: bool, tmp_path: Path
) -> None:
    """A library that is mapped shows how far it has come: the command line's, or the first of the command's own."""
    if not long and (number == signal.SIGTERM) != (library == "libtorch_cpu"):
        pytest.skip("in the long round")
    project = steps.before("train", tmp_path)
    running = spawned(project, *COMMANDS["train"])
    maps, patience = Path(f"/proc/{running.pid}/maps"), time.monotonic() + PATIENCE
    while library not in maps.read_text():
        assert time.monotonic() < patience
        time.sleep(0.002)  # the command needs the core more
    os.killpg(running.pid, number)
    ended = running.ended()
    assert (ended.code, ended.err.count(ENDED), ended.out) == (130, 1, ""), ended.err
    assert "Traceback" not in ended.err
    gone(running)
    assert left_behind(project) == []


@pytest.mark.parametrize("round_", range(20))
def test_interrupted_in_the_first_third_of_a_second(round_: int, steps: Steps, long: bool, tmp_path: Path) -> None:
    """Before any line of ours runs, Python itself ends: by the signal, or with its own words."""
    if not long:
        pytest.skip("in the long round")
    draw = random.Random(round_)
    project = steps.before("tile", tmp_path)
    running = spawned(project, *COMMANDS["tile"])
    number = draw.choice([signal.SIGINT, signal.SIGTERM])
    time.sleep(draw.uniform(0, 0.3))
    os.killpg(running.pid, number)
    ended = running.ended()
    own_words = ended.code == 1 and "Fatal Python error: init" in ended.err
    assert own_words or ended.code == -number or (ended.code == 130 and ENDED in ended.err), ended
    assert "wsipipe/" not in ended.err
    gone(running)
    finish(project, "tile", steps)


def test_a_worker_that_is_killed_costs_nothing(steps: Steps, tmp_path: Path) -> None:
    """As the system does it when memory runs out. The item in flight is tried once more."""
    project = steps.before("tile", tmp_path)
    running = spawned(project, *COMMANDS["tile"], "--workers", "1")
    patience = time.monotonic() + PATIENCE
    worker = None
    while worker is None:
        assert time.monotonic() < patience
        assert running.process.poll() is None
        worker = next((pid for pid in alive(running.pid) if is_worker(pid)), None)
        time.sleep(0 if worker else 0.01)  # the command needs the core more
    os.kill(worker, signal.SIGKILL)
    ended = running.ended()
    assert ended.code == 0, ended.err
    assert meaning(project) == steps.after["tile"]
    gone(running)


def is_worker(pid: int) -> bool:
    """Whether a process is a fork of the server of forks."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        lines = [Path(f"/proc/{number}/cmdline").read_bytes() for number in (pid, parent)]
    except OSError:
        return False
    return lines[0] == lines[1] and b"forkserver" in lines[0]
