"""What became of an item, and what a stage did in a run, for the manifest, the table and ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ..data.manifest import ErrorRecord, Json, OutputRecord
from ..stages.stage import Item, Outcome


@dataclass(frozen=True)
class Result:
    """What became of an item, ready to be recorded."""

    item: Item
    outcome: Outcome | None
    outputs: dict[str, OutputRecord]
    error: ErrorRecord | None
    start: datetime
    seconds: float
    trace: str = ""


@dataclass(frozen=True)
class Failure:
    """A failed item, for the table and for ``--json``."""

    item: str
    message: str
    hint: str


@dataclass(frozen=True)
class Summary:
    """What a stage did in this run."""

    stage: str
    folder: Path
    items: str
    done: int = 0
    empty: int = 0
    before: int = 0
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
    units: int = 0
    unit: str = ""
    seconds: float = 0.0
    stats: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values."""
        failures = [vars(failure) for failure in self.failures]
        return {**vars(self), "folder": str(self.folder), "failures": failures, "notes": list(self.notes)}


def summed(summaries: Sequence[Summary], folder: Path) -> list[Summary]:
    """One summary a stage, where each has run for several methods.

    :param folder: that holds all of theirs; failures say which of them they are of.
    """
    by_stage: dict[str, Summary] = {}
    for one in summaries:
        where = "" if one.folder == folder else f"{one.folder.name} "
        own = replace(one, folder=folder, failures=tuple(replace(f, item=f"{where}{f.item}") for f in one.failures))
        all_ = by_stage.get(one.stage)
        by_stage[one.stage] = (
            own
            if all_ is None
            else replace(
                all_,
                done=all_.done + own.done,
                empty=all_.empty + own.empty,
                before=all_.before + own.before,
                failures=(*all_.failures, *own.failures),
                notes=(*all_.notes, *own.notes),
                units=all_.units + own.units,
                seconds=all_.seconds + own.seconds,
                stats={},
            )
        )
    return list(by_stage.values())
