"""Stages that have a command and a step of their own, run as their row in the table of stages says.

A row of :mod:`wsipipe.stages.registry` that names its stage gives the command its flags: its settings, ``--tiles`` or
``--features`` for what it reads, and ``--gpu`` where it has a device.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from ..stages.registry import StageRow, steps
from ..stages.stage import Stage
from .command import Call, works
from .config import Config
from .folders import choose_features, choose_tiles
from .results import Summary
from .run.runner import Runner

Tiles = Annotated[
    str | None,
    typer.Option(help="which tiles, such as 0.5mpp-224px; default: those of these settings, or the only ones"),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="which features, such as 0.5mpp-224px/uni2-h; default: those of these settings, or the only ones"
    ),
]
Gpus = Annotated[str | None, typer.Option("--gpu", help="GPUs to use: 0, or 0,1, or all; a process each, one queue")]


def run_step(name: str, config: Config, runner: Runner, source: str | None = None, **further: Any) -> Summary:
    """Run a stage of its own.

    :param source: name of the folder that it reads; needed only where there are several.
    :param further: what the stage takes beside its settings.
    :raises UsageError: the folder that it reads is not there, or there are several.
    """
    row = steps()[name]
    folder: Path | None = None
    if row.after == "tiles":
        folder = choose_tiles(runner, config.tile.folder_name(), source)
    elif row.after == "features":
        folder = choose_features(runner, config.features_name(), source)
    stage: Stage[Any] = row.make(getattr(config, name), runner.workspace, folder, **further)
    return runner.run(stage)


def add_step(app: typer.Typer, row: StageRow) -> None:
    """Give a stage its command."""

    def command(call: Call, **given: Any) -> None:
        if row.argument:
            call.flags[row.name][row.argument] = given[row.argument]
        if "gpu" in given:
            call.on_gpu(row.name, given["gpu"])
        call.finish([run_step(row.name, *call.open(), given.get(row.after))])

    settings = row.settings_type
    own = [inspect.Parameter("call", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Call)]
    if row.argument:
        field = settings.model_fields[row.argument]
        annotation = Annotated[field.annotation, typer.Argument(help=field.description, show_default=False)]  # type: ignore[name-defined]
        own.append(_option(row.argument, annotation))
    if row.after:
        own.append(_option(row.after, Tiles if row.after == "tiles" else Features))
    if "device" in settings.model_fields:
        own.append(_option("gpu", Gpus))
    command.__name__, command.__doc__ = row.name, settings.__doc__
    command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    works(app, hidden=(), **{row.name: settings})(command)


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
