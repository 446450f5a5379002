"""Headers of DICOM files (PS3.10, PS3.5): the series of the file, and how the colours of its frames are coded.

Pixels are not read. Any file may be truncated or damaged, so every length is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from ..plain_files import pipe_or_device

_PREFIX: Final = (128, b"DICM")
_IMPLICIT: Final = "1.2.840.10008.1.2"
_ENCAPSULATED: Final = "1.2.840.10008.1.2.4."
_WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"

_LONG_FORMS: Final = frozenset({
    b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV",
})  # fmt: skip
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSFER_SYNTAX: Final = 0x00020010
_CLASS: Final = 0x00080016
_SERIES: Final = 0x0020000E
_PHOTOMETRIC, _FRAMES_COUNT, _ROWS, _COLUMNS = 0x00280004, 0x00280008, 0x00280010, 0x00280011
_WHOLE_COLUMNS, _WHOLE_ROWS = 0x00480006, 0x00480007
_PATHS, _PLANES = 0x00480302, 0x00480303
_CONCATENATION: Final = 0x00209161
_ORGANISATION: Final = 0x00209311
_WANTED: Final = frozenset({
    _TRANSFER_SYNTAX, _CLASS, _SERIES, _PHOTOMETRIC, _FRAMES_COUNT, _ROWS, _COLUMNS, _WHOLE_COLUMNS, _WHOLE_ROWS,
    _CONCATENATION, _ORGANISATION, _PATHS, _PLANES,
})  # fmt: skip
_MAX_VALUE_BYTES: Final = 1024
_PER_FRAME: Final = 0x52009230  # a sequence with one item per frame; all wanted elements come before it
_FRAMES: Final = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0"
"""The element that holds compressed frames, and the start of its first item, a table of offsets."""
_LARGE_TABLE: Final = b"\xe0\x7f\x01\x00OV\x00\x00"
"""The element that holds the table of offsets of frames of more than 4 GB, eight bytes each."""
_FRAME_HEAD: Final = 8
_HEAD: Final = 2**16
_BLOCK: Final = 2**22


@dataclass(frozen=True, kw_only=True)
class DicomHeader:
    """The header of one file. Texts are empty where the file lacks them."""

    series: str
    whole_slide: bool
    """Whether the file is an image of a whole slide, not a report or an annotation."""
    transfer_syntax: str
    photometric: str
    size: tuple[int, int]
    """Width and height of the whole image."""
    tile: tuple[int, int]
    """Width and height of a frame."""
    frames: int
    """How many there are; 0 if the file does not say it, or if there need not be one for each tile."""
    layers: int
    """Frames of one tile: an optical path and a focal plane each."""
    frame: bytes
    """The beginning of the first compressed frame; empty if frames are not compressed."""
    frames_inside: bool
    """Whether the table of the compressed frames leads to places in the file. OpenSlide 4.0.1 crashes if not."""


def read_dicom_header(file: Path) -> DicomHeader | None:
    """Read the header of a DICOM file; None for anything else.

    :raises OSError: it cannot be read.
    """
    if pipe_or_device(file):
        return None
    with file.open("rb") as stream:
        values = _values(stream)
        if values is None:
            return None
        texts = _texts(values)
        syntax = texts.get(_TRANSFER_SYNTAX, "")
        width, height, columns, rows, paths, planes = (
            int.from_bytes(values.get(tag, b""), "little")
            for tag in (_WHOLE_COLUMNS, _WHOLE_ROWS, _COLUMNS, _ROWS, _PATHS, _PLANES)
        )
        # Sparse tilings leave tiles out, and the parts of a concatenation have some each.
        full = texts.get(_ORGANISATION) == "TILED_FULL" and _CONCATENATION not in values
        count = texts.get(_FRAMES_COUNT, "")
        frame, frames_inside = _frames(stream) if syntax.startswith(_ENCAPSULATED) else (b"", True)
        return DicomHeader(
            series=texts.get(_SERIES, ""),
            whole_slide=texts.get(_CLASS) == _WHOLE_SLIDE,
            transfer_syntax=syntax,
            photometric=texts.get(_PHOTOMETRIC, ""),
            size=(width, height),
            tile=(columns, rows),
            frames=int(count) if full and count.isascii() and count.isdigit() else 0,
            layers=max(paths, 1) * max(planes, 1),
            frame=frame,
            frames_inside=frames_inside,
        )


def slide_series(stream: BinaryIO) -> str:
    """Read the series of an image of a whole slide; empty for anything else. Nothing after the header is read.

    :raises OSError: it cannot be read.
    """
    texts = _texts(_values(stream) or {})
    return texts.get(_SERIES, "") if texts.get(_CLASS) == _WHOLE_SLIDE else ""


def _values(stream: BinaryIO) -> dict[int, bytes] | None:
    """Read the wanted elements; None if it is no DICOM file."""
    stream.seek(_PREFIX[0])
    if stream.read(4) != _PREFIX[1]:
        return None
    values: dict[int, bytes] = {}
    try:
        _walk(stream, values)
    except (struct.error, ValueError, RecursionError):
        return None
    return values


def _texts(values: Mapping[int, bytes]) -> dict[int, str]:
    return {tag: value.decode("ascii", "replace").strip(" \0") for tag, value in values.items()}


def _walk(stream: BinaryIO, values: dict[int, bytes]) -> None:
    """Collect the wanted elements, up to the frames."""
    explicit = True
    while (element := _element(stream, explicit=explicit)) is not None:
        tag, kind, length = element
        if tag >= _PER_FRAME:
            return
        if length == _UNDEFINED:
            _skip_sequence(stream, explicit=explicit and kind != b"UN")
        elif tag in _WANTED and length <= _MAX_VALUE_BYTES:
            values[tag] = stream.read(length)
        else:
            stream.seek(length, 1)
        if tag == _TRANSFER_SYNTAX:
            explicit = values.get(tag, b"").rstrip(b" \0") != _IMPLICIT.encode()


def _element(stream: BinaryIO, *, explicit: bool) -> tuple[int, bytes, int] | None:
    """Read an element's tag, kind of value (empty if implicit) and length; None at the end of the file."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    group, number = struct.unpack_from("<HH", head)
    tag = group << 16 | number
    if group == 0xFFFE or not (explicit or group == 2):
        return tag, b"", struct.unpack_from("<I", head, 4)[0]
    kind = head[4:6]
    if kind in _LONG_FORMS:
        return tag, kind, struct.unpack("<I", stream.read(4))[0]
    if not kind.isalpha():
        raise ValueError("no element")
    return tag, kind, struct.unpack_from("<H", head, 6)[0]


def _skip_sequence(stream: BinaryIO, *, explicit: bool) -> None:
    """Skip a sequence or an item of undefined length, up to its end mark."""
    while (element := _element(stream, explicit=explicit)) is not None:
        tag, kind, length = element
        if tag in (_END_OF_SEQUENCE, _END_OF_ITEM):
            return
        if length == _UNDEFINED:
            _skip_sequence(stream, explicit=explicit and kind != b"UN")
        else:
            stream.seek(length, 1)


def _frames(stream: BinaryIO) -> tuple[bytes, bool]:
    """Read the beginning of the first compressed frame, and whether all offsets of frames lie in the file.

    The frame is empty if there is none. The table in front of it is searched by its mark: the sequence before that may
    have an item for each of 100,000 frames. Offsets count from the end of the table of four-byte offsets.
    """
    table = _find(stream, _FRAMES)
    if table < 0:
        return b"", True
    end = stream.seek(0, 2)
    stream.seek(table + len(_FRAMES))
    length = int.from_bytes(stream.read(4), "little")
    first = stream.tell() + length
    if first > end:
        return b"", False
    offsets: bytes = stream.read(length)
    is_item = stream.read(4) == b"\xfe\xff\x00\xe0"
    frame = stream.read(min(int.from_bytes(stream.read(4), "little"), _HEAD)) if is_item else b""
    kind: np.dtype[Any] = np.dtype("<u4")
    if not length and (large := _find(stream, _LARGE_TABLE, table)) >= 0:
        stream.seek(large + len(_LARGE_TABLE))
        length = int.from_bytes(stream.read(4), "little")
        offsets, kind = stream.read(min(length, table)), np.dtype("<u8")
    known = np.frombuffer(offsets[: len(offsets) // kind.itemsize * kind.itemsize], kind)
    return frame, not known.size or int(known.max()) + first + _FRAME_HEAD <= end


def _find(stream: BinaryIO, mark: bytes, before: int | None = None) -> int:
    """Find the offset of a mark in a file, or in what comes before an offset; -1 if absent.

    The file is read, not memory-mapped: a fault of the storage would kill a process that maps it.
    """
    at, kept = stream.seek(0), b""
    while block := stream.read(_BLOCK if before is None else min(_BLOCK, max(before - at, 0))):
        content = kept + block
        if (found := content.find(mark)) >= 0:
            return at - len(kept) + found
        at += len(block)
        kept = content[-len(mark) + 1 :]
    return -1
