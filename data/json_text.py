"""JSON that may come from a stranger: read within limits, and with every fault as one kind of error.

Python's own reader lets through what JSON does not have (``NaN``, ``Infinity``), answers deep nesting with a
``RecursionError``, and passes on half characters that no file and no page can hold.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any, Final, NoReturn

from pydantic import ValidationError

from .errors import InputError
from .plain_files import refuse_pipe
from .surroundings import patiently

MOST_BYTES: Final = 256 << 20
"""Larger JSON files are refused: those of a cohort of 100,000 patients are a tenth of it."""
MOST_LEVELS: Final = 64
"""Lists and objects in each other; our own files have six."""
_TOO_LONG: Final = re.compile(rb"[0-9]{301}")
"""A number that may be larger than any float."""
_LARGE: Final = re.compile(rb"[0-9][eE]\+?[0-9]{2,}(?=[\s,\]}]|$)")
"""A float that may be infinite."""
_SHAPE: Final = bytes.maketrans(b"123456789E\t\n\r ]}", b"000000000e,,,,,,")
"""Makes one digit of all, and one sign of all that ends a number."""
_LARGE_SHAPE: Final = re.compile(rb"e\+?0{2,},")


def parse_json(text: bytes) -> Any:
    """Parse UTF-8 JSON.

    :raises ValueError: it is not JSON; or it holds numbers that are not finite or have hundreds of digits, more than
        :data:`MOST_LEVELS` levels, or text that is not Unicode.
    """
    decoded = text.decode("utf-8")
    if _TOO_LONG.search(text):
        raise ValueError("a number of more than 300 digits")
    try:
        # a function of ours for every number would take longer than all the rest
        number = _finite if _LARGE.search(text) else None
        value = json.loads(decoded, parse_constant=_refuse_constant, parse_float=number)
    except RecursionError:
        raise _too_deep() from None
    if text.count(b"[") + text.count(b"{") > MOST_LEVELS:
        _refuse_deep(value)
    if b"\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is a ValueError
    return value


def is_plain_json(text: bytes) -> bool:
    """Whether JSON, if it is some, can hold nothing that :func:`parse_json` refuses, as most lines of manifests cannot.

    A faster reader may then read it. It takes a few microseconds.
    """
    if b"\\u" in text or b"NaN" in text or b"Infinity" in text:
        return False
    shape = (text + b",").translate(_SHAPE)
    large_or_long = b"0" * 301 in shape or _LARGE_SHAPE.search(shape) is not None
    return not large_or_long and text.count(b"[") + text.count(b"{") <= MOST_LEVELS


def read_json(path: Path, kind: type[InputError], *, what: str, hint: str) -> Any:
    """Read a JSON file.

    :param what: what the file should be, for the message: ``metrics of a model``.
    :raises InputError: of that kind: there is no such file, it is no file or too large, or it is not such JSON.
    :raises SurroundingsError: it cannot be read for some seconds.
    """
    try:
        return parse_json(patiently(lambda: read_bytes(path, kind, hint=hint), path))
    except ValueError as error:
        raise kind(f"holds no {what}: {fault(error)}", path=path, hint=hint) from error


def read_bytes(path: Path, kind: type[InputError], *, hint: str, most: int = MOST_BYTES) -> bytes:
    """Read a file whole, if it is one and not too large.

    :raises InputError: of that kind: there is no such file, it is a folder or a pipe, or larger than ``most`` bytes.
    """
    refuse_pipe(path, kind)
    if not path.is_file():
        if path.exists():
            raise kind("cannot be read: it is a folder, not a file", path=path, hint=hint)
        gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise kind("cannot be read: there is no such file", path=path, hint=hint) from gone
    if (size := path.stat().st_size) > most:
        raise kind(f"is too large: {size:,} bytes, and at most {most:,} are read", path=path, hint=hint)
    return path.read_bytes()


def fault(error: ValueError) -> str:
    """Name in one line what is wrong: of values that do not fit a model, the first with its place."""
    if not isinstance(error, ValidationError):
        return (str(error).splitlines() or [type(error).__name__])[0]
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")  # of ours, which say what they are about
    return message if message != first["msg"] or not place else f"{place}: {message}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _refuse_deep(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [part for held in level for part in _parts(held) if isinstance(part, list | dict)]
        if not level:
            return
    raise _too_deep()


def _parts(held: Any) -> Any:
    return held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"more than {MOST_LEVELS} lists and objects in each other")
