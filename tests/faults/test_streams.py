"""Commands whose standard streams, environment or terminal are not what they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Running, forked, meaning, spawned
from disturbances import Streams
from projects import COMMANDS, Steps

ENTRY = (sys.executable, "-c", "from wsipipe.pipeline.entry import main; main()")


def bare(**variables: str) -> dict[str, str]:
    """An environment with nothing in it but where programs and packages are."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which ``$W`` is the command."""
    script = f"W() {{ '{ENTRY[0]}' {ENTRY[1]} '{ENTRY[2]}' \"$@\"; }}\n{line}"
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", ["init --json", "--help", "status", "status --json"])
def test_a_reader_that_leaves(words: str, tmp_path: Path) -> None:
    """``wsipipe … | head -1``: what the command does is done, without a word about the pipe."""
    done = shell(tmp_path, f"{{ W {words}; echo $? >code; }} | true")
    assert ((tmp_path / "code").read_text().strip(), done.stderr) == ("0", "")
    assert (tmp_path / "wsipipe.toml").exists() == words.startswith("init")


def test_what_cannot_be_written_does_not_end_the_work(steps: Steps, tmp_path: Path) -> None:
    """Neither messages that nobody reads, nor a log on a full disk."""
    for number, streams in enumerate(["2>&1 | true", "2>/dev/full", ">&- 2>&- <&-"]):
        place = tmp_path / str(number)
        place.mkdir()
        project = steps.before("tile", place)
        shell(project, f"{{ W {' '.join(COMMANDS['tile'])}; echo $? >code; }} {streams}")
        assert (project / "code").read_text().strip() == "0"
        assert meaning(project) == steps.after["tile"]


def test_a_result_that_is_lost_is_an_error(tmp_path: Path) -> None:
    done = shell(tmp_path, "W status --json >/dev/full")
    assert done.returncode == 1
    assert done.stderr == "error could not write the result to standard output: No space left on device\n"


def test_closed_streams_are_no_files_of_the_workspace(steps: Steps, tmp_path: Path) -> None:
    """The next file that is opened would get the number of a closed stream, and what is printed."""
    project = steps.before("extract", tmp_path)
    ended = forked(project, *COMMANDS["extract"], disturbed=(Streams(closed=(0, 1, 2)),)).ended()
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert meaning(project) == steps.after["extract"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_streams_that_are_not_utf_8(encoding: str, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        ended = forked(tmp_path, *words, disturbed=(Streams(encoding=encoding),)).ended()
        assert ended.code in (0, 1, 2), ended.err
        assert "codec" not in ended.err
        return ended.out + ended.err

    assert "efficientnet-lite0" in said("backbones")
    assert "Usage:" in said("--help")
    assert "0.5" in said("tile", "--help")
    assert "no slides are given" in said("tile", "-w", str(tmp_path / "work"))
    assert "Invalid value" in said("tile", "--mpp", "µ")
    assert "ä–µ→" not in said("tile", "ä–µ→\udcff.svs")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8"},
        {"TERM": "dumb"},
        {"TMPDIR": "/nowhere/at/all"},
        {"HOME": "/nowhere/at/all"},
        {},
    ],
    ids=lambda e: "-".join(e) or "HOME unset",
)
def test_other_environments(environment: dict[str, str], steps: Steps, long: bool, tmp_path: Path) -> None:
    if not long and environment not in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}):
        pytest.skip("in the long round")
    for command in steps.after if long else ("tile",):
        place = tmp_path / command
        place.mkdir()
        project = steps.before(command, place)
        ended = spawned(project, *COMMANDS[command], environment=bare(**environment)).ended()
        assert (ended.code, "Traceback" in ended.err) == (0, False), ended.err
        assert meaning(project) == steps.after[command]


def test_a_terminal_gets_its_bars_and_its_cursor_back(steps: Steps, tmp_path: Path) -> None:
    """A terminal that goes away in the middle does not end the work."""
    project = steps.before("tile", tmp_path)
    ours, theirs = os.openpty()
    running = spawned(
        project, *COMMANDS["tile"], stdout=theirs, stderr=theirs, environment=bare(TERM="xterm", LC_ALL="C.UTF-8")
    )
    os.close(theirs)
    assert read_all(ours, running).endswith(b"\n")
    assert running.ended().code == 0
    gone = steps.before("tile", tmp_path / "gone")
    ours, theirs = os.openpty()
    running = spawned(gone, *COMMANDS["tile"], stdout=theirs, stderr=theirs, environment=bare(TERM="xterm"))
    os.close(theirs)
    os.close(ours)
    assert running.ended().code == 0
    assert meaning(project) == meaning(gone) == steps.after["tile"]


def read_all(terminal: int, running: Running) -> bytes:
    """What a command shows on a terminal until its end."""
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            running.ended()
            return shown
        shown += part
