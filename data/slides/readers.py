"""The readers of slides, and the choice of one for a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

from ..errors import SlideError
from ..plain_files import refuse_pipe
from ..surroundings import patiently
from ..units import Mpp
from .image_reader import open_image
from .jpeg_tiff_reader import open_with_openslide
from .ome_tiff_reader import open_ome_tiff
from .resolution import filled_mpp
from .slide import IMAGE_EXTENSIONS, Slide


@dataclass(frozen=True)
class Reader:
    """A reader of one family of slide formats."""

    extensions: frozenset[str]
    """Extensions that are searched for in a folder. A file given by its path may have any name."""
    open: Callable[[Path, tuple[Mpp, Mpp] | None], Slide | None]
    """Opens a file or a folder; None if it is of another format. A given mpp replaces that of the file.
    Raises SlideError if a slide of its own format is damaged, OSError if storage fails (then it is tried again)."""


READERS: Final = (
    Reader(IMAGE_EXTENSIONS, open_image),
    Reader(frozenset({".tif", ".tiff"}), open_ome_tiff),
    Reader(
        frozenset({".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu"}),
        open_with_openslide,
    ),
)
"""Tried in this order; the last one gets every other file, and its error says why a file cannot be opened."""

SLIDE_EXTENSIONS: Final = frozenset().union(*(reader.extensions for reader in READERS))


def open_with_mpp(path: str | PathLike[str], mpp: float | None, *, overrule: bool = False) -> Slide:
    """Open a slide for which the user may have given an mpp.

    :param mpp: microns per pixel of level 0, used if the file states none.
    :param overrule: use it even if the file states another one.
    :raises SlideError: as :func:`open_slide`, or the file states another mpp.
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

    The first of :data:`READERS` that recognises it reads it.

    :param mpp_override: microns per pixel of level 0 that replace those of the file, as decided when it was tiled.
    :raises SlideError: empty, truncated, damaged, or of a format that no reader supports. A slide without mpp opens;
        only :meth:`Slide.believed_mpp` fails for it.
    :raises SurroundingsError: missing, or unreadable for some seconds.
    """
    path = Path(path)
    mpp = None if mpp_override is None else (Mpp(mpp_override), Mpp(mpp_override))
    return patiently(lambda: _opened(path, mpp), path)


def _opened(path: Path, mpp: tuple[Mpp, Mpp] | None) -> Slide:
    """Open a slide, once.

    :raises OSError: it is missing, or cannot be read now.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise SlideError("the file is empty (0 bytes)", path=path, hint="copy it again from where it came")
    refuse_pipe(path, SlideError)
    if not path.is_dir():
        with path.open("rb"):  # a missing or forbidden file fails here, a damaged one later
            pass
    slide = next((slide for reader in READERS if (slide := reader.open(path, mpp)) is not None), None)
    if slide is None:
        raise SlideError("no reader supports this format", path=path, hint="convert it to a tiled pyramidal TIFF")
    return slide
