"""The ``wsipipe`` command. Importing this module loads nothing but :mod:`.process`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from .process import run_command


def main() -> None:
    """Entry point of the ``wsipipe`` command."""
    run_command(_load)


def _load() -> Callable[[], object]:
    from .cli import app

    if not _asks_for_help(sys.argv[1:]):
        from . import chain  # noqa: F401  what commands work with: nothing has begun, so an interrupt ends it at once

    return app


def _asks_for_help(words: list[str]) -> bool:
    """Whether a command says only how it is used, or completes words, so that what runs a stage need not be loaded."""
    asks = {"-h", "--help", "--version", "--show-completion", "--install-completion"}
    return not words or not asks.isdisjoint(words) or "_WSIPIPE_COMPLETE" in os.environ
