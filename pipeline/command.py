"""What every command of the command line is made of: common options, flags of its settings, errors as messages."""

from __future__ import annotations

import inspect
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.errors import BusyError, SurroundingsError, UsageError, WsipipeError
from ..stages.settings import Settings
from .config import FILE_NAME, Config, load_config
from .console import Console
from .flags import Flags, SectionFlags, give_signature
from .results import Summary
from .run.outcomes import explain
from .run.runner import Runner

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help=f"settings file (default: {FILE_NAME} here, if there is one)")
]
Workspace = Annotated[Path | None, typer.Option("--workspace", "-w", help="folder of all results (default: work)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traces of errors")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="try failed items again though their input is unchanged")]
Replace = Annotated[bool, typer.Option("--replace", help="let these settings replace results of other settings")]


@contextmanager
def console_of(*, json: bool, debug: bool) -> Iterator[Console]:
    """A command's surroundings: errors become messages and exit codes."""
    console = Console(json_only=json, debug=debug, closes=True)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.note(f"warning: {message}")
            yield console
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        console.open_reasons()
        console.note("interrupted; what is done stays done, and the same command goes on from here")
        raise typer.Exit(130) from None
    except WsipipeError as error:
        console.error(error)
        console.result({"error": {"type": type(error).__name__, "message": str(error), "hint": error.hint}})
        if debug:
            console.note(traceback.format_exc())
        raise typer.Exit(2 if isinstance(error, UsageError | BusyError) else 1) from None
    except Exception as error:  # noqa: BLE001  the outermost boundary: no trace without --debug
        told = explain(error)
        console.error(SurroundingsError(f"{told.type}: {told.message}", hint=told.hint))
        console.result({"error": told.model_dump(exclude={"retry"})})
        if debug:
            console.note(traceback.format_exc())
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def settings_of(file: Path | None, flags: dict[str, Any]) -> Config:
    """File and flags, the workspace as an absolute path."""
    settings = load_config(file, flags)
    return settings.model_copy(update={"workspace": settings.workspace.resolve()})


@dataclass
class Call:
    """A command that works on a workspace: the flags given, and what the common options say."""

    flags: Flags
    console: Console
    options: dict[str, Any]

    def open(self) -> tuple[Config, Runner]:
        """The settings (file and flags) and a runner for the workspace."""
        settings = settings_of(self.options["config"], {**self.flags, "workspace": self.options["workspace"]})
        again, replace = self.options["retry_failed"], self.options["replace"]
        return settings, Runner(settings.workspace, self.console, retry_failed=again, replace=replace)

    def on_gpu(self, section: str, gpu: str | None) -> None:
        """Let ``--gpu 0,1`` stand for ``--device cuda:0,cuda:1``, and ``--gpu all`` for every one."""
        if gpu is None:
            return
        if self.flags[section].get("device"):
            raise UsageError("--gpu and --device say the same thing", hint="give one of them")
        numbers = [number.strip() for number in gpu.split(",")]
        if numbers != ["all"] and not all(number.isdecimal() for number in numbers):
            raise UsageError(f"--gpu {gpu} names no GPU", hint="give a number such as 0, several such as 0,1, or all")
        self.flags[section]["device"] = ",".join(f"cuda:{number}" for number in numbers)

    def on_biomarkers(self, names: list[str] | None, table: Path | None, gpu: str | None) -> list[str] | None:
        """Take what training commands share; the biomarkers' names, one made up where its column alone is given."""
        self.on_gpu("train", gpu)
        self.flags["cohort"] = {"table": table}
        biomarker = {key: value for key, value in self.flags.pop("biomarker").items() if value is not None}
        if biomarker:
            if not names and "label_column" not in biomarker:
                what = f"--{next(iter(biomarker))} does not say which label it is of"
                raise UsageError(what, hint="use --label-column too, or --name a biomarker of the settings file")
            names = names or [str(biomarker["label_column"]).lower()]
            self.flags["biomarkers"] = dict.fromkeys(names, biomarker)
        return names

    def finish(self, summaries: Sequence[Summary], extra: dict[str, Any] | None = None) -> None:
        """Show the closing table, or the closing object; exit with 1 if items failed."""
        self.console.summaries(summaries)
        self.console.result({"stages": [s.to_json() for s in summaries], **(extra or {})})
        if any(summary.failures for summary in summaries):
            raise typer.Exit(1)


def common_options(
    *,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The options of every command that works on a workspace."""


def works(
    app: typer.Typer, *, hidden: Sequence[str] = (), **sections: type[Settings]
) -> Callable[[Callable[..., None]], None]:
    """Make a command of a function: with the common options, the flags of its sections, and a :class:`Call`.

    :param hidden: settings whose flags the command takes only to refuse them.
    """

    def decorate(function: Callable[..., None]) -> None:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()  # the first is the call
        common = list(inspect.signature(common_options, eval_str=True).parameters.values())
        settings = SectionFlags(sections, frozenset(parameter.name for parameter in own), frozenset(hidden))

        def command(**given: Any) -> None:
            options = {parameter.name: given.pop(parameter.name) for parameter in common}
            flags = settings.take_from(given)
            with console_of(json=options["json"], debug=options["debug"]) as console:
                function(Call(flags, console, options), **given)

        give_signature(command, [*own, *common, *settings.parameters], function)
        app.command(function.__name__.rstrip("_").replace("_", "-"))(command)

    return decorate
