"""Shards of a command (``--shard 1/2``): they come to what one run comes to, whoever is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from commands import left_behind, meaning
from disturbances import AtMoments
from own_process import Ended, forked
from projects import COMMANDS, Steps, workspace_of
from wsipipe.data.manifest import Manifest

CLOSED = {"tile": "tiles/0.5mpp-224px/qc/index.html", "train": "models/er/report.html"}
"""What a command makes once for all items, of those that shards can do in one round."""


def folder_of_log(project: Path, command: str) -> list[Path]:
    return sorted((project / workspace_of(command)).rglob("manifest.jsonl"))


def done_twice(project: Path, command: str) -> list[tuple[str, str]]:
    """Items that were done more than once."""
    twice = []
    for file in folder_of_log(project, command):
        starts: dict[tuple[str, str], set[object]] = {}
        for record in Manifest(file).records():
            if record.status == "done":
                starts.setdefault((record.stage, record.item), set()).add(record.start)
        twice += [item for item, own in starts.items() if len(own) > 1]
    return twice


def shard(project: Path, command: str, number: int, *, code: int = 0) -> Ended:
    ended = forked(project, *COMMANDS[command], "--shard", f"{number}/2").ended()
    assert ended.code == code, ended.err
    return ended


@pytest.mark.parametrize("command", ["tile", "extract", "train"])
def test_two_shards_and_one_run_come_to_the_same(command: str, steps: Steps, tmp_path: Path) -> None:
    project = steps.before(command, tmp_path)
    workspace = project / workspace_of(command)
    shard(project, command, 2)
    if command in CLOSED:
        assert not (workspace / CLOSED[command]).exists()
    status = forked(project, "status", "-w", workspace_of(command), "--json").ended()
    [unfinished] = json.loads(status.out)["shards"].values()
    assert unfinished == {"stage": command, "of": 2, "missing": [1], "begun": []}
    shard(project, command, 1)
    assert meaning(project) == steps.after[command]
    assert left_behind(project) == []
    assert not list(workspace.rglob("*-of-2*"))
    assert done_twice(project, command) == []
    before = {file: file.read_bytes() for file in folder_of_log(project, command)}
    assert forked(project, *COMMANDS[command]).ended().code == 0
    assert {file: file.read_bytes() for file in before} == before  # a run without shards finds nothing to do


@pytest.mark.parametrize("command", ["tile", "train"])
def test_shards_that_are_killed_come_to_the_same(command: str, steps: Steps, tmp_path: Path) -> None:
    """Three kills: of either shard, and of the run without shards that takes over."""
    project = steps.before(command, tmp_path)
    kills = [("1/2", 1, 2), ("2/2", 1, 3), ("", 1, 2)]
    for name, of, part in kills:
        moment = max(1, steps.moments[command] * of // (2 * part))
        killed = AtMoments(project / workspace_of(command), {moment: signal.SIGKILL})
        words = (*COMMANDS[command], *(("--shard", name) if name else ()))
        assert forked(project, *words, disturbed=(killed,)).ended().code == -signal.SIGKILL, (name, moment)
    assert forked(project, *COMMANDS[command]).ended().code == 0
    assert meaning(project) == steps.after[command]
    assert left_behind(project) == []
    assert not list((project / workspace_of(command)).rglob("*-of-2*"))
    assert done_twice(project, command) == []


def test_what_needs_all_shards_of_the_stage_before_says_so(steps: Steps, tmp_path: Path) -> None:
    project = steps.before("tile", tmp_path)
    shard(project, "tile", 1)
    extracting = forked(project, *COMMANDS["extract"], "--shard", "2/2").ended()
    assert extracting.code == 2
    assert "extract needs all of tile, and shard 2 of 2 of tile has not finished" in extracting.err
    assert "--shard 2/2" in extracting.err
    other = forked(project, *COMMANDS["extract"], "--shard", "1/3").ended()
    assert "shard 2 of 2 of tile has not finished" in other.err
    exported = forked(project, "export", "trident", "-w", "clinic/work").ended()
    assert exported.code == 2
    assert "export needs all of tile" in exported.err
    assert forked(project, *COMMANDS["extract"], "--shard", "1/2").ended().code == 0  # its slides are tiled
