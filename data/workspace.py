"""Keeping within the workspace what is written to it: no link and no ``..`` leads a write or a removal out of it.

A workspace may come from somebody else, and so may the links, manifests and ids in it. Where results are written is
declared once (:func:`keep_within`); everything that writes or removes asks :func:`refuse_to_leave` first. A workspace
that is itself reached by a link is as good as any, and so are links within it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from .errors import UsageError

_workspaces: Final[set[Path]] = set()


def keep_within(workspace: Path) -> None:
    """Declare a workspace: from now on this process refuses to write through a path of it to a place outside."""
    _workspaces.add(workspace.absolute())


def refuse_to_leave(path: Path) -> None:
    """Refuse to write, replace or remove at a path of a workspace that lies outside once links are followed.

    The last part of the path may be a link: it is replaced or removed itself.

    :raises UsageError: the folder is outside; the message names the link, where it leads, and the way out.
    """
    place = path.absolute()
    for workspace in _workspaces.intersection(place.parents):
        if not _is_within(place.parent, workspace):
            raise _leaving(place, workspace)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are not there yet.

    Of a folder that another host has just made, an NFS client says both that it exists and, from its cache, that it
    does not; after it has listed the folder above, it knows.
    """
    for _ in (folder, *folder.parents):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileExistsError as error:
            there = Path(error.filename)
            if there.name not in os.listdir(there.parent) or not there.is_dir():  # noqa: PTH208  names are enough
                raise


def refuse_link(file: Path) -> None:
    """Refuse to write into a file of the workspace that is a link or no regular file, wherever the link leads.

    :raises UsageError: it is one, or its folder is outside the workspace.
    """
    refuse_to_leave(file)
    if file.is_symlink():
        raise UsageError(
            f"is a link, to {file.readlink()}: wsipipe writes through none",
            path=file,
            hint="if it leads to a file of this workspace, put a copy of that file in its place; else remove it",
        )
    if file.exists() and not file.is_file():
        raise UsageError("is not a file", path=file, hint="move it away: the file of this name is wsipipe's own")


def _is_within(folder: Path, workspace: Path) -> bool:
    # realpath, unlike Path.resolve of Python 3.11, has an answer for links that lead in a circle.
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(workspace))


def _leaving(place: Path, workspace: Path) -> UsageError:
    below = workspace
    for part in place.relative_to(workspace).parts[:-1]:
        below /= part
        if below.is_symlink() and not _is_within(below, workspace):
            return UsageError(
                f"is a link that leads out of the workspace, to {os.path.realpath(below)}: nothing is written there",
                path=below,
                hint="put a folder in its place; to keep results on another disk, give a folder there as --workspace, "
                "or mount it here (mount --bind)",
            )
    return UsageError(
        f"lies outside of the workspace {workspace}: nothing is written there",
        path=place,
        hint="a name or a path in the workspace was edited; give it back the name that it had",
    )
