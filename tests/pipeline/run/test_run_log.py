"""What a run tells the log for machines, and how much memory it took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import told, wsipipe
from copy_stage import copy_stage
from wsipipe.pipeline.run import usage
from wsipipe.pipeline.run.run_log import RunLog
from wsipipe.pipeline.run.usage import memory_of


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "work/tiles/0.5mpp-224px/events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["stage"] == "tile"]


def test_start_items_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.svs").write_text("no slide")
    summary = told("tile", "bad.svs", "--workers", 1, code=1)["tile"]
    started, planned, failed, ended = events(tmp_path)
    assert len({event["run"] for event in (started, planned, failed, ended)}) == 1
    assert (started["event"], started["settings"]["mpp"], planned["items"]["run"]) == ("run started", 0.5, 1)
    assert {"wsipipe", "python", "libraries", "host", "pid"} <= started.keys()
    assert (failed["event"], failed["item"], failed["error"]["retry"]) == ("item failed", "bad", False)
    assert (ended["event"], ended["how"], ended["items"]) == ("run ended", "completed", {"failed": 1})
    assert ended["peak_memory"] == summary["peak_memory"] >= 0

    assert wsipipe("tile", "bad.svs", "--workers", 1).exit_code == 1
    again = events(tmp_path)[4:]
    assert [event["event"] for event in again] == ["run started", "items planned", "run ended"]
    assert again[1]["items"] == {"current": 0, "run": 0, "waiting": 1, "judged": 0, "rejected": 0}


def test_a_run_that_ends_with_an_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.svs").write_text("no slide")
    words = ("tile", "bad.svs", "--annotations", "a.geojson", "--coordinates", "b")
    assert wsipipe(*words).exit_code == 2
    ended = json.loads(next(tmp_path.glob("work/tiles/*/events.jsonl")).read_text().splitlines()[-1])
    assert (ended["how"], ended["error"]["type"]) == ("error", "UsageError")


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_a_stage_is_looked_at_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_SECONDS", 0.01)
    stage = copy_stage(tmp_path)
    stage.folder.mkdir(parents=True)
    with usage.Usage() as seen, RunLog(stage, seen):
        while not seen.memory:
            time.sleep(0.01)
    ended = json.loads((stage.folder / "events.jsonl").read_text().splitlines()[-1])
    assert ended["peak_memory"] == seen.memory > 10_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_memory_of_children_counts_once_with_their_parent() -> None:
    code = "block = bytearray(80_000_000)\nprint('ready', flush=True)\ninput()"
    alone = memory_of(Path("/proc/self"))
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert memory_of(Path("/proc/self")) - alone > 75_000_000
    finally:
        child.communicate(b"\n")
    assert memory_of(Path(f"/proc/{child.pid}")) == 0
