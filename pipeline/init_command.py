"""``wsipipe init``: writes or prints a settings file with every setting."""

from __future__ import annotations

from pathlib import Path

from ..data.artifact import whole
from ..data.errors import UsageError
from ..stages.settings import FILE_NAME
from .config import template
from .console import Console


def write_settings(folder: Path, console: Console, *, show: bool) -> None:
    """Write the settings file into a folder.

    :param show: print it instead.
    :raises UsageError: there is one.
    """
    if show:
        for line in template().splitlines():
            console.line(line)
        console.result({"settings": template()})
        return
    file = folder / FILE_NAME
    if file.exists():
        raise UsageError("already exists", path=file, hint="edit it, or remove it first")
    with whole(file) as scratch:
        scratch.write_text(template(), encoding="utf-8")
    console.line(f"wrote {file}; edit it, then `wsipipe check` and `wsipipe run`")
    console.result({"file": str(file)})
