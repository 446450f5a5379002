"""``wsipipe check``: shows what was found on one screen, and what a run says before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ..config import Config
from ..console import Console, clock, counted
from ..terminal import visible
from .check import check
from .report import Fact, Finding, Report

_STAGES = ("tile", "extract", "genomics", "train", "predict")
_AT_A_RUN = 20.0
"""Seconds for opening slides when a run begins."""


def check_here(config: Config, console: Console, *, seconds: float) -> bool:
    """Check, and print the findings in two groups, then what was found to be so.

    :param seconds: time limit for opening slides.
    :returns: whether nothing will stop a stage.
    """
    begin = time.monotonic()
    report = check(config, seconds=seconds)
    taken = time.monotonic() - begin
    stops, look = report.of("stops"), report.of("look")
    for title, findings, style in (("will stop a stage", stops, "bold red"), ("look at this", look, "bold")):
        if findings:
            console.table(_heading(title, style))
            console.table(findings_table(findings))
    console.table(_heading("found", "bold"))
    console.table(facts_table(report.facts))
    console.line(f"{verdict(report)} ({clock(taken)})")
    console.result(
        {
            "workspace": str(config.workspace),
            "seconds": round(taken, 1),
            "stops": len(stops),
            "look": len(look),
            "findings": [vars(finding) for finding in report.findings],
            "facts": [vars(fact) for fact in report.facts],
        }
    )
    return not stops


def check_before_run(config: Config, console: Console) -> None:
    """Say what a run will meet, before it begins; the run goes on, since what it can do stays done."""
    try:
        report = check(config, seconds=_AT_A_RUN, large=False)
    except Exception as error:  # noqa: BLE001  the boundary: a run is not ended by what only looks at its inputs
        console.warning(f"the check before the run failed: {type(error).__name__}: {error}")
        return
    for finding in report.of("stops"):
        console.warning(f"will stop {finding.stage}: {finding.what}")
        console.note(f"    {finding.hint}")
    for finding in report.of("look"):
        console.note(f"check: {finding.what}")
    console.note(f"check: {verdict(report)}; wsipipe check shows all of it")


def verdict(report: Report) -> str:
    """The result in a few words."""
    stops, look = report.of("stops"), report.of("look")
    stages = [stage for stage in _STAGES if any(finding.stage == stage for finding in stops)]
    what = f"{counted(len(stops), 'findings')} will stop {', '.join(stages)}" if stops else "nothing will stop a stage"
    return what + (f"; {counted(len(look), 'findings')} to look at" if look else "")


def findings_table(findings: Sequence[Finding]) -> Table:
    """The findings by stage: what is wrong, and below it the way out."""
    table = _columns(max(map(len, _STAGES)))
    for finding in sorted(findings, key=lambda own: _STAGES.index(own.stage)):
        table.add_row(finding.stage, Text(visible(finding.what)))
        if finding.hint:
            table.add_row("", Text(f"→ {visible(finding.hint)}", "dim"))
    return table


def facts_table(facts: Sequence[Fact]) -> Table:
    """What was found to be so."""
    table = _columns(min(14, max(map(len, [fact.subject for fact in facts] or [""]))))
    for fact in facts:
        table.add_row(Text(visible(fact.subject)), Text(visible(fact.what)))
    return table


def _columns(width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=width, overflow="fold")
    table.add_column(overflow="fold")
    return table


def _heading(title: str, style: str) -> Table:
    heading = Table.grid()
    heading.add_row(Text(title, style))
    return heading
