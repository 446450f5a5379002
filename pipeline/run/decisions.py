"""What is to be done with an item, and why: its record is held against what it is made from now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...data.artifact import digest_of_value, stamp
from ...data.errors import InputError, SurroundingsError, UsageError
from ...data.manifest import InputRecord, Json, Manifest, Record
from ...stages.stage import FileInput, Input, Item, OutputInput, Stage

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


def decide(stage: Stage[Any], item: Item, history: History, *, retry_failed: bool) -> Decision:
    """Whether an item is current, is to be run, or waits for another input."""
    last = history.last(item.id)
    try:
        inputs = resolve(item.inputs, last)
    except (InputError, SurroundingsError, OSError) as error:
        # Nothing to identify it by: run it, so that the stage itself says what is wrong.
        return Decision(item, "run", str(error), "unknown", {})
    mark = fingerprint(stage, inputs)
    record = history.fitting(item.id, mark, stage.workspace)
    if record is not None and record.status != "failed":
        return Decision(item, "current", "", mark, inputs, record)
    if record is not None and record.error and not record.error.retry and not retry_failed:
        return Decision(item, "waiting", "it failed, and its input has not changed", mark, inputs, record)
    return Decision(item, "run", why_not_current(last, stage, inputs, stage.workspace), mark, inputs)


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
    others = []
    for decision in decisions:
        last = history.standing(decision.item.id, stage.workspace) if decision.verdict == "run" else None
        if last is not None:
            files = [n for n, i in decision.item.inputs.items() if isinstance(i, FileInput) and i.is_setting]
            others.append([*changed_settings(last.settings, settings), *_other_files(last, decision.inputs, files)])
    other = [changes for changes in others if changes]
    if other:
        raise UsageError(
            f"{len(other)} {stage.items} here were made with other settings ({'; '.join(other[-1])})",
            path=stage.folder,
            hint="--replace puts new results in their place; to keep both, use another --workspace "
            "(or, for a model, another --name)",
        )


def _other_files(last: Record, inputs: Mapping[str, InputRecord], names: Iterable[str]) -> list[str]:
    both = [name for name in names if name in last.inputs and name in inputs]
    return [f"other {name}" for name in both if last.inputs[name].digest != inputs[name].digest]


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"
