"""Slides that OpenSlide reads: SVS, NDPI, MRXS, SCN, BIF, Philips, CZI, DICOM, tiled TIFF."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
import numpy.typing as npt
import openslide
from PIL.Image import Image

from ..errors import SlideError
from ..surroundings import patiently, reading_fault, reading_fault_in
from ..units import Level0Px, LevelPx, Mpp
from .pyramid import has_the_field
from .resolution import mpp_from_properties
from .slide import Mask, Rgb, Slide, on_white
from .stream_colours import Mistake, as_ycbcr, dicom_mistakes, tiff_mistakes
from .tiff_images import check_images, check_kind, other_mpp, unlike_its_magnification
from .tiff_layout import TIFFFILE_ERRORS, check_extent, check_whole

CONVERT: Final = (
    "convert it anew from the scanner's own file, to a tiled TIFF "
    "(`vips tiffsave in out.tif --tile --pyramid --compression jpeg`)"
)
_OF_MANY_FILES: Final = frozenset({"dicom", "hamamatsu", "mirax"})
"""Formats whose pixels lie, or may lie, in other files than the one that is opened."""
_STATED_OFTEN: Final = frozenset({"aperio", "generic-tiff", "hamamatsu"})
"""Formats in which several images of a TIFF state the size of a pixel."""
_READING_FAILED: Final = re.compile(r"I/O error reading file|Read error at ")
"""Messages of OpenSlide and libtiff for bytes that could not be read. That the file is complete is checked when it is
opened, so these mean a fault of the storage."""


class OpenSlideReader(Slide):
    """A slide read by OpenSlide, with a new handle after each read error.

    After an error, OpenSlide answers every read of that handle with the same error. The next read opens the file
    again, so that one bad tile does not lose the slide.

    :raises SlideError: unsupported, truncated or damaged; a folder without DICOM files or with those of two slides;
        contradictory statements about how colours are coded.
    """

    def __init__(self, path: Path, mpp: tuple[Mpp, Mpp] | None) -> None:
        self.path = path
        self.reader = self.library = f"openslide {openslide.__library_version__}"
        self.remarks: list[str] = []
        self._file = _dicom_instance(path) if path.is_dir() else path
        self._lock = Lock()
        self._handle: openslide.OpenSlide | None = None
        check_whole(self._file, path)
        handle = self._opened()
        self.format = handle.properties[openslide.PROPERTY_NAME_VENDOR]
        full, sizes = handle.dimensions, handle.level_dimensions
        self._levels = [level for level, size in enumerate(sizes) if level == 0 or has_the_field(full, size)]
        self.level_dimensions = tuple(sizes[level] for level in self._levels)
        self.level_downsamples = tuple(handle.level_downsamples[level] for level in self._levels)
        self.mpp = mpp or mpp_from_properties(handle.properties)
        magnification = handle.properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER, "")
        self.origin = _origin(handle.properties)
        try:
            if self.format not in _OF_MANY_FILES:
                for level, size in enumerate(sizes):
                    check_extent(self._file, path, size, _tile(handle.properties, level))
            check_images(self._file, self.format)
            self.grey = self.format == "generic-tiff" and check_kind(path)
            self.mistake = _mistake(path, self._file, self.format)
            if mpp is None and self.mpp is not None and self.format in _STATED_OFTEN:
                self.why_no_mpp = other_mpp(path, self.mpp)
        except (SlideError, OSError):
            self.close()
            raise
        if self.why_no_mpp:
            self.mpp = None
        elif self.mpp is not None and self.format == "aperio" and unlike_its_magnification(self.mpp[0], magnification):
            self.say(f"pixels of {self.mpp[0]:.6g} µm, but its magnification is said to be {magnification}")
        if self.mistake is not None:
            self.say(f"{self.mistake} by its tags, put right")
        for level in sorted(set(range(len(sizes))) - set(self._levels)):
            self.say(f"without its level {level} of {sizes[level][0]} × {sizes[level][1]} px: not of level 0's shape")

    def say(self, remark: str) -> None:
        """Add a remark to ``reader``."""
        self.remarks.append(remark)
        self.reader = f"{self.library} ({'; '.join(self.remarks)})"

    def drop(self, level: int, why: str) -> None:
        """Remove a level; the levels after it move up."""
        width, height = self.level_dimensions[level]
        self.say(f"without its level {self._levels.pop(level)} of {width} × {height} px: {why}")
        self.level_dimensions, self.level_downsamples = (
            (*of[:level], *of[level + 1 :]) for of in (self.level_dimensions, self.level_downsamples)
        )

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        rgba = self._rgba(level, x, y, width, height)
        if self.mistake is None:
            return on_white(rgba)
        if self.mistake != "YCbCr taken for RGB":
            raise SlideError("its tags say YCbCr, its compressed tiles RGB", path=self.path, hint=CONVERT)
        return on_white(np.concatenate([as_ycbcr(rgba[..., :3]), rgba[..., 3:]], axis=2))

    def unscanned(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Mask | None:
        transparent = self._rgba(level, x, y, width, height)[..., 3] == 0
        return transparent if transparent.any() else None

    def _rgba(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> npt.NDArray[np.uint8]:
        if not 0 <= level < len(self.level_dimensions):
            raise IndexError(f"{self.path} has no level {level}")  # OpenSlide would answer with blank pixels
        of_file = self._levels[level]
        return np.asarray(patiently(lambda: self._region(of_file, x, y, width, height), self.path))

    def _region(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Image:
        handle = self._opened()
        try:
            region: Image = handle.read_region((x, y), level, (width, height))
        except openslide.OpenSlideError:
            with self._lock:
                # Dropped, not closed: other threads may still read with it; it closes with its last reference.
                if self._handle is handle:
                    self._handle = None
            region = self._read_alone(level, x, y, width, height)
        return region

    def _read_alone(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Image:
        """Read with a handle of its own: the shared one may have failed on another thread's tile."""
        try:
            with _handle(self._file) as handle:
                region: Image = handle.read_region((x, y), level, (width, height))
                return region
        except openslide.OpenSlideError as error:
            _refuse_unreadable(self._file, error)
            wrong = f"cannot decode {width} × {height} px of level {level} at ({x}, {y}): {error}"
            raise SlideError(wrong, path=self.path, hint="the file is damaged: copy or scan it again") from error

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def _opened(self) -> openslide.OpenSlide:
        with self._lock:
            if self._handle is None:
                try:
                    self._handle = _handle(self._file)
                except openslide.OpenSlideError as error:
                    raise _why_not(self.path, self._file, error) from error
            return self._handle


def _mistake(path: Path, file: Path, slide_format: str) -> Mistake | None:
    """Determine whether OpenSlide decodes a slide's colours wrongly, and how.

    :raises SlideError: tag and stream disagree and either may be right, or levels differ in it.
    :raises OSError: the file cannot be read now.
    """
    try:
        mistakes = dicom_mistakes(file) if slide_format == "dicom" else tiff_mistakes(file, slide_format)
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        return None  # damage is reported when the tile is read
    if not mistakes - {None}:
        return None
    if len(mistakes) == 1 and "undecided" not in mistakes:
        return mistakes.pop()
    wrong = "its tags and its compressed tiles disagree on how colours are coded, and nothing shows which is right"
    raise SlideError(wrong, path=path, hint=CONVERT)


def _tile(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """Width and height of a level's tiles; those of the usual ones if the file does not say."""
    width, height = (
        int(properties.get(f"openslide.level[{level}].tile-{side}", "256")) for side in ("width", "height")
    )
    return width, height


def _origin(properties: Mapping[str, str]) -> tuple[Level0Px, Level0Px]:
    """Read the corner of the scanned area; as in QuPath, only if all four bounds properties exist."""
    try:
        x, y, _, _ = (int(properties[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return Level0Px(0), Level0Px(0)
    return Level0Px(x), Level0Px(y)


def _handle(file: Path) -> openslide.OpenSlide:
    """Open a file with OpenSlide.

    :raises OSError: the file cannot be read, which OpenSlide reports as an unknown format.
    """
    try:
        return openslide.OpenSlide(file)
    except openslide.OpenSlideError as error:
        _refuse_unreadable(file, error)
        return openslide.OpenSlide(file)  # the fault of the storage may have passed by now


def _refuse_unreadable(file: Path, error: openslide.OpenSlideError) -> None:
    """Raise an OSError if OpenSlide failed because bytes could not be read, rather than decoded.

    :raises OSError: they could not be read.
    """
    if (named := reading_fault_in(str(error))) is not None:
        raise named from error
    with file.open("rb") as stream:
        stream.read(1)
        stream.seek(0, os.SEEK_END)
    if _READING_FAILED.search(str(error)):
        raise OSError(errno.EIO, str(error)) from error


def _why_not(path: Path, file: Path, error: openslide.OpenSlideError) -> SlideError:
    try:
        check_whole(file, path)
    except SlideError as reason:
        return reason
    if isinstance(error, openslide.OpenSlideUnsupportedFormatError):
        hint = (
            "copy it again from where it came; if it is a whole image of another format, convert it to a tiled TIFF "
            "(`vips tiffsave in out.tif --tile --pyramid --compression jpeg`)"
        )
        return SlideError("damaged, or in a format that OpenSlide does not read", path=path, hint=hint)
    hint = "copy it again from where it came, or convert it to a tiled pyramidal TIFF"
    return SlideError(f"OpenSlide cannot open it: {error}", path=path, hint=hint)


def _dicom_instance(folder: Path) -> Path:
    """Choose one file of the slide in a folder of DICOM files; OpenSlide finds the rest of its series."""
    files = sorted(file for file in folder.glob("*.[dD][cC][mM]") if not file.name.startswith("."))
    if not files:
        raise SlideError("a folder without DICOM files (.dcm)", path=folder, hint="give a slide file or a DICOM folder")
    series: dict[str, Path] = {}
    reason: openslide.OpenSlideError | None = None
    for file in files:
        try:
            with _handle(file) as handle:
                series.setdefault(handle.properties.get("dicom.SeriesInstanceUID", ""), file)
        except openslide.OpenSlideError as error:  # reports and annotations may lie beside; one image is enough
            reason = error
    if not series:
        raise _why_not(folder, files[0], reason or openslide.OpenSlideError("no image")) from reason
    if len(series) > 1:
        names = " and ".join(file.name for file in list(series.values())[:2])
        wrong = f"a folder with the DICOM files of {len(series)} slides ({names} belong to different series)"
        raise SlideError(wrong, path=folder, hint="put each series into a folder of its own")
    return next(iter(series.values()))
