"""Plain PNG and JPEG images as slides of one level."""

from __future__ import annotations

import warnings
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL import __version__ as pillow_version

from ..errors import SlideError
from ..surroundings import patiently, reading_fault
from ..units import Level0Px, LevelPx, Mpp
from .slide import Rgb, Slide, on_white


class ImageReader(Slide):
    """Decodes the image whole, at the first read, and keeps it: 3 bytes a pixel.

    Its mpp is only what is given: the resolution in such files is that of printers and screens. Pillow is used, and not
    OpenCV, because it refuses a truncated image where OpenCV fills the rest with grey.

    :raises SlideError: not a PNG or JPEG, larger than Pillow's own bound (about 179 million pixels), or of more
        than 8 bits a channel.
    """

    def __init__(self, path: Path, mpp: tuple[Mpp, Mpp] | None) -> None:
        self.path = path
        self.mpp = mpp
        self.reader = f"pillow {pillow_version}"
        self._pixels: Rgb | None = None
        self._broken: SlideError | None = None  # told again without decoding again
        self._lock = Lock()
        with self._open() as image:
            if image.mode.startswith(("I", "F")):
                wrong = f"an image of more than 8 bits a channel (mode {image.mode})"
                raise SlideError(wrong, path=path, hint="save it with 8 bits a channel")
            self.format = str(image.format).lower()
            self.level_dimensions = (image.size,)
        self.level_downsamples = (1.0,)

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        if level != 0:
            raise IndexError(f"{self.path} has no level {level}")
        pixels = self._decoded()
        region = np.full((height, width, 3), 255, np.uint8)
        left, top = max(x, 0), max(y, 0)
        inside = pixels[top : max(y + height, 0), left : max(x + width, 0)]
        region[top - y : top - y + inside.shape[0], left - x : left - x + inside.shape[1]] = inside
        return region

    def close(self) -> None:
        self._pixels = None

    def _open(self) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return Image.open(self.path, formats=("PNG", "JPEG"))
        except Image.DecompressionBombError as error:
            hint = "convert it to a tiled pyramidal TIFF"
            raise SlideError(f"too large for a plain image: {error}", path=self.path, hint=hint) from error
        except UnidentifiedImageError as error:
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
                    pixels = patiently(self._converted, self.path)
                except (OSError, SyntaxError, ValueError) as error:  # Pillow's for truncated and for broken files
                    hint = "copy or export it again"
                    self._broken = SlideError(f"cannot be decoded: {error}", path=self.path, hint=hint)
                    raise self._broken from error
                self._pixels = on_white(pixels) if pixels.shape[2] == 4 else pixels
            return self._pixels

    def _converted(self) -> npt.NDArray[np.uint8]:
        with self._open() as image:
            see_through = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if see_through else "RGB"))
