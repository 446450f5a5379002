"""Which reader opens a slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

from ..errors import SlideError
from ..surroundings import patiently
from ..units import Mpp
from .image_reader import open_image
from .jpeg_tiff_reader import open_with_openslide
from .ome_tiff_reader import open_ome_tiff
from .resolution import filled_mpp
from .slide import IMAGE_EXTENSIONS, Slide


@dataclass(frozen=True)
class Reader:
    """A kind of slide."""

    extensions: frozenset[str]
    """Of its files, as they are looked for in a folder. A file that is named itself may be called anything."""
    open: Callable[[Path, tuple[Mpp, Mpp] | None], Slide | None]
    """Opens a file or a folder; None if it is of another kind. Given an mpp, it stands in place of the file's own.
    Raises SlideError for one of its own that is damaged, and OSError where storage fails: that is tried again."""


READERS: Final = (
    Reader(IMAGE_EXTENSIONS, open_image),
    Reader(frozenset({".tif", ".tiff"}), open_ome_tiff),
    Reader(
        frozenset({".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu"}),
        open_with_openslide,
    ),
)
"""Tried in this order; the last takes what is left, and says why it cannot be opened."""

SLIDE_EXTENSIONS: Final = frozenset().union(*(reader.extensions for reader in READERS))


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

    The first of :data:`READERS` that knows it reads it.

    :param mpp_override: microns per pixel of level 0, in place of what the file says: as was decided when it was tiled.
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
    slide = next((slide for reader in READERS if (slide := reader.open(path, mpp)) is not None), None)
    if slide is None:
        raise SlideError("nothing here reads it", path=path, hint="convert it to a tiled pyramidal TIFF")
    return slide
