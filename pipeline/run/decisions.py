"""Deciding whether an item must be run: its record is compared with its present inputs and settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...data.artifact import digest_of_value, stamp
from ...data.errors import InputError, SurroundingsError, UsageError
from ...data.manifest import DAMAGED, InputRecord, Json, Manifest, Record
from ...stages.settings import RESOLVED, changed_settings
from ...stages.stage import FileInput, Input, Item, OutputInput, Stage

Verdict = Literal["current", "run", "waiting", "judged"]
"""``judged``: it is done, but does not pass the present judgement settings (such as ``max_bad_tiles``)."""


@dataclass(frozen=True)
class Decision:
    """What to do with an item, and why."""

    item: Item
    verdict: Verdict
    why: str
    fingerprint: str
    inputs: Mapping[str, InputRecord]
    record: Record | None = None
    """The record that shows it is current, failed with the same input, or was judged."""


class History:
    """The records of one stage in a manifest, by item."""

    def __init__(self, manifest: Manifest, stage: str) -> None:
        self._records: dict[str, list[Record]] = {}
        self._fingerprints: dict[int, str] = {}
        for record in manifest.records():
            if record.stage == stage:
                if record.error is not None and record.error.type == DAMAGED:
                    self._records.pop(record.item, None)
                self._records.setdefault(record.item, []).append(record)

    def last(self, item: str) -> Record | None:
        """The last attempt at an item."""
        return self._records.get(item, [None])[-1]

    def standing(self, item: str, workspace: Path) -> Record | None:
        """The last record of a result, if its outputs still exist; later attempts that failed do not remove them."""
        done = [record for record in self._records.get(item, []) if record.status == "done"]
        return done[-1] if done and done[-1].is_whole(workspace) else None

    def done_with(self, item: str, fingerprint: str, stage: Stage[Any]) -> Record | None:
        """The last record of a result with this fingerprint, if its outputs still exist.

        An earlier record's outputs may have been replaced since by others of the same size, so their bytes are read.
        """
        records = self._records.get(item, [])
        for record in reversed(records):
            if record.status == "failed" or self._fingerprint(record, stage) != fingerprint:
                continue
            if record.is_whole(stage.workspace, check_digest=record is not records[-1]):
                return record
        return None

    def failed_with(self, item: str, fingerprint: str, stage: Stage[Any]) -> Record | None:
        """The failed attempt with this fingerprint, if none succeeded since and the judgement settings are the same."""
        now = stage.settings.of_kind("judgement", stage.settings.result_settings())
        for record in reversed(self._records.get(item, [])):
            if self._fingerprint(record, stage) == fingerprint:
                alike = stage.settings.of_kind("judgement", record.settings) == now
                return record if record.status == "failed" and alike else None
        return None

    def _fingerprint(self, record: Record, stage: Stage[Any]) -> str:
        if id(record) not in self._fingerprints:
            self._fingerprints[id(record)] = fingerprint_in(stage, record)
        return self._fingerprints[id(record)]


def decide(stage: Stage[Any], item: Item, history: History, *, retry_failed: bool) -> Decision:
    """Decide whether an item is current, must be run, or waits for its input to change."""
    last = history.last(item.id)
    try:
        inputs = resolve(item.inputs, last)
    except (InputError, SurroundingsError, OSError) as error:
        # Nothing to identify it by: run it, so that the stage itself says what is wrong.
        return Decision(item, "run", str(error), "unknown", {})
    digest = fingerprint(stage, inputs)
    done = history.done_with(item.id, digest, stage)
    if done is not None and (complaint := stage.settings.judge(done.stats)):
        return Decision(item, "judged", complaint, digest, inputs, done)
    if done is not None and (shown := other_presentation(stage, done)):
        return Decision(item, "run", "; ".join(shown), digest, inputs)
    if done is not None:
        return Decision(item, "current", "", digest, inputs, done)
    failed = history.failed_with(item.id, digest, stage)
    if failed is not None and failed.error and not failed.error.retry and not retry_failed:
        return Decision(item, "waiting", "it failed, and its input has not changed", digest, inputs, failed)
    return Decision(item, "run", why_not_current(last, stage, inputs, stage.workspace), digest, inputs)


def resolve(inputs: Mapping[str, Input], last: Record | None) -> dict[str, InputRecord]:
    """Identify the present inputs. A file is hashed again only when its path, size or time changed."""
    return {name: _identify(source, last.inputs.get(name) if last else None) for name, source in inputs.items()}


def _identify(source: Input, known: InputRecord | None) -> InputRecord:
    if isinstance(source, OutputInput):
        return InputRecord(digest=source.output.digest, path=source.output.path, bytes=source.output.bytes)
    if not isinstance(source, FileInput):
        return InputRecord(digest=digest_of_value(source.value))
    path = str(source.path.absolute())  # relative paths in a record are those of a stage's outputs
    if not source.path.exists():
        if known is None:
            raise InputError("no such file", path=path, hint="check the path; was the disk or share unmounted?")
        return replace(known, path=path)  # archived after use: what was made from it is still valid
    size, mtime = stamp(source.path)
    if known and (known.path, known.bytes, known.mtime_ns) == (path, size, mtime):
        return known
    return InputRecord(digest=source.identify(source.path), path=path, bytes=size, mtime_ns=mtime)


def fingerprint(stage: Stage[Any], inputs: Mapping[str, InputRecord]) -> str:
    """The digest of all that an item's result depends on: stage, version, settings of meaning, and inputs."""
    return _digest(stage.name, stage.version, _meaning(stage), inputs)


def fingerprint_in(stage: Stage[Any], record: Record) -> str:
    """The fingerprint of a record of that stage, computed by the present rule whichever version wrote the record."""
    return _digest(record.stage, record.stage_version, _meaning(stage, record), record.inputs)


def _digest(stage: str, version: int, settings: Mapping[str, Json], inputs: Mapping[str, InputRecord]) -> str:
    digests = {name: source.digest for name, source in inputs.items()}
    return digest_of_value({"stage": stage, "version": version, "settings": settings, "inputs": digests})


def _meaning(stage: Stage[Any], record: Record | None = None) -> dict[str, Json]:
    """The settings of meaning that are not at their default, and the values that ``auto`` settings resolve to.

    :param record: take the settings that it was made with; default: the present ones.
    """
    settings = stage.settings.result_settings() if record is None else record.settings
    resolved = stage.resolved() if record is None else stage.resolved_in(record)
    return {**stage.settings.of_kind("meaning", settings), **resolved}


def other_settings(stage: Stage[Any], record: Record) -> list[str]:
    """The settings of meaning that differ between a record and the present settings."""
    return changed_settings(_meaning(stage, record), _meaning(stage), stage.settings.defaults())


def other_presentation(stage: Stage[Any], record: Record) -> list[str]:
    """The settings of presentation that differ between a record and the present settings."""
    settings = stage.settings
    old, new = (settings.of_kind("presentation", kept) for kept in (record.settings, settings.result_settings()))
    return changed_settings(old, new, settings.defaults())


def kept_settings(stage: Stage[Any]) -> dict[str, Json]:
    """What a record keeps of the settings: all but the machine's, and what ``auto`` settings resolved to."""
    settings: dict[str, Json] = stage.settings.result_settings()
    resolved = stage.resolved()
    return settings | {RESOLVED: dict(resolved)} if resolved else settings


def why_not_current(last: Record | None, stage: Stage[Any], inputs: Mapping[str, InputRecord], workspace: Path) -> str:
    """Why an item must be run, in a few words."""
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
    """Which inputs changed, such as ``tiles changed``; of many, the first and how many more."""
    both = inputs.keys() & last.inputs.keys()
    changed = sorted(name for name in both if last.inputs[name].digest != inputs[name].digest)
    added, gone = sorted(inputs.keys() - both), sorted(last.inputs.keys() - both)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} {what}"
        for names, what in ((changed, "changed"), (added, "new"), (gone, "gone"))
        if names
    ]


def refuse_other_settings(stage: Stage[Any], decisions: Iterable[Decision], history: History) -> None:
    """Refuse to replace existing results by results of other settings.

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
            hint="--replace makes them again with these settings; to keep both, use another --workspace "
            "(or, for a model, another --name)",
        )


def _other_files(last: Record, inputs: Mapping[str, InputRecord], names: Iterable[str]) -> list[str]:
    both = [name for name in names if name in last.inputs and name in inputs]
    return [f"other {name}" for name in both if last.inputs[name].digest != inputs[name].digest]
