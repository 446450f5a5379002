"""Slides on disk: which files are slides, what each is called, and what tells whether it has changed."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import CohortError, UsageError
from ..surroundings import patiently
from .slide import IMAGE_EXTENSIONS

SLIDE_EXTENSIONS: Final = IMAGE_EXTENSIONS | {
    ".bif", ".czi", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu",
}  # fmt: skip
"""What is looked for in a folder. A file that is named itself may be called anything."""

_DOUBLE_EXTENSIONS: Final = (".ome.tif", ".ome.tiff")
_DICOM: Final = ".dcm"
_WITH_IMAGES_BESIDE: Final = frozenset({".vms", ".vmu"})
"""Hamamatsu's older formats: an index, and beside it the images that it names, which are no slides of their own."""

_LONGEST_ID: Final = 200
"""Bytes: file systems take 255 for a name, and ours carry an extension and a scratch prefix."""

_BLOCK: Final = 1 << 16
_BLOCKS: Final = 64


@dataclass(frozen=True)
class FoundSlide:
    """A slide and what it is called everywhere: file names, manifests, tables."""

    slide_id: str
    path: Path


def find_slides(given: Iterable[str | os.PathLike[str]]) -> list[FoundSlide]:
    """The slides among files and folders, sorted by id. Folders are searched with all that is in them.

    A folder that holds ``.dcm`` files is one slide, called like the folder. Hidden files, the companion folders of
    MRXS slides and the images beside a VMS index are passed over.

    :raises UsageError: a path that is not there, or no slide at all.
    :raises CohortError: two slides with one id, or an id that cannot be a file name in the workspace.
    """
    roots = [Path(os.path.abspath(path)) for path in given]  # noqa: PTH100  a link keeps its own name
    found: dict[Path, None] = {}
    for path in roots:
        if not path.exists():
            raise UsageError("no such file or folder", path=path, hint="check the path of the slides")
        if not (path.is_dir() or path.is_file()):  # reading a pipe would wait for ever
            raise UsageError("neither a file nor a folder", path=path, hint="check the path of the slides")
        if path.is_dir():
            found.update(dict.fromkeys(_walk(path, frozenset())))
        else:
            found[path.parent if path.suffix.lower() == _DICOM else path] = None
    if not found:
        where = ", ".join(str(path) for path in roots) or "nothing was given"
        known = " ".join(sorted(SLIDE_EXTENSIONS | {_DICOM}))
        raise UsageError("no slides here", path=where, hint=f"slides are found by their extension: {known}")
    slides: dict[str, FoundSlide] = {}
    for path in sorted(found):
        slide = FoundSlide(slide_id_of(path), path)
        # Many file systems take two names for one that differ in case, or in how an accent is written.
        other = slides.setdefault(unicodedata.normalize("NFC", slide.slide_id).casefold(), slide)
        if other is not slide:
            wrong = f"two slides are called {slide.slide_id!r}: this one and {other.path}"
            hint = "rename one of them, or give paths that hold only one"
            raise CohortError(wrong, path=path, hint=hint)
    return sorted(slides.values(), key=lambda slide: slide.slide_id)


def slide_id_of(path: Path) -> str:
    """A slide's id: its file's name without the extension (``.ome.tiff`` whole), or the name of its folder.

    :raises CohortError: see :func:`checked_slide_id`.
    """
    name = path.name
    if not path.is_dir():
        endings = (*_DOUBLE_EXTENSIONS, path.suffix.lower())
        ending = next(ending for ending in endings if name.lower().endswith(ending))
        name = name[: len(name) - len(ending)]
    return checked_slide_id(name, path)


def checked_slide_id(slide_id: str, where: str | os.PathLike[str]) -> str:
    """``slide_id``, if it can be a file name in the workspace; spaces, dots and Unicode may be in it.

    :param where: the slide, or the table that names it, for the message.
    :raises CohortError: empty, ``.`` or ``..``, a separator, a control character, bytes that are no text, too long.
    """
    if slide_id.strip() in ("", ".", ".."):
        reason = "is no name"
    elif "/" in slide_id or "\\" in slide_id:
        reason = "has a path separator in it and would leave the workspace"
    elif any(unicodedata.category(character) in ("Cc", "Cs") for character in slide_id):
        reason = "has control characters or bytes in it that are no text"
    elif len(slide_id.encode()) > _LONGEST_ID:
        reason = f"is longer than {_LONGEST_ID} bytes"
    else:
        return slide_id
    where = os.fspath(where).encode(errors="backslashreplace").decode()
    raise CohortError(f"the slide id {slide_id!a} {reason}", path=where, hint="rename the slide")


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Slides in a folder and below. Links to folders are followed, but not in circles."""
    here = folder.resolve()
    if here in above:
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file()]
    extensions = {file.suffix.lower() for file in files}
    if _DICOM in extensions:
        yield folder
    images_belong = not extensions.isdisjoint(_WITH_IMAGES_BESIDE)
    for file in files:
        extension = file.suffix.lower()
        if extension in SLIDE_EXTENSIONS and not (images_belong and extension in IMAGE_EXTENSIONS):
            yield file
    companions = {file.stem for file in files if file.suffix.lower() == ".mrxs"}
    for entry in entries:
        if entry.is_dir() and entry.name not in companions:
            yield from _walk(entry, above | {here})


def slide_identity(path: Path) -> tuple[int, str]:
    """Size in bytes, and ``sha256:…`` over what makes a slide this slide.

    A slide has gigabytes, a cohort terabytes: reading all of it to see that nothing changed would take longer than
    tiling. Of every file the size, the first and last 64 KiB and 62 blocks spread evenly between are hashed; a file
    of up to 4 MiB whole. Another scan, export or a truncated copy differs in these; a single flipped byte in the
    middle may not, which is the price.

    A slide of several files (a DICOM folder, MRXS with its companion folder, VMS with the images beside it) is
    hashed over them all, sorted, with their names.

    :raises SurroundingsError: it is not there, or cannot be read for some seconds.
    """
    return patiently(lambda: _identity(path), path)


def _identity(path: Path) -> tuple[int, str]:
    total, digest = 0, hashlib.sha256()
    for name, file in _parts(path):
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
            for offset in _block_offsets(size):
                digest.update(_block(stream, offset))
        total += size
    return total, "sha256:" + digest.hexdigest()


def _parts(path: Path) -> list[tuple[str, Path]]:
    """The files of a slide, each with the name it has within; a single file has none, so that it may be renamed."""
    if path.is_dir():
        return _files_below(path)
    if path.suffix.lower() == ".mrxs":
        return [("", path), *_files_below(path.with_suffix(""))]
    if path.suffix.lower() in _WITH_IMAGES_BESIDE:
        return _files_below(path.parent)
    return [("", path)]


def _files_below(folder: Path) -> list[tuple[str, Path]]:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted((file.relative_to(folder).as_posix(), file) for file in files)


def _block_offsets(size: int) -> list[int]:
    if size <= _BLOCK * _BLOCKS:
        return list(range(0, size, _BLOCK))
    return [(size - _BLOCK) * k // (_BLOCKS - 1) for k in range(_BLOCKS)]


def _block(stream: BinaryIO, offset: int) -> bytes:
    stream.seek(offset)
    return stream.read(_BLOCK)
