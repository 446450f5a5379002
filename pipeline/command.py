"""Common parts of all commands: options, flags of their settings, errors as messages and exit codes."""

from __future__ import annotations

import inspect
import shlex
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.errors import BusyError, SurroundingsError, UsageError, WsipipeError
from ..stages.settings import FILE_NAME, Settings
from .flags import Flags, SectionFlags, give_signature
from .help.layout import HelpfulGroup
from .help.words import PRINTED, WHERE
from .process import INTERRUPTED, was_interrupted
from .terminal import LogLevel

if TYPE_CHECKING:
    from .config import Config
    from .console import Console
    from .results import Summary
    from .run.runner import Elsewhere, Runner

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help=f"settings file (default: {FILE_NAME} here, if there is one)", rich_help_panel=WHERE
    ),
]
Workspace = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="folder of all results (default: work)", rich_help_panel=WHERE)
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table", rich_help_panel=PRINTED)]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks of errors", rich_help_panel=PRINTED)]
Level = Annotated[
    LogLevel,
    typer.Option(
        "--log-level", help="the least important messages to print; debug shows tracebacks too", rich_help_panel=PRINTED
    ),
]
Retry = Annotated[
    bool,
    typer.Option(
        "--retry-failed", help="try failed items again even if their input has not changed", rich_help_panel=WHERE
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask", help="run on the workers of this Dask scheduler, such as tcp://login1:8786", rich_help_panel=WHERE
    ),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="replace results that were made with other settings", rich_help_panel=WHERE)
]

ShardFlag = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="do one part of the items, such as 2/8, the second of eight, beside the jobs that do the others",
        rich_help_panel=WHERE,
    ),
]

StageTo = Annotated[
    Path | None,
    typer.Option(
        "--stage-to",
        help="folder on a local disk, to which the next slides are copied while others are worked on; "
        "training's scratch file lies there too",
        rich_help_panel=WHERE,
    ),
]
StageBytes = Annotated[
    str | None,
    typer.Option(
        "--stage-bytes",
        help="most bytes of these copies at a time, such as 200GB; default: half of what is free",
        rich_help_panel=WHERE,
    ),
]


class Commands(HelpfulGroup):
    """The commands, with the words that were typed kept for messages that say what to type next."""

    def make_context(self, info_name: str | None, args: list[str], *others: Any, **further: Any) -> Any:
        """Begin a call of a command."""
        _typed[:] = args
        return super().make_context(info_name, args, *others, **further)


_typed: list[str] = []
"""What was typed after ``wsipipe``; a process runs one command."""


def typed_command() -> list[str]:
    """The command as it was typed."""
    return ["wsipipe", *_typed]


@contextmanager
def console_of(*, json: bool, debug: bool, level: LogLevel = LogLevel.info) -> Iterator[Console]:
    """Run a command with a console; errors become messages and exit codes."""
    from .console import Console  # not for --help

    console = Console(json_only=json, debug=debug, closes=True, level=level)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.warning(str(message))
            yield console
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise _interrupted(console) from None
    except WsipipeError as error:
        console.error(error)
        console.result({"error": {"type": type(error).__name__, "message": str(error), "hint": error.hint}})
        if console.debug:
            console.trace(traceback.format_exc())
        if not isinstance(error, UsageError):
            console.note(f"next, when that is mended: {shlex.join(typed_command())}")
        raise typer.Exit(2 if isinstance(error, UsageError | BusyError) else 1) from None
    except Exception as error:  # noqa: BLE001  the outermost boundary: no trace without --debug
        if was_interrupted():
            raise _interrupted(console) from None
        from .run.outcomes import explain

        record = explain(error)
        name = "" if record.type == SurroundingsError.__name__ else f"{record.type}: "
        console.error(SurroundingsError(f"{name}{record.message}", hint=record.hint))
        console.result({"error": {"type": record.type, "message": record.message, "hint": record.hint}})
        if console.debug:
            console.trace(traceback.format_exc())
        console.note(f"next: {shlex.join(typed_command())}")
        raise typer.Exit(1) from None


def _interrupted(console: Console) -> typer.Exit:
    console.open_reasons()
    console.note(INTERRUPTED)
    console.note(f"next: {shlex.join(typed_command())}")
    return typer.Exit(130)


def settings_of(file: Path | None, flags: dict[str, Any]) -> Config:
    """The settings of file and flags, with the workspace as an absolute path."""
    from .config import load_config

    settings = load_config(file, flags)
    return settings.model_copy(update={"workspace": settings.workspace.resolve()})


def say_if_none_is_here(console: Console, file: Path | None) -> None:
    """Say that there is no settings file in this folder, where a command that lives by it was called without one."""
    if file is None and not Path(FILE_NAME).is_file():
        console.note(f"there is no {FILE_NAME} in {Path.cwd()}: go to its folder, or name it with -c FILE")


@dataclass
class Call:
    """A call of a command that works on a workspace: its flags and common options."""

    flags: Flags
    console: Console
    options: dict[str, Any]
    elsewhere: Elsewhere | None = None

    def open(self) -> tuple[Config, Runner]:
        """The settings (file and flags) and a runner for the workspace."""
        from ..data.shards import Shard
        from .cluster.choice import elsewhere
        from .run.runner import Runner

        given = {name: self.options[name] for name in ("workspace", "shard", "stage_to", "stage_bytes")}
        settings = settings_of(self.options["config"], {**self.flags, **given})
        again, replace = self.options["retry_failed"], self.options["replace"]
        if "dask" in self.options:
            self.elsewhere = elsewhere(settings.cluster, self.options["dask"])
        shard = None if settings.shard is None else Shard.parse(settings.shard)
        runner = Runner(
            settings.workspace,
            self.console,
            retry_failed=again,
            replace=replace,
            shard=shard,
            stage_to=settings.stage_to,
            stage_bytes=settings.stage_bytes,
            elsewhere=self.elsewhere,
        )
        return settings, runner

    def close(self) -> None:
        """Leave the cluster, if there is one."""
        if self.elsewhere is not None:
            self.elsewhere.close()

    def on_gpu(self, section: str, gpu: str | None) -> None:
        """Take ``--gpu 0,1`` as ``--device cuda:0,cuda:1``, and ``--gpu all`` as every GPU."""
        if gpu is None:
            return
        if self.flags[section].get("device"):
            raise UsageError("--gpu and --device set the same thing", hint="give one of them")
        self.flags[section]["device"] = _devices(gpu)

    def on_gpus(self, gpu: str | None) -> None:
        """Take ``--gpu`` for every stage of a run; the network that finds tissue takes the first of several."""
        if gpu is not None:
            devices = _devices(gpu)
            first = "cuda:0" if devices == "cuda:all" else devices.partition(",")[0]
            of_stages = {"tile": first, "extract": devices, "train": devices, "predict": devices}
            self.flags |= {section: {"device": those} for section, those in of_stages.items()}

    def on_biomarkers(self, names: list[str] | None, table: Path | None, gpu: str | None) -> list[str] | None:
        """Set the flags that training commands share; returns the biomarkers' names.

        A biomarker that is given by its label column, or its signature, alone is named after that.
        """
        self.on_gpu("train", gpu)
        self.flags["cohort"] = {"table": table}
        biomarker = {key: value for key, value in self.flags.pop("biomarker").items() if value is not None}
        if biomarker:
            asked = biomarker.get("label_column") or biomarker.get("signature") or biomarker.get("time_column")
            if not names and "targets" in biomarker:
                raise UsageError("a model of several targets needs a name", hint="use --name, such as --name receptors")
            if not names and not asked:
                what = f"--{next(iter(biomarker))} is given, but not the label that it belongs to"
                hint = "use --label-column or --signature too, or --name a biomarker of the settings file"
                raise UsageError(what, hint=hint)
            names = names or [str(asked).lower().replace(":", "-")]
            self.flags["biomarkers"] = dict.fromkeys(names, biomarker)
        return names

    def finish(self, summaries: Sequence[Summary], extra: dict[str, Any] | None = None) -> None:
        """Print the closing table, or the JSON object; exit with 1 if items failed."""
        from .failures import next_command
        from .results import what_to_look_at

        self.console.summaries(summaries)
        for line in what_to_look_at(summaries):
            self.console.line(line)
        words = typed_command()
        for line in next_command(summaries, words):
            self.console.line(line)
        failed = any(summary.failures for summary in summaries)
        again = {"next": shlex.join(words)} if failed else {}
        self.console.result({"stages": [s.to_json() for s in summaries], **again, **(extra or {})})
        if failed:
            raise typer.Exit(1)


def _devices(gpu: str) -> str:
    """The devices of ``--gpu``: ``cuda:0,cuda:1`` of ``0,1``, and ``cuda:all`` of ``all``.

    :raises UsageError: it names none.
    """
    numbers = [number.strip() for number in gpu.split(",")]
    if numbers != ["all"] and not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--gpu {gpu} names no GPU", hint="give a number such as 0, several such as 0,1, or all")
    return ",".join(f"cuda:{number}" for number in numbers)


def common_options(
    *,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    shard: ShardFlag = None,
    stage_to: StageTo = None,
    stage_bytes: StageBytes = None,
    json: Json = False,
    debug: Debug = False,
    log_level: Level = LogLevel.info,
) -> None:
    """The options of every command that works on a workspace."""


def works(
    app: typer.Typer, *, hidden: Sequence[str] = (), distributes: bool = False, **sections: type[Settings]
) -> Callable[[Callable[..., None]], None]:
    """Decorate a function to be a command with the common options and the flags of its sections.

    The function is called with a :class:`Call`.

    :param hidden: settings whose flags the command accepts only to refuse them with a message.
    :param distributes: whether its items may run on a cluster; it then has ``--dask``.
    """

    def decorate(function: Callable[..., None]) -> None:
        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()  # the first is the call
        common = list(inspect.signature(common_options, eval_str=True).parameters.values())
        if distributes:
            common.insert(2, inspect.Parameter("dask", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Dask))
        settings = SectionFlags(sections, frozenset(parameter.name for parameter in parameters), frozenset(hidden))

        def command(**arguments: Any) -> None:
            options = {parameter.name: arguments.pop(parameter.name) for parameter in common}
            flags = settings.take_from(arguments)
            with console_of(json=options["json"], debug=options["debug"], level=options["log_level"]) as console:
                call = Call(flags, console, options)
                with closing(call):
                    function(call, **arguments)

        give_signature(command, [*parameters, *common, *settings.parameters], function)
        app.command(function.__name__.rstrip("_").replace("_", "-"))(command)

    return decorate
