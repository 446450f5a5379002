"""Base class of all stages.

A stage is frozen settings, a version and four methods. It lists its items (:meth:`Stage.plan`), prepares a process
(:meth:`Stage.setup`) and turns an item into an outcome (:meth:`Stage.process`) or, where it is faster to work on
several items at once, a stream of items into outcomes (:meth:`Stage.stream`). The runner skips finished items, records
results, shows progress and handles failures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from ..data.artifact import digest_of
from ..data.errors import WsipipeError
from ..data.manifest import Json, Manifest, OutputRecord, Record
from ..data.wording import some
from .lineage import Lineage, Standing, count_by_reason
from .settings import RESOLVED, Settings

if TYPE_CHECKING:
    from ..data.slides.staging import StagedSlides


@dataclass(frozen=True)
class FileInput:
    """A file from outside the workspace. It is hashed again only when its size or time changed."""

    path: Path
    identify: Callable[[Path], str] = digest_of
    is_setting: bool = False
    """The file counts as a setting (a model's weights): another file replaces results only with --replace."""


@dataclass(frozen=True)
class ValueInput:
    """A value that is not in a file of its own, such as the labels that were read from a table."""

    value: Json


@dataclass(frozen=True)
class OutputInput:
    """An output of another stage. Only its digest counts: made again with equal bytes, it changes nothing here."""

    output: OutputRecord


Input = FileInput | ValueInput | OutputInput


@dataclass(frozen=True)
class Item:
    """A unit of work: one slide, one fold, one matrix."""

    id: str
    inputs: Mapping[str, Input]
    payload: Any = None
    """Whatever :meth:`Stage.process` needs; must be picklable if the stage runs in processes."""
    size: int = 1
    """Amount of work, in the stage's unit, to estimate the remaining time."""
    fingerprint: str = ""
    """Set by the runner; a stage that saves unfinished work (checkpoints) saves it under this key."""
    place: int | None = None
    """Its number among the stage's items, if they have numbers (folds): shards then share them out by it."""


@dataclass(frozen=True)
class Plan:
    """The items of a stage, those that cannot be tried (with the errors), and notes for the user."""

    items: Sequence[Item]
    rejected: Mapping[str, WsipipeError] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of an item. ``empty`` means that it correctly has no output (a slide without tissue)."""

    outputs: Mapping[str, Path] = field(default_factory=dict)
    stats: Mapping[str, Json] = field(default_factory=dict)
    status: Literal["done", "empty"] = "done"
    notes: Sequence[str] = ()
    """Notes that are shown to the user now; what must be recorded belongs into ``stats``."""


class Progress(Protocol):
    """Receives a stage's progress; called from the thread in which the runner called the stage."""

    def advance(self, units: int) -> None:
        """Report that so many more units (tiles, epochs) are done."""

    def say(self, text: str) -> None:
        """Show a few words beside the progress bar on what is happening now."""


class Silence:
    """Progress that is shown nowhere, for worker processes and tests."""

    def advance(self, units: int) -> None: ...

    def say(self, text: str) -> None: ...


S = TypeVar("S", bound=Settings)


class Stage(ABC, Generic[S]):
    """A step of the pipeline; see the module's description.

    :param settings: the stage's settings; each is marked as changing results or not.
    :param folder: folder of its outputs and its manifest.
    :param workspace: recorded paths are relative to this folder.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when the same settings and inputs would give other results than before."""
    items: ClassVar[str] = "slides"
    """Name of its items on the screen, in the plural."""
    unit: ClassVar[str] = ""
    """Unit that the stage counts with :meth:`Progress.advance`, such as ``tiles``; empty: the runner counts items."""
    processes: ClassVar[bool] = False
    """Whether items may run in several processes at once."""
    distributes: ClassVar[bool] = False
    """Whether its items may be shared out: among shards, and among other machines, which see the workspace and the
    inputs under the same paths."""
    by_item: ClassVar[bool] = False
    """Whether an item is made from the items of the same name in the stage's sources alone."""
    closes: ClassVar[bool] = False
    """Whether it is made from all items of another stage in its folder, and so waits for all shards of that."""

    staging: StagedSlides | None = None
    """Set by the runner: slides are opened from copies on a local disk."""
    scratch_place: Path | None = None
    """Set by the runner: a folder on a local disk for large scratch files; None: they lie in the stage's folder."""

    def __init__(self, settings: S, folder: Path, workspace: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.workspace = workspace

    @classmethod
    def made(cls, settings: S, workspace: Path, source: Path | None, **further: Any) -> Self:
        """Make the stage with its folder in a workspace, by default a folder of the stage's name.

        :param source: the folder that it reads, if its row of the registry names one.
        :param further: further arguments of the stage.
        """
        return cls(settings, workspace / cls.name, workspace, **further)

    @property
    def manifest(self) -> Manifest:
        """The manifest of this stage's folder."""
        return Manifest.of(self.folder)

    @property
    def sources(self) -> Sequence[Path]:
        """Folders of other stages, from whose items it is made; their shards must have finished."""
        return ()

    def slide_of(self, item: Item) -> Path | None:
        """The slide that an item opens."""
        return None

    def at_hand(self, slide: Path) -> Path:
        """The path from which to open a slide: its own, or that of its copy, for which it waits."""
        return slide if self.staging is None else self.staging.at_hand(slide)

    @property
    def workers(self) -> int:
        """How many processes the runner may use."""
        return 1

    @property
    def devices(self) -> Sequence[str]:
        """Devices that the stage runs on; with several, each has a process of its own."""
        return ()

    def on(self, device: str, of: int) -> Self:
        """A copy of the stage that runs on one device, when ``of`` devices are used."""
        return self._with_device(device)

    @property
    def uses_device(self) -> bool:
        """Whether it computes on a GPU where there is one."""
        return "device" in type(self.settings).model_fields

    def processes_on(self, cores: int) -> int:
        """How many processes may run on a worker with so many cores, where they share its CPUs."""
        return cores if self.processes else 1

    def for_worker(self, device: str | None, cores: int) -> Self:
        """A copy for a process on a worker, without what only the plan needs.

        :param device: the one that it alone uses; None: it is one of several that share the CPUs.
        :param cores: its share of the worker's cores.
        """
        return self._with_device(device) if device is not None and self.uses_device else copy(self)

    def _with_device(self, device: str) -> Self:
        stage = copy(self)
        stage.settings = self.settings.model_copy(update={"device": device})
        return stage

    @property
    def seconds_an_item(self) -> float | None:
        """Time limit of an item, which then runs in a process that can be killed. None: no limit."""
        return None

    @abstractmethod
    def plan(self) -> Plan:
        """List the items, from the files given and from the manifests of earlier stages."""

    def resolved(self) -> Mapping[str, Json]:
        """Values that settings such as ``auto`` resolve to here, and values from tables, as JSON values.

        They define the numbers as much as the settings do, and replace the settings of the same name in fingerprints.
        Called for each item, so slow results should be cached.
        """
        return {}

    def resolved_in(self, record: Record) -> Mapping[str, Json]:
        """The resolved values when a record was written; a stage whose old records lack them may derive them."""
        resolved: Mapping[str, Json] = record.settings.get(RESOLVED, {})
        return resolved

    def closing_notes(self) -> Sequence[str]:
        """Notes for the user when the last item is done, such as what the bottleneck was."""
        return ()

    @contextmanager
    def sharing(self, items: Sequence[Item], progress: Progress) -> Iterator[None]:
        """Hold what all items share, such as a scratch file, while they are processed on this machine.

        Called where they are given out, before a copy of the stage goes to any process.
        """
        yield

    def setup(self) -> None:
        """Prepare this process, once, before its first item; for example load the model."""

    def process(self, item: Item, progress: Progress) -> Outcome:
        """Process one item. Its outputs must be completely written on return; an error fails only this item."""
        raise NotImplementedError(f"{type(self).__name__} works on streams")

    def stream(self, items: Iterable[Item], progress: Progress) -> Iterator[tuple[Item, Outcome | Exception]]:
        """Process many items and yield each as it completes, in any order. By default one after the other."""
        for item in items:
            try:
                outcome = self.process(item, progress)
            except Exception as error:  # noqa: BLE001  the boundary: a failed item never stops the others
                yield item, error
            else:
                yield item, outcome


@dataclass(frozen=True)
class Upstream:
    """Results of an earlier stage: usable records by item, and why the other items were left out."""

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
    """The records of ``stage`` that are done and valid (:mod:`.lineage`), by item; others are left out and counted.

    :param only: use only these items.
    :param lineage: a lineage of this workspace that may be reused, if nothing has run since it was made.
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
