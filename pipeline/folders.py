"""Choosing a folder of tiles or features in a workspace, and checking names of new folders."""

from __future__ import annotations

from pathlib import Path

from ..data.errors import UsageError
from .run.runner import Runner


def choose_tiles(runner: Runner, configured: str, named: str | None) -> Path:
    """The folder of tiles that was named, or else the configured one, or else the only one there is.

    :param configured: name of the folder by the settings.
    :param named: name given by a flag.
    :raises UsageError: it does not exist, or there are several to choose from.
    """
    return _choose(runner, "tiles", "*", configured, named, "wsipipe tile")


def choose_features(runner: Runner, configured: str, named: str | None, made_by: str = "wsipipe extract") -> Path:
    """The folder of features, chosen by the same rule; names are such as ``0.5mpp-224px/uni2-h``.

    :param made_by: the command that makes these features, for the hint.
    """
    return _choose(runner, "features", "*/*", configured, named, made_by)


def _choose(runner: Runner, what: str, pattern: str, configured: str, named: str | None, made_by: str) -> Path:
    root = runner.workspace / what
    names = sorted(m.parent.relative_to(root).as_posix() for m in root.glob(f"{pattern}/manifest.jsonl"))
    if named is not None:
        if named not in names:
            raise UsageError(f"no {what} are called {named}", path=root, hint=f"there are {', '.join(names) or 'none'}")
        return root / named
    if configured in names:
        if len(names) > 1:
            runner.console.note(f"{what}: {configured}; there are others, choose with --{what}")
        return root / configured
    if len(names) == 1:
        return root / names[0]
    if names:
        raise UsageError(f"there are several {what}", path=root, hint=f"choose with --{what}: {', '.join(names)}")
    raise UsageError(f"there are no {what} yet", path=root, hint=f"run {made_by} first")


def checked_name(name: str, of: str) -> str:
    """The name, checked to be a valid name of a folder.

    :param of: what the folder holds, such as ``a model``.
    :raises UsageError: it is not valid.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "._-" for c in name):
        raise UsageError(f"{name!r} cannot be {of}'s name", hint="use letters, digits, dots, dashes and underscores")
    return name
