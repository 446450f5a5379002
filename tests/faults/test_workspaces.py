"""Slides and workspaces that change while commands run, or between them; two commands at once; damaged manifests."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import PATIENCE, forked, left_behind, meaning
from disturbances import AtMoments, OtherContent
from projects import COMMANDS, Steps, workspace_of
from wsipipe.data.manifest import Manifest

SHORT = [("tile", "vanishes"), ("extract", "changes"), ("extract", "is truncated")]
TILES, FEATURES = "clinic/work/tiles/0.5mpp-224px", "clinic/work/features/0.5mpp-224px/efficientnet-lite0"


@pytest.mark.parametrize("what", ["changes", "is truncated", "is emptied", "vanishes"])
@pytest.mark.parametrize("command", ["tile", "extract"])
def test_a_slide_that_goes_while_it_is_read(command: str, what: str, steps: Steps, long: bool, tmp_path: Path) -> None:
    """The others are done. The next run redoes it, or says again what is wrong; back again, it is as before."""
    if not long and (command, what) not in SHORT:
        pytest.skip("in the long round")
    project = steps.before(command, tmp_path)
    slide, other = (project / f"clinic/slides/{name}.svs" for name in ("s1", "s2"))
    before, status = slide.read_bytes(), slide.stat()
    content = {
        "changes": other.read_bytes(),
        "is truncated": before[: len(before) // 2],
        "is emptied": b"",
        "vanishes": None,
    }[what]
    folder = project / (TILES if command == "tile" else FEATURES)
    # Among the first moments at which something is done in the folder: no slide is read by then.
    gone = AtMoments(folder, {4: OtherContent(slide, content)})
    ended = forked(project, *COMMANDS[command], disturbed=(gone,)).ended()
    assert ended.code in (0, 1), ended.err
    assert "Traceback" not in ended.err
    latest = Manifest.of(folder).latest(command)
    assert {latest[item].status for item in ("s0", "s2")} == {"done"}
    again = forked(project, *COMMANDS[command]).ended()
    assert again.code in (0, 1), again.err
    assert "Traceback" not in again.err
    slide.write_bytes(before)
    os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
    for step in ("tile", "extract")[: 1 + (command == "extract")]:
        last = forked(project, *COMMANDS[step], "--retry-failed").ended()
        assert last.code == 0, last.err
    assert meaning(project) == steps.after[command]
    assert left_behind(project) == []


def test_two_at_once(steps: Steps, tmp_path: Path) -> None:
    """The second says who is at work, and the first ends as if it had been alone."""
    project = steps.before("extract", tmp_path)
    stopped = AtMoments(project / workspace_of("extract"), {steps.moments["extract"] // 2: signal.SIGSTOP})
    first = forked(project, *COMMANDS["extract"], disturbed=(stopped,))
    patience = time.monotonic() + PATIENCE
    while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < patience
        time.sleep(0.01)
    second = forked(project, *COMMANDS["extract"]).ended()
    assert second.code == 2
    assert f'"pid": {first.pid}' in second.err
    assert "wait until it ends" in second.err
    os.kill(first.pid, signal.SIGCONT)
    assert first.ended().code == 0
    assert meaning(project) == steps.after["extract"]


def test_a_workspace_that_is_moved_in_the_middle(steps: Steps, tmp_path: Path) -> None:
    project = steps.before("extract", tmp_path)
    killed = AtMoments(project / workspace_of("extract"), {steps.moments["extract"] * 3 // 4: signal.SIGKILL})
    assert forked(project, *COMMANDS["extract"], disturbed=(killed,)).ended().code == -signal.SIGKILL
    before = {record.start for record in Manifest.of(project / FEATURES).records()}
    moved = Path(shutil.move(project, tmp_path / "elsewhere"))
    for command in ("tile", "extract"):
        ended = forked(moved, *COMMANDS[command]).ended()
        assert ended.code == 0, ended.err
    assert meaning(moved) == steps.after["extract"]
    after = {record.start for record in Manifest.of(moved / FEATURES).records()}
    assert before < after
    assert len(after) == 3


TORN = [b'{"schema":1,"stage":"ti', b"\0" * 512, b"\xff\xfe", b'{"schema":1}']


@pytest.mark.parametrize("tail", TORN, ids=["half", "zeros", "no UTF-8", "too little"])
def test_a_last_line_that_is_torn(tail: bytes, steps: Steps, long: bool, tmp_path: Path) -> None:
    """What a power cut leaves is dropped, said, and cut off before the next record."""
    if not long and tail not in TORN[:2]:
        pytest.skip("in the long round")
    project = steps.before("extract", tmp_path)
    file = project / TILES / "manifest.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    record = next(number for number, line in enumerate(lines) if b'"item":"s2"' in line)
    file.write_bytes(b"".join(lines[:record]) + tail)
    ended = forked(project, *COMMANDS["tile"]).ended()
    assert ended.code == 0, ended.err
    assert "dropped an incomplete last line" in ended.err
    assert forked(project, *COMMANDS["extract"]).ended().code == 0
    assert meaning(project) == steps.after["extract"]


GARBAGE = [b"garbage", b"\0\0\0", b"[]", b'{"schema":1}', b"\xff\xfe", b'"text"', b"17", b"null"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda line: repr(line[:12]))
def test_a_line_of_garbage(garbage: bytes, steps: Steps, long: bool, tmp_path: Path) -> None:
    """It is named, with the way out; that way leads out."""
    if not long and garbage not in GARBAGE[:2]:
        pytest.skip("in the long round")
    project = steps.before("extract", tmp_path)
    file = project / TILES / "manifest.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + garbage + b"\n" + b"".join(lines[2:]))
    ended = forked(project, *COMMANDS["tile"]).ended()
    assert ended.code == 1, ended.err
    assert f"{file}: line 2 is not a record" in ended.err
    assert "remove that line; the item that it recorded is then done again" in ended.err
    assert file.read_bytes() == lines[0] + garbage + b"\n" + b"".join(lines[2:])
    file.write_bytes(lines[0] + b"".join(lines[2:]))
    for command in ("tile", "extract"):
        assert forked(project, *COMMANDS[command]).ended().code == 0
    assert meaning(project) == steps.after["extract"]


def test_lines_that_are_there_twice(steps: Steps, tmp_path: Path) -> None:
    """As after two copies of a workspace were merged: nothing is done again."""
    project = steps.before("extract", tmp_path)
    file = project / TILES / "manifest.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, *lines, b"\n", *reversed(lines[:-1])]))
    for command in ("tile", "extract"):
        ended = forked(project, *COMMANDS[command]).ended()
        assert ended.code == 0, ended.err
        assert ("3 slides done before, nothing to do" in ended.err) == (command == "tile")
    assert meaning(project) == steps.after["extract"]
