"""Which files of a folder are slides, by their names alone: on a disk, in a bucket, on a web server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from .readers import SLIDE_EXTENSIONS
from .slide import IMAGE_EXTENSIONS

K = TypeVar("K")

DICOM: Final = ".dcm"
MIRAX: Final = ".mrxs"
WITH_IMAGES_BESIDE: Final = frozenset({".vms", ".vmu"})
"""Hamamatsu's older formats: an index file, and beside it the images it names, which are not slides by themselves."""
NOT_READ: Final = frozenset({
    ".afi", ".avif", ".bmp", ".dcx", ".eps", ".ets", ".gif", ".heic", ".isyntax", ".jp2", ".jpx", ".jxl", ".kfb",
    ".lif", ".mds", ".mdsx", ".mkt", ".nd2", ".oir", ".qptiff", ".sdpc", ".tmap", ".tron", ".vsi", ".webp", ".zif",
    ".zvi",
})  # fmt: skip
"""Formats of slides and pictures that no reader here supports: left out, and reported."""
_PACKED: Final = frozenset({".7z", ".bz2", ".gz", ".rar", ".tar", ".xz", ".zip", ".zst"})
_UNFINISHED: Final = frozenset({".crdownload", ".download", ".filepart", ".part", ".partial", ".tmp"})
"""Extensions after a slide's own: packed, or not completely copied."""

_WORDS: Final = (
    "thumbnail", "thumb", "label", "macro", "overview", "preview", "barcode", "snapshot", "lowres", "icon", "tile",
    "mask", "overlay", "heatmap", "contour", "contours", "annotation", "annotations",
)  # fmt: skip
_WORD: Final = rf"(?:slide[ _-]?)?(?:{'|'.join(_WORDS)})(?:[ _-]?(?:image|img))?"
_BETWEEN: Final = " ._-()[]"
_AFTER: Final = re.compile(rf"^(?P<slide>.+[{re.escape(_BETWEEN)}]){_WORD}[)\]]?$", re.IGNORECASE)
_BEFORE: Final = re.compile(rf"^{_WORD}(?P<slide>[{re.escape(_BETWEEN)}].+)$", re.IGNORECASE)
_ALONE: Final = re.compile(rf"^{_WORD}$", re.IGNORECASE)


def holds_dicom(files: Sequence[Path]) -> bool:
    """Whether a folder with these files is one slide."""
    return any(file.suffix.lower() == DICOM for file in files)


def slides_among(files: Sequence[Path], left_out: dict[str, list[Path]]) -> list[Path]:
    """The files of a folder that are slides by themselves.

    :param left_out: gets what a user might miss: reason → files.
    """
    images_belong = any(file.suffix.lower() in WITH_IMAGES_BESIDE for file in files)
    slides = []
    for file in files:
        extension = file.suffix.lower()
        if extension in SLIDE_EXTENSIONS and not (images_belong and extension in IMAGE_EXTENSIONS):
            slides.append(file)
        elif extension in NOT_READ:
            left_out.setdefault(f"a format that is not read ({extension})", []).append(file)
        elif extension in _PACKED | _UNFINISHED and _of_a_slide(Path(file.stem).suffix.lower()):
            why = "a packed slide: unpack it" if extension in _PACKED else "a copy that is not finished"
            left_out.setdefault(f"{why} ({extension})", []).append(file)
    if beside := companions(slides):
        left_out.setdefault("a companion image of a slide beside it", []).extend(sorted(beside))
    return [slide for slide in slides if slide not in beside]


def companion_folders(files: Sequence[Path]) -> set[str]:
    """Names of the folders beside these files that belong to MRXS slides."""
    return {file.stem for file in files if file.suffix.lower() == MIRAX}


def is_only_slide(file: K, series: Mapping[K, str]) -> bool:
    """Whether a DICOM file's folder holds no slide but that of the file, so that the folder is the slide.

    :param series: each DICOM file of the folder → the series of its slide; empty if it is of none.
    """
    known = {name for name in series.values() if name}
    return not known or (bool(series.get(file)) and len(known) == 1)


def of_its_series(file: K, series: Mapping[K, str]) -> list[K]:
    """The other DICOM files of the folder that are of a file's slide.

    :param series: as of :func:`is_only_slide`.
    """
    return [other for other in series if other != file and series[other] and series[other] == series.get(file)]


def values_named(index: str) -> list[str]:
    """The values of a VMS or VMU index (a line ``key=name`` each); some are the names of its images."""
    values = (line.partition("=")[2].strip() for line in index.splitlines())
    return list(dict.fromkeys(value for value in values if value and "/" not in value))


def _of_a_slide(extension: str) -> bool:
    return extension in NOT_READ or extension in SLIDE_EXTENSIONS


def companions(slides: Sequence[Path]) -> set[Path]:
    """Find the companion images among a folder's files with a slide's extension.

    These are: a plain image named like a slide of another format (``one.jpg`` beside ``one.svs``); any file named like
    another one plus a word such as "label" before or after it (``one_macro.tif``, ``thumb-one.png``,
    ``one.svs.label.png``); and a plain image with such a word in its name in a folder that holds slides of other
    formats.
    """
    stems = {path: path.stem.casefold() for path in slides}
    images = {path for path in slides if path.suffix.lower() in IMAGE_EXTENSIONS}
    of_slides = {name for path in stems if path not in images for name in (stems[path], path.name.casefold())}
    of_slides |= {name.removesuffix(".ome") for name in of_slides}
    known = {name.strip(_BETWEEN) for name in of_slides.union(stems[path] for path in images)}
    beside: set[Path] = set()
    for path, stem in stems.items():
        match = _AFTER.match(stem) or _BEFORE.match(stem)
        of_another = match is not None and match["slide"].strip(_BETWEEN) in known
        among_slides = bool(of_slides) and (match is not None or _ALONE.match(stem) is not None)
        if of_another or (path in images and (among_slides or stem in of_slides)):
            beside.add(path)
    return beside
