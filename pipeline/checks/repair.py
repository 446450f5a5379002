"""Repairing what ``wsipipe verify`` has found: the next run makes it again, since its records are dropped.

A manifest only grows: a record is dropped by appending one that says that the output is damaged, after which earlier
records of the item do not count (:data:`wsipipe.data.manifest.DAMAGED`). Lines that are no records are removed; the
manifest as it was stays beside it. No output is changed or removed here, and a folder in which a run is writing is left
as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ...data.errors import BusyError
from ...data.manifest import DAMAGED, ErrorRecord, Manifest
from ...data.version import __version__
from .findings import Finding
from .folder_content import stage_folders


@dataclass
class Repair:
    """What was done, and what could not be done."""

    dropped: list[Finding] = field(default_factory=list)
    """Findings whose record was dropped."""
    removed_lines: dict[str, int] = field(default_factory=dict)
    """Number of lines removed, by the copy of the manifest as it was (relative to the workspace)."""
    left: dict[str, str] = field(default_factory=dict)
    """Folders that were left as they are, and why."""


def mend_manifests(workspace: Path, repair: Repair) -> None:
    """Remove the lines of all manifests that are no records; lines of a newer wsipipe stay."""
    for folder in stage_folders(workspace):
        manifest = Manifest.of(workspace / folder)
        if not _bad(manifest):
            continue
        try:
            with manifest.lock():
                bad = _bad(manifest)
                copy = manifest.without(bad)
                repair.removed_lines[copy.relative_to(workspace).as_posix()] = len(bad)
        except BusyError as error:
            repair.left[folder] = str(error)


def _bad(manifest: Manifest) -> set[int]:
    return {line.number for line in manifest.read_lines()[1] if line.kind != "newer"}


def drop_records(workspace: Path, findings: Iterable[Finding], begun: datetime, repair: Repair) -> None:
    """Drop the records of damaged outputs, and take away what a run that died left of its lock.

    Outputs that are missing or of another size need nothing: the next run notices them by itself, and a disk that is
    mounted again brings them back.

    :param begun: when the check began; what was made again since is left alone.
    """
    by_folder: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.severity == "damaged" or finding.kind == "dead lock":
            by_folder.setdefault(finding.folder, []).append(finding)
    for folder, found in by_folder.items():
        manifest = Manifest.of(workspace / folder)
        try:
            with manifest.lock():  # which takes over the lock of a run that died, and leaves nothing of it
                repair.dropped += _drop(manifest, [f for f in found if f.severity == "damaged"], begun)
        except BusyError as error:
            repair.left[folder] = str(error)


def _drop(manifest: Manifest, damaged: Sequence[Finding], begun: datetime) -> list[Finding]:
    if not damaged:
        return []
    latest = {(record.stage, record.item): record for record in manifest.records()}
    reasons: dict[tuple[str, str], list[str]] = {}
    for finding in damaged:
        reasons.setdefault((finding.stage, finding.item), []).append(finding.what)
    dropped: list[Finding] = []
    for key, whats in reasons.items():
        record = latest.get(key)
        if record is None or record.start > begun:
            continue
        error = ErrorRecord(
            type=DAMAGED,
            message=f"the output is damaged: {'; '.join(whats)}",
            hint="found by wsipipe verify; the next run makes it again",
            retry=True,
        )
        now = {"start": datetime.now(UTC), "seconds": 0.0, "wsipipe": __version__}
        manifest.append(record.model_copy(update={"status": "failed", "outputs": {}, "error": error, **now}))
        dropped += [finding for finding in damaged if (finding.stage, finding.item) == key]
    return dropped
