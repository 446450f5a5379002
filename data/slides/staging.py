"""Slides on slow or remote storage, copied to a local disk ahead of their turn and removed after it.

The process that gives out the slides copies them in their order, as many as fit (:class:`SlideCopier`). A process that
opens one asks for it by its own path (:class:`StagedSlides`) and waits until it is there:

    DIR/wsipipe-node1-4711-3f9a/                   of one run (:mod:`..scratch_folder`)
        8c1f…/a.mrxs, 8c1f…/a/Slide.dat            a slide, whole: it was renamed when its last file was complete
        8c1f….wanted                               somebody waits for it, or works on it
        8c1f….not                                  why it cannot be copied; one on a disk is then read from its place
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from ..errors import SlideError, SurroundingsError, WsipipeError
from ..scratch_folder import ScratchFolder
from ..surroundings import patiently, surroundings
from .finding import files_of_slide
from .remote import RemoteFile, is_remote, place_of, remote_files

_CHUNK: Final = 8 << 20
_PAUSE: Final = 0.05


class _StoppedError(Exception):
    """The run ends."""


class _ComesLaterError(Exception):
    """Another slide is wanted before this one."""


@dataclass(frozen=True)
class StagedSlides:
    """The copies of a run, for the processes that open slides.

    :param folder: of the run, in the staging folder.
    """

    folder: Path

    def at_hand(self, slide: Path) -> Path:
        """The path to open in place of a slide's own; waits until the copy is complete.

        :raises WsipipeError: a slide that has no place on a disk cannot be fetched.
        """
        key = self.key(slide)
        copy, refusal = self.folder / key, self.folder / f"{key}.not"
        with suppress(OSError):
            (self.folder / f"{key}.wanted").touch()
        while True:
            if copy.is_dir():
                return copy / slide.name
            if refusal.is_file():
                return _read_from_its_place(slide, refusal)
            if not self.folder.is_dir():  # the run is over
                return slide
            threading.Event().wait(_PAUSE)

    def with_own_path(self, text: str, slide: Path) -> str:
        """A message about the copy as one about the slide itself, by its URL if it is remote."""
        place = str(place_of(slide))
        return text.replace(str(self.folder / self.key(slide) / slide.name), place).replace(str(slide), place)

    @staticmethod
    def key(slide: Path) -> str:
        """The name of a slide's copy."""
        return hashlib.sha256(os.fsencode(slide)).hexdigest()[:16]


def _read_from_its_place(slide: Path, refusal: Path) -> Path:
    if not is_remote(slide):
        return slide
    why = json.loads(refusal.read_text(encoding="utf-8"))
    kind = SlideError if why["type"] == SlideError.__name__ else SurroundingsError
    raise kind(why["what"], path=place_of(slide), hint=why["hint"])


class SlideCopier:
    """Copies the slides of a run, in the order in which they will be asked for.

    :param place: the staging folder.
    :param most_bytes: of all copies at a time; default: half of what is free there.
    """

    def __init__(self, place: Path, slides: Sequence[Path], most_bytes: int | None = None) -> None:
        self._folder = ScratchFolder(place)
        self.slides = StagedSlides(self._folder.path)
        self._waiting = deque(slides)
        self._most = most_bytes
        self._bytes: dict[Path, int] = {}
        self._copied: set[str] = set()
        """Keys of the slides that were copied, or cannot be."""
        self._room = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._copy_all, name="staging", daemon=True)

    def __enter__(self) -> Self:
        self._folder.__enter__()
        try:
            if self._most is None:
                self._most = shutil.disk_usage(self._folder.path).free // 2
        except OSError as error:
            self._folder.__exit__()
            raise surroundings(error, self._folder.path) or error from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._room:
            self._ended = True
            self._room.notify_all()
        self._thread.join()
        self._folder.__exit__()

    def release(self, slide: Path) -> None:
        """Remove the copy of a slide that is done, which makes room for the next one."""
        key = self.slides.key(slide)
        shutil.rmtree(self.slides.folder / key, ignore_errors=True)
        for ending in ("wanted", "not"):
            (self.slides.folder / f"{key}.{ending}").unlink(missing_ok=True)
        with self._room:
            self._bytes.pop(slide, None)
            self._room.notify_all()

    def _copy_all(self) -> None:
        with suppress(_StoppedError):
            while self._waiting:
                slide = next(iter(self._wanted()), self._waiting[0])
                self._waiting.remove(slide)
                with suppress(_ComesLaterError):
                    self._stage(slide)

    def _stage(self, slide: Path) -> None:
        self._try_to_stage(slide)
        self._copied.add(self.slides.key(slide))

    def _try_to_stage(self, slide: Path) -> None:
        try:
            files = remote_files(slide)
            parts: list[RemoteFile | _LocalFile] = [*files] if files is not None else [*_local(slide)]
            size = sum(part.size for part in parts)
            if self._has_room(size, slide, remote=files is not None):
                self._copy(slide, parts)
                return
            error: WsipipeError = SurroundingsError("no room in the staging folder", path=slide)
        except WsipipeError as reason:
            error = reason
        except OSError as reason:  # the slide is gone: who opens it says so
            error = surroundings(reason, slide) or SurroundingsError(str(reason), path=slide)
        with self._room:
            self._bytes.pop(slide, None)
        key = self.slides.key(slide)
        shutil.rmtree(self.slides.folder / f"{key}.partial", ignore_errors=True)
        cause = f" ({error.__cause__})" if error.__cause__ is not None else ""
        why = {"type": type(error).__name__, "what": f"{error.what}{cause}", "hint": error.hint}
        scratch = self.slides.folder / f"{key}.why"
        with suppress(OSError):
            scratch.write_text(json.dumps(why), encoding="utf-8")
            scratch.replace(self.slides.folder / f"{key}.not")

    def _has_room(self, size: int, slide: Path, *, remote: bool) -> bool:
        """Wait for room; False if the slide is better read from its place."""
        assert self._most is not None
        if size > self._most and not remote:
            return False
        with self._room:
            while self._bytes and sum(self._bytes.values()) + size > self._most:
                if self._ended:
                    raise _StoppedError
                idle = [other for other in self._bytes if not self._is_wanted(other)]
                if idle and self._is_wanted(slide):  # it comes before its turn, and those that have room come after it
                    if remote:
                        break
                    return False
                if not self._is_wanted(slide) and self._wanted():
                    self._waiting.appendleft(slide)  # another one comes before its turn
                    raise _ComesLaterError
                self._room.wait(_PAUSE)
            self._bytes[slide] = size
        return True

    def _wanted(self) -> list[Path]:
        """The slides among those that are not copied yet that somebody waits for."""
        names = os.listdir(self.slides.folder)  # noqa: PTH208
        keys = {name.removesuffix(".wanted") for name in names if name.endswith(".wanted")}
        return [slide for slide in self._waiting if self.slides.key(slide) in keys] if keys - self._copied else []

    def _is_wanted(self, slide: Path) -> bool:
        return (self.slides.folder / f"{self.slides.key(slide)}.wanted").exists()

    def _copy(self, slide: Path, parts: Sequence[RemoteFile | _LocalFile]) -> None:
        key = self.slides.key(slide)
        scratch = self.slides.folder / f"{key}.partial"
        for part in parts:
            target = scratch / part.name
            target.parent.mkdir(parents=True, exist_ok=True)
            patiently(lambda part=part, target=target: self._copy_file(part, target), slide)  # type: ignore[misc]
        scratch.replace(self.slides.folder / key)

    def _copy_file(self, part: RemoteFile | _LocalFile, target: Path) -> None:
        copied = 0
        with part.open() as source, target.open("wb") as stream:
            while chunk := source.read(_CHUNK):
                if self._ended:
                    raise _StoppedError
                stream.write(chunk)
                copied += len(chunk)
        if copied != part.size:
            what = f"{copied:,} of {part.size:,} bytes were read: it broke off, or is being written"
            raise ConnectionResetError(errno.ECONNRESET, what)


@dataclass(frozen=True)
class _LocalFile:
    """A file of a slide on a disk."""

    name: str
    size: int
    path: Path

    def open(self) -> BinaryIO:
        return self.path.open("rb")


def _local(slide: Path) -> Iterator[_LocalFile]:
    """The files that a slide consists of, with their names as seen from its folder."""
    for file in patiently(lambda: files_of_slide(slide), slide):
        yield _LocalFile(file.relative_to(slide.parent).as_posix(), file.stat().st_size, file)
