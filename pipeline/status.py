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

from ..data.artifact import digest_of, stamp
from ..data.errors import UsageError
from ..data.manifest import InputRecord, Manifest, Record
from ..stages.settings import Settings
from ..stages.versions import VERSIONS
from .config import Config
from .console import Console
from .run.decisions import changed_settings

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
    states: list[ItemState] = []
    unsure: set[str] = set()  # outputs that will be made again; folders and records come in the chain's order
    for folder, all_records in records.items():
        name = folder.relative_to(workspace).as_posix()
        for record in _latest(all_records):
            state = _state(record, name, workspace, made, config if compare else None)
            waits = [source for source, given in record.inputs.items() if given.path in unsure]
            if state.state == "done" and waits:
                why = f"{waits[0]}{f' and {len(waits) - 1} more' if len(waits) > 1 else ''} will be made again"
                hint = "kept if they come out with equal bytes"
                state = ItemState(name, record.stage, record.item, "stale", why, hint)
            if state.state in ("stale", "lost"):
                unsure |= {output.path for output in record.outputs.values()}
            states.append(state)
    asked = _asked_but_not_begun(config, records) if compare else ()
    return [*states, *_not_extracted(records, workspace), *asked]


_FOLDERS = (
    "tiles/*",
    "exports/*/*",
    "exports/*/*/*",
    "features/*/*",
    "genomics",
    "models/*",
    "comparisons/*",
    "comparisons/*/*",
    "predictions/*",
    "evaluations/*",
)


def _latest(records: Sequence[Record]) -> list[Record]:
    return list({(record.stage, record.item): record for record in records}.values())


def _state(record: Record, folder: str, workspace: Path, made: Mapping[str, str], config: Config | None) -> ItemState:
    def state(name: State, why: str = "", hint: str = "") -> ItemState:
        return ItemState(folder, record.stage, record.item, name, why, hint)

    if record.status == "failed" and record.error is not None:
        return state("failed", record.error.message, record.error.hint)
    lost = [o.path for o in record.outputs.values() if not o.is_whole(workspace)]
    if lost:
        return state("lost", f"{lost[0]} is missing or damaged", "the next run makes it again")
    changed = {name: why for name, given in record.inputs.items() if (why := _changed(name, given, made))}
    reasons = list(changed.values())
    if record.stage_version != VERSIONS.get(record.stage, record.stage_version):
        reasons.append(f"{record.stage} has changed since (version {record.stage_version})")
    asked = [] if config is None else _asked_otherwise(config, folder, record)
    if asked or reasons:
        refused = asked or changed.keys() & _LIKE_SETTINGS
        again = "--replace makes it again; without, the next run refuses" if refused else "the next run makes it again"
        return state("stale", "; ".join([*reasons, *asked][:3]), again)
    bad = record.stats.get("bad_tiles")
    undecoded = f"{bad} tiles cannot be decoded and are left out" if bad else ""
    return state(record.status if record.status == "empty" else "done", undecoded)


_LIKE_SETTINGS = {"weights", "tissue_weights", "gene_list"}
"""Files whose change is another setting: what was made with the ones before is not replaced unasked."""


def _changed(name: str, given: InputRecord, made: Mapping[str, str]) -> str:
    """Why an input is no longer what it was, or nothing."""
    if given.path is None:
        return ""
    if not Path(given.path).is_absolute():
        return f"{name} changed" if made.get(given.path, given.digest) != given.digest else ""
    path = Path(given.path)
    if given.mtime_ns is None or not path.exists():
        return ""  # moved away after use: what was made from it still counts
    size, mtime = stamp(path)
    if size == given.bytes and (mtime == given.mtime_ns or _digest(name, path) == given.digest):
        return ""  # at most touched
    return f"{name} changed ({path.name})"


def _digest(name: str, path: Path) -> str:
    """The digest of an outside input, as the stage that reads it takes it."""
    if name == "slide":
        from ..data.slides.finding import slide_identity

        return slide_identity(path)[1]
    if name in ("weights", "tissue_weights"):
        from ..models.backbones.weights import digest_of_weights

        return digest_of_weights(path)
    return digest_of(path)


def _asked_otherwise(config: Config, folder: str, record: Record) -> list[str]:
    """In what the settings file now asks for something else than the record was made with."""
    features = f"features/{config.features_name()}"
    name = folder.removeprefix("models/")
    asked: dict[tuple[str, str], Settings] = {
        (f"tiles/{config.tile.folder_name()}", "tile"): config.tile,
        (features, "extract"): config.extract,
        ("genomics", "genomics"): config.genomics,
    }
    if name in config.biomarkers:
        asked[folder, "train"] = config.train
    settings = asked.get((folder, record.stage))
    reasons = [] if settings is None else changed_settings(record.settings, settings.result_settings())
    sources = {str(Path(i.path).parent) for i in record.inputs.values() if i.path and i.path.startswith("features/")}
    if (folder, record.stage) in asked and sources - {features}:
        reasons.append(f"made from {', '.join(sorted(sources))}, the settings now ask for {features}")
    return [f"settings: {reason}" for reason in reasons]


def _asked_but_not_begun(config: Config, records: Mapping[Path, Sequence[Record]]) -> Iterator[ItemState]:
    """What the settings file asks for and no manifest knows: whole folders, and slides that are not tiled."""
    from ..data.slides.finding import find_slides

    tiles, workspace = f"tiles/{config.tile.folder_name()}", config.workspace
    features = f"features/{config.features_name()}"
    for folder, stage in (
        (tiles, "tile"),
        (features, "extract"),
        *((f"models/{n}", "train") for n in config.biomarkers),
    ):
        if workspace / folder not in records:
            yield ItemState(folder, stage, "all", "to do", "the settings ask for it, and nothing is there yet")
    try:
        found = find_slides(config.cohort.slides) if config.cohort.slides else []
    except UsageError:
        return  # the slides are not at hand now: what is recorded of them stands above
    known = {record.item for record in records.get(workspace / tiles, ())}
    if known:
        new = [slide.slide_id for slide in found if slide.slide_id not in known]
        yield from (ItemState(tiles, "tile", slide, "to do", "not tiled yet", "wsipipe tile") for slide in new)


def _not_extracted(records: Mapping[Path, Sequence[Record]], workspace: Path) -> Iterator[ItemState]:
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
        if s.state not in ("done", "empty") or s.why:
            grouped.setdefault((s.folder, s.stage, s.state, s.why, s.hint), []).append(s.item)
    return grouped
