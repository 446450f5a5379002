"""A slide as the rest of the package sees it: levels of pixels, and the size of a pixel.

One interface over several readers. A position is always in pixels of level 0, a size in pixels of the level that is
read; pixels outside the slide and transparent pixels are white.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from ..units import Level0Px, LevelPx, Mpp
from .resolution import believed_mpp

Rgb = npt.NDArray[np.uint8]
"""(height, width, 3), red first."""
Mask = npt.NDArray[np.bool_]
"""(height, width)."""

UPRIGHT: Final = "rotate its pixels (`vips autorot in out`, `mogrify -auto-orient`), so that no tag is needed"
"""The hint for a picture with an orientation tag, which some programs follow and others do not."""

IMAGE_EXTENSIONS: Final = frozenset({".png", ".jpg", ".jpeg"})
"""Plain images: one level, no mpp of their own."""


class Slide(ABC):
    """An open slide. Close it, or use it as a context manager.

    Reading is safe from several threads; closing is not, while others read.
    """

    path: Path
    """The file, or the folder of a DICOM slide, as it was given."""
    format: str
    """The vendor's format, in OpenSlide's words (``aperio``, ``dicom``, ``generic-tiff``), or ``png``, ``jpeg``."""
    reader: str
    """The library that decodes it, with its version and remarks."""
    level_dimensions: tuple[tuple[int, int], ...]
    """Width and height of each level in its own pixels, finest first."""
    level_downsamples: tuple[float, ...]
    """Pixels of level 0 along one pixel of each level. Hardly ever whole numbers: never truncate them."""
    mpp: tuple[Mpp, Mpp] | None
    """Microns per pixel of level 0 along x and y as stated, plausible or not; see :mod:`.resolution`. None if it is
    not stated, or twice and differently."""
    why_no_mpp: str = ""
    """Why there is no mpp, if the file states it twice and differently; its message is then this."""
    origin: tuple[Level0Px, Level0Px] = (Level0Px(0), Level0Px(0))
    """The origin of QuPath's coordinates: the corner of the scanned area, if the file states one
    (``openslide.bounds-x``, ``-y``). GeoJSON is in pixels from there; everything else is in pixels from (0, 0)."""

    grey: bool = False
    """Whether its pixels have one value each, so that stains cannot be distinguished by colour."""

    @property
    def dimensions(self) -> tuple[Level0Px, Level0Px]:
        """Width and height of level 0."""
        width, height = self.level_dimensions[0]
        return Level0Px(width), Level0Px(height)

    def believed_mpp(self) -> Mpp:
        """Microns per pixel of level 0.

        :raises SlideError: it is missing or implausible, or the pixels are not square; the hint says what to do.
        """
        return believed_mpp(self.mpp, self.path, self.why_no_mpp)

    @abstractmethod
    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        """Read the pixels of a region, (height, width, 3) uint8 RGB.

        :param x, y: its upper left corner; may lie outside the slide.
        :param width, height: its size at ``level``.
        :raises SlideError: it cannot be decoded. The slide stays usable: other regions may be intact.
        """

    def unscanned(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Mask | None:
        """Mark the pixels of a region that were never scanned and are therefore white, (height, width); None if none.

        Parameters and errors are those of :meth:`read`.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Close the file. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def on_white(rgba: npt.NDArray[np.uint8]) -> Rgb:
    """Blend (h, w, 4) pixels, alpha not premultiplied, onto white: (h, w, 3)."""
    alpha = rgba[..., 3]
    rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    if alpha.min(initial=255) == 255:
        return rgb
    weight = alpha[..., None].astype(np.uint16)
    return ((rgb * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
