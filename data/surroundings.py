"""Faults of the machine, which are none of the data: which they are, and how long a reader waits for them to pass.

What lies on network storage fails now and then: a share goes away for a second, a handle becomes stale, too many files
are open. Such a failure says nothing of the slide or store that was being read. So it is tried again for some seconds,
by everything that reads (:func:`patiently`); what has not passed by then is a :class:`SurroundingsError`, which the
next run tries again by itself.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from .errors import SurroundingsError, WsipipeError

T = TypeVar("T")

_AGAIN: Final = "run the same command again: what is done stays done"
_DISK: Final = f"the disk reports an error: check it, then {_AGAIN}"
_SHARE: Final = f"the storage does not answer: check its mount and the network, then {_AGAIN}"
_FILES: Final = f"raise the number of files that may be open (`ulimit -n`), or take fewer --threads; then {_AGAIN}"
_RIGHT: Final = "give yourself the right to it, or choose another --workspace"
_TOO_LARGE: Final = "the file system, or `ulimit -f`, does not allow a file of that size: choose another --workspace"
_IN_THE_WAY: Final = "a file is in the way of a folder: move it, or choose another --workspace"

_GONE: Final = "it was moved or removed, or its disk is gone: bring it back, or leave it out"

_MAY_PASS: Final[dict[str, str]] = {
    "EIO": _DISK,
    "EREMOTEIO": _DISK,
    "EBUSY": _SHARE,
    "EAGAIN": _SHARE,
    "EMFILE": _FILES,
    "ENFILE": _FILES,
    "ENOMEM": f"free some memory, then {_AGAIN}",
    "ENOBUFS": f"free some memory, then {_AGAIN}",
    "ENOENT": _GONE,
} | dict.fromkeys(
    [
        *("ESTALE", "ETIMEDOUT", "ENOTCONN", "ENODEV", "ENXIO", "ENOLINK", "ECOMM", "EPROTO", "ENONET", "EPIPE"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ESHUTDOWN", "EKEYEXPIRED", "ENOKEY"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
    ],
    _SHARE,
)
"""Failures that may be over in a moment, and what helps if they are not. Not every system knows all of them."""
_STAYS: Final[dict[str, str]] = {
    "EACCES": _RIGHT,
    "EPERM": _RIGHT,
    "EUCLEAN": _DISK,
}
_OF_WRITING: Final[dict[str, str]] = {
    "ENOSPC": "free some space and run the same command again: what is done stays done",
    "EDQUOT": "your quota is used up: free some space and run the same command again",
    "EROFS": "the workspace must be on a file system that can be written to",
    "EFBIG": _TOO_LARGE,
    "ENOTDIR": _IN_THE_WAY,
    "EEXIST": _IN_THE_WAY,
}


def _numbers(names: dict[str, str]) -> dict[int, str]:
    return {getattr(errno, name): hint for name, hint in names.items() if hasattr(errno, name)}


_PASSING: Final = _numbers(_MAY_PASS)
_READING: Final = _PASSING | _numbers(_STAYS)
_HINTS: Final = _READING | _numbers(_OF_WRITING)

PATIENCE: Final = 6.0
"""Seconds that a reader waits, all together, for a failure to pass."""
_PATIENCE_WITH_WHAT_IS_GONE: Final = 2.0
"""Most files that are not there are really not there."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

_QUOTED: Final = re.compile(r"\b(?:errno = |os error )(\d+)")
"""How HDF5, and libraries in Rust (safetensors), quote the number of a failure in their messages."""


def surroundings(error: OSError, path: str | Path) -> SurroundingsError | None:
    """What to tell the user when the machine, not the data, is at fault; None for any other ``OSError``."""
    if error.errno not in _HINTS:
        return None
    writing = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
    what = f"could not {'write' if error.errno in writing else 'read or write'}: {os.strerror(error.errno)}"
    if error.errno == errno.ENOENT:
        what = f"could not be read: {os.strerror(error.errno)} (it vanished, or was never there)"
    return SurroundingsError(what, path=path, hint=_HINTS[error.errno])


def reading_fault(error: BaseException) -> OSError | None:
    """The failure of the machine that an error comes of, which is then no word about the data; None if there is none.

    It is the error itself, or what it was raised from. Some libraries say it in their message only.
    """
    return _fault(error, _READING)


def writing_fault(error: BaseException) -> OSError | None:
    """The failure of the machine that an error in writing comes of, as :func:`reading_fault` of one in reading."""
    return _fault(error, _HINTS)


def _fault(error: BaseException, known: dict[int, str]) -> OSError | None:
    link: BaseException | None = error
    while link is not None:
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (quoted := _QUOTED.search(str(link))):
            number = int(quoted[1])
        if number is None and isinstance(link, FileNotFoundError):  # zarr's own have no number
            number = errno.ENOENT
        if number in known:
            return OSError(number, str(link))
        link = link.__cause__
    return None


def reading_fault_in(text: str) -> OSError | None:
    """Find the failure of the machine that a library's message quotes in the system's words; None if it quotes none."""
    named = (number for number in _READING if os.strerror(number).casefold() in text.casefold())
    return next((OSError(number, text) for number in named), None)


def patiently(attempt: Callable[[], T], path: str | Path) -> T:
    """What an attempt at reading gives. A failure of the machine that may pass is tried again, with growing pauses.

    :param attempt: lets such a failure through as the ``OSError`` that it is, or as the cause of what it raises.
    :param path: what is read, for the message.
    :raises SurroundingsError: it has not passed, or is of a kind that does not. An error of ours stays as it is.
    """
    waited, pause = 0.0, _FIRST_PAUSE
    while True:
        try:
            return attempt()
        except SurroundingsError:  # its patience is used up
            raise
        except Exception as error:
            fault = reading_fault(error) or error
            number = fault.errno if isinstance(fault, OSError) else None
            patience = _PATIENCE_WITH_WHAT_IS_GONE if number == errno.ENOENT else PATIENCE
            if number not in _PASSING or waited + pause > patience:
                known = surroundings(fault, path) if isinstance(fault, OSError) else None
                if known is None or isinstance(error, WsipipeError):
                    raise
                raise known from error
        time.sleep(pause)
        waited += pause
        pause = min(2 * pause, _LONGEST_PAUSE)
