"""Plain PNG and JPEG images as slides of one level."""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL import __version__ as pillow_version

from ..errors import SlideError
from ..surroundings import patiently, reading_fault
from ..units import Level0Px, LevelPx, Mpp
from .slide import IMAGE_EXTENSIONS, UPRIGHT, Mask, Rgb, Slide, on_white
from .stream_colours import jpeg_bits

_ORIENTATION: Final = 0x0112
MOST_PIXELS: Final = 100_000_000
"""A plain image is decoded whole: so many pixels take 1 GiB, however small their file."""
_BAND: Final = 64  # rows that are brought to RGB at a time
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_INCONSISTENT: Final = re.compile(r"Corrupt JPEG data: (?!\d{1,2} extraneous)|Premature end of JPEG")
"""libjpeg's warnings that a picture is not that of its stream. A few bytes too many are some cameras' filling."""
_HEAD: Final = 2**18  # bytes: EXIF and colour profiles come before a JPEG's frame


def open_image(path: Path, mpp: tuple[Mpp, Mpp] | None) -> Slide | None:
    """Open a plain PNG or JPEG, recognised by its extension; None for other files."""
    return ImageReader(path, mpp) if path.suffix.lower() in IMAGE_EXTENSIONS else None


class ImageReader(Slide):
    """A plain image as a slide, decoded completely at the first read and kept in memory (3 bytes per pixel).

    The mpp comes from the caller only: the resolution stored in such files is that of printers and screens. Pillow is
    used because it refuses a truncated image, where OpenCV fills the missing part with grey. Pillow too fills up what a
    damaged header adds to a JPEG, so the stream is checked first.

    :raises SlideError: not a PNG or JPEG, of more than :data:`MOST_PIXELS`, of more than 8 bits per channel, or an
        orientation tag that asks for a rotation.
    """

    def __init__(self, path: Path, mpp: tuple[Mpp, Mpp] | None) -> None:
        self.path = path
        self.mpp = mpp
        self.reader = f"pillow {pillow_version}"
        self._pixels: Rgb | None = None
        self._transparent: Mask | None = None
        self._broken: SlideError | None = None  # raised again at later reads, without decoding again
        self._lock = Lock()
        if (bits := _bits(path)) > 8:
            wrong = f"an image of more than 8 bits a channel ({bits})"
            raise SlideError(wrong, path=path, hint="save it with 8 bits a channel, its values brought to 0 to 255")
        with self._open() as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                wrong = (
                    f"{width} × {height} px, too large for a plain image (at most {MOST_PIXELS / 1e6:.0f} million px)"
                )
                raise SlideError(wrong, path=path, hint="convert it to a tiled pyramidal TIFF")
            if (orientation := _orientation(image)) != 1:
                wrong = f"its orientation tag ({orientation}) says to turn it, which some programs do and others do not"
                raise SlideError(wrong, path=path, hint=UPRIGHT)
            self.grey = image.mode in ("1", "L", "LA")
            self.format = str(image.format).lower()
            self.level_dimensions = (image.size,)
        self.level_downsamples = (1.0,)

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        if level != 0:
            raise IndexError(f"{self.path} has no level {level}")
        region = np.full((height, width, 3), 255, np.uint8)
        _paste(self._decoded(), region, x, y)
        return region

    def unscanned(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Mask | None:
        self._decoded()
        if self._transparent is None:
            return None
        region = np.zeros((height, width), bool)
        _paste(self._transparent, region, x, y)
        return region if region.any() else None

    def close(self) -> None:
        self._pixels = self._transparent = None

    def _open(self) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sizes, which are checked here, and of damaged tags
                return Image.open(self.path, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            hint = "convert it to a tiled pyramidal TIFF"
            raise SlideError(f"too large for a plain image: {error}", path=self.path, hint=hint) from error
        except (UnidentifiedImageError, ValueError, SyntaxError, ArithmeticError, LookupError) as error:
            raise SlideError("neither a PNG nor a JPEG image", path=self.path, hint="check what it is") from error
        except OSError as error:
            if reading_fault(error):
                raise
            hint = "check the disk or the network it lies on"
            raise SlideError(f"cannot be read: {error.strerror}", path=self.path, hint=hint) from error

    def _decoded(self) -> Rgb:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._pixels is None:
                try:
                    self._pixels, self._transparent = patiently(self._converted, self.path)
                except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, struct.error) as error:
                    # Pillow's for truncated and for broken files
                    hint = "copy or export it again"
                    self._broken = SlideError(f"cannot be decoded: {error}", path=self.path, hint=hint)
                    raise self._broken from error
            return self._pixels

    def _converted(self) -> tuple[Rgb, Mask | None]:
        """Decode the image, and bring it to RGB band by band, so that it is never in memory three times."""
        _check_chunks(self.path)
        _check_stream(self.path)
        with self._open() as image:
            image.load()
            see_through = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            width, height = image.size
            pixels = np.empty((height, width, 3), np.uint8)
            transparent = np.zeros((height, width), bool) if see_through else None
            for top in range(0, height, _BAND):
                rows = slice(top, min(top + _BAND, height))
                band = image.crop((0, rows.start, width, rows.stop))
                if transparent is None:
                    pixels[rows] = np.asarray(band.convert("RGB"))
                else:
                    rgba = np.asarray(band.convert("RGBA"))
                    pixels[rows], transparent[rows] = on_white(rgba), rgba[..., 3] == 0
            return pixels, transparent


def _orientation(image: Image.Image) -> int:
    """Read the orientation tag; 1, which is upright, if there is none that can be read."""
    try:
        # The base class's method: PNG's own decodes the whole image first, because a tag may come after it.
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return 1


def _check_chunks(path: Path) -> None:
    """Refuse a PNG with a chunk that is longer than its file: Pillow asks for the memory before it sees the end.

    :raises ValueError: it has one.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8) != _PNG:
            return
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4])
            if file.tell() + length > size:
                raise ValueError(f"a chunk of {length:,} bytes in a file of {size:,}")
            file.seek(length + 4, 1)


def _check_stream(path: Path) -> None:
    """Refuse a JPEG whose stream has more or fewer pixels than its header says: it would be cut off, or filled up.

    :raises ValueError: it has.
    """
    content = path.read_bytes()
    if content.startswith(b"\xff\xd8"):
        try:
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1)  # at an eighth of its size: quick
        except ValueError as error:  # also for what is not known here, such as odd subsampling
            if _INCONSISTENT.match(str(error)):
                raise


def _bits(path: Path) -> int:
    """Read the bits per channel from the header of a PNG or JPEG; 0 for other files.

    Pillow truncates some images of more than 8 bits and refuses others.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        if reading_fault(error):
            raise
        return 0  # opening the image reports it
    if head.startswith(_PNG) and head[12:16] == b"IHDR":
        return int.from_bytes(head[24:25])  # 0 for a file that ends before it
    return jpeg_bits(head) if head.startswith(b"\xff\xd8") else 0


def _paste(picture: npt.NDArray[Any], region: npt.NDArray[Any], x: int, y: int) -> None:
    """Copy into ``region`` the part of the picture it shows when its upper left corner lies at (x, y)."""
    left, top = max(x, 0), max(y, 0)
    inside = picture[top : max(y + region.shape[0], 0), left : max(x + region.shape[1], 0)]
    region[top - y : top - y + inside.shape[0], left - x : left - x + inside.shape[1]] = inside
