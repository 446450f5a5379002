"""Lineage: which records of a workspace are valid, and why the others are not.

A record is valid while each of its inputs equals the present output of its producer, and the producer's record is valid
too. Bytes decide, not runs: an output that was lost and is made again with equal bytes leaves everything after it
valid.

    tiles/…/a.h5  →  features/…/a.zarr  →  models/her2/fold-0  →  models/her2/oof_predictions.csv  →  report.html

The recorded path of an input shows its producer: a path within the workspace is an output of the stage with the nearest
manifest above it; an absolute path, or one with a time, is a user's file. A user's file that is gone counts as archived
after use, and its results stay valid; a file with other bytes has changed. A trained model stands for itself: its
bundles are compared by their bytes, not with the cohort that they were trained on (see :meth:`Lineage.doubt`).

Nothing large is read: outputs are compared by size and recorded digest, and a user's file is hashed only if its size or
time differs from the recorded one.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from ..data.artifact import digest_of, digest_of_value, stamp
from ..data.cohort.splits import MOST_FOLDS
from ..data.errors import StoreError, WsipipeError
from ..data.json_text import parse_json, read_bytes
from ..data.manifest import InputRecord, Manifest, OutputRecord, Record
from .registry import VERSIONS

State = Literal["done", "empty", "failed", "lost", "stale"]

MODEL = "model"
"""Name of the input that is a trained model's folder."""
_MAX_REASONS = 3
"""Number of reasons listed for one record; a fold may have hundreds of inputs."""


@dataclass(frozen=True)
class Standing:
    """The state of a record: valid as ``done`` or ``empty``, or not valid, and why."""

    state: State
    why: str = ""
    changed: tuple[str, ...] = ()
    """Names of the inputs that have changed."""

    @property
    def counts(self) -> bool:
        """Whether the record is valid."""
        return self.state in ("done", "empty")


class _Folder:
    """The records of one manifest."""

    def __init__(self, path: Path) -> None:
        self._records = Manifest.of(path).records()

    @cached_property
    def latest(self) -> dict[tuple[str, str], Record]:
        """The latest record of each stage and item."""
        return {(record.stage, record.item): record for record in self._records}

    @cached_property
    def makers(self) -> dict[str, tuple[str, str]]:
        """Path of an output → stage and item that last wrote it."""
        return {o.path: (record.stage, record.item) for record in self._records for o in record.outputs.values()}


class Lineage:
    """A snapshot of a workspace, which caches what it has read: make a new one after any stage has run."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._folders: dict[Path, _Folder] = {}
        self._places: dict[str, Path | None] = {}
        self._standings: dict[int, tuple[Record, Standing]] = {}  # holds the record, so that its id is not reused
        self._files: dict[tuple[str, InputRecord], str] = {}
        self._models: dict[Path, str | None] = {}

    def latest(self, folder: Path, stage: str | None = None) -> dict[str, Record]:
        """Return the latest record of each item of a stage's folder, valid or not."""
        return {item: r for (of, item), r in self._folder(folder).latest.items() if stage in (None, of)}

    def all_latest(self, folder: Path) -> list[Record]:
        """Return the latest record of each stage and item of a folder, valid or not."""
        return list(self._folder(folder).latest.values())

    def standing(self, record: Record) -> Standing:
        """Determine the state of a record, which must be the latest of its item."""
        cached = self._standings.get(id(record))
        if cached is None:
            cached = self._standings[id(record)] = record, self._judged(record)
        return cached[1]

    def doubt(self, record: Record) -> str:
        """Say why the trained model behind a record is itself out of date; empty if it is not.

        The record stays valid, since a trained model may still be used when its cohort grows, but users should know.
        """
        given = record.inputs.get(MODEL)
        return "" if given is None or given.path is None else self.doubt_of_model(Path(given.path))

    def doubt_of_model(self, model: Path) -> str:
        """Say why a model's folder is out of date; empty if it is not, or if it belongs to another workspace."""
        place = self.workspace / model
        if not place.is_relative_to(self.workspace) or not (place / "manifest.jsonl").is_file():
            return ""
        for fold in range(fold_count(place) or 0):
            made = self._maker((place / f"fold-{fold}").relative_to(self.workspace).as_posix())
            if made is not None and not (standing := self.standing(made)).counts:
                return f"the model {place.name} is itself {standing.state}: {standing.why}"
        return ""

    def _judged(self, record: Record) -> Standing:
        if record.status == "failed":
            return Standing("failed", record.error.message if record.error else "it failed")
        lost = [output.path for output in record.outputs.values() if not output.is_whole(self.workspace)]
        if lost:
            return Standing("lost", f"{lost[0]} is missing or damaged")
        changed = {name: why for name, given in record.inputs.items() if (why := self._changed(record, name, given))}
        reasons = list(changed.values())
        if record.stage_version != VERSIONS.get(record.stage, record.stage_version):
            reasons.append(f"{record.stage} has changed since (version {record.stage_version})")
        if reasons:
            more = f"; and {len(reasons) - _MAX_REASONS} more" if len(reasons) > _MAX_REASONS else ""
            return Standing("stale", "; ".join(reasons[:_MAX_REASONS]) + more, tuple(changed))
        return Standing(record.status)

    def _changed(self, record: Record, name: str, given: InputRecord) -> str:
        """Say how an input has changed; empty if it has not."""
        if given.path is None:
            return ""  # a value: compared when the item is planned
        if name == MODEL:
            return self._model_changed(given.path, given.digest)
        if given.mtime_ns is None and os.path.isabs(given.path):  # noqa: PTH117  asked for 100,000 inputs at once
            return self._changed_before(record, name, given.digest)
        if given.mtime_ns is None:
            return self._output_changed(name, given.path, given.digest)
        key = (name, given)
        if (known := self._files.get(key)) is None:
            known = self._files[key] = _file_changed(name, given)
        return known

    def _output_changed(self, name: str, path: str, digest: str) -> str:
        made = self._maker(path)
        if made is None:
            return f"{name} is gone"
        if made.status == "failed":
            return f"{name} failed: {self.standing(made).why}"
        if digest not in {output.digest for output in made.outputs.values() if output.path == path}:
            return f"{name} changed"
        standing = self.standing(made)
        return "" if standing.counts else f"{name} will be made again ({standing.why})"

    def _changed_before(self, record: Record, name: str, digest: str) -> str:
        """Compare a file's digest with that recorded by an earlier stage (for a slide, by tiling)."""
        for given in record.inputs.values():
            own = given.path if given.path and not os.path.isabs(given.path) else None  # noqa: PTH117
            made = None if own is None else self._maker(own)
            if made is not None and name in made.inputs and made.inputs[name].digest != digest:
                return f"{name} changed"
        return ""

    def _model_changed(self, path: str, digest: str) -> str:
        model = self.workspace / path
        if model not in self._models:
            self._models[model] = digest_of_model(model)
        now = self._models[model]
        return f"the model is gone ({path})" if now is None else "" if now == digest else f"the model changed ({path})"

    def _maker(self, path: str) -> Record | None:
        """Find the latest record of the item that wrote an output."""
        first = path.rpartition("/")[0]
        if first not in self._places:
            above = (self.workspace / parent for parent in PurePosixPath(path).parents)
            self._places[first] = next((place for place in above if (place / "manifest.jsonl").is_file()), None)
        place = self._places[first]
        folder = None if place is None else self._folder(place)
        return None if folder is None or path not in folder.makers else folder.latest[folder.makers[path]]

    def _folder(self, path: Path) -> _Folder:
        if path not in self._folders:
            self._folders[path] = _Folder(path)
        return self._folders[path]


def model_record(model: Path, workspace: Path) -> OutputRecord:
    """Describe a trained model as an input: its folder, relative to the workspace if inside, and a digest."""
    model, workspace = model.resolve(), workspace.resolve()
    place = model.relative_to(workspace).as_posix() if model.is_relative_to(workspace) else str(model)
    return OutputRecord(path=place, bytes=0, digest=digest_of_model(model) or "none")


def digest_of_model(model: Path) -> str | None:
    """Compute the digest of all folds' bundles; None if the model is not complete."""
    folds = fold_count(model)
    bundles = {str(fold): model / f"fold-{fold}" for fold in range(folds or 0)}
    if not bundles or not all(bundle.is_dir() for bundle in bundles.values()):
        return None
    return digest_of_value({fold: digest_of(bundle) for fold, bundle in bundles.items()})


def fold_count(model: Path) -> int | None:
    """Read the number of folds of a model from its first bundle, since earlier trainings may have left more folders."""
    file = model / "fold-0" / "bundle.json"
    try:
        folds = parse_json(read_bytes(file, StoreError, hint=""))["folds"]
    except (OSError, ValueError, LookupError, TypeError, StoreError):
        return None
    return folds if isinstance(folds, int) and 0 < folds <= MOST_FOLDS else None


def _file_changed(name: str, given: InputRecord) -> str:
    """Say how a user's file has changed; empty if it has not."""
    path = given.path or ""
    try:
        if stamp(path) == (given.bytes, given.mtime_ns) or _digest(name, Path(path)) == given.digest:
            return ""  # the same bytes, perhaps with a new time
    except (OSError, WsipipeError):
        if not os.path.exists(path):  # noqa: PTH110  asked for 100,000 slides at once
            return ""  # moved away after use: its results stay valid
        return f"{name} cannot be read ({Path(path).name})"
    return f"{name} changed ({Path(path).name})"


def _digest(name: str, path: Path) -> str:
    """Compute the digest of a user's file, as the stage that reads it does."""
    if name == "slide":
        from ..data.slides.finding import slide_identity  # loads readers, which are rarely needed

        return slide_identity(path)[1]
    if name == "weights":
        from ..models.backbones.weights import digest_of_weights  # loads torch

        return digest_of_weights(path)
    return digest_of(path)


def count_by_reason(left_out: Mapping[str, Standing]) -> dict[str, list[str]]:
    """Group items by reason: ``failed``, ``empty``, ``with lost outputs`` or ``stale``."""
    words = {"lost": "with lost outputs"}
    grouped: dict[str, list[str]] = {}
    for item, standing in left_out.items():
        grouped.setdefault(words.get(standing.state, standing.state), []).append(item)
    return grouped
