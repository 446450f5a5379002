"""How the colours of compressed tiles are coded: what their streams say, and where OpenSlide takes them for something
else.

OpenSlide goes by the tags of a TIFF (PhotometricInterpretation) and of DICOM (the attribute of the same name). Where
tag and stream disagree the stream is right, for who wrote it has coded the colours, and tags are copied from elsewhere.
If OpenSlide takes YCbCr for RGB, its pixels can be turned into what they should be; the other way round it has clipped
them.

A JPEG stream says it as libjpeg understands it (ITU-T T.871; Adobe's marker; component ids); one that thins out its
second and third component codes chroma. A JPEG 2000 codestream that transforms its components gives RGB when it is
decoded (ISO/IEC 15444-1, annex G); one that does not leaves it open.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import tifffile

from .dicom_header import read_dicom_header
from .slide import Rgb

Colours = Literal["RGB", "YCBCR", ""]
"""Empty where nothing is said."""

Mistake = Literal["YCbCr taken for RGB", "RGB taken for YCbCr", "undecided"]

_HEAD: Final = 4096
"""Bytes of a stream that hold all that it says of its colours."""

_BY_TAG: Final = frozenset({"aperio", "generic-tiff", "huron", "leica", "philips", "trestle", "ventana"})
"""Formats in which OpenSlide goes by the TIFF's tags."""
_JPEG: Final = frozenset({6, 7})
_JPEG_2000: Final[dict[int, Colours]] = {33003: "YCBCR", 33005: "RGB"}  # as OpenSlide takes Aperio's
_PHOTOMETRIC: Final[dict[int, Colours]] = {2: "RGB", 6: "YCBCR"}

_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_CODING: Final = b"\xff\x52"
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_STARTS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_DICOM_JPEG: Final = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
_DICOM_JPEG_2000: Final = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})


def jpeg_colours(stream: bytes) -> Colours:
    """What a JPEG stream of three components, or its beginning, says of itself."""
    adobe, ids, thinned = -1, b"", False
    for marker, segment in _segments(stream):
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            return "YCBCR"
        if marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe = segment[11]
        elif marker in _FRAME_STARTS:
            ids, sampling = segment[6::3], segment[7::3]
            thinned = len(set(sampling)) > 1
    if adobe >= 0:
        return "YCBCR" if adobe == 1 else "RGB"
    if ids == b"RGB" and not thinned:
        return "RGB"
    return "YCBCR" if thinned else ""


def jpeg_bits(stream: bytes) -> int:
    """Bits a component of a JPEG stream; 0 where its beginning does not say."""
    return next((segment[0] for marker, segment in _segments(stream) if marker in _FRAME_STARTS and segment), 0)


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers of a JPEG stream and what stands in them, up to its scan or its end."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in _STANDALONE or marker == 0xFF:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:
            return
        length = max(int.from_bytes(stream[at + 2 : at + 4], "big"), 2)
        yield marker, stream[at + 4 : at + 2 + length]
        at += 2 + length


def jpeg_2000_colours(stream: bytes) -> Colours:
    """What a JPEG 2000 codestream of three components, or its beginning, gives when it is decoded."""
    start = stream.find(_CODESTREAM)
    if start < 0:
        return ""
    at = start + 2
    size = int.from_bytes(stream[at + 2 : at + 4], "big")
    thinned = len({stream[at + 40 + 3 * part + 1 : at + 40 + 3 * part + 3] for part in range(3)}) > 1
    at += 2 + size
    while at + 4 <= len(stream) and stream[at : at + 2] != _CODING:
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    transformed = len(stream) > at + 8 and stream[at + 8] == 1
    return "RGB" if transformed else "YCBCR" if thinned else ""


def tiff_mistakes(path: Path, slide_format: str) -> set[Mistake | None]:
    """Where OpenSlide takes the colours of a TIFF's tiled images for something else; None among them for those that it
    takes for what they are.

    :raises Exception: one of :data:`.tiff_layout.TIFFFILE_ERRORS`, if tifffile cannot read it.
    """
    if slide_format not in _BY_TAG:
        return set()
    with tifffile.TiffFile(path) as tiff:
        return {_mistake_of_page(page) for page in _pages(tiff)}


def dicom_mistakes(file: Path) -> set[Mistake | None]:
    """The same of the slide that a DICOM file is of.

    :raises OSError: a file cannot be read.
    """
    own = read_dicom_header(file)
    mistakes: set[Mistake | None] = set()
    for beside in file.parent.iterdir() if own is not None else ():
        header = read_dicom_header(beside) if beside.is_file() else None
        if header is None or own is None or header.series != own.series or not header.frame:
            continue
        if header.transfer_syntax in _DICOM_JPEG:
            taken: Colours = "RGB" if header.photometric == "RGB" else "YCBCR"
            mistakes.add(_mistake(jpeg_colours(header.frame), taken))
        elif header.transfer_syntax in _DICOM_JPEG_2000 and header.photometric != "MONOCHROME2":
            said = jpeg_2000_colours(header.frame)
            # What is not transformed has the colours that the tag says, and a tag that says a transformation is wrong.
            mistakes.add(None if said == "RGB" or (not said and header.photometric == "RGB") else "undecided")
    return mistakes


def as_ycbcr(pixels: Rgb) -> Rgb:
    """RGB of pixels, (height, width, 3), whose channels are Y, Cb and Cr in truth: libjpeg's arithmetic, to the bit."""
    y, cb, cr = (pixels[..., channel].astype(np.int32) for channel in range(3))
    half = 1 << 15
    cb, cr = cb - 128, cr - 128
    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)


def _pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    for page in tiff.pages:
        if isinstance(page, tifffile.TiffPage) and page.is_tiled and page.samplesperpixel == 3:
            yield page


def _mistake_of_page(page: tifffile.TiffPage) -> Mistake | None:
    compression = int(page.compression)
    if compression in _JPEG:
        return _mistake(page_colours(page), _PHOTOMETRIC.get(int(page.photometric), ""))
    return _mistake(page_colours(page), _JPEG_2000.get(compression, ""))


def page_colours(page: tifffile.TiffPage) -> Colours:
    """What the first stream of an image says, of JPEG or JPEG 2000; nothing for others."""
    compression = int(page.compression)
    if page.planarconfig != 1 or page.samplesperpixel != 3:
        return ""
    if compression in _JPEG:
        return jpeg_colours(_stream_head(page)) or jpeg_colours(page.jpegtables or b"")
    return jpeg_2000_colours(_stream_head(page))


def _stream_head(page: tifffile.TiffPage) -> bytes:
    """The beginning of the first tile that is there."""
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count:
            page.parent.filehandle.seek(offset)
            return bytes(page.parent.filehandle.read(min(int(count), _HEAD)))
    return b""


def _mistake(said: Colours, taken: Colours) -> Mistake | None:
    if not said or not taken or said == taken:
        return None
    return "YCbCr taken for RGB" if said == "YCBCR" else "RGB taken for YCbCr"
