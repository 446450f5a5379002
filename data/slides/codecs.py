"""Decoders of a TIFF's compressed tiles. A damaged tile is refused, never filled up."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg

from .slide import Rgb
from .tiff_layout import JPEG, JPEG_2000, TiledJpeg, TiledLevel

Decoder = Callable[[Sequence[bytes], int], Rgb | None]
"""Turns a tile's streams (one, or one per plane) and its number of rows into pixels (rows, tile width, 3); None if
the tile is damaged."""

_Plane = npt.NDArray[np.uint8]
_PlaneDecoder = Callable[[bytes, tuple[int, int, int]], _Plane | None]

_START_OF_IMAGE: Final = b"\xff\xd8"
_ADOBE: Final = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""The JPEG marker for how colours are coded, without its last byte, which is 1 for YCbCr and 0 for RGB."""

_CODESTREAM: Final = b"\xff\x4f\xff\x51"
"""JPEG 2000 (ISO/IEC 15444-1, annex A): start of the codestream and of its size segment."""
_SIZES: Final = struct.Struct(">HHIIIIIIIIH")
_JP2_BOXES: Final = 2**16  # bytes: upper bound of the JP2 headers in front of a wrapped codestream

DECOMPRESS: Final[dict[str, Callable[..., bytes | bytearray]]] = {
    "LZW": imagecodecs.lzw_decode,
    "deflate": imagecodecs.zlib_decode,
    "zstd": imagecodecs.zstd_decode,
    "PackBits": imagecodecs.packbits_decode,
}


def decoder_of(layout: TiledLevel) -> Decoder:
    """Build the decoder of a level's tiles; it may be called from many threads."""
    plane: _PlaneDecoder
    if isinstance(layout, TiledJpeg):
        plane = partial(_jpeg, _head(layout))
    elif layout.compression == JPEG_2000:
        plane = _jpeg_2000
    else:
        plane = partial(_values, DECOMPRESS.get(layout.compression), layout.differences)
    width, planes = layout.tile_width, layout.planes

    def decode(streams: Sequence[bytes], rows: int) -> Rgb | None:
        shape = (rows, width, 3 // planes)
        decoded = [tile for stream in streams if (tile := plane(stream, shape)) is not None]
        if len(decoded) < planes:
            return None
        return decoded[0] if planes == 1 else np.concatenate(decoded, axis=2)

    return decode


@cache
def library_of(compression: str) -> str:
    """Name the library that decodes a compression, with its version."""
    if compression == JPEG:
        return f"libjpeg-turbo (simplejpeg {version('simplejpeg')})"
    name = {JPEG_2000: "OpenJPEG", "none": "no compression"}.get(compression, compression)
    return f"{name} (imagecodecs {version('imagecodecs')})"


def _head(layout: TiledJpeg) -> bytes:
    """Build the bytes that turn a tile's stream, without its first marker, into a whole JPEG.

    They hold the colour space and the shared tables.
    """
    colours = _ADOBE + bytes([layout.colour_space == "YCBCR"]) if layout.planes == 1 else b""
    return _START_OF_IMAGE + colours + (layout.tables[2:-2] if layout.tables else b"")


def _jpeg(head: bytes, stream: bytes, shape: tuple[int, int, int]) -> _Plane | None:
    """Decode a JPEG tile; None if it is damaged or has surplus data (some of which OpenSlide accepts)."""
    if not stream.startswith(_START_OF_IMAGE):
        return None
    tile = np.empty(shape, np.uint8)
    try:
        colours = "RGB" if shape[2] == 3 else "GRAY"
        decoded = simplejpeg.decode_jpeg(head + stream[2:], colorspace=colours, buffer=tile)
    except ValueError:
        return None
    return tile if decoded.shape == shape else None


def _jpeg_2000(stream: bytes, shape: tuple[int, int, int]) -> _Plane | None:
    """Decode a JPEG 2000 tile; None if it is damaged.

    The size in the stream must be exactly ``shape``: a damaged stream could ask for any amount of memory.
    """
    start = stream.find(_CODESTREAM, 0, _JP2_BOXES)
    height, width, samples = shape
    parts = 4 + _SIZES.size
    if start < 0 or len(stream) < start + parts + 3 * samples:
        return None
    _, _, right, bottom, left, top, *_, components = _SIZES.unpack_from(stream, start + 4)
    kinds = stream[start + parts : start + parts + 3 * samples]
    if (right - left, bottom - top, components, kinds) != (width, height, samples, b"\x07\x01\x01" * samples):
        return None  # each component must be unsigned 8 bit and not subsampled in x or y
    try:
        decoded: _Plane = imagecodecs.jpeg2k_decode(stream, numthreads=1)
    except (RuntimeError, ValueError):
        return None
    return decoded.reshape(shape) if decoded.dtype == np.uint8 and decoded.size == np.prod(shape) else None


def _values(
    decompress: Callable[..., bytes | bytearray] | None, differences: bool, stream: bytes, shape: tuple[int, int, int]
) -> _Plane | None:
    size = shape[0] * shape[1] * shape[2]
    try:
        values = stream[:size] if decompress is None else decompress(stream, out=size)
    except (RuntimeError, ValueError):
        return None
    if len(values) != size:
        return None
    tile = np.frombuffer(values, np.uint8).reshape(shape)
    return np.cumsum(tile, axis=1, dtype=np.uint8) if differences else tile
