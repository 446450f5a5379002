"""Choosing a folder of tiles or features in a workspace, and checking names of new folders."""

from __future__ import annotations

from pathlib import Path

from ..data.artifact import digest_of
from ..data.errors import UsageError
from ..data.file_names import why_no_file_name
from ..data.manifest import Manifest, Record
from ..stages.features_folder import SLIDE_FEATURES
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

    Slide vectors, such as ``0.5mpp-224px/mean-of-uni2-h``, are chosen by name alone.

    :param made_by: the command that makes these features, for the hint.
    """
    root = runner.workspace / SLIDE_FEATURES
    if (named or configured) in _there(root, "*/*"):
        return root / (named or configured)
    return _choose(runner, "features", "*/*", configured, named, made_by)


def features_there(runner: Runner) -> list[str]:
    """Names of all folders of features."""
    return _there(runner.workspace / "features", "*/*")


def _there(root: Path, pattern: str) -> list[str]:
    return sorted(m.parent.relative_to(root).as_posix() for m in root.glob(f"{pattern}/manifest.jsonl"))


def _choose(runner: Runner, what: str, pattern: str, configured: str, named: str | None, made_by: str) -> Path:
    root = runner.workspace / what
    names = _there(root, pattern)
    if named is not None:
        if named not in names:
            known = [*names, *(_there(runner.workspace / SLIDE_FEATURES, pattern) if what == "features" else ())]
            raise UsageError(f"no {what} are called {named}", path=root, hint=f"there are {', '.join(known) or 'none'}")
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
    if why_no_file_name(name) or name.startswith(".") or not all(c.isalnum() or c in "._-+" for c in name):
        hint = "give a --name of letters, digits, dots, dashes, underscores and plus signs"
        raise UsageError(f"{name!r} cannot be the name of {of}", hint=hint)
    return name


def named_after(model: Path, name: str | None, of: str) -> str:
    """The name given to results of a model, else the model's own.

    :raises UsageError: a folder cannot be called so.
    """
    return checked_name(model.resolve().name if name is None else name, of)


def refuse_another_source(runner: Runner, folder: Path, stage: str, model: Path, table: Path | None = None) -> None:
    """A folder holds the results of one model (on one table): another's do not take their place unasked.

    A model that was trained again where it lies, or a table that was edited, is the same one: its results are made
    again.

    :param stage: that made what is there.
    :raises UsageError: naming what is there, and the ways out.
    """
    if runner.replace:
        return
    from ..stages.lineage import model_record

    asked = model_record(model, runner.workspace)
    done = [record for record in Manifest.of(folder).latest(stage).values() if record.status == "done"]
    if not done:
        return
    newest = max(done, key=lambda record: record.start)
    there = newest.inputs["model"]
    if there.path not in (None, asked.path) and there.digest != asked.digest:  # earlier versions did not record a path
        raise _belongs(folder, f"the model {there.path}", asked.path)
    if table is not None and _is_of_another(table, newest):
        raise _belongs(folder, f"the table {newest.inputs['table'].path}", str(table))


def _is_of_another(table: Path, record: Record) -> bool:
    before = record.inputs["table"]
    if before.path == str(table.resolve()) or not table.is_file():  # what is wrong with it is said when it is read
        return False
    return before.digest != digest_of(table)


def _belongs(folder: Path, there: str, asked: str) -> UsageError:
    return UsageError(
        f"what is here is of {there}, not of {asked}",
        path=folder,
        hint="use another --name to keep both; --replace puts the new results in their place",
    )
