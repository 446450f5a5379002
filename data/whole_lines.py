"""Appending whole lines to a file, so that a killed process or a full disk leaves at most one that is incomplete."""

from __future__ import annotations

import os
from pathlib import Path

from .artifact import flush_to_disk
from .surroundings import patiently
from .workspace import refuse_link


def append_lines(path: Path, lines: bytes) -> None:
    """Append lines and flush them to the disk; an incomplete line of a killed run is removed first.

    :raises UsageError: a link stands for the file, or its folder is outside of the workspace.
    """

    def write() -> None:
        refuse_link(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as stream:
            _cut_torn_line(stream.fileno())
            end = os.fstat(stream.fileno()).st_size
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[stream.write(rest) :]
                flush_to_disk(stream.fileno(), path)
            except OSError:  # on a full disk, a part of a line may have been written
                os.ftruncate(stream.fileno(), end)
                raise

    patiently(write, path)


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(handle, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)
