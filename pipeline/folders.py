"""Which folder of a workspace is meant, and what folders may be called."""

from __future__ import annotations

from pathlib import Path

from ..data.errors import UsageError
from .run.runner import Runner


def choose_tiles(runner: Runner, wanted: str, given: str | None) -> Path:
    """The folder of tiles asked for, else the configured one, else the only one there is.

    :param wanted: name of the configured one.
    :raises UsageError: it is not there, or there are several to choose from.
    """
    return _choose(runner, "tiles", "*", wanted, given, "wsipipe tile")


def choose_features(runner: Runner, wanted: str, given: str | None, made_by: str = "wsipipe extract") -> Path:
    """The same of features, whose folders are called such as ``0.5mpp-224px/uni2-h``.

    :param made_by: the command that makes what is wanted.
    """
    return _choose(runner, "features", "*/*", wanted, given, made_by)


def _choose(runner: Runner, what: str, pattern: str, wanted: str, given: str | None, made_by: str) -> Path:
    root = runner.workspace / what
    names = sorted(m.parent.relative_to(root).as_posix() for m in root.glob(f"{pattern}/manifest.jsonl"))
    if given is not None:
        if given not in names:
            raise UsageError(f"no {what} are called {given}", path=root, hint=f"there are {', '.join(names) or 'none'}")
        return root / given
    if wanted in names:
        if len(names) > 1:
            runner.console.note(f"{what}: {wanted}; there are others here, --{what} chooses")
        return root / wanted
    if len(names) == 1:
        return root / names[0]
    if names:
        raise UsageError(f"there are several {what}", path=root, hint=f"choose with --{what}: {', '.join(names)}")
    raise UsageError(f"there are no {what} yet", path=root, hint=f"run {made_by} first")


def checked_name(name: str, of: str) -> str:
    """The name, if a folder can be called so.

    :param of: what the folder holds, such as ``a model``.
    :raises UsageError: it cannot.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "._-" for c in name):
        raise UsageError(f"{name!r} cannot be {of}'s name", hint="use letters, digits, dots, dashes and underscores")
    return name
