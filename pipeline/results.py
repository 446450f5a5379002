"""Results of items and summaries of stages, for the manifest, the closing table and ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ..data.manifest import ErrorRecord, Json, OutputRecord
from ..stages.stage import Item, Outcome


@dataclass(frozen=True)
class Result:
    """The result of one item, ready to be recorded."""

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
    retry: bool = False
    """The next run tries it again by itself, since the surroundings were at fault."""


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
    waits: str = ""
    """Why it was not begun: shards of what it is made from that have not finished."""
    units: int = 0
    unit: str = ""
    seconds: float = 0.0
    stats: Mapping[str, Json] = field(default_factory=dict)
    peak_memory: int = 0
    """The most bytes of memory that it took at once, with its worker processes; 0 if unknown."""
    peak_gpu_memory: Mapping[str, int] = field(default_factory=dict)
    """GPU → the most bytes that PyTorch reserved on it."""

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values."""
        failures = [vars(failure) for failure in self.failures]
        return {**vars(self), "folder": str(self.folder), "failures": failures, "notes": list(self.notes)}


def summed(summaries: Sequence[Summary], folder: Path) -> list[Summary]:
    """Add up the summaries of each stage, where it has run for several methods.

    :param folder: the folder that contains theirs; each failure is prefixed with the folder that it occurred in.
    """
    by_stage: dict[str, Summary] = {}
    for summary in summaries:
        prefix = "" if summary.folder == folder else f"{summary.folder.name} "
        failures = tuple(replace(failure, item=f"{prefix}{failure.item}") for failure in summary.failures)
        located = replace(summary, folder=folder, failures=failures)
        total = by_stage.get(summary.stage)
        by_stage[summary.stage] = (
            located
            if total is None
            else replace(
                total,
                done=total.done + located.done,
                empty=total.empty + located.empty,
                before=total.before + located.before,
                failures=(*total.failures, *located.failures),
                notes=(*total.notes, *located.notes),
                units=total.units + located.units,
                seconds=total.seconds + located.seconds,
                stats={},
                peak_memory=max(total.peak_memory, located.peak_memory),
                peak_gpu_memory={
                    gpu: max(total.peak_gpu_memory.get(gpu, 0), located.peak_gpu_memory.get(gpu, 0))
                    for gpu in {**total.peak_gpu_memory, **located.peak_gpu_memory}
                },
            )
        )
    return list(by_stage.values())
