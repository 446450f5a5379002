"""What a TIFF file says of itself: how long it must be, which tells a truncated slide from a strange one, and where
the compressed tiles of its levels lie. Pixels are not read.

For the length only the chain of directories is walked (TIFF 6.0, section 2; BigTIFF), so that it can be told of files
that nothing reads.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import tifffile

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


_JPEG: Final = 7
_JPEG_2000: Final = frozenset({33003, 33004, 33005, 34712})
_CONTIGUOUS: Final = 1
_COLOUR_SPACES: Final = {2: "RGB", 6: "YCBCR"}  # of the TIFF's PhotometricInterpretation


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledJpeg:
    """A level whose tiles are JPEG streams of 8-bit colours, row by row."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: Sequence[int]
    """Where each tile's stream begins in the file."""
    byte_counts: Sequence[int]
    """0 where a tile is missing."""
    tables: bytes | None
    """Quantisation and Huffman tables that all tiles share, if they do not have their own."""
    colour_space: str
    """``RGB`` or ``YCBCR``: how the colours are coded. The streams themselves often do not say it."""

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile."""
        return self.tile_width * self.tile_height * 3


def tiled_jpeg_levels(path: Path, level_dimensions: Sequence[tuple[int, int]]) -> list[TiledJpeg | str]:
    """Each level's tiles, or why they are no JPEG tiles.

    :param level_dimensions: width and height of each level; the one tiled image of that size is the level.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            return [_tiled_jpeg(tiff, *size) for size in level_dimensions]
    except (tifffile.TiffFileError, struct.error, ValueError, LookupError, TypeError) as error:
        return [f"tifffile cannot read it: {error}"] * len(level_dimensions)


def _tiled_jpeg(tiff: tifffile.TiffFile, width: int, height: int) -> TiledJpeg | str:
    pages = [page for page in tiff.pages if page.is_tiled and (page.imagewidth, page.imagelength) == (width, height)]
    if len(pages) != 1:
        return f"{len(pages)} tiled images of {width} × {height} px"
    page = pages[0]
    compression = int(page.compression)
    if compression in _JPEG_2000:
        return "JPEG 2000"
    if compression != _JPEG:
        return f"compression {getattr(page.compression, 'name', compression)}"
    colour_space = _COLOUR_SPACES.get(int(page.photometric), "")
    if (page.samplesperpixel, page.bitspersample, int(page.planarconfig)) != (3, 8, _CONTIGUOUS) or not colour_space:
        return "not 8-bit RGB or YCbCr"
    layout = TiledJpeg(
        width=width,
        height=height,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        offsets=page.dataoffsets,
        byte_counts=page.databytecounts,
        tables=page.jpegtables,
        colour_space=colour_space,
    )
    rows = -(-height // layout.tile_height)
    if not len(layout.offsets) == len(layout.byte_counts) == layout.columns * rows:
        return f"{len(layout.offsets)} tiles, not {layout.columns} × {rows}"
    return layout
