"""Functions that read a file as libraries read damaged ones: without end, with all memory there is, or not at all."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wsipipe.data.errors import StoreError


def without_end(path: Path) -> None:
    """Compute for ever in one call of a C library, which holds the interpreter's lock."""
    re.match(r"(a|aa)+$", "a" * 200 + "b")


def waits(path: Path) -> None:
    """Wait as for storage that does not answer; leaves a file with the number of its process."""
    path.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(10_000)


def balloons(path: Path) -> int:
    return len(bytearray(4 << 30))


def balloons_in_its_answer(path: Path) -> list[bytes]:
    return [bytes(100 << 20) for _ in range(100)]


def crashes(path: Path) -> str:
    return ctypes.string_at(0).decode()


def aborts(path: Path) -> None:
    os.abort()


def is_killed(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails(path: Path) -> None:
    raise AssertionError("what no library should raise, of \udcff")


def gives_what_cannot_be_sent(path: Path) -> Any:
    return lambda: path


def refuses(path: Path) -> None:
    raise StoreError("of another kind", path=path, hint="take another")


def meets_a_failure(path: Path) -> None:
    raise OSError("unable to open file (errno = 5, error message = 'Input/output error')")


def prints(path: Path) -> str:
    os.write(1, b"what a library has to say")
    sys.stdout.write("and more")
    return path.read_text()


def process(path: Path, *arguments: object) -> tuple[int, tuple[object, ...]]:
    return os.getpid(), arguments


def loaded(path: Path) -> list[str]:
    return [*sys.modules]


def arrays(path: Path) -> list[NDArray[Any]]:
    return [np.arange(2_000_000), np.array(["a", "µ"], object), np.zeros((0, 3), np.float32), np.eye(300)[:, ::2]]
