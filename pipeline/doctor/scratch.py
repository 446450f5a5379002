"""Folders that a check writes in: of a name of their own, and gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .finding import Finding, Subject, ok


@contextmanager
def scratch_folder(place: Path, subject: Subject) -> Iterator[Path]:
    """A new folder for a check, removed when the check ends."""
    folder = _in(place, subject)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def temporary() -> Path:
    """The folder for temporary files."""
    return Path(tempfile.gettempdir())


def existing(workspace: str) -> Path:
    """The workspace, or the folder above it that exists: checks make no folder that stays."""
    place = Path(workspace)
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def clear_away(subject: Subject) -> Finding:
    """Remove what a check left that had to be killed."""
    for place in (temporary(), existing(subject.workspace)):
        shutil.rmtree(_in(place, subject), ignore_errors=True)
    return ok("")


def _in(place: Path, subject: Subject) -> Path:
    return place / f".{subject.mark}"
