"""What lies in a stage's folder beside its recorded outputs. Nothing is read, and no link is followed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ...data.artifact import is_stray
from ...data.event_log import EARLIER, NAME
from ...data.manifest import Record
from ...stages.registry import FOLDERS, StageRow, fits, output_row, rows_of

Unrecorded = Literal["orphan", "foreign", "leftover", "unfinished"]

_OWN = ("manifest.jsonl", "manifest.before-*.jsonl", NAME, EARLIER)
"""Files of the manifest itself, and the log of runs."""


@dataclass(frozen=True)
class Extra:
    """A file or folder that no record owns.

    :param kind: see :data:`.findings.KINDS`. A link is always foreign, since wsipipe makes none.
    :param path: relative to the workspace.
    """

    kind: Unrecorded
    path: str


def stage_folders(workspace: Path) -> list[str]:
    """List the folders with a manifest, relative to the workspace, in the order of the pipeline."""
    found = (file.parent for pattern in FOLDERS for file in sorted(workspace.glob(f"{pattern}/manifest.jsonl")))
    return list(dict.fromkeys(folder.relative_to(workspace).as_posix() for folder in found))


def folders_without_manifest(workspace: Path) -> list[str]:
    """List the folders in a stage's place that have no manifest in them, above them or below."""
    managed = {PurePosixPath(folder) for folder in stage_folders(workspace)}
    known = managed | {parent for folder in managed for parent in folder.parents}
    places = {
        PurePosixPath(path.relative_to(workspace).as_posix())
        for pattern in FOLDERS
        for path in workspace.glob(pattern)
        if path.is_dir() and not is_stray(path.name)
    }
    bare = {place for place in places - known if managed.isdisjoint(place.parents)}
    return sorted(place.as_posix() for place in bare if bare.isdisjoint(place.parents))


def is_within(path: str, folder: str) -> bool:
    """Whether a recorded path lies in its stage's folder, as every path that a stage records does."""
    parts = PurePosixPath(path).parts
    return (
        ".." not in parts
        and PurePosixPath(path).is_relative_to(folder)
        and PurePosixPath(path) != PurePosixPath(folder)
    )


def owned_by(records: Collection[Record]) -> set[str]:
    """The paths of all outputs of these records, relative to the workspace."""
    return {output.path for record in records for output in record.outputs.values()}


def extras(workspace: Path, folder: str, owned: Collection[str]) -> Iterator[Extra]:
    """List what lies in a stage's folder and belongs to no record; of a folder that holds nothing owned, itself.

    :param owned: paths that records own, relative to the workspace.
    """
    above = {parent.as_posix() for path in owned for parent in PurePosixPath(path).parents}
    yield from _extras(workspace, folder, PurePosixPath(folder), set(owned), above, rows_of(Path(folder)))


def _extras(
    workspace: Path, here: str, folder: PurePosixPath, owned: set[str], above: set[str], rows: list[StageRow]
) -> Iterator[Extra]:
    with os.scandir(workspace / here) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path = PurePosixPath(here) / entry.name
        name, within = path.as_posix(), path.relative_to(folder)
        is_folder = entry.is_dir(follow_symlinks=False)
        if name in owned or is_own(within, rows):
            continue
        if entry.is_symlink():
            yield Extra("foreign", name)
        elif entry.name.startswith((".partial-", ".aside-")):
            yield Extra("leftover", name)
        elif is_stray(entry.name) or (is_folder and (workspace / name / "manifest.jsonl").is_file()):
            continue  # the latter is a stage's folder in another's, as those of a comparison's methods
        elif any(row.unfinished and fits(within, row.unfinished) for row in rows):
            yield Extra("unfinished", name)
        elif is_folder and (name in above or _may_hold(within, rows)):
            yield from _extras(workspace, name, folder, owned, above, rows)
        else:
            yield Extra("orphan" if output_row(rows, within) else "foreign", name)


def is_own(within: PurePosixPath, rows: list[StageRow]) -> bool:
    return len(within.parts) == 1 and (
        any(fits(within, own) for own in _OWN) or any(within.name in row.beside for row in rows)
    )


def _may_hold(within: PurePosixPath, rows: list[StageRow]) -> bool:
    """Whether a folder is one in which a stage writes outputs or saves unfinished work."""
    patterns = [out.pattern for row in rows for out in row.outputs] + [row.unfinished for row in rows]
    return any(fits(within, PurePosixPath(pattern).parent.as_posix()) for pattern in patterns if "/" in pattern)


def size_and_files(path: Path) -> tuple[int, int]:
    """Bytes and number of the files at a path and below; links count as themselves."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size, 1
    total = files = 0
    for here, _, names in os.walk(path):
        for name in names:
            total += os.lstat(os.path.join(here, name)).st_size  # noqa: PTH118  thousands of files: strings are quicker
            files += 1
    return total, files
