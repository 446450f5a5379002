"""Refusing what is no file but has a path: pipes, sockets and devices, which a reader might wait for without end."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from .errors import InputError, WsipipeError

_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def pipe_or_device(path: Path) -> str:
    """What a path is that is neither a file nor a folder, such as ``a pipe``; empty for all else, and for nothing."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return ""


def refuse_pipe(path: Path, error: type[WsipipeError] = InputError) -> None:
    """Refuse a path that is neither a file nor a folder, instead of waiting for somebody to write to it.

    :param error: the error to raise.
    :raises WsipipeError: the message says what it is.
    """
    if what := pipe_or_device(path):
        hint = "save what comes from it in a file, and give that file"
        raise error(f"is {what}, not a file", path=path, hint=hint)
