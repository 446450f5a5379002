"""Which folder of a workspace is meant, and what folders may be called."""

from __future__ import annotations

from pathlib import Path

from ..data.artifact import digest_of
from ..data.errors import UsageError
from ..data.manifest import Manifest, Record
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
    if not name or name.startswith(".") or not all(c.isalnum() or c in "._-+" for c in name):
        hint = "give a --name of letters, digits, dots, dashes, underscores and plus signs"
        raise UsageError(f"{name!r} cannot be {of}'s name", hint=hint)
    return name


def named_after(model: Path, name: str | None, of: str) -> str:
    """The name given to results of a model, else the model's own.

    :raises UsageError: a folder cannot be called so.
    """
    return checked_name(name or model.resolve().name, of)


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
