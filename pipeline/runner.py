"""The one runner: decides what is to be done, has it done, and records it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..data.artifact import digest_of_value, recover
from ..data.errors import InputError, UsageError, WsipipeError
from ..data.manifest import ErrorRecord, InputRecord, Json, Manifest, Record
from ..stages.stage import FileInput, Input, Item, OutputInput, Stage
from .console import Console
from .executors import Result, explain, failed, run_here, run_in_processes

Verdict = Literal["current", "run", "waiting"]


@dataclass(frozen=True)
class Decision:
    """What is to be done with an item, and why."""

    item: Item
    verdict: Verdict
    why: str
    fingerprint: str
    inputs: Mapping[str, InputRecord]
    record: Record | None = None
    """The record that makes it current, or that it waits on."""


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


class Runner:
    """Runs stages over a workspace.

    :param retry_failed: try items again that failed for their input's sake, though it has not changed.
    :param replace: allow results to be replaced by those of other settings.
    """

    def __init__(self, workspace: Path, console: Console, *, retry_failed: bool = False, replace: bool = False) -> None:
        self.workspace = workspace
        self.console = console
        self.retry_failed = retry_failed
        self.replace = replace

    def run(self, stage: Stage[Any]) -> Summary:
        """Bring a stage up to date.

        :raises UsageError: other settings would replace results that are there (see ``replace``).
        :raises BusyError: another run writes to the same folder.
        """
        begin = datetime.now(UTC)
        with stage.manifest.lock():
            recovered = recover(stage.folder)
            plan = stage.plan()
            history = History(stage.manifest, stage.name)
            decisions = [self.decide(stage, item, history) for item in plan.items]
            if not self.replace:
                refuse_other_settings(stage, decisions, history)
            for decision in decisions:
                self._keep_current(stage, decision, history)
            for note in (*recovered, *plan.notes):
                self.console.note(f"{stage.name}: {note}")
            results = [*self._reject(stage, plan.rejected, history), *self._do(stage, decisions)]
        outcomes = [result.outcome for result in results if result.outcome]
        waiting = [d.record for d in decisions if d.verdict == "waiting" and d.record is not None]
        return Summary(
            stage=stage.name,
            folder=stage.folder,
            items=stage.items,
            done=sum(outcome.status == "done" for outcome in outcomes),
            empty=sum(outcome.status == "empty" for outcome in outcomes),
            before=sum(d.verdict == "current" for d in decisions),
            failures=(
                *(_failure(result.item.id, result.error) for result in results if result.error),
                *(_failure(record.item, record.error, waiting=True) for record in waiting if record.error),
            ),
            notes=(*recovered, *plan.notes),
            units=sum(int(outcome.stats.get(stage.unit, 0)) for outcome in outcomes) if stage.unit else 0,
            unit=stage.unit,
            seconds=(datetime.now(UTC) - begin).total_seconds(),
            stats=dict(sum((Counter(_numbers(o.stats)) for o in outcomes), Counter())),
        )

    def decide(self, stage: Stage[Any], item: Item, history: History) -> Decision:
        """Whether an item is current, is to be run, or waits for another input."""
        last = history.last(item.id)
        try:
            inputs = resolve(item.inputs, last)
        except (InputError, OSError) as error:
            # Nothing to identify it by: run it, so that the stage itself says what is wrong.
            return Decision(item, "run", str(error), "unknown", {})
        mark = fingerprint(stage, inputs)
        record = history.fitting(item.id, mark, self.workspace)
        if record is not None and record.status != "failed":
            return Decision(item, "current", "", mark, inputs, record)
        if record is not None and record.error and not record.error.retry and not self.retry_failed:
            return Decision(item, "waiting", "it failed, and its input has not changed", mark, inputs, record)
        return Decision(item, "run", why_not_current(last, stage, inputs, self.workspace), mark, inputs)

    def _keep_current(self, stage: Stage[Any], decision: Decision, history: History) -> None:
        """Write a record again that counts but is not the last one, or whose inputs were moved or touched."""
        record = decision.record
        if decision.verdict != "current" or record is None:
            return
        if record.inputs != decision.inputs or history.last(decision.item.id) != record:
            stage.manifest.append(record.model_copy(update={"inputs": dict(decision.inputs)}))

    def _reject(self, stage: Stage[Any], rejected: Mapping[str, WsipipeError], history: History) -> list[Result]:
        results = list(failed(rejected.items()))
        for result in results:
            mark = digest_of_value([stage.name, "rejected", result.error.message if result.error else ""])
            last = history.last(result.item.id)
            if last is None or last.fingerprint != mark:
                self._record(stage, result, Decision(result.item, "run", "", mark, {}))
        return results

    def _do(self, stage: Stage[Any], decisions: list[Decision]) -> list[Result]:
        todo = {d.item.id: d for d in decisions if d.verdict == "run"}
        items = [replace(d.item, fingerprint=d.fingerprint) for d in todo.values()]
        results: list[Result] = []
        before = sum(d.verdict == "current" for d in decisions)
        with self.console.stage(stage, items, before=before) as progress:
            if not items:
                return results
            workers = min(stage.workers, len(items))
            running = (
                run_in_processes(stage, items, workers)
                if stage.processes and workers > 1
                else run_here(stage, items, progress)
            )
            with closing(running):  # whatever ends the loop ends the work too, before the lock is given back
                for result in running:
                    self._record(stage, result, todo[result.item.id])
                    results.append(result)
                    progress.finished(result)
        return results

    def _record(self, stage: Stage[Any], result: Result, decision: Decision) -> None:
        outcome = result.outcome
        stage.manifest.append(
            Record(
                stage=stage.name,
                stage_version=stage.version,
                item=result.item.id,
                status=outcome.status if outcome else "failed",
                fingerprint=decision.fingerprint,
                settings=stage.settings.result_settings(),
                inputs=dict(decision.inputs),
                outputs=result.outputs,
                stats=dict(outcome.stats) if outcome else {},
                error=result.error,
                start=result.start,
                seconds=result.seconds,
                wsipipe=__version__,
            )
        )


class History:
    """The records of one stage in a manifest, by item."""

    def __init__(self, manifest: Manifest, stage: str) -> None:
        self._records: dict[str, list[Record]] = {}
        for record in manifest.records():
            if record.stage == stage:
                self._records.setdefault(record.item, []).append(record)

    def last(self, item: str) -> Record | None:
        """The last attempt at an item."""
        return self._records.get(item, [None])[-1]

    def standing(self, item: str, workspace: Path) -> Record | None:
        """The last record of a result, if that is still there; attempts that failed since have left it in place."""
        done = [record for record in self._records.get(item, []) if record.status == "done"]
        return done[-1] if done and done[-1].is_whole(workspace) else None

    def fitting(self, item: str, mark: str, workspace: Path) -> Record | None:
        """The last record with this fingerprint whose outputs are whole.

        An earlier record's outputs may have been replaced since by others of the same size, so their bytes are read.
        """
        records = self._records.get(item, [])
        for record in reversed(records):
            if record.fingerprint == mark and record.is_whole(workspace, check_digest=record is not records[-1]):
                return record
        return None


def resolve(inputs: Mapping[str, Input], last: Record | None) -> dict[str, InputRecord]:
    """Identify the inputs as they are now. A file is hashed again only when its place, size or time changed."""
    return {name: _identify(given, last.inputs.get(name) if last else None) for name, given in inputs.items()}


def _identify(given: Input, known: InputRecord | None) -> InputRecord:
    if isinstance(given, OutputInput):
        return InputRecord(digest=given.output.digest, path=given.output.path, bytes=given.output.bytes)
    if not isinstance(given, FileInput):
        return InputRecord(digest=digest_of_value(given.value))
    path = str(given.path)
    if not given.path.exists():
        if known is None:
            raise InputError("no such file", path=path, hint="check the path; was the disk or share unmounted?")
        return known.model_copy(update={"path": path})  # archived after use: what was made from it still counts
    size, mtime = stamp(given.path)
    if known and (known.path, known.bytes, known.mtime_ns) == (path, size, mtime):
        return known
    return InputRecord(digest=given.identify(given.path), path=path, bytes=size, mtime_ns=mtime)


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, or of all files in a folder: cheap to read, and enough to know when to hash again."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)


def fingerprint(stage: Stage[Any], inputs: Mapping[str, InputRecord]) -> str:
    """What an item's result depends on, as a digest: stage and its version, settings that change results, inputs."""
    return digest_of_value(
        {
            "stage": stage.name,
            "version": stage.version,
            "settings": stage.settings.result_settings(),
            "inputs": {name: given.digest for name, given in inputs.items()},
        }
    )


def why_not_current(last: Record | None, stage: Stage[Any], inputs: Mapping[str, InputRecord], workspace: Path) -> str:
    """A few words on why an item is to be run."""
    if last is None:
        return "new"
    if last.status == "failed":
        return "it failed before"
    reasons = [*changed_settings(last.settings, stage.settings.result_settings()), *changed_inputs(last, inputs)]
    if last.stage_version != stage.version:
        reasons.append(f"{stage.name} has changed (version {last.stage_version} → {stage.version})")
    if not reasons and not last.is_whole(workspace):
        reasons.append("its output is missing or damaged")
    return "; ".join(reasons) or "unknown"


def changed_settings(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    """Such as ``min_tissue 0.5 → 0.3``."""
    names = sorted(old.keys() | new.keys())
    return [f"{n} {_short(old.get(n))} → {_short(new.get(n))}" for n in names if old.get(n) != new.get(n)]


def changed_inputs(last: Record, inputs: Mapping[str, InputRecord]) -> list[str]:
    """Such as ``tiles changed``; of many, the first and how many more."""
    both = inputs.keys() & last.inputs.keys()
    changed = sorted(name for name in both if last.inputs[name].digest != inputs[name].digest)
    added, gone = sorted(inputs.keys() - both), sorted(last.inputs.keys() - both)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} {what}"
        for names, what in ((changed, "changed"), (added, "new"), (gone, "gone"))
        if names
    ]


def refuse_other_settings(stage: Stage[Any], decisions: Iterable[Decision], history: History) -> None:
    """Results that are whole are not replaced by those of other settings unless the user says so.

    :raises UsageError: naming the settings and the ways out.
    """
    settings = stage.settings.result_settings()
    standing = [history.standing(d.item.id, stage.workspace) for d in decisions if d.verdict == "run"]
    other = [record for record in standing if record is not None and record.settings != settings]
    if other:
        raise UsageError(
            f"{len(other)} {stage.items} here were made with other settings "
            f"({'; '.join(changed_settings(other[-1].settings, settings))})",
            path=stage.folder,
            hint="--replace puts new results in their place; to keep both, use another --workspace "
            "(or, for a model, another --name)",
        )


def _failure(item: str, error: ErrorRecord, *, waiting: bool = False) -> Failure:
    hint = error.hint
    if waiting:
        hint = " ".join(filter(None, [hint, "(tried before; --retry-failed tries again)"]))
    return Failure(item, error.message, hint)


def _numbers(stats: Mapping[str, Json]) -> dict[str, int]:
    return {name: value for name, value in stats.items() if isinstance(value, int) and not isinstance(value, bool)}


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


__all__ = ["Decision", "Failure", "Runner", "Summary", "explain"]
