"""``wsipipe status``: what is done, stale, failed or lost in a workspace, and why. It runs nothing and loads no model.

It reads the manifests alone: every record says what it was made from, so it can be held against what is there now. With
a settings file, records are also held against the settings that the next run would use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from ..data.manifest import InputRecord, Json, Manifest, Record
from ..stages.settings import Settings
from ..stages.versions import VERSIONS
from .config import Config
from .console import Console
from .decisions import changed_settings, stamp

State = Literal["done", "empty", "stale", "failed", "lost", "to do"]
STATES: tuple[State, ...] = ("done", "empty", "stale", "failed", "lost", "to do")
_EXAMPLES = 5


@dataclass(frozen=True)
class ItemState:
    """An item of a stage, as it stands."""

    folder: str
    stage: str
    item: str
    state: State
    why: str = ""
    hint: str = ""


def survey(config: Config, *, compare: bool) -> list[ItemState]:
    """The state of every item that a manifest of the workspace knows, and of those that wait to be done.

    :param config: its workspace is surveyed.
    :param compare: hold the recorded settings against those of ``config``.
    """
    workspace = config.workspace
    files = [file for folder in _FOLDERS for file in sorted(workspace.glob(f"{folder}/manifest.jsonl"))]
    records = {file.parent: Manifest(file).records() for file in files}
    made = {
        output.path: output.digest
        for folder in records.values()
        for record in folder
        for output in record.outputs.values()
    }
    states = [
        _state(
            record,
            folder.relative_to(workspace).as_posix(),
            workspace,
            made,
            _asked(config, folder, record) if compare else None,
        )
        for folder, all_records in records.items()
        for record in _latest(all_records)
    ]
    return [*_mark_what_follows(states, records, workspace), *_not_begun(records, workspace)]


_FOLDERS = ("tiles/*", "features/*/*", "genomics", "models/*", "predictions/*")


def _latest(records: Sequence[Record]) -> list[Record]:
    return list({(record.stage, record.item): record for record in records}.values())


def _state(
    record: Record, folder: str, workspace: Path, made: Mapping[str, str], asked: Mapping[str, Json] | None
) -> ItemState:
    def state(name: State, why: str = "", hint: str = "") -> ItemState:
        return ItemState(folder, record.stage, record.item, name, why, hint)

    if record.status == "failed" and record.error is not None:
        return state("failed", record.error.message, record.error.hint)
    lost = [o.path for o in record.outputs.values() if not o.is_whole(workspace)]
    if lost:
        return state("lost", f"{lost[0]} is missing or damaged", "the next run makes it again")
    reasons = [why for name, given in record.inputs.items() if (why := _changed(name, given, made))]
    if record.stage_version != VERSIONS.get(record.stage, record.stage_version):
        reasons.append(f"{record.stage} has changed since (version {record.stage_version})")
    if asked is not None:
        reasons += [f"settings: {change}" for change in changed_settings(record.settings, asked)]
    if reasons:
        return state("stale", "; ".join(reasons[:3]), "the next run makes it again")
    return state(record.status if record.status == "empty" else "done")


def _changed(name: str, given: InputRecord, made: Mapping[str, str]) -> str:
    """Why an input is no longer what it was, or nothing."""
    if given.path is None:
        return ""
    if not Path(given.path).is_absolute():
        return f"{name} changed" if made.get(given.path, given.digest) != given.digest else ""
    path = Path(given.path)
    if given.mtime_ns is None or not path.exists():
        return ""  # moved away after use: what was made from it still counts
    return f"{name} changed ({path.name})" if stamp(path) != (given.bytes, given.mtime_ns) else ""


def _asked(config: Config, folder: Path, record: Record) -> Mapping[str, Json] | None:
    """The settings that the next run would use for a record, where the settings file speaks of its folder."""
    named: dict[str, tuple[str, Settings]] = {
        "tile": (config.tile.folder_name(), config.tile),
        "extract": (config.extract.folder_name(), config.extract),
        "genomics": ("genomics", config.genomics),
        "train": (folder.name if folder.name in config.biomarkers else "", config.train),
    }
    name, settings = named.get(record.stage, ("", config.train))
    return settings.result_settings() if name == folder.name else None


def _mark_what_follows(
    states: Sequence[ItemState], records: Mapping[Path, Sequence[Record]], workspace: Path
) -> Iterator[ItemState]:
    """What is made from a stale or lost output waits for it."""
    unsure = {
        output.path
        for folder, all_records in records.items()
        for record in _latest(all_records)
        for output in record.outputs.values()
        if any(
            s.state in ("stale", "lost") and (s.stage, s.item) == (record.stage, record.item)
            and s.folder == folder.relative_to(workspace).as_posix()
            for s in states
        )
    }  # fmt: skip
    inputs = {
        (folder.relative_to(workspace).as_posix(), record.stage, record.item): record.inputs
        for folder, all_records in records.items()
        for record in _latest(all_records)
    }
    for state in states:
        waits = [n for n, i in inputs[state.folder, state.stage, state.item].items() if i.path in unsure]
        if state.state == "done" and waits:
            why = f"{waits[0]}{f' and {len(waits) - 1} more' if len(waits) > 1 else ''} will be made again"
            yield ItemState(
                state.folder, state.stage, state.item, "stale", why, "kept if they come out with equal bytes"
            )
        else:
            yield state


def _not_begun(records: Mapping[Path, Sequence[Record]], workspace: Path) -> Iterator[ItemState]:
    """Slides that are tiled but not in a features folder made from these tiles."""
    for folder, tiled in records.items():
        if folder.parent.name != "tiles":
            continue
        done = [r.item for r in _latest(tiled) if r.stage == "tile" and r.status == "done"]
        for features in records:
            if features.parent == workspace / "features" / folder.name:
                known = {r.item for r in records[features]}
                name = features.relative_to(workspace).as_posix()
                yield from (
                    ItemState(name, "extract", item, "to do", "tiled, but not extracted yet", "wsipipe extract")
                    for item in done
                    if item not in known
                )


def show_status(config: Config, console: Console, *, compare: bool) -> None:
    """Print the survey: a table, then the reasons, each with a few examples."""
    states = survey(config, compare=compare)
    if not states:
        console.line(f"nothing has been done in {config.workspace} yet")
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("folder", "stage", *STATES):
        table.add_column(name, justify="left" if name in ("folder", "stage") else "right")
    counts: dict[tuple[str, str], Counter[State]] = {}
    for state in states:
        counts.setdefault((state.folder, state.stage), Counter())[state.state] += 1
    for (folder, stage), of in counts.items():
        table.add_row(folder, stage, *(str(of[name]) if of[name] else "·" for name in STATES))
    console.table(table)
    for (folder, stage, name, why, hint), items in _reasons(states).items():
        more = f" and {len(items) - _EXAMPLES} more" if len(items) > _EXAMPLES else ""
        console.line(f"{name} in {folder} ({stage}): {', '.join(items[:_EXAMPLES])}{more}")
        console.line(f"    {why}" + (f" → {hint}" if hint else ""))
    console.result({"workspace": str(config.workspace), "items": [vars(state) for state in states]})


def _reasons(states: Sequence[ItemState]) -> dict[tuple[str, str, str, str, str], list[str]]:
    grouped: dict[tuple[str, str, str, str, str], list[str]] = {}
    for s in states:
        if s.state not in ("done", "empty"):
            grouped.setdefault((s.folder, s.stage, s.state, s.why, s.hint), []).append(s.item)
    return grouped
