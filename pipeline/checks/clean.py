"""Finding and removing what no result needs: half-written files, orphans, overtaken training, old folds, whole folders.

Only what wsipipe itself has made is ever removed: it was found by walking a stage's folder, it is named as the stage
names its outputs, and it is no link and lies behind none. Everything is looked at again under the folder's lock before
it goes, and a folder in which a run is writing is left as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath

from ...data.artifact import files_of, remove
from ...data.errors import BusyError, StoreError, UsageError
from ...data.manifest import Manifest, Record
from ...data.shards import clear_roll
from ...stages.lineage import fold_count
from ...stages.registry import rows_of
from .folder_content import extras, is_own, is_within, owned_by, size_and_files, stage_folders


@dataclass(frozen=True)
class Target:
    """Something that would go.

    :param why: ``leftover``, ``orphan``, ``overtaken``, ``old fold``, or ``whole folder`` for one that was named.
    :param folder: the stage's folder, relative to the workspace.
    :param path: the file or folder, relative to the workspace.
    :param used_by: folders with results that were made from it.
    """

    why: str
    folder: str
    path: str
    bytes: int
    files: int
    used_by: tuple[str, ...] = ()


@dataclass
class Inventory:
    """What would go, and what stays although it may seem left over, with the reason."""

    targets: list[Target] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def inventory(workspace: Path) -> Inventory:
    """List what no result of the workspace needs."""
    found = Inventory()
    for folder in stage_folders(workspace):
        _look_into(workspace, folder, found)
    return found


def _look_into(workspace: Path, folder: str, found: Inventory, *, locked: bool = False) -> None:
    manifest = Manifest.of(workspace / folder)
    if link := _link_on_the_way(workspace, folder):
        found.kept[folder] = f"{link} is a link, and links are not followed"
        return
    if not locked and (holder := manifest.holder()) is not None:
        found.kept[folder] = f"a run is writing here: {holder}"
        return
    numbered, bad = manifest.read_lines()
    if bad:  # an output whose record is unreadable would look like an orphan
        found.kept[folder] = "its manifest is damaged: `wsipipe verify --repair` first"
        return
    records = list(numbered.values())
    for extra in extras(workspace, folder, owned_by(records)):
        if extra.kind == "unfinished" and not _is_overtaken(workspace, folder, extra.path, records):
            found.kept[extra.path] = "training goes on from here if it is run again with the same settings"
        elif extra.kind != "foreign":
            why = "overtaken" if extra.kind == "unfinished" else extra.kind
            found.targets.append(_target(workspace, why, folder, extra.path))
    for record in _old_folds(workspace / folder, records):
        for output in record.outputs.values():
            own = is_within(output.path, folder) and not _link_on_the_way(workspace, output.path)
            if own and (workspace / output.path).exists():
                found.targets.append(_target(workspace, "old fold", folder, output.path))


def _target(workspace: Path, why: str, folder: str, path: str) -> Target:
    return Target(why, folder, path, *size_and_files(workspace / path))


def _link_on_the_way(workspace: Path, path: str) -> str:
    """The first part of a path within the workspace that is a link; empty if none is."""
    parts = [PurePosixPath(path), *PurePosixPath(path).parents][::-1]
    return next((part.as_posix() for part in parts if (workspace / part).is_symlink()), "")


def _is_overtaken(workspace: Path, folder: str, path: str, records: Sequence[Record]) -> bool:
    """Whether all folds of a model were trained, with the same settings, after this saved work was last written."""
    trained = {record.item: record for record in records if record.stage == "train"}
    folds = {f"fold-{fold}" for fold in range(fold_count(workspace / folder) or 0)}
    if not folds or not folds <= trained.keys():
        return False
    present = [trained[fold] for fold in folds]
    if any(r.status != "done" or r.settings != present[0].settings for r in present):
        return False
    saved = max((file.lstat().st_mtime for file in files_of(workspace / path)), default=0.0)
    return saved < max((r.start + timedelta(seconds=r.seconds)).timestamp() for r in present)


def _old_folds(folder: Path, records: Sequence[Record]) -> Iterator[Record]:
    """The latest records of folds that the present model does not have."""
    folds = fold_count(folder)
    if folds is None:
        return
    latest = {r.item: r for r in records if r.stage in ("train", "import-checkpoint")}
    for item, record in latest.items():
        number = item.removeprefix("fold-")
        if number.isdecimal() and int(number) >= folds and record.status == "done":
            yield record


def named_folders(workspace: Path, names: Iterable[str]) -> list[Target]:
    """List the stage folders of these names, with everything in them that wsipipe has made.

    :param names: such as ``features/0.5mpp-224px/uni2-h``; ``features/0.5mpp-224px`` names all of them.
    :raises UsageError: there is none of that name, or a name without its kind fits several kinds.
    """
    folders = stage_folders(workspace)
    used = _used_by(workspace, folders)
    chosen: dict[str, None] = {}
    for name in names:
        chosen |= dict.fromkeys(_named(workspace, name, folders))
    return [
        Target(
            "whole folder",
            folder,
            folder,
            *_size_of_own(workspace, folder),
            used_by=tuple(sorted(used[folder] - chosen.keys())),
        )
        for folder in sorted(chosen, key=lambda folder: -folder.count("/"))  # those in others first
    ]


def _named(workspace: Path, name: str, folders: Sequence[str]) -> list[str]:
    path = Path(name).absolute()
    below = path.relative_to(workspace).as_posix() if path.is_relative_to(workspace) else name.strip("/")
    found = [folder for folder in folders if PurePosixPath(folder).is_relative_to(below)]
    if not found:
        found = [f for f in folders if PurePosixPath(*PurePosixPath(f).parts[1:]).is_relative_to(below)]
        kinds = sorted({PurePosixPath(folder).parts[0] for folder in found})
        if len(kinds) > 1:
            hint = f"say which: {', '.join(f'{kind}/{below}' for kind in kinds)}"
            raise UsageError(f"there are several kinds of results called {name}", path=workspace, hint=hint)
    if not found or below in (".", ""):
        raise UsageError(
            f"no results are called {name}", path=workspace, hint=f"there are {', '.join(folders) or 'none'}"
        )
    return found


def _used_by(workspace: Path, folders: Sequence[str]) -> dict[str, set[str]]:
    """The folders whose results were made from those of each folder."""
    used: dict[str, set[str]] = {folder: set() for folder in folders}
    for user in folders:
        records = {(r.stage, r.item): r for r in Manifest.of(workspace / user).read_lines()[0].values()}
        sources = {given.path for record in records.values() for given in record.inputs.values() if given.path}
        above = {parent for path in sources for parent in (path, *map(str, PurePosixPath(path).parents))}
        for folder in folders:
            if folder in above and folder != user:
                used[folder].add(user)
    return used


def _own_paths(workspace: Path, folder: str) -> list[str]:
    """What wsipipe has made in a stage's folder, its manifest last; not what lies behind a link."""
    records = list(Manifest.of(workspace / folder).read_lines()[0].values())
    owned = owned_by(records)
    outputs = [path for path in sorted(owned) if is_within(path, folder) and _is_there(workspace / path)]
    unrecorded = [extra.path for extra in extras(workspace, folder, owned) if extra.kind != "foreign"]
    rows = rows_of(Path(folder))
    beside = [
        f"{folder}/{path.name}"
        for path in sorted((workspace / folder).iterdir(), key=lambda path: path.name == "manifest.jsonl")
        if is_own(PurePosixPath(path.name), rows)
    ]
    paths = dict.fromkeys([*outputs, *unrecorded, *beside])
    return [path for path in paths if not _link_on_the_way(workspace, path)]


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _size_of_own(workspace: Path, folder: str) -> tuple[int, int]:
    sizes = [size_and_files(workspace / path) for path in _own_paths(workspace, folder)]
    return sum(size for size, _ in sizes), sum(files for _, files in sizes)


def remove_targets(workspace: Path, targets: Iterable[Target]) -> tuple[list[Target], dict[str, str]]:
    """Remove what was listed, as far as it is still so.

    :returns: what was removed, and what was left, with the reason.
    """
    by_folder: dict[str, list[Target]] = {}
    for target in targets:
        by_folder.setdefault(target.folder, []).append(target)
    removed: list[Target] = []
    left: dict[str, str] = {}
    for folder, own in by_folder.items():
        if link := _link_on_the_way(workspace, folder):
            left[folder] = f"{link} is a link, and links are not followed"
            continue
        manifest = Manifest.of(workspace / folder)
        try:
            with manifest.lock():
                if own[0].why == "whole folder":
                    _remove_folder(workspace, folder)
                    removed += own
                else:
                    removed += _remove_listed(workspace, folder, own, manifest)
        except (BusyError, StoreError) as error:
            left[folder] = str(error)
            continue
        if own[0].why == "whole folder":
            left |= _remove_empty(workspace, folder)
    return removed, left


def _remove_listed(workspace: Path, folder: str, targets: Sequence[Target], manifest: Manifest) -> list[Target]:
    now = Inventory()
    _look_into(workspace, folder, now, locked=True)
    still = {(target.why, target.path) for target in now.targets}
    gone = [target for target in targets if (target.why, target.path) in still]
    old = {target.path for target in gone if target.why == "old fold"}
    if old:  # the records first: after a kill between the two, the files are orphans
        numbered, _ = manifest.read_lines()
        items = {r.item for r in numbered.values() if not old.isdisjoint(output.path for output in r.outputs.values())}
        of_folds = ("train", "import-checkpoint")
        manifest.without({n for n, r in numbered.items() if r.item in items and r.stage in of_folds})
    for target in gone:
        remove(workspace / target.path)
        with suppress(OSError):  # not empty
            if target.why == "overtaken":
                (workspace / target.path).parent.rmdir()
    return gone


def _remove_folder(workspace: Path, folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in _own_paths(workspace, folder):
            remove(workspace / path)


def _remove_empty(workspace: Path, folder: str) -> dict[str, str]:
    """Remove what a folder leaves behind when its content is gone: locks, empty folders; says what stays in it."""
    place = workspace / folder
    for name in (".lock", ".lock-file", ".lock-holder.json"):
        (place / name).unlink(missing_ok=True)
    clear_roll(place)
    inside = sorted((path for path in place.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True)
    for path in (*inside, place):
        with suppress(OSError):  # not empty: it holds what wsipipe has not made
            path.rmdir()
    if place.exists():
        return {folder: "it holds files that wsipipe has not made; they stay"}
    for parent in place.relative_to(workspace).parents:
        with suppress(OSError):
            if parent != Path():
                (workspace / parent).rmdir()
    return {}


def by_why(targets: Iterable[Target]) -> Mapping[tuple[str, str], list[Target]]:
    """Targets by folder and reason."""
    grouped: dict[tuple[str, str], list[Target]] = {}
    for target in targets:
        grouped.setdefault((target.folder, target.why), []).append(target)
    return grouped
