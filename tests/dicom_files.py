"""Headers of DICOM files, as tests write them: little endian with explicit kinds. No viewer opens them."""

from __future__ import annotations

import struct
from pathlib import Path

WHOLE_SLIDE, REPORT = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.88.33"
UNCOMPRESSED, JPEG, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91"


def dicom(
    folder: Path,
    name: str,
    series: str,
    *,
    whole_slide: bool = True,
    photometric: str = "RGB",
    syntax: str = UNCOMPRESSED,
    frame: bytes = b"",
) -> Path:
    """A header with a nested sequence of unknown length in it, and one compressed frame if there is one."""
    content = bytes(128) + b"DICM" + _element(0x0002, 0x0010, "UI", syntax.encode())
    content += _element(0x0008, 0x0016, "UI", (WHOLE_SLIDE if whole_slide else REPORT).encode())
    nested = _item(_element(0x0020, 0x000E, "UI", b"9.9.9")) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    content += struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + nested
    content += _element(0x0020, 0x000E, "UI", series.encode()) + _element(0x0028, 0x0004, "CS", photometric.encode())
    if frame:
        content += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        content += struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
        content += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def _element(group: int, number: int, kind: str, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, kind.encode(), len(value)) + value


def _item(*elements: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + b"".join(elements) + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
