"""Commands that look after a workspace and this machine: status, verify, clean, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...data.errors import UsageError
from ...stages.settings import FILE_NAME
from ..command import Call, ConfigFile, Debug, Json, Workspace, console_of, say_if_none_is_here, settings_of
from ..steps import Gpus, Weights


def add_upkeep(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (check, status, verify, clean, doctor):
        app.command()(command)


def check(
    config: ConfigFile = None,
    workspace: Workspace = None,
    seconds: Annotated[float, typer.Option(help="time limit for opening slides; those left are counted", min=1)] = 120,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say in seconds what is wrong with settings, tables, RNA and slides, or will be; it writes nothing.

    Exit code 1 if something will stop a stage.
    """
    with console_of(json=json, debug=debug) as console:
        settings = settings_of(config, {"workspace": workspace})
        say_if_none_is_here(console, config)
        from ..preflight.command import check_here

        if not check_here(settings, console, seconds=seconds):
            raise typer.Exit(1)


def status(
    config: ConfigFile = None,
    workspace: Workspace = None,
    watch: Annotated[bool, typer.Option("--watch", help="show the table again and again, until Ctrl-C")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is done, stale or failed, and why."""
    from ..status import show_status, watch_status

    with console_of(json=json, debug=debug) as console:
        settings = settings_of(config, {"workspace": workspace})
        if workspace is None:
            say_if_none_is_here(console, config)
        compare = config is not None or Path(FILE_NAME).is_file()
        if watch and json:
            raise UsageError("--watch goes on and on, and --json prints one object", hint="give one of them")
        (watch_status if watch else show_status)(settings, console, compare=compare)


def verify(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="check this trained model, or one of its folds, instead of the workspace"),
    ] = None,
    *,
    deep: Annotated[
        bool, typer.Option("--deep", help="read every byte and compare digests; default: sizes, counts, small files")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="drop the records of what is damaged, so that the next run makes it again"),
    ] = False,
    config: ConfigFile = None,
    workspace: Workspace = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare all results with their records: what is lost, damaged, contradictory, stale or left over."""
    from .verify_command import verify_bundle, verify_workspace

    with console_of(json=json, debug=debug) as console:
        if bundle is not None:
            if repair:
                raise UsageError("a bundle cannot be repaired", hint="copy it again, or train again")
            code = verify_bundle(bundle, console)
        else:
            settings = settings_of(config, {"workspace": workspace})
            code = verify_workspace(settings.workspace, console, deep=deep, repair=repair)
        if code:
            raise typer.Exit(code)


def clean(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="folders of results to remove as a whole, such as features/0.5mpp-224px/uni2-h"),
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="remove it; without, it is only shown, or asked")] = False,
    config: ConfigFile = None,
    workspace: Workspace = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what no result needs, with sizes, and remove it with --yes: half-written files, orphans, old folds.

    With NAMES: these folders as a whole, whatever is in them that wsipipe has made.
    """
    from .clean_command import clean_workspace

    with console_of(json=json, debug=debug) as console:
        settings = settings_of(config, {"workspace": workspace})
        clean_workspace(settings.workspace, console, names or [], yes=yes)


def doctor(
    config: ConfigFile = None,
    workspace: Workspace = None,
    backbone: Annotated[str | None, typer.Option(help="the backbone whose weights are looked for")] = None,
    weights: Weights = None,
    device: Annotated[str | None, typer.Option(help="check this device alone: cpu, cuda:0, cuda:0,cuda:1")] = None,
    gpu: Gpus = None,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="time limit of each check, in seconds, in place of its own")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine and installation: GPUs, packages, disk, memory, one tile through every stage."""
    from ..doctor.doctor import examine_here

    with console_of(json=json, debug=debug) as console:
        call = Call({"extract": {"backbone": backbone, "weights": weights, "device": device}}, console, {})
        call.on_gpu("extract", gpu)
        if not examine_here(config, workspace, call.flags, console, seconds=timeout):
            raise typer.Exit(1)
