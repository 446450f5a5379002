"""``wsipipe status``: what is done, stale, failed or lost in a workspace, and why. It runs nothing and loads no model.

It reads only the manifests: every record lists what it was made from, which is compared with what is there now
(:mod:`wsipipe.stages.lineage`). With a settings file, it is also compared with the settings of the next run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

from rich.table import Table
from rich.text import Text

from ..data.errors import UsageError
from ..data.known_records import no_garbage_collection
from ..data.manifest import Record
from ..data.shards import FOLDER as SHARDS
from ..data.shards import Roll, begun, read_roll
from ..stages.features_folder import SLIDE_FEATURES, name_of_vectors
from ..stages.lineage import Lineage
from ..stages.registry import FOLDERS, steps
from ..stages.settings import Settings
from .config import Config
from .console import Console
from .terminal import visible

State = Literal["done", "empty", "stale", "failed", "lost", "to do"]
STATES: tuple[State, ...] = ("done", "empty", "stale", "failed", "lost", "to do")
Counts = dict[tuple[str, str], Counter[State]]
"""Folder and stage → how many items are in each state."""
_EXAMPLES = 5


@dataclass(frozen=True)
class ItemState:
    """The present state of one item of a stage."""

    folder: str
    stage: str
    item: str
    state: State
    why: str = ""
    hint: str = ""


@no_garbage_collection()
def survey(config: Config, *, compare: bool) -> list[ItemState]:
    """The state of every item in the manifests of the workspace, and of those that are still to be done.

    :param config: its workspace is surveyed.
    :param compare: compare the recorded settings with those of ``config``.
    """
    workspace = config.workspace
    lineage = Lineage(workspace)
    folders = [file.parent for pattern in FOLDERS for file in sorted(workspace.glob(f"{pattern}/manifest.jsonl"))]
    records = {folder: lineage.all_latest(folder) for folder in folders}
    asked = _Asked(config) if compare else None
    states = [
        _state(record, name, lineage, asked)
        for name, latest in ((folder.relative_to(workspace).as_posix(), latest) for folder, latest in records.items())
        for record in latest
    ]
    not_begun = _asked_but_not_begun(config, records) if compare else ()
    return [*states, *_not_extracted(records, workspace), *not_begun]


def _state(record: Record, folder: str, lineage: Lineage, asked: _Asked | None) -> ItemState:
    def state(name: State, why: str = "", hint: str = "") -> ItemState:
        return ItemState(folder, record.stage, record.item, name, why, hint)

    standing = lineage.standing(record)
    if standing.state == "failed":
        return state("failed", standing.why, record.error.hint if record.error else "")
    if standing.state == "lost":
        return state("lost", standing.why, _AGAIN)
    differing = [] if asked is None else asked.otherwise(folder, record)
    if differing or standing.state == "stale":
        refused = differing or _LIKE_SETTINGS.intersection(standing.changed)
        again = "--replace makes it again; without, the next run refuses" if refused else _AGAIN
        if record.stage == "train" and "splits" in standing.changed:
            again += ", if the present split has that fold"
        return state("stale", "; ".join(filter(None, [standing.why, *differing[:3]])), again)
    if doubt := lineage.doubt(record):
        return state("stale", doubt, "wsipipe train makes the model again; the result is right for the present model")
    settings = None if asked is None else asked.settings_of(folder, record.stage)
    if settings is not None and (complaint := settings.judge(record.stats)):
        return state("stale", complaint, "the next run leaves it out")
    bad = record.stats.get("bad_tiles")
    return state(standing.state, f"{bad} tiles cannot be decoded and are left out" if bad else "")


_AGAIN = "the next run makes it again"
_LIKE_SETTINGS = {"weights", "tissue_weights", "artefact_weights", "gene_list", "init"}
"""Files that count as settings: results of an earlier file are replaced only if the user asks for it."""


class _Asked:
    """The settings of the next run, compared with those that records were made with."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._features = f"features/{config.features_name()}"
        vectors = name_of_vectors(config.features_name(), config.encode.encoder)
        self._settings: dict[tuple[str, str], Settings | None] = {
            (f"tiles/{config.tile.folder_name()}", "tile"): config.tile,
            (self._features, "extract"): config.extract,
            ("genomics", "genomics"): config.genomics,
            (f"{SLIDE_FEATURES}/{vectors}", "encode"): config.encode,
        }
        self._listed = frozenset(stage for _, stage in self._settings)
        self._unlike: dict[tuple[str, str, int], list[str]] = {}  # most records share their settings

    def settings_of(self, folder: str, stage: str) -> Settings | None:
        """The settings of the next run for a stage in a folder; None where the settings file does not define them."""
        key = (folder, stage)
        if key not in self._settings:
            found: Settings | None = None
            if stage == "train" and folder.removeprefix("models/") in self._config.biomarkers:
                found = self._config.train
            elif stage in steps() and stage not in self._listed:
                found = cast("Settings", getattr(self._config, stage))
            self._settings[key] = found
        return self._settings[key]

    def otherwise(self, folder: str, record: Record) -> list[str]:
        """Differences between the settings file and the settings that a record was made with."""
        settings = self.settings_of(folder, record.stage)
        if settings is None:
            return []
        key = (folder, record.stage, id(record.settings))
        if key not in self._unlike:
            self._unlike[key] = settings.unlike(record.settings, settings.result_settings())
        reasons = list(self._unlike[key])
        sources = {
            i.path.rpartition("/")[0] for i in record.inputs.values() if i.path and i.path.startswith("features/")
        }
        if sources - {self._features}:
            reasons.append(f"made from {', '.join(sorted(sources))}, the settings now ask for {self._features}")
        return [f"settings: {reason}" for reason in reasons]


def _asked_but_not_begun(config: Config, records: Mapping[Path, Sequence[Record]]) -> Iterator[ItemState]:
    """What the settings file asks for and no manifest contains: slides that are not tiled, and whole folders."""
    from ..data.plain_files import url_of
    from ..data.slides.finding import find_slides

    tiles, workspace = f"tiles/{config.tile.folder_name()}", config.workspace
    features = f"features/{config.features_name()}"
    try:
        given = [path for path in config.cohort.slides if url_of(path) is None]  # no server is asked for a status
        found = [slide.slide_id for slide in find_slides(given)] if given else []
    except UsageError:
        found = []  # the slides cannot be found now; their records are listed anyway
    of_tiles = [record for record in records.get(workspace / tiles, ()) if record.stage == "tile"]
    known, tiled = {record.item for record in of_tiles}, [r.item for r in of_tiles if r.status == "done"]
    for folder, stage, items in (
        (tiles, "tile", found),
        (features, "extract", tiled if known else found),
        *([("genomics", "genomics", [])] if config.genomics.sources() else []),
        *((f"models/{n}", "train", []) for n in config.biomarkers),
    ):
        if workspace / folder not in records:
            why = "the settings ask for it, and nothing is there yet"
            yield from (ItemState(folder, stage, item, "to do", why) for item in items or ["all"])
    if known:
        new = [slide for slide in found if slide not in known]
        yield from (ItemState(tiles, "tile", slide, "to do", "not tiled yet", "wsipipe tile") for slide in new)


def _not_extracted(records: Mapping[Path, Sequence[Record]], workspace: Path) -> Iterator[ItemState]:
    """Slides that are tiled but missing in a features folder made from these tiles."""
    for folder, tiled in records.items():
        if folder.parent.name != "tiles":
            continue
        done = [r.item for r in tiled if r.stage == "tile" and r.status == "done"]
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
    console.table(_table(_counts(states)))
    for (folder, stage, name, why, hint), items in _reasons(states).items():
        more = f" and {len(items) - _EXAMPLES} more" if len(items) > _EXAMPLES else ""
        console.line(f"{name} in {folder} ({stage}): {', '.join(items[:_EXAMPLES])}{more}")
        console.line(f"    {why}" + (f" → {hint}" if hint else ""))
    shards = list(_unfinished_shards(config.workspace))
    for folder, roll, at_work in shards:
        what = f" (at work, or died: {', '.join(map(str, at_work))})" if at_work else ""
        console.line(f"shards of {folder}: {roll} {'has' if len(roll.missing) == 1 else 'have'} not finished{what}")
    of_shards = {
        folder: {"stage": roll.stage, "of": roll.of, "missing": roll.missing, "begun": at_work}
        for folder, roll, at_work in shards
    }
    of_all = {"workspace": str(config.workspace), "items": [vars(state) for state in states]}
    console.result({**of_all, **({"shards": of_shards} if of_shards else {})})


def _unfinished_shards(workspace: Path) -> Iterator[tuple[str, Roll, list[int]]]:
    """The folders whose shards have not all finished, with the numbers of those that have begun."""
    for folder in (path for pattern in FOLDERS for path in sorted(workspace.glob(f"{pattern}/{SHARDS}"))):
        roll = read_roll(folder.parent)
        if roll is not None and roll.missing:
            yield folder.parent.relative_to(workspace).as_posix(), roll, begun(folder.parent)


def watch_status(config: Config, console: Console, *, compare: bool, seconds: float = 5.0) -> None:
    """Show the table again and again until Ctrl-C; where there is no terminal, whenever it has changed.

    :param seconds: pause between two looks; after one that took long, it is ten times as long.
    """
    before: Counts | None = None
    with suppress(KeyboardInterrupt), console.changing() as show:
        while True:
            begin = time.monotonic()
            counts = _counts(survey(config, compare=compare))
            if counts != before:
                before = counts
                table = _table(counts)
                table.caption = f"{datetime.now():%H:%M:%S} · Ctrl-C ends"
                show(table)
            time.sleep(max(seconds, 10 * (time.monotonic() - begin)))


def _counts(states: Sequence[ItemState]) -> Counts:
    counts: Counts = {}
    for state in states:
        counts.setdefault((state.folder, state.stage), Counter())[state.state] += 1
    return counts


def _table(counts: Counts) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("folder", "stage", *STATES):
        table.add_column(name, justify="left" if name in ("folder", "stage") else "right")
    for (folder, stage), of in counts.items():
        table.add_row(Text(visible(folder)), stage, *(str(of[name]) if of[name] else "·" for name in STATES))
    return table


def _reasons(states: Sequence[ItemState]) -> dict[tuple[str, str, str, str, str], list[str]]:
    grouped: dict[tuple[str, str, str, str, str], list[str]] = {}
    for s in states:
        if s.state not in ("done", "empty") or s.why:
            grouped.setdefault((s.folder, s.stage, s.state, s.why, s.hint), []).append(s.item)
    return grouped
