"""Comparing everything that a workspace's manifests record with what is on the disk.

Each output is compared with its record: that it is there, its size, small files also by their digest, and its content
by its stage's own check (:mod:`wsipipe.stages.output_checks`). ``deep`` compares every byte. Beside the outputs: lines
of the manifests, what has become stale, files that no record owns, and what a killed run left. Nothing is written.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from ...data.artifact import digest_of, size_of
from ...data.errors import InputError, StoreError, SurroundingsError
from ...data.manifest import Manifest, OutputRecord, Record
from ...data.surroundings import patiently, reading_fault
from ...stages.lineage import Lineage
from ...stages.output_checks import Output
from ...stages.registry import STAGES, OutputRow, StageRow, output_row, rows_of
from .findings import Finding
from .folder_content import extras, folders_without_manifest, is_within, owned_by, stage_folders

THREADS: Final = 8
"""Records that are checked at once: most of the time passes in waiting for storage, or in hashing without the GIL."""
_AHEAD: Final = 64
"""Records that wait for a thread, so that memory is bounded."""


@dataclass
class Verification:
    """What was checked, and what was found."""

    deep: bool
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    outputs: int = 0
    read: int = 0
    """Bytes that were compared with their digest."""
    folders: int = 0

    def of(self, *severities: str) -> list[Finding]:
        """The findings of some severities."""
        return [finding for finding in self.findings if finding.severity in severities]


@dataclass(frozen=True)
class FolderRecords:
    """What a stage's folder records: the latest record of each stage and item, and the paths that any record owns."""

    name: str
    latest: Mapping[tuple[str, str], Record]
    owned: frozenset[str]
    rows: Mapping[str, StageRow]
    """The stages that write here, by name."""


@dataclass
class _Checked:
    """What the check of one record gives: its thread alone writes it."""

    findings: list[Finding] = field(default_factory=list)
    outputs: int = 0
    read: int = 0


class Verifier:
    """Checks a workspace.

    :param deep: read every byte.
    """

    def __init__(self, workspace: Path, *, deep: bool = False) -> None:
        self.workspace = workspace
        self.done = Verification(deep)
        self._lineage = Lineage(workspace)
        self._wrong: set[str] = set()  # paths of outputs with a finding
        self._folders = [self._read(folder) for folder in stage_folders(workspace)]

    @property
    def total(self) -> int:
        """The number of records to check."""
        return sum(len(folder.latest) for folder in self._folders)

    def run(self, advance: Callable[[int], None] = lambda _: None) -> Verification:
        """Check everything.

        :param advance: called with the number of records that were checked.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            for folder in self._folders:  # tiles before features, since those are compared with them
                for checked in _in_order(pool, partial(self._check, folder), folder.latest.values()):
                    self.done.findings += checked.findings
                    self._wrong.update(finding.path for finding in checked.findings if finding.severity != "note")
                    self.done.records += 1
                    self.done.outputs += checked.outputs
                    self.done.read += checked.read
                    advance(1)
                self.done.findings += self._beside(folder)
        for bare in folders_without_manifest(self.workspace):
            why = "it has no manifest"
            self.done.findings.append(Finding("foreign", bare, "", bare, why, bare))
        self.done.folders = len(self._folders)
        return self.done

    def _read(self, folder: str) -> FolderRecords:
        manifest = Manifest.of(self.workspace / folder)
        try:
            with warnings.catch_warnings(record=True) as torn:
                warnings.simplefilter("always")
                records = manifest.records()
        except StoreError:
            numbered, bad = manifest.read_lines()
            records = list(numbered.values())
        else:
            bad = manifest.read_lines()[1] if torn else []
        kinds = {"garbage": "bad line", "torn": "torn line", "newer": "newer line"}
        self.done.findings += [
            Finding(kinds[line.kind], folder, "", f"line {line.number}", line.why, f"{folder}/{manifest.path.name}")
            for line in bad
        ]
        latest, rows = {(r.stage, r.item): r for r in records}, {row.name: row for row in rows_of(Path(folder))}
        return FolderRecords(folder, latest, frozenset(owned_by(records)), rows)

    def _check(self, folder: FolderRecords, record: Record) -> _Checked:
        """Check the outputs of a record, and whether it still counts."""
        checked = _Checked()
        if record.status == "failed":
            return checked

        def found(kind: str, what: str, path: str = "") -> None:
            checked.findings.append(Finding(kind, folder.name, record.stage, record.item, what, path))

        unchanged: dict[str, Path] = {}
        try:
            standing = self._lineage.standing(record)
            if standing.counts:
                unchanged = self._unchanged_inputs(record)
            why = self._lineage.doubt(record) if standing.counts else standing.why
            if why and standing.state != "lost":
                found("stale", why)
        except (StoreError, SurroundingsError) as error:
            found("not judged", str(error))
        rows = [folder.rows[record.stage]] if record.stage in folder.rows else []
        for output in record.outputs.values():
            if not is_within(output.path, folder.name):
                found("outside", f"names {output.path}", output.path)
                continue
            row = output_row(rows, PurePosixPath(output.path).relative_to(folder.name)) or OutputRow("")
            for kind, what in self._compare(record, output, row, unchanged, checked):
                found(kind, what, output.path)
        return checked

    def _unchanged_inputs(self, record: Record) -> dict[str, Path]:
        """The outputs of other stages that a record that counts was made from, without those that are damaged."""
        made = {name: given.path for name, given in record.inputs.items() if given.path and given.mtime_ns is None}
        return {
            name: self.workspace / path
            for name, path in made.items()
            if not Path(path).is_absolute() and path not in self._wrong
        }

    def _compare(
        self, record: Record, output: OutputRecord, row: OutputRow, unchanged: Mapping[str, Path], checked: _Checked
    ) -> list[tuple[str, str]]:
        """Compare an output with its record: kinds of findings, and what is wrong."""
        path = self.workspace / output.path
        checked.outputs += 1
        try:
            if not patiently(path.exists, path):
                return [("missing", output.path)]
            if (size := patiently(lambda: size_of(path), path)) != output.bytes:
                return [("size", f"{output.path}: {size:,} bytes, {output.bytes:,} in the record")]
            if self.done.deep or row.small:
                checked.read += size
                if patiently(lambda: digest_of(path), path) != output.digest:
                    return [("bytes", output.path)]
            check = row.checker()
            if check is None:
                return []
            faults = check(Output(path, record, unchanged, self.done.deep))
            return [(fault.kind, f"{output.path}: {fault.what}") for fault in faults]
        except InputError as error:
            return [("unreadable", str(error))]
        except SurroundingsError as error:
            return [("unreachable", str(error))]
        except Exception as error:  # noqa: BLE001  the boundary: what breaks a reader is a finding, and the rest goes on
            kind = "unreachable" if reading_fault(error) else "unreadable"
            return [(kind, f"{output.path}: {type(error).__name__}: {error}")]

    def _beside(self, folder: FolderRecords) -> Iterator[Finding]:
        """What lies in a stage's folder beside its outputs."""
        manifest = Manifest.of(self.workspace / folder.name)
        held = manifest.holder()
        if held is not None:
            yield Finding("in use", folder.name, "", "lock", held)
            return
        for name in (".lock-holder.json", ".lock-file"):
            if (path := manifest.path.with_name(name)).exists():
                yield Finding("dead lock", folder.name, "", name, path.name, f"{folder.name}/{name}")
        for extra in extras(self.workspace, folder.name, folder.owned):
            item = PurePosixPath(extra.path).relative_to(folder.name).as_posix()
            yield Finding(extra.kind, folder.name, "", item, "", extra.path)


def _in_order(
    pool: ThreadPoolExecutor, check: Callable[[Record], _Checked], records: Iterable[Record]
) -> Iterator[_Checked]:
    """What the check of each record gives, in order, with few records ahead."""
    waiting: deque[Future[_Checked]] = deque()
    left = iter(records)
    try:
        while True:
            waiting.extend(pool.submit(check, record) for record in islice(left, _AHEAD - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # an interrupted command does not wait for what has not begun
            future.cancel()


def next_run(findings: Iterable[Finding]) -> dict[tuple[str, str], list[str]]:
    """What the next run makes again: the items, by command and folder."""
    commands = {row.name: row.made_by for row in STAGES}
    again: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.severity in ("lost", "damaged"):
            items = again.setdefault((commands.get(finding.stage, finding.stage), finding.folder), [])
            if finding.item not in items:
                items.append(finding.item)
    return again
