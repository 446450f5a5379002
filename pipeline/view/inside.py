"""Files of the workspace that may be shown: those that lie within it once links are followed."""

from __future__ import annotations

import os
from pathlib import Path

from ...data.errors import StoreError


def inside(workspace: Path, path: str | Path) -> Path:
    """The place of a file or folder in the workspace.

    :param path: relative to the workspace.
    :raises StoreError: it lies outside, or a link on the way leads out.
    """
    place = workspace / path
    # realpath, unlike Path.resolve of Python 3.11, has an answer for links that lead in a circle.
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(workspace)):
        hint = "put the file itself in the place of the link, or mount its folder here"
        raise StoreError("leads out of the workspace: it is not shown", path=place, hint=hint)
    return place


def stamp(path: Path) -> tuple[str, int, int, int]:
    """What tells a file from an earlier one of its name, and from a link in its place; zeros if there is none."""
    place = os.path.realpath(path)
    try:
        found = Path(place).stat()
    except (OSError, ValueError):
        return place, 0, 0, 0
    return place, found.st_ino, found.st_size, found.st_mtime_ns
