"""The slides of a workspace and how far each has come, read from its manifests without any lock.

A run may be writing meanwhile: manifests grow by whole lines and tables are replaced whole, so that what is read is
what was true a moment ago. The list is made again when a manifest or a table has changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock

from ...data.errors import WsipipeError
from ...data.manifest import InputRecord, OutputRecord, Record
from ...stages.lineage import MODEL, Lineage, Standing
from ...stages.pages.slot_table import GALLERY
from ...stages.train.cross_validate import TARGETS
from .fold_source import FoldSource, tested_slides, tiles_in
from .inside import inside, stamp
from .predictions import EVALUATED, OUT_OF_FOLD, Said, of_patients, predicted

Key = tuple[str, str]
"""Name of the folder of tiles, and id of the slide."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Outputs of a prediction for a slide's tiles, or of the reading of an evaluation."""

    name: str
    """Of the predictions' folder."""
    outputs: Mapping[str, OutputRecord]
    stale: str
    """Why it is no longer valid; empty if it is."""
    model: str
    store: str
    """Paths of the model and of the slide's features, as the record has them; empty if it does not say them."""


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """A slide as one folder of tiles knows it."""

    tiles: str
    id: str
    record: Record
    state: str
    """``tiled``, ``extracted`` or ``predicted``, or what is wrong: ``empty``, ``failed``, ``stale``, ``lost``."""
    why: str
    features: tuple[str, ...]
    """Paths of its features, relative to the workspace."""
    scored: tuple[Scored, ...]
    tested: tuple[FoldSource, ...]
    """The models that the slide's patient trained, each with the fold that was not trained on them."""

    @property
    def key(self) -> Key:
        """How the row is found."""
        return self.tiles, self.id

    @property
    def path(self) -> Path:
        """The slide's own file."""
        return Path(self.record.inputs["slide"].path or "")


@dataclass(frozen=True, kw_only=True)
class SlideList:
    """All slides of a workspace."""

    version: str
    """Another one when anything has changed."""
    rows: Mapping[Key, SlideRow] = field(default_factory=dict)
    said: Mapping[str, Mapping[str, Said]] = field(default_factory=dict)
    """Name of a model's predictions → slide → what is predicted."""
    galleries: Mapping[str, Record] = field(default_factory=dict)
    """Name of a model → the record of the gallery of its memory slots."""
    notes: tuple[str, ...] = ()
    """What could not be read."""


class Workspace:
    """A workspace that is looked at, and perhaps written to by others meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self._list = SlideList(version="")

    def slides(self) -> SlideList:
        """The slides as they are now."""
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a last line that is being written
            version = self._version()
            if version != self._list.version:
                self._list = _Reading(self.folder).slides(version)
            return self._list

    def row(self, key: Key) -> SlideRow:
        """A slide as the list last had it: while a run is going on, not every zoom tile has the workspace read again.

        :raises LookupError: there is no such slide.
        """
        known = self._list.rows.get(key) or self.slides().rows.get(key)
        if known is None:
            raise LookupError(f"no slide {key[1]!r} among the tiles {key[0]!r}")
        return known

    def _version(self) -> str:
        files = [file for pattern in _FILES for file in sorted(self.folder.glob(pattern))]
        return sha256(repr([(str(file), stamp(file)) for file in files]).encode("utf-8", "replace")).hexdigest()[:16]


_FILES = (
    *("tiles/*/manifest.jsonl", "features/*/*/manifest.jsonl"),
    *("predictions/*/manifest.jsonl", "predictions/*/predictions.csv"),
    *("models/*/manifest.jsonl", "models/*/oof_predictions.csv", "models/*/patients.csv", "models/*/splits.csv"),
    *("evaluations/*/manifest.jsonl", "evaluations/*/predictions.csv", "evaluations/*/patients.csv"),
    *("models/*/targets/*/oof_predictions.csv", "evaluations/*/targets/*/predictions.csv"),
)


_OF_PATIENTS = tuple(
    (pattern, table, stage, item, after)
    for folder, table, stage, item, after in (
        ("models/*", "oof_predictions.csv", "cross_validate", "cross-validation", OUT_OF_FOLD),
        ("evaluations/*", "predictions.csv", "external_evaluate", "cohort", EVALUATED),
    )
    for pattern in (folder, f"{folder}/{TARGETS}/*")
)
"""Folders with predictions for patients whose labels are known, of a question and of each of several targets; their
table, the stage and the item that made it, and what stands after the folder's name."""


class _Reading:
    """One reading of the workspace. What cannot be read becomes a note, and the rest is shown."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lineage = Lineage(folder)
        self._notes: list[str] = []

    def slides(self, version: str) -> SlideList:
        extracted: dict[Key, list[Record]] = {}
        for place in self._folders("features/*/*"):
            for slide, record in self._latest(place, "extract").items():
                extracted.setdefault((place.parent.name, slide), []).append(record)
        scored: dict[Key, list[Scored]] = {}
        for pattern, stage, after in (("predictions/*", "predict", ""), ("evaluations/*", "read_slides", EVALUATED)):
            for place in self._folders(pattern):
                for slide, record in self._latest(place, stage).items():
                    if record.status == "done" and (tiles := _tiles_of(record.inputs.get("features"))):
                        scored.setdefault((tiles, slide), []).append(self._scored(place.name + after, record))
        tested: dict[Key, list[FoldSource]] = {}
        for place in self._folders("models/*"):
            with self._noted():
                for key, source in self._tested(place).items():
                    tested.setdefault(key, []).append(source)
        galleries = {}
        for place in self._folders("models/*"):
            found = self._latest(place, "slot_gallery").get(GALLERY)
            if found is not None and "tiles" in found.outputs and self._standing(found).counts:
                galleries[place.name] = found
        rows = {}
        for place in self._folders("tiles/*"):
            for slide, record in sorted(self._latest(place, "tile").items()):
                key = (place.name, slide)
                rows[key] = self._row(key, record, extracted.get(key, []), scored.get(key, []), tested.get(key, []))
        said = self._said()
        return SlideList(version=version, rows=rows, said=said, galleries=galleries, notes=tuple(self._notes))

    def _scored(self, name: str, record: Record) -> Scored:
        model, features = record.inputs.get(MODEL), record.inputs.get("features")
        return Scored(
            name=name,
            outputs=record.outputs,
            stale=self._why_not(record),
            model=(model and model.path) or "",
            store=(features and features.path) or "",
        )

    def _tested(self, model: Path) -> dict[Key, FoldSource]:
        """The slides of those who trained a model, if its cross-validation is valid."""
        record = self._latest(model, "cross_validate").get("cross-validation")
        if record is None or not self._standing(record).counts:
            return {}
        sources = tested_slides(record, model, self._folder)
        return {(tiles, slide): one for slide, one in sources.items() if (tiles := tiles_in(one.store))}

    def _row(
        self,
        key: Key,
        record: Record,
        extracted: list[Record],
        scored: list[Scored],
        tested: list[FoldSource],
    ) -> SlideRow:
        standing = self._standing(record)
        state: str = standing.state if standing.state != "done" else "tiled"
        why = standing.why
        if state == "tiled":
            standings = [self._standing(one) for one in extracted]
            if any(one.state == "done" for one in standings):
                state = "predicted" if any(not one.stale for one in scored) else "extracted"
            elif standings and standings[0].state == "failed":
                state, why = "failed", f"extract: {standings[0].why}"
        return SlideRow(
            tiles=key[0],
            id=key[1],
            record=record,
            state=state,
            why=why,
            features=tuple(one.outputs["features"].path for one in extracted if "features" in one.outputs),
            scored=tuple(scored),
            tested=tuple(tested),
        )

    def _said(self) -> dict[str, Mapping[str, Said]]:
        said: dict[str, Mapping[str, Said]] = {}
        for place in self._folders("predictions/*", "predictions.csv"):
            with self._noted():
                said[place.name] = predicted(inside(self._folder, place / "predictions.csv"))
        for pattern, table, stage, item, after in _OF_PATIENTS:
            for place in self._folders(pattern, table):
                of = place.parent.parent if place.parent.name == TARGETS else place
                with self._noted():
                    record = self._latest(of, stage).get(item)
                    status = "done" if record is None or self._standing(record).counts else "stale"
                    given, patients = (inside(self._folder, file) for file in (place / table, of / "patients.csv"))
                    name = of.name + after if of == place else f"{of.name}{after}, {place.name}"
                    said[name] = of_patients(given, patients, status)
        return said

    def _folders(self, pattern: str, holding: str = "manifest.jsonl") -> Iterator[Path]:
        """Folders of the workspace in which a file is; those outside are noted and passed over."""
        for file in sorted(self._folder.glob(f"{pattern}/{holding}")):
            with self._noted():
                yield inside(self._folder, file).parent

    def _latest(self, place: Path, stage: str) -> Mapping[str, Record]:
        found: Mapping[str, Record] = {}
        with self._noted():
            found = self._lineage.latest(place, stage)
        return found

    def _standing(self, record: Record) -> Standing:
        try:
            return self._lineage.standing(record)
        except WsipipeError as error:
            return Standing("lost", str(error))

    def _why_not(self, record: Record) -> str:
        standing = self._standing(record)
        return "" if standing.counts else standing.why

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """What the block cannot read becomes a note."""
        try:
            yield
        except (WsipipeError, OSError) as error:
            self._notes.append(str(error))


def _tiles_of(features: InputRecord | None) -> str:
    """Name of the folder of tiles that features were made of; empty if the record does not say it."""
    return tiles_in((features and features.path) or "")
