"""What is to be done with an item, and why: its record is held against what it is made from now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...data.artifact import digest_of_value, stamp
from ...data.errors import InputError, SurroundingsError, UsageError
from ...data.manifest import InputRecord, Json, Manifest, Record
from ...stages.settings import RESOLVED, changed_settings
from ...stages.stage import FileInput, Input, Item, OutputInput, Stage

Verdict = Literal["current", "run", "waiting", "judged"]
"""``judged``: it is done, and the settings that judge say now that it is not good enough."""


@dataclass(frozen=True)
class Decision:
    """What is to be done with an item, and why."""

    item: Item
    verdict: Verdict
    why: str
    fingerprint: str
    inputs: Mapping[str, InputRecord]
    record: Record | None = None
    """The record that makes it current, that it waits on, or that was judged."""


class History:
    """The records of one stage in a manifest, by item."""

    def __init__(self, manifest: Manifest, stage: str) -> None:
        self._records: dict[str, list[Record]] = {}
        self._marks: dict[int, str] = {}
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

    def done_with(self, item: str, mark: str, stage: Stage[Any]) -> Record | None:
        """The last record of a result with this fingerprint, if that is still there.

        An earlier record's outputs may have been replaced since by others of the same size, so their bytes are read.
        """
        records = self._records.get(item, [])
        for record in reversed(records):
            if record.status == "failed" or self._mark(record, stage) != mark:
                continue
            if record.is_whole(stage.workspace, check_digest=record is not records[-1]):
                return record
        return None

    def failed_with(self, item: str, mark: str, stage: Stage[Any]) -> Record | None:
        """The attempt that failed with this fingerprint, if none came out well since, nor other settings judge now."""
        now = stage.settings.of_kind("judgement", stage.settings.result_settings())
        for record in reversed(self._records.get(item, [])):
            if self._mark(record, stage) == mark:
                alike = stage.settings.of_kind("judgement", record.settings) == now
                return record if record.status == "failed" and alike else None
        return None

    def _mark(self, record: Record, stage: Stage[Any]) -> str:
        if id(record) not in self._marks:
            self._marks[id(record)] = fingerprint_in(stage, record)
        return self._marks[id(record)]


def decide(stage: Stage[Any], item: Item, history: History, *, retry_failed: bool) -> Decision:
    """Whether an item is current, is to be run, or waits for another input."""
    last = history.last(item.id)
    try:
        inputs = resolve(item.inputs, last)
    except (InputError, SurroundingsError, OSError) as error:
        # Nothing to identify it by: run it, so that the stage itself says what is wrong.
        return Decision(item, "run", str(error), "unknown", {})
    mark = fingerprint(stage, inputs)
    done = history.done_with(item.id, mark, stage)
    if done is not None and (complaint := stage.settings.judge(done.stats)):
        return Decision(item, "judged", complaint, mark, inputs, done)
    if done is not None and (shown := other_presentation(stage, done)):
        return Decision(item, "run", "; ".join(shown), mark, inputs)
    if done is not None:
        return Decision(item, "current", "", mark, inputs, done)
    failed = history.failed_with(item.id, mark, stage)
    if failed is not None and failed.error and not failed.error.retry and not retry_failed:
        return Decision(item, "waiting", "it failed, and its input has not changed", mark, inputs, failed)
    return Decision(item, "run", why_not_current(last, stage, inputs, stage.workspace), mark, inputs)


def resolve(inputs: Mapping[str, Input], last: Record | None) -> dict[str, InputRecord]:
    """Identify the inputs as they are now. A file is hashed again only when its place, size or time changed."""
    return {name: _identify(given, last.inputs.get(name) if last else None) for name, given in inputs.items()}


def _identify(given: Input, known: InputRecord | None) -> InputRecord:
    if isinstance(given, OutputInput):
        return InputRecord(digest=given.output.digest, path=given.output.path, bytes=given.output.bytes)
    if not isinstance(given, FileInput):
        return InputRecord(digest=digest_of_value(given.value))
    path = str(given.path.absolute())  # a path within the workspace is an output of ours
    if not given.path.exists():
        if known is None:
            raise InputError("no such file", path=path, hint="check the path; was the disk or share unmounted?")
        return known.model_copy(update={"path": path})  # archived after use: what was made from it still counts
    size, mtime = stamp(given.path)
    if known and (known.path, known.bytes, known.mtime_ns) == (path, size, mtime):
        return known
    return InputRecord(digest=given.identify(given.path), path=path, bytes=size, mtime_ns=mtime)


def fingerprint(stage: Stage[Any], inputs: Mapping[str, InputRecord]) -> str:
    """What an item's result depends on, as a digest: stage and its version, what gives its numbers meaning, inputs."""
    return _digest(stage.name, stage.version, _meaning(stage), inputs)


def fingerprint_in(stage: Stage[Any], record: Record) -> str:
    """The fingerprint of a record of that stage by the rule of today, whichever version wrote it."""
    return _digest(record.stage, record.stage_version, _meaning(stage, record), record.inputs)


def _digest(stage: str, version: int, settings: Mapping[str, Json], inputs: Mapping[str, InputRecord]) -> str:
    digests = {name: given.digest for name, given in inputs.items()}
    return digest_of_value({"stage": stage, "version": version, "settings": settings, "inputs": digests})


def _meaning(stage: Stage[Any], record: Record | None = None) -> dict[str, Json]:
    """The settings that give numbers their meaning, where they are not at their default, and what they come to.

    :param record: those that it was made with; default: those of now.
    """
    settings = stage.settings.result_settings() if record is None else record.settings
    resolved = stage.resolved() if record is None else stage.resolved_in(record)
    return {**stage.settings.of_kind("meaning", settings), **resolved}


def other_settings(stage: Stage[Any], record: Record) -> list[str]:
    """The settings with which a record's numbers mean something else than those of now."""
    return changed_settings(_meaning(stage, record), _meaning(stage), stage.settings.defaults())


def other_presentation(stage: Stage[Any], record: Record) -> list[str]:
    """The settings by which what people look at is drawn otherwise now than when it was recorded."""
    settings = stage.settings
    old, new = (settings.of_kind("presentation", given) for given in (record.settings, settings.result_settings()))
    return changed_settings(old, new, settings.defaults())


def kept_settings(stage: Stage[Any]) -> dict[str, Json]:
    """What a record keeps of the settings: all but the machine's, and what they came to."""
    settings: dict[str, Json] = stage.settings.result_settings()
    resolved = stage.resolved()
    return settings | {RESOLVED: dict(resolved)} if resolved else settings


def why_not_current(last: Record | None, stage: Stage[Any], inputs: Mapping[str, InputRecord], workspace: Path) -> str:
    """A few words on why an item is to be run."""
    if last is None:
        return "new"
    if last.status == "failed":
        return "it failed before"
    reasons = [*other_settings(stage, last), *changed_inputs(last, inputs)]
    if last.stage_version != stage.version:
        reasons.append(f"{stage.name} has changed (version {last.stage_version} → {stage.version})")
    if not reasons and not last.is_whole(workspace):
        reasons.append("its output is missing or damaged")
    return "; ".join(reasons) or "unknown"


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
    others = []
    for decision in decisions:
        last = history.standing(decision.item.id, stage.workspace) if decision.verdict == "run" else None
        if last is not None:
            files = [n for n, i in decision.item.inputs.items() if isinstance(i, FileInput) and i.is_setting]
            others.append([*other_settings(stage, last), *_other_files(last, decision.inputs, files)])
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
