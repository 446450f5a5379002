"""The ``wsipipe`` command. Importing this module loads nothing but :mod:`.process`."""

from __future__ import annotations

from collections.abc import Callable

from .process import run_command


def main() -> None:
    """Entry point of the ``wsipipe`` command."""
    run_command(_load)


def _load() -> Callable[[], object]:
    from .cli import app

    return app
