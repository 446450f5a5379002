"""Console output: progress bars, tables, notes and errors for people, or one JSON object for programs.

Progress and messages go to standard error. Standard output gets the closing table or, with ``--json``, one JSON object
and nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from rich.console import Console as RichConsole
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..data.errors import WsipipeError
from ..data.manifest import Json
from ..stages.stage import Item, Stage
from .failures import FEW, failure_lines, grouped, kind_of
from .process import writable
from .results import Failure, Result, Summary
from .terminal import LogLevel, SafeConsole, visible

_PLAIN_SECONDS = 10.0
"""Time between two lines of progress when the output is not a terminal."""
_FILE_WIDTH = 200
"""Columns of tables in a file or pipe."""


class StageProgress(Protocol):
    """Progress of a running stage, as reported by the stage and the runner."""

    def advance(self, units: int) -> None:
        """Report that so many more units are done."""

    def say(self, text: str) -> None:
        """Report what is happening now, in a few words."""

    def finished(self, result: Result) -> None:
        """Report that an item is done, empty or failed."""


class Console:
    """Prints messages, tables and results.

    :param json_only: keep standard output for one JSON object.
    :param debug: show tracebacks of errors.
    :param closes: a closing table will list the reasons of failures, so they are not printed as they happen.
    :param level: the least important messages that are printed to standard error.
    """

    def __init__(
        self, *, json_only: bool = False, debug: bool = False, closes: bool = False, level: LogLevel = LogLevel.info
    ) -> None:
        self.json_only = json_only
        self.debug = debug or level is LogLevel.debug
        self._level = level
        self._closes = closes and not json_only
        self._failures: Counter[tuple[str, str]] = Counter()
        self._open_reasons: list[Failure] = []  # failures that the closing table has not listed yet
        self._stdout = writable(sys.stdout)
        self._out = _rich(self._stdout)
        self._err = _rich(writable(sys.stderr))

    def shows(self, level: LogLevel) -> bool:
        """Whether messages of this importance are printed."""
        return level.rank >= self._level.rank

    def note(self, text: str) -> None:
        """Print a remark."""
        if self.shows(LogLevel.info):
            self._err.print(_plain(text), style="dim")

    def warning(self, text: str) -> None:
        """Print a warning."""
        if self.shows(LogLevel.warning):
            self._err.print(_plain(f"warning: {text}"), style="dim")

    def trace(self, text: str) -> None:
        """Print a traceback, which has several lines; all are indented, so that none looks like one of ours."""
        for line in text.splitlines():
            self._err.print(f"  {_plain(line)}", style="dim")

    def heading(self, text: str) -> None:
        """Print the heading of a new part of a longer run."""
        if self.shows(LogLevel.info):
            self._err.print(f"[bold]{_plain(text)}[/]")

    def failure(self, item: str, message: str, hint: str, trace: str = "") -> None:
        """Print that an item failed; the run goes on. Of many with the same reason, the first few are named."""
        failure = Failure(item, message, hint)
        kind = kind_of(failure)
        self._failures[kind] += 1
        if self._closes:
            self._open_reasons.append(failure)
        if self.shows(LogLevel.warning) and self._failures[kind] <= FEW:
            self._err.print(f"[red]failed[/] {_plain(item)} [dim](why: below)[/]" if self._closes else _reason(failure))
        elif self.shows(LogLevel.warning) and self._failures[kind] == FEW + 1:
            self._err.print("[red]failed[/] more with the same reason: they are counted, and listed in the manifest")
        if self.debug and trace:
            self.trace(trace)

    def error(self, error: WsipipeError) -> None:
        """Print the error that ends the command."""
        self.open_reasons()
        self._err.print(f"[red bold]error[/] {_plain(str(error))}" + _way_out(error.hint))

    def open_reasons(self) -> None:
        """Print why items failed, where the command ends before its closing table."""
        for group in grouped(self._open_reasons):
            if len(group.failures) <= FEW:
                for failure in group.failures:
                    self._err.print(_reason(failure))
            else:
                for line in group.lines:
                    self._err.print(_plain(line if line.startswith(" ") else f"failed {line}"))
        self._open_reasons.clear()

    def table(self, table: Table) -> None:
        """Print a table, unless ``json_only``."""
        if not self.json_only:
            self._out.print(table)

    @contextmanager
    def changing(self) -> Iterator[Callable[[Table], None]]:
        """Show a table that changes; yields a function that shows it. Without a terminal, each is printed below."""
        if self._out.is_terminal:
            with Live(console=self._out, auto_refresh=False) as live:
                yield lambda table: live.update(table, refresh=True)
        else:
            yield self.table

    def line(self, text: str) -> None:
        """Print a line of the command's result, unless ``json_only``."""
        if not self.json_only:
            self._out.print(_plain(text))

    def result(self, value: Json) -> None:
        """Print the command's result as one line of JSON, if ``json_only``."""
        if self.json_only:
            self._stdout.write(json.dumps(value, default=str, allow_nan=False) + "\n")
            self._stdout.flush()

    @contextmanager
    def stage(self, stage: Stage[Any], items: Sequence[Item], *, before: int) -> Iterator[StageProgress]:
        """Show a stage while it runs: a bar on a terminal, plain lines elsewhere."""
        if not items:
            self.note(f"{stage.name}: {counted(before, stage.items)} done before, nothing to do")
            yield _Lines(self, stage, items, before, quiet=True)
        elif self._err.is_terminal and self.shows(LogLevel.info):
            with _bar(self._err) as bar:
                yield _Bar(self, bar, stage, items)
        else:
            lines = _Lines(self, stage, items, before)
            yield lines
            lines.close()

    @contextmanager
    def counting(self, name: str, items: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how much of a command's own work is done; yields a function that adds a number of items.

        :param items: what is counted, in the plural.
        """
        if self._err.is_terminal:
            with _bar(self._err) as bar:
                done = 0
                task = bar.add_task(name, total=total, unit=items, items=f"0/{total:,} {items}", now="")

                def advance(number: int) -> None:
                    nonlocal done
                    done += number
                    bar.update(task, advance=number, items=f"{done:,}/{total:,} {items}")

                yield advance
            return
        start = last = time.monotonic()
        count = 0

        def print_sometimes(number: int) -> None:
            nonlocal count, last
            count += number
            if (now := time.monotonic()) - last >= _PLAIN_SECONDS:
                last = now
                left = clock((total - count) * (now - start) / count) if count else "?"
                self.note(f"{name}: {count:,}/{counted(total, items)}, {left} left")

        yield print_sometimes

    def summaries(self, summaries: Sequence[Summary]) -> None:
        """Print the table at the end of a run, and the failures below it."""
        table = Table(title=None, header_style="bold", box=None, padding=(0, 2, 0, 0))
        for name in ("stage", "", "done", "before", "empty", "failed", "time", "memory", "rate"):
            table.add_column(name, justify="left" if name in {"stage", ""} else "right", no_wrap=True)
        folders = Counter(stage for stage, _ in {(s.stage, s.folder) for s in summaries})
        for s in summaries:
            stage = s.stage if folders[s.stage] == 1 else f"{s.stage} {s.folder.name}"  # of several biomarkers
            rate = f"{s.units / s.seconds:,.0f} {s.unit}/s" if s.units and s.seconds and s.unit == "tiles" else ""
            bad = f"[red]{len(s.failures)}[/]" if s.failures else "0"
            table.add_row(
                _plain(stage),
                s.items,
                str(s.done),
                str(s.before),
                str(s.empty),
                bad,
                clock(s.seconds),
                _memory(s),
                rate,
            )
        self.table(table)
        self._open_reasons.clear()
        for s in summaries:
            if undecoded := s.stats.get("bad_tiles"):
                self.line(
                    f"{s.stage}: {undecoded:,} tiles cannot be decoded and are left out (bad_tiles of each slide)"
                )
            for line in failure_lines(s):
                self.line(line)


def _memory(summary: Summary) -> str:
    """The most memory that a stage took, and on GPUs."""
    of_gpus = [f"{size / 1e9:,.1f} on {gpu}" for gpu, size in summary.peak_gpu_memory.items() if size]
    of_all = [f"{summary.peak_memory / 1e9:,.1f}"] if summary.peak_memory else []
    return " + ".join([*of_all, *of_gpus]) + " GB" if of_all or of_gpus else ""


def _rich(stream: TextIO) -> RichConsole:
    """A rich console as wide as the terminal; in a file or a pipe, lines are never wrapped or cut."""
    if stream.isatty():
        return SafeConsole(file=stream, highlight=False)
    return SafeConsole(file=stream, highlight=False, soft_wrap=True, width=_FILE_WIDTH)


class _Bar:
    """Progress on a terminal."""

    def __init__(self, console: Console, bar: Progress, stage: Stage[Any], items: Sequence[Item]) -> None:
        self._console, self._bar, self._stage, self._total = console, bar, stage, len(items)
        self._done = self._failed = 0
        unit = stage.unit or stage.items
        self._task = bar.add_task(stage.name, total=sum(i.size for i in items), unit=unit, items=self._items(), now="")

    def _items(self) -> str:
        return f"{self._done}/{self._total} {self._stage.items}" + (
            f" [red]{self._failed} failed[/]" if self._failed else ""
        )

    def advance(self, units: int) -> None:
        self._bar.advance(self._task, units)

    def say(self, text: str) -> None:
        self._bar.update(self._task, now=_plain(text))

    def finished(self, result: Result) -> None:
        self._done += 1
        if result.error:
            self._failed += 1
            self._console.failure(result.item.id, result.error.message, result.error.hint, result.trace)
        self._bar.update(self._task, advance=0 if self._stage.unit else result.item.size, items=self._items())


class _Lines:
    """Progress as plain lines, for log files, Slurm and Docker."""

    def __init__(
        self, console: Console, stage: Stage[Any], items: Sequence[Item], before: int, *, quiet: bool = False
    ) -> None:
        self._console, self._stage, self._items = console, stage, len(items)
        self._total, self._units, self._done, self._failed = sum(i.size for i in items), 0, 0, 0
        self._start = self._last = time.monotonic()
        self._now = ""
        if not quiet:
            earlier = f", {before} done before" if before else ""
            console.note(f"{stage.name}: {counted(len(items), stage.items)} to do{earlier}")

    def advance(self, units: int) -> None:
        self._units += units
        if time.monotonic() - self._last >= _PLAIN_SECONDS:
            self._print_line()

    def say(self, text: str) -> None:
        self._now = text

    def finished(self, result: Result) -> None:
        self._done += 1
        if result.error:
            self._failed += 1
            self._console.failure(result.item.id, result.error.message, result.error.hint, result.trace)
        self.advance(0 if self._stage.unit else result.item.size)

    def _print_line(self) -> None:
        self._last = time.monotonic()
        seconds = self._last - self._start
        rate = self._units / seconds if seconds else 0.0
        left = f", {clock((self._total - self._units) / rate)} left" if rate and self._units < self._total else ""
        failed = f", {self._failed} failed" if self._failed else ""
        now = f" · {self._now}" if self._now else ""
        self._console.note(
            f"{self._stage.name}: {self._done}/{self._items} {self._stage.items}, "
            f"{rate:,.1f} {self._stage.unit or self._stage.items}/s{left}{failed}{now}"
        )

    def close(self) -> None:
        self._print_line()


class _Rate(ProgressColumn):
    """Recent units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {task.fields['unit']}/s" if speed else "", style="cyan")


def _bar(console: RichConsole) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[items]}"),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]{task.fields[now]}"),
        console=console,
    )


def _way_out(hint: str) -> str:
    return f"\n  [dim]→ {_plain(hint)}[/]" if hint else ""


def _reason(failure: Failure) -> str:
    return f"[red]failed[/] {_plain(failure.item)}: {_plain(failure.message)}" + _way_out(failure.hint)


def _plain(text: str) -> str:
    """Text of which nothing is markup, and nothing acts on the terminal."""
    return escape(visible(text))


def counted(number: int, items: str) -> str:
    """A number with its noun, such as ``12 slides`` and ``1 slide``."""
    single = {"matrices": "matrix"}.get(items, items.removesuffix("s"))
    return f"{number:,} {single if number == 1 else items}"


def clock(seconds: float) -> str:
    """A duration, such as ``0.4 s``, ``12 s``, ``3:07``, ``2:03:07``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
