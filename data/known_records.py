"""What a process has read of a manifest already: a manifest of 100,000 records is parsed once, and then what is new.

A manifest only grows. When it is read again, its bytes up to the place that was read before are compared by their
digest, and only the lines after that place are parsed. If these bytes have changed, all of it is read again.
"""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Generic, TypeVar

T = TypeVar("T")

_MOST: Final = 512
"""Manifests that are kept; of more, the one that was read first is forgotten."""
_SETTLED_NS: Final = 2_000_000_000
"""A file whose time of change is not older than this when it is read may change again without a new time."""
_CHUNK: Final = 1 << 20


@dataclass
class Known(Generic[T]):
    """The whole lines of a file that were read, what each was parsed to, and how the file looked then."""

    parsed: list[T] = field(default_factory=list)
    lines: int = 0
    bytes: int = 0
    torn: bool = False
    """Whether the file ends with an incomplete line."""
    digest: Any = field(default_factory=hashlib.sha256)
    seen: tuple[int, ...] | None = None
    """The file's identity, size and times; None if they may stay the same when its content changes."""


_known: Final[dict[Path, Known[Any]]] = {}


def read_on(path: Path, parse: Callable[[int, bytes], T]) -> Known[T]:
    """Read what a file of lines has more than when it was read last, and return all that is known of it.

    :param parse: called with the number of a line, counted from 1, and its bytes; not for lines that are blank.
    """
    key = path.absolute()
    before = _known.get(key)
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if before is not None and before.seen == seen:
            return before
        settled = max(status.st_mtime_ns, status.st_ctime_ns) + _SETTLED_NS < time.time_ns()
        now: Known[T] = Known(seen=seen if settled else None)
        if before is not None and _begins_with(stream, before):
            now.parsed, now.lines = list(before.parsed), before.lines
            now.bytes, now.digest = before.bytes, before.digest.copy()
        stream.seek(now.bytes)
        with no_garbage_collection():
            for line in stream:
                if not line.endswith(b"\n"):
                    now.torn = True
                    break
                now.lines += 1
                now.bytes += len(line)
                now.digest.update(line)
                if line.strip():
                    now.parsed.append(parse(now.lines, line))
    _known.pop(key, None)
    while len(_known) >= _MOST:
        del _known[next(iter(_known))]
    _known[key] = now
    return now


def _begins_with(stream: IO[bytes], known: Known[Any]) -> bool:
    digest, left = hashlib.sha256(), known.bytes
    while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    return left == 0 and bool(digest.digest() == known.digest.digest())


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Search for no cycles while many objects are made that have none: with 100,000 records it doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
