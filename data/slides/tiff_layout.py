"""The layout of a TIFF file: its expected length, which reveals truncation, and the positions of its compressed tiles.

Pixels are not read. The length follows from the directories alone (TIFF 6.0, section 2; BigTIFF; SubIFDs of TIFF
Supplement 1), so that it is known even for files that no reader supports.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import tifffile

from ..errors import SlideError
from ..surroundings import reading_fault
from .stream_colours import page_colours

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its complaints are part of our errors, not printed

_PAIRS: Final = ((273, 279), (324, 325))  # offsets and byte counts of strips, and of tiles
_DESCRIPTION: Final = 270  # OME-XML lies at the very end of many files
_SUB_IFDS: Final = 330
_WANTED: Final = frozenset({_DESCRIPTION, _SUB_IFDS}.union(*_PAIRS))
_DTYPES: Final = {2: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}  # ASCII, SHORT, LONG, IFD, LONG8, IFD8
_MOST_DIRECTORIES: Final = 10_000  # a slide has a few dozen
_MOST_ENTRIES: Final = 1_000_000  # of all directories, which may overlap in a broken file
_READ_AT_MOST: Final = 4  # times the file's size, for the same reason


def missing_bytes(path: Path) -> int:
    """Count the bytes that the file's directories refer to and that lie beyond its end.

    It is 0 for a complete TIFF and for other files, and for an NDPI file above 4 GiB, whose offsets are abbreviated in
    a proprietary way.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        try:
            end = _end(stream, size)
        except (struct.error, ValueError):  # the file ends within a directory or a table
            return 1
        except OverflowError:
            wrong = f"damaged: its directories run in circles (there are more than {_MOST_DIRECTORIES:,} of them)"
            raise SlideError(wrong, path=path, hint="copy it again from where it came") from None
    return max(end - size, 0)


def check_whole(file: Path, slide: Path) -> None:
    """Refuse a file that ends too early.

    :param slide: the path that was opened, for the message: the file itself, or its folder.
    :raises SlideError: truncated.
    :raises OSError: it cannot be read.
    """
    if missing := missing_bytes(file):
        wrong = f"truncated: at least {missing:,} bytes are missing at its end"
        raise SlideError(wrong, path=slide, hint="copy it again from where it came")


def _end(stream: BinaryIO, size: int) -> int:
    """Find the offset just past the last byte that the directories refer to."""
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
    end, waiting = 0, [directory]
    seen = {0}  # the end of a chain; a broken one can run in circles
    entries_left, bytes_left = _MOST_ENTRIES, max(_READ_AT_MOST * size, 2**26)
    while waiting:
        if len(seen) > _MOST_DIRECTORIES or entries_left < 0 or bytes_left < 0:
            raise OverflowError
        directory = waiting.pop()
        if directory in seen:
            continue
        seen.add(directory)
        if directory >= size:
            end = max(end, directory + 1)
            continue
        stream.seek(directory)
        (entries,) = count_of_entries.unpack(stream.read(count_of_entries.size))
        if entries * entry.size > size:
            return size + 1
        entries_left -= entries
        block = stream.read(entries * entry.size)
        waiting.append(*number.unpack(stream.read(number.size)))
        arrays: dict[int, npt.NDArray[np.uint64]] = {}
        for tag, kind, count, value in entry.iter_unpack(block):
            if tag in _WANTED and kind in _DTYPES:
                dtype = np.dtype(f"{order}{_DTYPES[kind]}")
                length = count * dtype.itemsize
                if length > len(value):
                    (offset,) = number.unpack(value)
                    end = max(end, offset + length)
                    if end > size:  # beyond the end of the file; the length itself may be damaged
                        continue
                    bytes_left -= length
                    stream.seek(offset)
                    value = stream.read(length)
                arrays[tag] = np.frombuffer(value[:length], dtype).astype(np.uint64)
        for offsets, counts in _PAIRS:
            if offsets in arrays and counts in arrays and 0 < arrays[offsets].size == arrays[counts].size:
                end = max(end, int((arrays[offsets] + arrays[counts]).max()))
        waiting += arrays.get(_SUB_IFDS, np.empty(0, np.uint64)).tolist()
    return end


MOST_TILE_BYTES: Final = 2**28
"""Of a decoded tile: 9,000 × 9,000 px. Scanners write tiles of 256 to 4,096 px."""
_FEW_TILES: Final = 20_000
_TILE_BYTES_IN_FILE: Final = 100
_FEW_PIXELS: Final = 10**9
_PIXELS_A_BYTE: Final = 2000


def check_extent(file: Path, slide: Path, level: tuple[int, int], tile: tuple[int, int]) -> None:
    """Refuse a level that would take far more time or memory than its file can have cause for.

    White tiles of 256 × 256 px take 200 bytes and more each, missing ones 16: a slide on which there is anything at all
    stays far from these limits.

    :param slide: the path that was opened, for the message.
    :param level, tile: width and height of a level, and of its tiles.
    :raises SlideError: tiles of more than :data:`MOST_TILE_BYTES`, or far more tiles or pixels than the file has bytes
        for.
    """
    size = file.stat().st_size
    width, height = level
    tiles = -(-width // max(tile[0], 1)) * -(-height // max(tile[1], 1))
    wrong = ""
    if tile[0] * tile[1] * 3 > MOST_TILE_BYTES:
        most = MOST_TILE_BYTES / 3e6
        wrong = f"tiles of {tile[0]} × {tile[1]} px, each to be decoded whole (at most {most:.0f} million px are)"
    elif tiles > _FEW_TILES and tiles * _TILE_BYTES_IN_FILE > size:
        wrong = f"{tiles:,} tiles in {size:,} bytes: there must be {_TILE_BYTES_IN_FILE} bytes a tile"
    elif width * height > max(_FEW_PIXELS, _PIXELS_A_BYTE * size):
        wrong = f"{width} × {height} px in {size:,} bytes: there may be {_PIXELS_A_BYTE:,} px a byte"
    if wrong:
        raise SlideError(wrong, path=slide, hint="damaged, or almost all of it empty: copy or convert it again")


JPEG: Final = "JPEG"
JPEG_2000: Final = "JPEG 2000"

COMPRESSIONS: Final = {
    1: "none", 5: "LZW", 7: JPEG, 8: "deflate", 32946: "deflate", 32773: "PackBits", 33003: JPEG_2000,
    33004: JPEG_2000, 33005: JPEG_2000, 34712: JPEG_2000, 34926: "zstd", 50000: "zstd",
}  # fmt: skip
_JPEG_2000_OF_TWO_KINDS: Final = 33003  # Bio-Formats: colours as tagged; Aperio: subsampled YCbCr
CONTIGUOUS: Final = 1
_COLOUR_SPACES: Final = {2: "RGB", 6: "YCBCR"}  # of the TIFF's PhotometricInterpretation
_DIFFERENCES: Final = 2  # a Predictor
_STRIP_BYTES: Final = 2**20

TIFFFILE_ERRORS: Final = (
    tifffile.TiffFileError, struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    NotImplementedError, MemoryError, OSError,
)  # fmt: skip
"""The errors that tifffile raises for a damaged file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledLevel:
    """An image of 8-bit colours in compressed tiles, row by row; strips are tiles as wide as the image."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: Sequence[int]
    """Offset of each tile's stream in the file; with several planes, all tiles of a plane before the next plane's."""
    byte_counts: Sequence[int]
    """0 where a tile is missing."""
    compression: str
    """One of :data:`JPEG`, :data:`JPEG_2000`, ``LZW``, ``deflate``, ``zstd``, ``PackBits``, ``none``."""
    planes: int = 1
    """1, or 3 if red, green and blue are stored separately."""
    differences: bool = False
    """Whether each value is stored as its difference from the one on its left."""
    strips: bool = False
    """Whether the tiles are strips; then the last one ends with the image."""

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def tiles(self) -> int:
        return self.columns * -(-self.height // self.tile_height)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile."""
        return self.tile_width * self.tile_height * 3

    def rows_of(self, tile: int) -> int:
        """Number of pixel rows in a tile's stream."""
        if not self.strips:
            return self.tile_height
        return min(self.tile_height, self.height - tile // self.columns * self.tile_height)

    def parts_of(self, tile: int) -> list[tuple[int, int]]:
        """Offset and length of a tile's stream, or of those of its planes."""
        indices = range(tile, tile + self.planes * self.tiles, self.tiles)
        return [(int(self.offsets[index]), int(self.byte_counts[index])) for index in indices]


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledJpeg(TiledLevel):
    """A level whose tiles are JPEG streams."""

    tables: bytes | None
    """Quantisation and Huffman tables shared by all tiles, if they do not have their own."""
    colour_space: str
    """``RGB`` or ``YCBCR``: how the colours are coded, as stated by the streams, or else by the tag."""


def tiled_jpeg_levels(path: Path, level_dimensions: Sequence[tuple[int, int]]) -> list[TiledLevel | str]:
    """Locate each level's JPEG or JPEG 2000 tiles, or say why a level has none.

    :param level_dimensions: width and height of each level; the single tiled image of that size is the level.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            return [_tiled_jpeg(tiff, *size) for size in level_dimensions]
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        return [f"tifffile cannot read it: {error}"] * len(level_dimensions)


def _tiled_jpeg(tiff: tifffile.TiffFile, width: int, height: int) -> TiledLevel | str:
    pages = [page for page in tiff.pages if page.is_tiled and (page.imagewidth, page.imagelength) == (width, height)]
    if len(pages) != 1:
        return f"{len(pages)} tiled images of {width} × {height} px"
    if int(pages[0].compression) == _JPEG_2000_OF_TWO_KINDS and page_colours(pages[0]) != "RGB":
        return "JPEG 2000 of YCbCr (compression 33003)"
    layout = tiled_level(pages[0])
    if isinstance(layout, str):
        return layout
    if layout.compression not in (JPEG, JPEG_2000):
        return f"compression {layout.compression}"
    return "the colours lie apart" if layout.planes > 1 else layout


def tiled_level(page: tifffile.TiffPage) -> TiledLevel | str:
    """Describe how an image of 8-bit colours is stored, or say why it cannot be decoded here."""
    compression = COMPRESSIONS.get(int(page.compression))
    tag = _COLOUR_SPACES.get(int(page.photometric), "")
    colour_space = (tag and page_colours(page)) or tag  # if they disagree, the stream is right
    if compression is None:
        return f"compression {getattr(page.compression, 'name', page.compression)}"
    if (page.samplesperpixel, page.bitspersample, page.dtype) != (3, 8, np.uint8) or not colour_space:
        return "not 8-bit RGB or YCbCr"
    planes = 1 if page.planarconfig == CONTIGUOUS else 3
    if colour_space != "RGB" and (compression != JPEG or planes > 1):
        return f"YCbCr in {'planes' if compression == JPEG else compression}"
    images = compression in (JPEG, JPEG_2000)
    if not images and (page.predictor not in (1, _DIFFERENCES) or page.fillorder != 1):
        return f"predictor {int(page.predictor)}, bit order {int(page.fillorder)}"
    strips = not page.is_tiled
    layout = TiledLevel(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.imagewidth if strips else page.tilewidth,
        tile_height=min(page.rowsperstrip, page.imagelength) if strips else page.tilelength,
        # A damaged tag may hold letters in place of numbers: that must fail now, not at the first read.
        offsets=np.asarray(page.dataoffsets, np.int64).tolist(),
        byte_counts=np.asarray(page.databytecounts, np.int64).tolist(),
        compression=compression,
        planes=planes,
        differences=page.predictor == _DIFFERENCES and not images,
        strips=strips,
    )
    if min(layout.width, layout.height, layout.tile_width, layout.tile_height) < 1 or page.imagedepth != 1:
        return "an image without pixels, or of more than two dimensions"
    if not len(layout.offsets) == len(layout.byte_counts) == layout.tiles * planes:
        return f"{len(layout.offsets)} tiles, not {layout.tiles * planes}"
    if strips and compression == "none":
        layout = _short_strips(layout)
    if layout.tile_bytes > MOST_TILE_BYTES:
        return f"parts of {layout.tile_width} × {layout.tile_height} px, each to be decoded whole"
    if compression == JPEG:
        return TiledJpeg(**vars(layout), tables=page.jpegtables, colour_space=colour_space)
    return layout


def _short_strips(layout: TiledLevel) -> TiledLevel:
    """Split contiguous uncompressed strips into short ones, since some files have one strip as large as the image."""
    row_bytes = layout.width * 3 // layout.planes
    plane_bytes = row_bytes * layout.height
    starts, counts = (
        np.asarray(of, np.int64).reshape(layout.planes, -1) for of in (layout.offsets, layout.byte_counts)
    )
    if (np.diff(starts) != counts[:, :-1]).any() or (counts.sum(axis=1) != plane_bytes).any():
        return layout
    rows = max(_STRIP_BYTES // (layout.width * 3), 1)
    begin = np.arange(0, plane_bytes, rows * row_bytes)
    return replace(
        layout,
        tile_height=min(rows, layout.height),
        offsets=(starts[:, :1] + begin).ravel().tolist(),
        byte_counts=np.tile(np.diff(begin, append=plane_bytes), layout.planes).tolist(),
    )
