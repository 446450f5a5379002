"""Gzipped files: unpacked as they are read, and no further than a file of their size has any reason to go.

Three megabytes of gzip can hold four gigabytes. Tables, counts and coordinates become 3 to 20 times longer when
they are unpacked; what goes far beyond is damaged, made to do harm, or so empty that it had better be given unpacked.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import InputError

FEWEST_BYTES: Final = 64 * 2**20
"""Up to here anything is unpacked."""
LONGER: Final = 25
"""Beyond that, it may become so many times longer."""


def unpacked(stream: BinaryIO, size: int) -> io.BufferedReader:
    """What a gzipped file holds; closing it closes the file.

    :param size: bytes of the file.
    :raises InputError: in reading, when it goes beyond :data:`FEWEST_BYTES` and :data:`LONGER` times ``size``. Damage
        is raised as :mod:`gzip` does (``EOFError``, ``zlib.error``, ``gzip.BadGzipFile``).
    """
    return io.BufferedReader(_Limited(stream, max(FEWEST_BYTES, LONGER * size)), 2**20)


def opened(path: Path, *, gzipped: bool) -> BinaryIO:
    """Open a file, and unpack it if it is gzipped.

    :raises OSError: it cannot be opened.
    """
    return unpacked(path.open("rb"), path.stat().st_size) if gzipped else path.open("rb")


class _Limited(io.RawIOBase):
    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._packed = stream
        self._unpacked = gzip.GzipFile(fileobj=stream)
        self._most = self._left = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = self._unpacked.readinto(buffer)
        self._left -= count
        if self._left < 0:
            what = f"unpacks to more than {self._most / 2**20:.0f} MiB, far more than a table packed to this size"
            raise InputError(what, hint="if that is right, unpack it (`gunzip`) and give the plain file")
        return count

    def close(self) -> None:
        self._unpacked.close()
        self._packed.close()
        super().close()
