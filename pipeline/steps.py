"""Commands and steps of stages that are made from their rows in the table of stages.

A row of :mod:`wsipipe.stages.registry` that names its stage defines the flags of its command: its settings, ``--tiles``
or ``--features`` for what it reads, and ``--gpu`` where it has a setting ``device``.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..stages.registry import StageRow, steps
from .command import Call, works

if TYPE_CHECKING:
    from ..stages.stage import Stage
    from .config import Config
    from .results import Summary
    from .run.runner import Runner

Tiles = Annotated[
    str | None,
    typer.Option(help="tiles, such as 0.5mpp-224px; default: those of these settings, or the only ones there are"),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="features, such as 0.5mpp-224px/uni2-h; default: those of these settings, or the only ones there are"
    ),
]
Weights = Annotated[Path | None, typer.Option(help="the backbone's weights file, if it is not in the hub's cache")]
EncoderWeights = Annotated[
    Path | None, typer.Option(help="the slide encoder's weights file, where the model reads slide vectors")
]
Gpus = Annotated[str | None, typer.Option("--gpu", help="GPUs to use: 0, or 0,1, or all; one process per GPU")]


def run_step(name: str, config: Config, runner: Runner, source: str | None = None, **further: Any) -> Summary:
    """Run a stage that has a step of its own.

    :param name: the stage's name.
    :param source: name of the folder that it reads; needed only where there are several.
    :param further: arguments of the stage beside its settings.
    :raises UsageError: the folder that it reads does not exist, or there are several.
    """
    from .folders import choose_features, choose_tiles

    row = steps()[name]
    folder: Path | None = None
    if row.after == "tiles":
        folder = choose_tiles(runner, config.tile.folder_name(), source)
    elif row.after == "features":
        folder = choose_features(runner, config.features_name(), source)
    stage: Stage[Any] = row.make(getattr(config, name), runner.workspace, folder, **further)
    return runner.run(stage)


def add_step(app: typer.Typer, row: StageRow) -> None:
    """Add the command of a stage."""

    def command(call: Call, **arguments: Any) -> None:
        if row.argument:
            call.flags[row.name][row.argument] = arguments[row.argument]
        if "gpu" in arguments:
            call.on_gpu(row.name, arguments["gpu"])
        call.finish([run_step(row.name, *call.open(), arguments.get(row.after))])

    settings = row.settings_type
    parameters = [inspect.Parameter("call", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Call)]
    if row.argument:
        field = settings.model_fields[row.argument]
        annotation = Annotated[field.annotation, typer.Argument(help=field.description, show_default=False)]  # type: ignore[name-defined]
        parameters.append(_option(row.argument, annotation))
    if row.after:
        parameters.append(_option(row.after, Tiles if row.after == "tiles" else Features))
    if "device" in settings.model_fields:
        parameters.append(_option("gpu", Gpus))
    command.__name__, command.__doc__ = row.name, settings.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    works(app, hidden=(), distributes=row.distributes, **{row.name: settings})(command)


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
