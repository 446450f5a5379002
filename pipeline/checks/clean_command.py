"""``wsipipe clean``: shows what would go, with sizes, and removes it when told so."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import typer
from rich.table import Table

from ...data.manifest import Json
from ...data.wording import some
from ..console import Console
from .clean import Inventory, Target, by_why, inventory, named_folders, remove_targets

_MEANING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "leftover": "half-written, by a run that was stopped",
        "orphan": "no record owns it",
        "overtaken": "saved work of a training that a later one has overtaken",
        "old fold": "the present model has fewer folds",
    }
)


def clean_workspace(workspace: Path, console: Console, names: Sequence[str], *, yes: bool) -> None:
    """Show what would go, then remove it with ``yes``, or if the user at a terminal agrees.

    :param names: remove these folders of results instead of what no result needs.
    """
    found = Inventory(named_folders(workspace, names)) if names else inventory(workspace)
    _show(console, found)
    total = sum(target.bytes for target in found.targets)
    agreed = bool(found.targets) and (yes or (not console.json_only and _asked(total)))
    removed: list[Target] = []
    left: dict[str, str] = {}
    if agreed:
        removed, left = remove_targets(workspace, found.targets)
        console.line(f"removed {size_text(sum(target.bytes for target in removed))}")
        for path, why in left.items():
            console.line(f"left: {path}: {why}")
    elif found.targets:
        console.line(f"nothing was removed; `wsipipe clean {' '.join([*names, '--yes'])}` removes {size_text(total)}")
    console.result(
        {
            "workspace": str(workspace),
            "found": [_as_json(target) for target in found.targets],
            "bytes": total,
            "removed": [_as_json(target) for target in removed],
            "kept": {**found.kept, **left},
        }
    )
    if left and names:
        raise typer.Exit(1)


def _asked(total: int) -> bool:
    """Ask the user at a terminal; elsewhere nobody agrees."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return typer.confirm(f"remove {size_text(total)}?")
    except typer.Abort:  # Ctrl-C, or the end of the input
        return False


def _as_json(target: Target) -> dict[str, Json]:
    return {**vars(target), "used_by": list(target.used_by)}


def _show(console: Console, found: Inventory) -> None:
    if found.targets:
        table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("folder", overflow="fold")
        table.add_column("what", no_wrap=True)
        for name in ("files", "size"):
            table.add_column(name, justify="right", no_wrap=True)
        for (folder, why), targets in by_why(found.targets).items():
            files, size = (sum(getattr(target, name) for target in targets) for name in ("files", "bytes"))
            table.add_row(folder, why, f"{files:,}", size_text(size))
        console.table(table)
    for (folder, why), targets in by_why(found.targets).items():
        if why != "whole folder":
            inside = [target.path.removeprefix(f"{folder}/") for target in targets]
            console.line(f"{why} in {folder}: {some(inside)}")
            console.line(f"    {_MEANING[why]}")
        for target in targets:
            if target.used_by:
                console.line(f"{folder} is what {some(target.used_by)} was made from, which will count as stale")
    for path, why in found.kept.items():
        console.line(f"kept: {path}: {why}")
    if not found.targets:
        console.line("there is nothing to remove")


def size_text(size: int) -> str:
    """A size in bytes, such as ``12 bytes``, ``3.4 MB``.

    >>> size_text(12), size_text(3_400_000)
    ('12 bytes', '3.4 MB')
    """
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{size:,} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
