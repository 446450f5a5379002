"""What is no file but is given as a path: pipes, sockets and devices, on which a reader might wait for ever; URLs."""

from __future__ import annotations

import re
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

_SCHEME: Final = re.compile(r"(s3|gs|gcs|az|abfss?|https?):/{1,2}(?=[^/])")


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


def url_of(path: str | Path) -> str | None:
    """The URL that a path is meant as; None for a path. A :class:`~pathlib.Path` has lost one of the two slashes."""
    text = str(path)
    scheme = _SCHEME.match(text)
    return None if scheme is None else f"{scheme[1]}://{text[scheme.end() :]}"
