"""A file of bags as training holds them in memory: uncompressed, one slide after the other, each read by itself.

A store is compressed, and looked through for lost parts: a bag of 15,000 tiles × 1536 takes a good part of a step of
training to read. From this file it is a copy of the system's own, and all processes that read it share the pages which
the system keeps of it as long as there is memory for them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import SurroundingsError
from ..surroundings import patiently, surroundings

_MADE_ANEW: Final = "run the same command again: the file is made anew, and training goes on after its last whole epoch"

Array = NDArray[Any]


@dataclass(frozen=True)
class FiledArrays:
    """Where the arrays of a slide lie in a file.

    :param forms: shape and type of each; they lie one after the other.
    :param checksum: CRC-32 of their bytes.
    """

    file: Path
    slide_id: str
    start: int
    forms: tuple[tuple[tuple[int, ...], str], ...]
    checksum: int

    @property
    def bytes(self) -> int:
        """Memory that the arrays take once they are read."""
        return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.forms)

    def read(self) -> list[Array]:
        """Read the arrays.

        :raises SurroundingsError: the file is gone, or is not what was written; the message names the slide.
        """
        try:
            return patiently(self._read, self.file)
        except SurroundingsError as error:
            what = f"the bag of slide {self.slide_id} {error.what}"
            raise SurroundingsError(what, path=self.file, hint=_MADE_ANEW) from error

    def _read(self) -> list[Array]:
        arrays = [np.empty(shape, dtype) for shape, dtype in self.forms]
        checksum = 0
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start)
            for array in arrays:
                rest = _bytes_of(array)
                while rest and (count := stream.readinto(rest)):
                    checksum = zlib.crc32(rest[:count], checksum)
                    rest = rest[count:]
        if checksum != self.checksum:
            raise SurroundingsError("was changed or damaged while models were trained on it", path=self.file)
        return arrays


class BagFile:
    """Writes a file of bags.

    :param scratch: the file; its folder exists.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.bytes = 0
        """The length of the file."""

    def add(self, slide_id: str, arrays: Sequence[Array]) -> FiledArrays:
        """Append the arrays of a slide, and say where they lie.

        :raises SurroundingsError: the disk is full, or fails.
        """
        checksum, start = 0, self.bytes
        try:
            with self._scratch.open("ab", buffering=0) as stream:
                for array in arrays:
                    rest = _bytes_of(np.ascontiguousarray(array))
                    checksum = zlib.crc32(rest, checksum)
                    while rest:
                        rest = rest[stream.write(rest) :]
                self.bytes = stream.tell()
        except OSError as error:
            raise surroundings(error, self._scratch) or error from error
        forms = tuple((array.shape, array.dtype.str) for array in arrays)
        return FiledArrays(self._scratch, slide_id, start, forms, checksum)


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
