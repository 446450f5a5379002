"""The command line as tests call it, in their own process."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import typer.testing
from typer.main import get_command
from typer.testing import CliRunner, Result
from wsipipe.pipeline.cli import app

typer.testing._get_command = cache(get_command)  # else each call builds all commands, which takes longer than many do


def wsipipe(*words: object) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result


def told(*words: object, code: int = 0) -> dict[str, Any]:
    """What the closing object says of each stage."""
    result = wsipipe(*words, "--json")
    assert result.exit_code == code, result.output
    return {stage["stage"]: stage for stage in json.loads(result.stdout)["stages"]}
