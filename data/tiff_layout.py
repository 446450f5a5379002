"""What a TIFF file says about its own length: enough to tell a truncated slide from a strange one.

Only the chain of directories is walked (TIFF 6.0, section 2; BigTIFF), for the offsets and byte counts of strips
and tiles. Pixels are not read.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

_PAIRS: Final = ((273, 279), (324, 325))  # offsets and byte counts of strips, and of tiles
_WANTED: Final = frozenset(tag for pair in _PAIRS for tag in pair)
_DTYPES: Final = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_MOST_DIRECTORIES: Final = 10_000  # a slide has a few dozen; a broken chain can run in circles


def missing_bytes(path: Path) -> int:
    """Bytes that the file's directories speak of and that lie beyond its end; 0 for a whole TIFF and for no TIFF.

    An NDPI file beyond 4 GiB abbreviates its offsets in a way of its own, and gives 0 too.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        try:
            end = _end(stream, size)
        except (struct.error, ValueError):  # a directory or a table that the end of the file cuts
            return 1
    return max(end - size, 0)


def _end(stream: BinaryIO, size: int) -> int:
    """One past the last byte that the directories name."""
    header = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    version = None if order is None else struct.unpack_from(order + "H", header, 2)[0]
    directory: int
    if version == 42 and size < 2**32:
        number, entry = struct.Struct(f"{order}I"), struct.Struct(f"{order}HHI4s")
        count_of_entries, directory = struct.Struct(f"{order}H"), number.unpack_from(header, 4)[0]
    elif version == 43:
        number, entry = struct.Struct(f"{order}Q"), struct.Struct(f"{order}HHQ8s")
        count_of_entries, directory = number, number.unpack_from(header, 8)[0]
    else:
        return 0
    end = 0
    for _ in range(_MOST_DIRECTORIES):
        if not 0 < directory < size:
            return max(end, directory + 1) if directory else end
        stream.seek(directory)
        (entries,) = count_of_entries.unpack(stream.read(count_of_entries.size))
        block = stream.read(entries * entry.size)
        (directory,) = number.unpack(stream.read(number.size))
        arrays: dict[int, npt.NDArray[np.uint64]] = {}
        for tag, kind, count, value in entry.iter_unpack(block):
            if tag in _WANTED and kind in _DTYPES:
                dtype = np.dtype(f"{order}{_DTYPES[kind]}")
                length = count * dtype.itemsize
                if length > len(value):
                    (offset,) = number.unpack(value)
                    end = max(end, offset + length)
                    stream.seek(offset)
                    value = stream.read(length)
                arrays[tag] = np.frombuffer(value[:length], dtype).astype(np.uint64)
        for offsets, counts in _PAIRS:
            if offsets in arrays and counts in arrays and 0 < arrays[offsets].size == arrays[counts].size:
                end = max(end, int((arrays[offsets] + arrays[counts]).max()))
    return end
