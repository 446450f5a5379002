"""Which reader opens a slide."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..errors import SlideError
from ..units import Mpp
from .image_reader import ImageReader
from .jpeg_tiff_reader import fastest_reader
from .ome_tiff_reader import ome_description, open_ome_tiff
from .openslide_reader import OpenSlideReader
from .resolution import filled_mpp
from .slide import IMAGE_EXTENSIONS, Slide


def open_with_mpp(path: str | PathLike[str], mpp: float | None, *, overrule: bool = False) -> Slide:
    """Open a slide to whose mpp the user has something to say.

    :param mpp: microns per pixel of level 0; it fills what the file does not say.
    :param overrule: it counts whatever the file says.
    :raises SlideError: as :func:`open_slide`, or the file says another one.
    """
    slide = open_slide(path)
    if mpp is not None:
        try:
            slide.mpp = filled_mpp(slide.mpp, Mpp(mpp), slide.path, overrule=overrule)
        except SlideError:
            slide.close()
            raise
    return slide


def open_slide(path: str | PathLike[str], mpp_override: float | None = None) -> Slide:
    """Open a slide file, a folder of DICOM files, or a plain PNG or JPEG.

    An OME-TIFF is told by its first directory, whatever the file is called; everything else is OpenSlide's.

    :param mpp_override: microns per pixel of level 0, in place of what the file says: as was decided when it was tiled.
    :raises SlideError: missing, empty, truncated, damaged, or of a format that nothing here reads. A slide without
        mpp opens; :meth:`Slide.believed_mpp` is what fails.
    """
    path = Path(path)
    mpp = None if mpp_override is None else (Mpp(mpp_override), Mpp(mpp_override))
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise SlideError("the file is empty (0 bytes)", path=path, hint="copy it again from where it came")
        if not path.is_dir():
            with path.open("rb"):  # a missing or forbidden file is told apart from a damaged one here
                pass
    except OSError as error:
        hint = "check the path, and that you may read it"
        raise SlideError(f"cannot be read: {error.strerror}", path=path, hint=hint) from error
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        return ImageReader(path, mpp)
    if not path.is_dir() and (xml := ome_description(path)):
        return open_ome_tiff(path, xml, mpp)
    return fastest_reader(OpenSlideReader(path, mpp))
