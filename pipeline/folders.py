"""Which folder of a workspace is meant, and what folders may be called."""

from __future__ import annotations

from pathlib import Path

from ..data.errors import UsageError


def choose_folder(root: Path, wanted: str, given: str | None, what: str, command: str, *, depth: int = 1) -> Path:
    """The folder asked for, else the configured one, else the only one there is.

    :raises UsageError: it is not there, or there are several to choose from.
    """
    there = sorted(m.parent for m in root.glob("*/" * depth + "manifest.jsonl"))
    names = [folder.relative_to(root).as_posix() for folder in there]
    if given is not None:
        if given not in names:
            raise UsageError(f"no {what} are called {given}", path=root, hint=f"there are {', '.join(names) or 'none'}")
        return root / given
    if wanted in names:
        return root / wanted
    if len(there) == 1:
        return there[0]
    if there:
        raise UsageError(f"there are several {what}", path=root, hint=f"choose with --{what}: {', '.join(names)}")
    raise UsageError(f"there are no {what} yet", path=root, hint=f"run {command} first")


def is_a_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and all(c.isalnum() or c in "._-" for c in name)
