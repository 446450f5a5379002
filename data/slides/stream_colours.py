"""How the colours of compressed tiles are coded, and where OpenSlide misreads them.

OpenSlide follows the tags of a TIFF (PhotometricInterpretation) and of DICOM (the attribute of the same name). If tag
and stream disagree, the stream is right: the encoder wrote it together with the pixels, while tags get copied from
elsewhere. If OpenSlide takes YCbCr for RGB, its pixels can be converted; if it takes RGB for YCbCr, it has clipped
them, and they are lost.

A JPEG stream states its colour space as libjpeg understands it (ITU-T T.871; Adobe's marker; component ids); a stream
that subsamples its second and third component is YCbCr. A JPEG 2000 codestream that transforms its components decodes
to RGB (ISO/IEC 15444-1, annex G); one that does not may be either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import tifffile

from ..errors import SlideError
from .dicom_header import DicomHeader, read_dicom_header
from .slide import Rgb

Colours = Literal["RGB", "YCBCR", ""]
"""Empty if not stated."""

Mistake = Literal["YCbCr taken for RGB", "RGB taken for YCbCr", "undecided"]

_HEAD: Final = 4096
"""Bytes at the start of a stream that hold every statement about its colours."""

BY_TAG: Final = frozenset({"aperio", "generic-tiff", "huron", "leica", "philips", "trestle", "ventana"})
"""Formats in which OpenSlide follows the TIFF's tags."""
_JPEG: Final = frozenset({6, 7})
_JPEG_2000: Final[dict[int, Colours]] = {33003: "YCBCR", 33005: "RGB"}  # as OpenSlide reads Aperio's
_PHOTOMETRIC: Final[dict[int, Colours]] = {2: "RGB", 6: "YCBCR"}

_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_CODING: Final = b"\xff\x52"
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_STARTS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_DICOM_JPEG: Final = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
_DICOM_JPEG_2000: Final = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})


def jpeg_colours(stream: bytes) -> Colours:
    """Read the colour space that a JPEG stream of three components states; its beginning is enough."""
    adobe, ids, subsampled = -1, b"", False
    for marker, segment in _segments(stream):
        if marker == 0xE0 and segment.startswith(b"JFIF\0"):
            return "YCBCR"
        if marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe = segment[11]
        elif marker in _FRAME_STARTS:
            ids, sampling = segment[6::3], segment[7::3]
            subsampled = len(set(sampling)) > 1
    if adobe >= 0:
        return "YCBCR" if adobe == 1 else "RGB"
    if ids == b"RGB" and not subsampled:
        return "RGB"
    return "YCBCR" if subsampled else ""


def jpeg_bits(stream: bytes) -> int:
    """Read the bits per component of a JPEG stream; 0 if its beginning does not state them."""
    return next((segment[0] for marker, segment in _segments(stream) if marker in _FRAME_STARTS and segment), 0)


def jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """Read the width and height of a JPEG stream; None if its beginning does not state them."""
    frames = (segment for marker, segment in _segments(stream) if marker in _FRAME_STARTS and len(segment) >= 5)
    frame = next(frames, None)
    return None if frame is None else (int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3]))


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the markers of a JPEG stream with their content, up to its scan or its end."""
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
    """Read which colours a JPEG 2000 codestream of three components decodes to; its beginning is enough."""
    start = stream.find(_CODESTREAM)
    if start < 0:
        return ""
    at = start + 2
    size = int.from_bytes(stream[at + 2 : at + 4], "big")
    subsampled = len({stream[at + 40 + 3 * part + 1 : at + 40 + 3 * part + 3] for part in range(3)}) > 1
    at += 2 + size
    while at + 4 <= len(stream) and stream[at : at + 2] != _CODING:
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    transformed = len(stream) > at + 8 and stream[at + 8] == 1
    return "RGB" if transformed else "YCBCR" if subsampled else ""


def tiff_mistakes(path: Path, slide_format: str) -> set[Mistake | None]:
    """Collect OpenSlide's colour mistakes over the tiled images of a TIFF; None stands for an image it reads correctly.

    :raises Exception: one of :data:`.tiff_layout.TIFFFILE_ERRORS`, if tifffile cannot read it.
    """
    if slide_format not in BY_TAG:
        return set()
    with tifffile.TiffFile(path) as tiff:
        return {_mistake_of_page(page) for page in _pages(tiff)}


def dicom_mistakes(file: Path) -> set[Mistake | None]:
    """Collect OpenSlide's colour mistakes over the files of a DICOM slide, as :func:`tiff_mistakes` does.

    :raises SlideError: the table of a file's frames leads outside it, or they are not as many as its size needs.
    :raises OSError: a file cannot be read.
    """
    own = read_dicom_header(file)
    mistakes: set[Mistake | None] = set()
    for beside in file.parent.iterdir() if own is not None else ():
        header = read_dicom_header(beside) if beside.is_file() else None
        if header is None or own is None or header.series != own.series:
            continue
        if not header.frames_inside:
            wrong = "its table of compressed frames leads to places outside the file, so it is cut off or damaged"
            raise SlideError(wrong, path=beside, hint="copy it again from where it came")
        if wrong := _frames_unlike_size(header):
            hint = "its header is damaged: copy it again from where it came"
            raise SlideError(wrong, path=beside, hint=hint)
        if not header.frame:
            continue
        if header.transfer_syntax in _DICOM_JPEG:
            taken: Colours = "RGB" if header.photometric == "RGB" else "YCBCR"
            mistakes.add(_mistake(jpeg_colours(header.frame), taken))
        elif header.transfer_syntax in _DICOM_JPEG_2000 and header.photometric != "MONOCHROME2":
            said = jpeg_2000_colours(header.frame)
            # Without a transformation the tag states the colours; a tag that states a transformation is then wrong.
            mistakes.add(None if said == "RGB" or (not said and header.photometric == "RGB") else "undecided")
    return mistakes


def _frames_unlike_size(header: DicomHeader) -> str:
    """Say that a tiled image does not have the frames of its size, which would be laid out as another picture."""
    (width, height), (across, down) = header.size, header.tile
    if not header.whole_slide or not header.frames or not min(width, height, across, down):
        return ""
    needed = -(-width // across) * -(-height // down) * header.layers
    if header.frames == needed:
        return ""
    return f"{width} × {height} px need {needed:,} frames of {across} × {down} px, and it has {header.frames:,}"


def as_ycbcr(pixels: Rgb) -> Rgb:
    """Convert pixels (height, width, 3) whose channels are really Y, Cb and Cr to RGB, bit for bit as libjpeg does."""
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
    """Read the colours that an image's first JPEG or JPEG 2000 stream states; empty for other compressions."""
    compression = int(page.compression)
    if page.planarconfig != 1 or page.samplesperpixel != 3:
        return ""
    if compression in _JPEG:
        return jpeg_colours(stream_head(page)) or jpeg_colours(page.jpegtables or b"")
    return jpeg_2000_colours(stream_head(page))


def stream_head(page: tifffile.TiffPage) -> bytes:
    """Read the beginning of the first tile that is not missing."""
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count:
            page.parent.filehandle.seek(offset)
            return bytes(page.parent.filehandle.read(min(int(count), _HEAD)))
    return b""


def _mistake(said: Colours, taken: Colours) -> Mistake | None:
    if not said or not taken or said == taken:
        return None
    return "YCbCr taken for RGB" if said == "YCBCR" else "RGB taken for YCbCr"
