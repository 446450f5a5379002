"""Which reader opens a slide."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..errors import SlideError
from ..surroundings import patiently
from ..units import Mpp
from .image_reader import ImageReader
from .jpeg_tiff_reader import fastest_reader
from .ome_tiff_reader import ome_description, open_ome_tiff
from .openslide_reader import OpenSlideReader
from .slide import IMAGE_EXTENSIONS, Slide


def open_slide(path: str | PathLike[str], mpp_override: float | None = None) -> Slide:
    """Open a slide file, a folder of DICOM files, or a plain PNG or JPEG.

    An OME-TIFF is told by its first directory, whatever the file is called; everything else is OpenSlide's.

    :param mpp_override: microns per pixel of level 0, in place of what the file says.
    :raises SlideError: empty, truncated, damaged, or of a format that nothing here reads. A slide without mpp opens;
        :meth:`Slide.believed_mpp` is what fails.
    :raises SurroundingsError: missing, or it cannot be read for some seconds.
    """
    path = Path(path)
    mpp = None if mpp_override is None else (Mpp(mpp_override), Mpp(mpp_override))
    return patiently(lambda: _opened(path, mpp), path)


def _opened(path: Path, mpp: tuple[Mpp, Mpp] | None) -> Slide:
    """:raises OSError: it is missing, or cannot be read now."""
    if path.is_file() and path.stat().st_size == 0:
        raise SlideError("the file is empty (0 bytes)", path=path, hint="copy it again from where it came")
    if not path.is_dir():
        with path.open("rb"):  # a missing or forbidden file is told apart from a damaged one here
            pass
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return ImageReader(path, mpp)
    if not path.is_dir() and (xml := ome_description(path)):
        return open_ome_tiff(path, xml, mpp)
    return fastest_reader(OpenSlideReader(path, mpp))
