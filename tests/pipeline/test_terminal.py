"""What is printed: nothing from outside acts on the terminal, failures are said once, and what to type next."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command import wsipipe
from rich.table import Table
from wsipipe.pipeline.config import parse
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.failures import FEW, failure_lines, grouped, next_command
from wsipipe.pipeline.results import Failure, Result, Summary
from wsipipe.pipeline.status import show_status
from wsipipe.pipeline.terminal import LogLevel, visible
from wsipipe.stages.settings import Settings
from wsipipe.stages.stage import Item, Outcome, Plan, Progress, Stage

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\rerror\nwsipipe: all is well\u202egnp.svs\u2028next [red]x[/]\x00"
ACTING = set("\x1b\x07\x9b\r\u202e\u2028\x00")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


Streams = Callable[[], tuple[io.StringIO, io.StringIO]]


@pytest.fixture(params=[Terminal, io.StringIO], ids=["terminal", "file"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Takes the place of standard output and standard error when it is called."""

    def replaced() -> tuple[io.StringIO, io.StringIO]:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "5000")  # so that no line is wrapped
        monkeypatch.setenv("TERM", "dumb")  # so that nothing of rich's own is in what is printed
        out, err = request.param(), request.param()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return replaced


class OneItem(Stage[Settings]):
    name, version = "tile", 1

    def plan(self) -> Plan:
        return Plan([])

    def process(self, item: Item, progress: Progress) -> Outcome:
        return Outcome()


def test_nothing_from_outside_acts_on_the_terminal(streams: Streams, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from wsipipe.data.errors import UsageError
    from wsipipe.data.manifest import ErrorRecord

    printed_to = streams()
    console = Console(debug=True)
    console.note(HOSTILE)
    console.warning(HOSTILE)
    console.heading(HOSTILE)
    console.line(HOSTILE)
    console.failure(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    closing = Console(closes=True)
    for number in range(FEW + 2):
        closing.failure(f"{HOSTILE}{number}", HOSTILE, HOSTILE)
    closing.open_reasons()
    console.error(UsageError(HOSTILE, path=HOSTILE, hint=HOSTILE))
    table = Table()
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.table(table)
    failure = Failure(HOSTILE, HOSTILE, HOSTILE)
    console.summaries([Summary("tile", tmp_path / HOSTILE.replace("\x00", ""), "slides", failures=(failure,) * 9)])
    item = Item(HOSTILE, {})
    error = ErrorRecord(type="x", message=HOSTILE, hint=HOSTILE, retry=False)
    with console.stage(OneItem(Settings(), tmp_path, tmp_path), [item], before=0) as progress:
        progress.say(HOSTILE)
        progress.finished(Result(item, None, {}, error, datetime.now(UTC), 0.0, HOSTILE))
    for stream in printed_to:
        printed = stream.getvalue()
        assert not ACTING & set(printed)
        assert not any(line.startswith("wsipipe: all is well") for line in printed.split("\n"))
        assert r"\x1b[2J" in printed
        assert "[red]" in printed, "what looks like markup is text"


def test_text_stays_as_it_is() -> None:
    for text in ("plain", "Größe µm² – 玻片 🔬", "a\\nb", "{x} %s"):
        assert visible(text) == text


def test_folders_with_odd_names_in_status(streams: Streams, tmp_path: Path) -> None:
    from wsipipe.data.manifest import Manifest, Record

    folder = tmp_path / "work" / "tiles" / HOSTILE.replace("\x00", "").replace("/", "")
    fields = {"stage": "tile", "stage_version": 1, "item": "a", "status": "empty", "fingerprint": "", "settings": {}}
    folder.mkdir(parents=True)
    record = Record(**fields, inputs={}, start=datetime(2026, 1, 1, tzinfo=UTC), seconds=1, wsipipe="")
    Manifest.of(folder).append(record)
    out, _ = streams()
    show_status(parse({"workspace": tmp_path / "work"}), Console(), compare=False)
    assert not ACTING & set(out.getvalue())
    assert "[red]x[]" in out.getvalue(), "the slash of the name was taken out, and nothing else"


def failures(number: int, *, retry: bool = False) -> tuple[Failure, ...]:
    return tuple(
        Failure(f"s{n}", f"/slides/of: one/s{n}.svs: 1{n} tiles of s{n} cannot be decoded", f"copy s{n} again", retry)
        for n in range(number)
    )


def test_many_failures_of_one_kind_are_one_line_with_their_number() -> None:
    other = Failure("x", "the disk is full", "free some space", retry=True)
    lines = [*failure_lines(Summary("tile", Path("work/tiles"), "slides", failures=(*failures(300), other)))]
    assert lines == [
        "failed in tile: 300 with the same fault: s0, s1, s2 and 297 more: 10 tiles of s0 cannot be decoded",
        "    copy s0 again",
        "failed in tile: x: the disk is full",
        "    free some space",
        "all of them, with their reasons: wsipipe status, or work/tiles/manifest.jsonl",
    ]


def test_few_are_listed_each() -> None:
    lines = [*failure_lines(Summary("tile", Path("work/tiles"), "slides", failures=failures(2)))]
    assert [line for line in lines if line.startswith("failed")] == [
        "failed in tile: s0: /slides/of: one/s0.svs: 10 tiles of s0 cannot be decoded",
        "failed in tile: s1: /slides/of: one/s1.svs: 11 tiles of s1 cannot be decoded",
    ]


def test_messages_that_differ_in_more_than_names_and_numbers_stay_apart() -> None:
    messages = ["a: is empty", "a: has no resolution", "is empty", "12 tiles", "13 tiles"]
    kinds = grouped([Failure("a", message, "") for message in messages])
    assert [len(kind.failures) for kind in kinds] == [1, 1, 1, 2]


def test_while_it_runs_few_of_a_kind_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(closes=True)
    for failure in failures(50):
        console.failure(failure.item, failure.message, failure.hint)
    printed = capsys.readouterr().err
    assert printed.count("(why: below)") == FEW
    assert printed.count("more with the same reason") == 1
    console.open_reasons()
    assert "50 with the same fault: s0, s1, s2 and 47 more" in capsys.readouterr().err


def test_what_to_type_next() -> None:
    words = ["wsipipe", "tile", "my slides", "-w", "work"]

    def after(*failures: Failure) -> str:
        return "\n".join(next_command([Summary("tile", Path(), "slides", failures=failures)], words))

    assert after() == ""
    assert after(*failures(1, retry=True)).startswith("next: wsipipe tile 'my slides' -w work\n")
    mended = after(*failures(1), *failures(1, retry=True))
    assert "then: wsipipe tile 'my slides' -w work\n" in mended
    assert mended.endswith("wsipipe tile 'my slides' -w work --retry-failed")


def test_the_command_that_was_typed_is_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_text("no slide")
    words = ["tile", tmp_path / "bad.svs", "-w", tmp_path / "my work", "--workers", 1]
    printed = wsipipe(*words).stdout
    assert f"then: wsipipe tile {tmp_path}/bad.svs -w '{tmp_path}/my work' --workers 1\n" in printed


@pytest.mark.parametrize(
    ("level", "printed"),
    [
        ("debug", ["to do", "failed bad", "Traceback"]),
        ("info", ["to do", "failed bad"]),
        ("warning", ["failed bad"]),
        ("error", []),
    ],
)
def test_how_much_is_printed(tmp_path: Path, level: str, printed: list[str]) -> None:
    (tmp_path / "bad.svs").write_text("no slide")
    words = ["tile", tmp_path / "bad.svs", "-w", tmp_path / "work", "--workers", 1, "--log-level", level]
    result = wsipipe(*words)
    assert [word for word in ("to do", "failed bad", "Traceback") if word in result.stderr] == printed
    assert "failed in tile: bad" in result.stdout, "the result is printed at any level"


def test_levels_are_in_order() -> None:
    assert [level.rank for level in LogLevel] == [0, 1, 2, 3]
