"""Helpers for tests of the runner: texts to copy, what was worked on, and the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from copy_stage import copy_stage
from msgspec import structs
from wsipipe.data.manifest import Record
from wsipipe.pipeline.console import Console
from wsipipe.pipeline.run.runner import Runner


def write(place: Path, **texts: str) -> None:
    (place / "texts").mkdir(exist_ok=True)
    for name, text in texts.items():
        (place / "texts" / f"{name}.txt").write_text(text)


def took(place: Path, verb: str = "do") -> list[str]:
    """The items worked on since this was last asked."""
    calls = place / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return sorted(line.split()[1] for line in lines if line.startswith(verb + " "))


def last(place: Path) -> dict[str, Record]:
    return copy_stage(place).manifest.latest("copy")


def statuses(place: Path) -> dict[str, str]:
    return {item: record.status for item, record in last(place).items()}


def result(place: Path, item: str) -> str:
    return (place / "work" / "copies" / f"{item}.txt").read_text()


def run(place: Path, stage: Any, **options: bool) -> Any:
    return Runner(place / "work", Console(json_only=True), **options).run(stage)


def story(place: Path) -> dict[str, Any]:
    """What the last records say, but for when and where."""
    return {
        item: {n: value for n, value in structs.asdict(record).items() if n not in ("start", "seconds", "host")}
        | {"inputs": {name: given.digest for name, given in record.inputs.items()}}
        | ({"error": str(record.error).replace(str(place), "")} if record.error else {})
        for item, record in sorted(last(place).items())
    }
