"""Which ids and names can be names of files in a workspace: one rule for slides, items, models and outputs."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

UNFINISHED: Final = ".partial-"
ASIDE: Final = ".aside-"
"""How the names of unfinished outputs, and of those that are being replaced, begin; the next run removes them."""

_ID_BYTES: Final = 200
"""File systems allow 255 bytes for a name, and the workspace's names add an extension and a temporary prefix."""
_NAME_BYTES: Final = 255


_PLAIN: Final = re.compile(r"\w[\w.+-]{0,199}(?:/\w[\w.+-]{0,199})*", re.ASCII)
"""What most names and paths are: it says at once of 100,000 records that all of their names are right."""


def why_no_file_name(name: str, *, longest: int = _ID_BYTES) -> str:
    """Say why an id cannot be a file name in the workspace, such as ``is not a name``; empty if it can.

    Spaces, dots and Unicode are allowed.

    :param longest: in bytes.
    """
    if name.strip() in ("", ".", ".."):
        return "is not a name"
    if "/" in name or "\\" in name:
        return "contains a path separator and would leave the workspace"
    if not name.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "contains control characters or bytes that are not text"
    if len(name.encode()) > longest:
        return f"is longer than {longest} bytes"
    if name.casefold().startswith((UNFINISHED, ASIDE)):
        return f"begins with {UNFINISHED} or {ASIDE}, as unfinished work does that the next run removes"
    return ""


def file_name_key(name: str) -> str:
    """The key of a name: equal for names that many file systems take for the same, by case or by coding of accents.

    >>> file_name_key("Bär 1") == file_name_key("BA\u0308R 1")
    True
    """
    return unicodedata.normalize("NFC", name).casefold()


def why_no_output(path: str) -> str:
    """Say why a recorded path cannot be that of an output below the workspace; empty if it can.

    Its parts are names by the same rule, so that an absolute path and one with ``..`` are none.
    """
    if _PLAIN.fullmatch(path):
        return ""
    for part in path.split("/"):
        if reason := why_no_file_name(part, longest=_NAME_BYTES):
            return reason if len(part) == len(path) else f"has a part, {part!a}, that {reason}"
    return ""
