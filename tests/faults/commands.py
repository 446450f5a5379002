"""What commands leave behind: running processes, records, unfinished work."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from wsipipe.data.manifest import Manifest


def alive(session: int) -> list[int]:
    """Processes of a command's session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


Meaning = dict[tuple[str, str, str], Any]


def meaning(project: Path) -> Meaning:
    """What counts in all manifests below a folder: of each item the last record, without times and places.

    Each output must be there with the bytes that its record says.
    """
    found: Meaning = {}
    for file in sorted(project.rglob("manifest.jsonl")):
        workspace = next(parent for parent in file.parents if parent.name.startswith("work"))
        latest = {(record.stage, record.item): record for record in Manifest(file).records()}
        for (stage, item), record in latest.items():
            assert record.is_whole(workspace, check_digest=True), (stage, item)
            outputs: dict[str, Any] = {n: (output.path, output.digest) for n, output in record.outputs.items()}
            if stage == "compare":  # it tells how long each method took
                outputs = {"table": _without_seconds(file.with_name("comparison.csv"))}
            if stage == "report":  # the page and the table of methods say when and where
                outputs = {name: made for name, made in outputs.items() if name not in ("page", "table methods")}
            inputs = {name: source.digest for name, source in record.inputs.items()}
            error = record.error.message if record.error else ""
            key = (file.parent.relative_to(project).as_posix(), stage, item)
            found[key] = (record.status, record.fingerprint, inputs, outputs, error)
    return found


def without_bytes(found: Meaning) -> Meaning:
    """Of each item how it ended, and what outputs it has."""
    return {key: (status, sorted(outputs), error) for key, (status, _, _, outputs, error) in found.items()}


def _without_seconds(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


def left_behind(project: Path) -> list[str]:
    """Unfinished work below a folder: scratch files, results set aside, states of training, a holder's name."""
    unfinished = [
        p for pattern in (".partial-*", ".aside-*", "partial", ".lock-holder*") for p in project.rglob(pattern)
    ]
    return sorted(path.relative_to(project).as_posix() for path in unfinished)
