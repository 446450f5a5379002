"""Commands that list what can be chosen: backbones, encoders."""

from __future__ import annotations

import typer

from ..command import Debug, Json, console_of


def add_catalogue(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (backbones, encoders):
        app.command()(command)


def backbones(json: Json = False, debug: Debug = False) -> None:
    """List the registered backbones, their licences, and whether their weights are on this machine."""
    from .backbones import show_backbones

    with console_of(json=json, debug=debug) as console:
        show_backbones(console)


def encoders(json: Json = False, debug: Debug = False) -> None:
    """List the slide encoders: whose tile features they read, their licences, and why some cannot be run here."""
    from .encoders import show_encoders

    with console_of(json=json, debug=debug) as console:
        show_encoders(console)
