"""The one shape of a stage.

A stage is frozen settings, a version and four methods. It lists its items (:meth:`Stage.plan`), prepares a process
(:meth:`Stage.setup`) and turns an item into an outcome (:meth:`Stage.process`), or, where work pays across items, a
stream of items into outcomes (:meth:`Stage.stream`). Skipping, recording, progress and failure are the runner's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from ..data.artifact import digest_of
from ..data.errors import WsipipeError
from ..data.manifest import Json, Manifest, OutputRecord, Record
from ..data.wording import some
from .lineage import Lineage, Standing, count_by_reason
from .settings import RESOLVED, Settings


@dataclass(frozen=True)
class FileInput:
    """A file from outside the workspace. It is hashed again only when its size or time changed."""

    path: Path
    identify: Callable[[Path], str] = digest_of
    is_setting: bool = False
    """Another file here is like another setting (a model's weights): it replaces results only if the user says so."""


@dataclass(frozen=True)
class ValueInput:
    """A value that is not in a file of its own, such as the labels that were read from a table."""

    value: Json


@dataclass(frozen=True)
class OutputInput:
    """An output of another stage. Only its digest counts: redone with equal bytes, nothing after it is redone."""

    output: OutputRecord


Input = FileInput | ValueInput | OutputInput


@dataclass(frozen=True)
class Item:
    """A unit of work: one slide, one fold, one matrix."""

    id: str
    inputs: Mapping[str, Input]
    payload: Any = None
    """What :meth:`Stage.process` needs to know; it must survive pickling where the stage runs in processes."""
    size: int = 1
    """Amount of work, in the stage's unit, for the time left."""
    fingerprint: str = ""
    """Set by the runner: what a stage that keeps unfinished work keeps it under."""


@dataclass(frozen=True)
class Plan:
    """The items of a stage, those that cannot be tried, and what the user should know about the rest."""

    items: Sequence[Item]
    rejected: Mapping[str, WsipipeError] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What an item gave. ``empty`` means that there is rightly nothing (a slide without tissue)."""

    outputs: Mapping[str, Path] = field(default_factory=dict)
    stats: Mapping[str, Json] = field(default_factory=dict)
    status: Literal["done", "empty"] = "done"
    notes: Sequence[str] = ()
    """What the user should know of it now; what must be kept belongs into the stats."""


class Progress(Protocol):
    """Where a stage tells how far it is, from the thread that the runner called it in."""

    def advance(self, units: int) -> None:
        """So many more units (tiles, epochs) are done."""

    def say(self, text: str) -> None:
        """A few words on what happens now, shown beside the bar."""


class Silence:
    """Progress that nobody watches: worker processes and tests."""

    def advance(self, units: int) -> None: ...

    def say(self, text: str) -> None: ...


S = TypeVar("S", bound=Settings)


class Stage(ABC, Generic[S]):
    """A step of the pipeline; see the module's description.

    :param settings: what changes results, and what does not (marked so in the settings).
    :param folder: where its outputs and its manifest lie.
    :param workspace: what recorded paths are relative to.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when the same settings and inputs would give other results than before."""
    items: ClassVar[str] = "slides"
    """What its items are called on the screen."""
    unit: ClassVar[str] = ""
    """What the stage itself counts with :meth:`Progress.advance`, such as ``tiles``; empty: the runner counts items."""
    processes: ClassVar[bool] = False
    """Whether items may be given to several processes at once."""

    def __init__(self, settings: S, folder: Path, workspace: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.workspace = workspace

    @classmethod
    def made(cls, settings: S, workspace: Path, source: Path | None, **further: Any) -> Self:
        """The stage in its place in a workspace: a folder called after it, unless the stage says otherwise.

        :param source: the folder that it reads, where its row of the registry names one.
        :param further: what it takes beside.
        """
        return cls(settings, workspace / cls.name, workspace, **further)

    @property
    def manifest(self) -> Manifest:
        """The manifest of this stage's folder."""
        return Manifest.of(self.folder)

    @property
    def workers(self) -> int:
        """How many processes the runner may use."""
        return 1

    @property
    def devices(self) -> Sequence[str]:
        """Devices that the stage runs on; with several, each has a process of its own."""
        return ()

    def on(self, device: str, of: int) -> Self:
        """The stage as it runs on one of so many devices."""
        raise NotImplementedError(f"{type(self).__name__} runs on one device")

    @property
    def seconds_an_item(self) -> float | None:
        """After which an item is given up; it must run in a process of its own for that. None: it may take forever."""
        return None

    @abstractmethod
    def plan(self) -> Plan:
        """List the items, from the files given and from the manifests of earlier stages."""

    def resolved(self) -> Mapping[str, Json]:
        """What settings such as ``auto`` come to here, and what tables say beside them, as JSON values.

        They give the numbers their meaning as much as the settings do, and take the place of those of the same name.
        Asked for each item: keep what is slow to find out.
        """
        return {}

    def resolved_in(self, record: Record) -> Mapping[str, Json]:
        """What they came to when a record was written; a stage whose old records do not say it finds it elsewhere."""
        resolved: Mapping[str, Json] = record.settings.get(RESOLVED, {})
        return resolved

    def closing_notes(self) -> Sequence[str]:
        """What the user should know when the last item is done, such as what bound the work."""
        return ()

    def setup(self) -> None:
        """Prepare this process, once, before its first item: open the model, say."""

    def process(self, item: Item, progress: Progress) -> Outcome:
        """Do one item. Its outputs are whole when this returns; an error fails this item alone."""
        raise NotImplementedError(f"{type(self).__name__} works on streams")

    def stream(self, items: Iterable[Item], progress: Progress) -> Iterator[tuple[Item, Outcome | Exception]]:
        """Do many items and yield each as it completes, in any order. By default one after the other."""
        for item in items:
            try:
                outcome = self.process(item, progress)
            except Exception as error:  # noqa: BLE001  the boundary: a failed item never stops the others
                yield item, error
            else:
                yield item, outcome


@dataclass(frozen=True)
class Upstream:
    """What an earlier stage left: the items to build on, and why the others give nothing."""

    records: Mapping[str, Record]
    notes: Sequence[str]
    left_out: Mapping[str, Standing]


def upstream(
    manifest: Manifest,
    stage: str,
    workspace: Path,
    *,
    only: Iterable[str] | None = None,
    lineage: Lineage | None = None,
) -> Upstream:
    """The records of ``stage`` that are done and count (:mod:`.lineage`), by item; the others are left out and counted.

    :param only: keep to these items.
    :param lineage: one that has looked at this workspace already, since anything ran in it.
    """
    wanted = None if only is None else set(only)
    lineage = lineage or Lineage(workspace)
    done: dict[str, Record] = {}
    left_out: dict[str, Standing] = {}
    for item, record in lineage.latest(manifest.path.parent, stage).items():
        if wanted is None or item in wanted:
            standing = lineage.standing(record)
            if standing.state == "done":
                done[item] = record
            else:
                left_out[item] = standing
    notes = []
    for what, items in count_by_reason(left_out).items():
        why = f" ({left_out[items[0]].why})" if what == "stale" else ""
        notes.append(f"{len(items)} {what} in {stage}, left out: {some(items, 3)}{why}")
    return Upstream(done, notes, left_out)
