"""Slides on disk: which files are slides, their ids, and a checksum that shows whether one has changed."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import CohortError, SlideError, SurroundingsError, UsageError, WsipipeError
from ..file_names import file_name_key, why_no_file_name
from ..plain_files import refuse_pipe, url_of
from ..slide_names import without_extension
from ..surroundings import patiently, reading_fault
from ..wording import some
from .dicom_header import read_dicom_header
from .folder_contents import (
    DICOM,
    MIRAX,
    NOT_READ,
    WITH_IMAGES_BESIDE,
    companion_folders,
    holds_dicom,
    is_only_slide,
    of_its_series,
    slides_among,
    values_named,
)
from .readers import SLIDE_EXTENSIONS
from .remote import place_of, remote_files, remote_identity
from .remote_finding import find_remote

_BLOCK: Final = 1 << 16
_BLOCKS: Final = 64


@dataclass(frozen=True)
class FoundSlide:
    """A slide and its id, which names it in files, manifests and tables."""

    slide_id: str
    path: Path


class FoundSlides(list[FoundSlide]):
    """Slides sorted by id, and the files and folders that were left out.

    :param left_out: reason → paths.
    """

    def __init__(self, slides: Iterable[FoundSlide], left_out: Mapping[str, list[Path]]) -> None:
        super().__init__(slides)
        self.left_out = left_out

    def notes(self) -> list[str]:
        """Describe what was left out: one sentence per reason, with paths."""
        return [
            f"left out, {why}: {len(paths)} ({some([_text(path) for path in paths], 5)})"
            for why, paths in sorted(self.left_out.items())
        ]


def find_slides(
    given: Iterable[str | os.PathLike[str]],
    workspace: Path | None = None,
    refused: list[WsipipeError] | None = None,
) -> FoundSlides:
    """Find the slides among files and folders (searched recursively), sorted by id.

    A folder that holds ``.dcm`` files is one slide, named after the folder. A single ``.dcm`` file given by path stands
    for its folder if the folder holds only one slide, else for itself. Hidden files, the companion folders of MRXS
    slides and the images beside a VMS index are skipped. Anything else a user might miss is left out and counted:
    companion images, unsupported formats, dead links, folders that cannot be read.

    :param workspace: where slides by URL are represented (:mod:`.remote`).
    :param refused: gets the errors of paths and ids that cannot be used, which are left out; None: the first is raised.
    :raises UsageError: a path that does not exist, or no slide at all.
    :raises CohortError: two slides with one id, or an id that cannot be a file name in the workspace.
    """

    def refuse(error: WsipipeError) -> None:
        if refused is None:
            raise error
        refused.append(error)

    left_out: dict[str, list[Path]] = {}
    found: dict[Path, None] = {}
    roots = []
    for place in given:
        if (url := url_of(os.fspath(place))) is not None and workspace is not None:
            found.update(dict.fromkeys(find_remote(url, workspace, left_out)))
        else:
            roots.append(Path(os.path.abspath(place)))  # noqa: PTH100  a link keeps its own name
    for path in roots:
        if not path.exists():
            refuse(UsageError("no such file or folder", path=path, hint="check the path of the slides"))
        elif not (path.is_dir() or path.is_file()):  # reading a pipe could block for ever
            refuse(UsageError("neither a file nor a folder", path=path, hint="check the path of the slides"))
        elif path.is_dir():
            found.update(dict.fromkeys(_walk(path, frozenset(), left_out)))
        else:
            found[_dicom_slide(path) if path.suffix.lower() == DICOM else path] = None
    if not found and not refused:
        where = ", ".join(str(path) for path in roots) or "nothing was given"
        known = " ".join(sorted(SLIDE_EXTENSIONS | {DICOM}))
        wrong = "; ".join(["no slides here", *FoundSlides((), left_out).notes()])
        raise UsageError(wrong, path=where, hint=f"slides are found by their extension: {known}")
    slides: dict[str, FoundSlide] = {}
    for path in sorted(found):
        try:
            slide = FoundSlide(slide_id_of(path), path)
        except CohortError as error:
            refuse(error)
            continue
        other = slides.setdefault(file_name_key(slide.slide_id), slide)
        if other is not slide:
            wrong = f"two slides are called {slide.slide_id!r}: this one and {place_of(other.path)}"
            hint = "rename one of them, or give paths that hold only one"
            refuse(CohortError(wrong, path=place_of(path), hint=hint))
    return FoundSlides(sorted(slides.values(), key=lambda slide: slide.slide_id), left_out)


def _text(path: Path) -> str:
    """Format a path for a message, with bytes that are not text written as escapes."""
    return (url_of(path) or str(path)).encode(errors="backslashreplace").decode()


def _dicom_slide(file: Path) -> Path:
    """Return the folder of a DICOM file if it holds that slide only; else the file itself."""
    return file.parent if is_only_slide(file, patiently(lambda: _dicom_series(file.parent), file)) else file


def _dicom_series(folder: Path) -> dict[Path, str]:
    """Map each DICOM file of a folder to the series of its slide; empty if it is not part of a slide.

    That holds for a file without read permission, a dead link, and a file that is not an image of a slide.

    :raises OSError: storage fails.
    """
    series: dict[Path, str] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() == DICOM and not file.name.startswith("."):
            try:
                header = read_dicom_header(file)
            except OSError as error:
                if reading_fault(error) and not isinstance(error, FileNotFoundError | PermissionError):
                    raise
                header = None
            series[file] = header.series if header is not None and header.whole_slide else ""
    return series


def slide_id_of(path: Path) -> str:
    """Derive a slide's id: its file name without the extension (``.ome.tiff`` counts as one), or its folder's name.

    The id is in Unicode's composed form (NFC): a Mac writes ``ä`` as two characters, tables as one.

    :raises CohortError: see :func:`checked_slide_id`.
    """
    return checked_slide_id(path.name if path.is_dir() else without_extension(path.name, path.suffix), path)


def checked_slide_id(slide_id: str, where: str | os.PathLike[str]) -> str:
    """Return ``slide_id`` in Unicode's composed form, if it can be a file name in the workspace.

    The rule is that of all names in the workspace (:mod:`~wsipipe.data.file_names`).

    :param where: the slide, or the table that names it, for the message.
    :raises CohortError: it cannot.
    """
    slide_id = unicodedata.normalize("NFC", slide_id)
    reason = why_no_file_name(slide_id)
    if not reason:
        return slide_id
    where = os.fspath(where).encode(errors="backslashreplace").decode()
    raise CohortError(f"the slide id {slide_id!a} {reason}", path=where, hint="rename the slide")


def _walk(folder: Path, above: frozenset[Path], left_out: dict[str, list[Path]]) -> Iterator[Path]:
    """Yield the slides in a folder and below. Links to folders are followed, but not in circles."""
    here = folder.resolve()
    if here in above:
        return
    try:
        entries, files, folders = patiently(lambda: _entries(folder), folder)
    except (OSError, SurroundingsError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        left_out.setdefault(f"a folder that cannot be read ({getattr(reason, 'strerror', error)})", []).append(folder)
        return
    looked_for = SLIDE_EXTENSIONS | NOT_READ | {DICOM}
    for entry in entries:
        if entry.suffix.lower() in looked_for and entry.is_symlink() and not entry.exists():
            left_out.setdefault("a link to a file that is not there", []).append(entry)
    if holds_dicom(files):
        yield folder
    yield from slides_among(files, left_out)
    beside = companion_folders(files)
    for entry in folders:
        if entry.name not in beside:
            yield from _walk(entry, above | {here}, left_out)


def _entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """List a folder without hidden entries: all entries, the files, the folders."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return entries, [entry for entry in entries if entry.is_file()], [entry for entry in entries if entry.is_dir()]


def slide_identity(path: Path) -> tuple[int, str]:
    """Return a slide's size in bytes and a checksum ``sha256:…`` over a sample of its content.

    A slide has gigabytes, a cohort terabytes: hashing everything to detect a change would take longer than tiling. The
    checksum covers, for every file, the size, the first and last 64 KiB and 62 blocks spread evenly in between; a file
    of up to 4 MiB is hashed completely. Another scan, another export or a truncated copy differs in these; a single
    flipped byte in the middle can go unnoticed.

    A slide of several files (a DICOM folder, MRXS with its companion folder, VMS with the images it names) is hashed
    over all of them, sorted, with their names.

    :raises SurroundingsError: the slide does not exist, or cannot be read for some seconds.
    :raises SlideError: it is a pipe or a device.
    """
    refuse_pipe(path, SlideError)
    if (remote := remote_files(path)) is not None:
        return remote_identity(remote)
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
    """List the files of a slide with their names inside it; a single file has no name, so that it may be renamed."""
    if path.is_dir():
        return _files_below(path)
    if path.suffix.lower() == MIRAX:
        return [("", path), *_files_below(path.with_suffix(""))]
    if path.suffix.lower() in WITH_IMAGES_BESIDE:
        return _index_and_images(path)
    if path.suffix.lower() == DICOM:
        others = of_its_series(path, _dicom_series(path.parent))
        return [(file.name, file) for file in sorted([path, *others])]
    return [("", path)]


def files_of_slide(path: Path) -> list[Path]:
    """List the files of a slide: its own, and those of its folder or that it names."""
    return [file for _, file in _parts(path)]


def _index_and_images(index: Path) -> list[tuple[str, Path]]:
    """List a VMS or VMU index and the files it names; all files beside it if none."""
    values = values_named(index.read_text("utf-8", "surrogateescape"))
    # isfile, because Path.is_file raises for what cannot be a name at all, as in a damaged index.
    named = {name for name in values if os.path.isfile(index.parent / name)}  # noqa: PTH113
    return sorted((name, index.parent / name) for name in named | {index.name}) if named else _files_below(index.parent)


def existing(path: Path) -> Path | None:
    """Find a file or folder by name in whichever Unicode form it is stored; None if there is none.

    The same name can have different bytes: composed (NFC), as most programs write it, or decomposed (NFD), as a Mac
    does.
    """
    forms = (path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD")))
    # os.path's, because Path.exists raises for what is too long to be a name.
    return next((form for form in forms if os.path.exists(form)), None)  # noqa: PTH110


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
