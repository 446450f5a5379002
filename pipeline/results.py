"""Results of items and summaries of stages, for the manifest, the closing table and ``--json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from ..data.manifest import ErrorRecord, Json, OutputRecord
from ..stages.registry import STAGES
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
    worker: str = ""
    """The worker of a cluster that did it; empty: this machine."""


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
    workers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Worker of a cluster → its items, their units, the seconds from its first begin to its last end, and the rate:
    units (items, where the stage has no unit) a second."""

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values."""
        failures = [vars(failure) for failure in self.failures]
        return {**vars(self), "folder": str(self.folder), "failures": failures, "notes": list(self.notes)}


def what_to_look_at(summaries: Iterable[Summary]) -> list[str]:
    """The lines that name what each stage has made to be looked at, where it made anything."""
    looks = {row.name: row.look for row in STAGES if row.look}
    paths = {s.stage: s.folder / looks[s.stage] for s in summaries if s.stage in looks and s.done + s.before}
    rows = {row.name: row.made_by for row in STAGES}
    return [f"{rows[stage]}: {path}" for stage, path in paths.items() if path.exists()]


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
                workers=_together(total.workers, located.workers),
            )
        )
    return list(by_stage.values())


def rates(results: Iterable[Result], unit: str) -> dict[str, dict[str, float]]:
    """What each worker of a cluster did, and how fast (:attr:`Summary.workers`)."""
    by_worker: dict[str, list[Result]] = {}
    for result in results:
        if result.worker:
            by_worker.setdefault(result.worker, []).append(result)
    found: dict[str, dict[str, float]] = {}
    for worker, own in sorted(by_worker.items()):
        begin = min(result.start.timestamp() for result in own)
        seconds = max(result.start.timestamp() + result.seconds for result in own) - begin
        units = sum(int(result.outcome.stats.get(unit, 0)) if unit else 1 for result in own if result.outcome)
        found[worker] = {"items": len(own), "units": units, "seconds": round(seconds, 3)}
        found[worker]["rate"] = round(units / seconds, 3) if seconds > 0 else 0.0
    return found


def _together(*of_runs: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What each worker did in several runs."""
    added: dict[str, dict[str, float]] = {}
    for worker, own in (pair for one in of_runs for pair in one.items()):
        before = added.get(worker, {})
        both = {name: before.get(name, 0) + own[name] for name in ("items", "units", "seconds")}
        added[worker] = both | {"rate": round(both["units"] / both["seconds"], 3) if both["seconds"] else 0.0}
    return added
