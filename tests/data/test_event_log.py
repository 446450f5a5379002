"""The log for machines: whole lines, whatever happened before, whoever else writes; bounded; never in the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from wsipipe.data import event_log
from wsipipe.data.errors import UsageError
from wsipipe.data.event_log import EARLIER, EventLog


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_lines_that_say_when_which_run_and_what(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "tiles", "tile")
    log.write("run started", host="h")
    log.write("item done", item='a"\n\x1b', seconds=1.5)
    first, second = events(log.path)
    assert (first["event"], first["host"], second["item"], second["seconds"]) == ("run started", "h", 'a"\n\x1b', 1.5)
    assert first["run"] == second["run"] != EventLog(tmp_path, "tile")._about["run"]
    assert first["stage"] == "tile"
    assert str(first["time"]).endswith("+00:00")


def test_a_torn_line_stays_a_line_of_its_own(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "tile")
    log.path.write_text('{"time": "2026')
    log.write("a")
    log.write("b")
    torn, *whole = log.path.read_text().splitlines()
    assert torn == '{"time": "2026'
    assert [json.loads(line)["event"] for line in whole] == ["a", "b"]


def test_several_writers_leave_whole_lines(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom wsipipe.data.event_log import EventLog\n"
        "log = EventLog(Path(sys.argv[1]), sys.argv[2])\n"
        "for n in range(300): log.write('item done', item='x' * n)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    seen = events(tmp_path / event_log.NAME)
    for name in "ab":
        assert [len(str(event["item"])) for event in seen if event["stage"] == name] == [*range(300)]


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "_MOST_BYTES", 1000)
    for number in range(30):
        EventLog(tmp_path, "tile").write("run started", number=number, text="x" * 200)
    assert sorted(file.name for file in tmp_path.iterdir()) == [EARLIER, event_log.NAME]
    kept = [event["number"] for file in (EARLIER, event_log.NAME) for event in events(tmp_path / file)]
    assert kept == [*range(30)][-len(kept) :]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3000


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path, "tile")
    log.write("a")
    log.path.unlink()
    log.path.mkdir()
    with pytest.warns(UserWarning, match="the log cannot be written"):
        log.write("b")
    log.write("c")  # said once


def test_no_link_is_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    log = EventLog(tmp_path / "tiles", "tile")
    log.path.parent.mkdir()
    log.path.symlink_to(precious)
    with pytest.raises(UsageError, match="is a link"):
        log.write("a")
    assert precious.read_text() == "precious"
