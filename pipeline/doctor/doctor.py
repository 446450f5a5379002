"""Runs the checks, prints what they found group by group, and says whether anything failed."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ...data.errors import UsageError
from ...data.manifest import Json
from ...data.version import __version__
from ..config import load_config, parse
from ..console import Console, clock, counted
from ..flags import Flags
from .checks import CHECKS, CLEAR_AWAY, DEVICES, Check
from .examiner import Examiner
from .finding import Finding, Subject, failed, warning

_SIGNS = {"ok": "ok", "warning": "warning", "failed": "FAILED"}
_STYLES = {"ok": "", "warning": "bold", "failed": "bold red"}


@dataclass(frozen=True)
class Row:
    """A check that was made: its name and group as shown, its finding, and how long it took."""

    name: str
    group: str
    finding: Finding
    seconds: float
    device: str | None = None

    def to_json(self) -> dict[str, Json]:
        """The row for programs."""
        about = {"name": self.name, "group": self.group, "device": self.device}
        return {**about, **asdict(self.finding), "seconds": round(self.seconds, 2)}


def examine(subject: Subject, examiner: Examiner) -> Iterator[Row]:
    """Make every check; those of devices once for each device. Each gives a row, whatever happens."""
    for group, members in groupby(CHECKS, key=lambda check: check.group):
        checks = list(members)
        if not group.each_device:
            yield from examine_group(checks, subject, examiner, group.title)
            continue
        listed = examiner.run(DEVICES, subject)
        if listed.state != "ok":
            yield Row(DEVICES.name, "devices", listed, 0.0)
        for device in listed.figures.get("devices", ()):
            yield from examine_group(checks, replace(subject, device=device), examiner, device, device)


def examine_group(
    checks: list[Check], subject: Subject, examiner: Examiner, title: str, device: str | None = None
) -> Iterator[Row]:
    """Make the checks of a group, as long as it makes sense to go on."""
    stopped = ""
    for check in checks:
        begin = time.monotonic()
        found = warning(stopped, "") if stopped else examiner.run(check, subject)
        if examiner.hung:
            stopped = stopped or f"not checked, because {check.name} did not answer"
        elif check.first and found.state == "failed":
            stopped = f"not checked, because {check.name} failed"
        yield Row(check.name, title, found, time.monotonic() - begin, device)


def examine_here(
    file: Path | None, workspace: Path | None, flags: Flags, console: Console, *, seconds: float | None
) -> bool:
    """Check this machine for the settings of file and flags; wrong settings are a row of the report.

    :param seconds: time limit of each check; None: its own.
    :returns: whether nothing failed.
    """
    devices = flags["extract"].get("device")
    try:
        config = load_config(file, {**flags, "workspace": workspace})
        rows: tuple[Row, ...] = ()
    except UsageError as error:
        named = {"backbone": flags["extract"]["backbone"], "weights": flags["extract"]["weights"]}
        asked = {name: value for name, value in named.items() if value is not None}
        config = parse({"workspace": workspace or "work", "extract": asked})
        rows = (Row("settings", "settings", failed(str(error), error.hint), 0.0),)
    weights, stages = config.extract.weights, (config.tile, config.extract, config.train, config.predict)
    configured = [stage.device for stage in stages]
    subject = Subject(
        # Not resolved: looking at a share that hangs would hang here, outside of every time limit.
        workspace=os.path.abspath(config.workspace),  # noqa: PTH100
        backbone=config.extract.backbone,
        weights=None if weights is None else os.path.abspath(weights),  # noqa: PTH100
        features=config.features_name(),
        devices=devices,
        configured=tuple(dict.fromkeys(configured)),
        mark=f"wsipipe-doctor-{secrets.token_hex(4)}",
    )
    return run_doctor(subject, console, Examiner(seconds), before=rows)


def run_doctor(subject: Subject, console: Console, examiner: Examiner, *, before: tuple[Row, ...] = ()) -> bool:
    """Make all checks, and print what each found as soon as it is known.

    :param before: rows of what was found already.
    :returns: whether nothing failed.
    """
    begin = time.monotonic()
    rows: list[Row] = []
    with examiner:
        for title, members in groupby(chain(before, examine(subject, examiner)), key=lambda row: row.group):
            console.table(_heading(title))
            for row in members:
                console.table(_shown(row))
                rows.append(row)
                if console.debug and "trace" in row.finding.figures:
                    console.trace(row.finding.figures["trace"])
        if examiner.killed:
            examiner.run(CLEAR_AWAY, subject)
    states = [row.finding.state for row in rows]
    seconds = time.monotonic() - begin
    numbers = {"failed": states.count("failed"), "warnings": states.count("warning")}
    console.line("")
    console.line(
        f"{counted(len(rows), 'checks')} in {clock(seconds)}: "
        f"{numbers['failed']} failed, {counted(numbers['warnings'], 'warnings')}"
    )
    result = {"wsipipe": __version__, "workspace": subject.workspace, "seconds": round(seconds, 1), **numbers}
    console.result({**result, "checks": [row.to_json() for row in rows]})
    return not numbers["failed"]


def _heading(title: str) -> Table:
    heading = Table.grid()
    heading.add_row()
    heading.add_row(Text(title, "bold"))
    return heading


def _shown(row: Row) -> Table:
    """A row in columns that fit any terminal: what was found is wrapped, and the way out stands below it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=max(map(len, _SIGNS.values())), no_wrap=True)
    table.add_column(width=max(len(check.name) for check in CHECKS), no_wrap=True)
    table.add_column(overflow="fold")
    state = row.finding.state
    table.add_row(Text(_SIGNS[state], _STYLES[state]), Text(row.name), Text(row.finding.found))
    if row.finding.hint:
        table.add_row("", "", Text(f"→ {row.finding.hint}"))
    return table
