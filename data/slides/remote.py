"""Slides by URL: ``s3://``, ``gs://`` and ``https://``, as fsspec opens them.

A remote slide is represented in the workspace by a small file with the slide's name, which lists the files of the
slide with their URLs, sizes and versions (ETag, or the time of the last change). Everything else treats that file as
the slide. It is identified by sizes and versions, and opened from a copy (:mod:`.staging`).
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast

from ..artifact import whole
from ..errors import SlideError, UsageError, WsipipeError
from ..file_names import why_no_file_name
from ..json_text import parse_json
from ..surroundings import patiently

FOLDER: Final = ".remote"
"""In the workspace: the files that represent remote slides."""
_BEGIN: Final = b'{"remote slide": '
_VERSIONS: Final = (
    "ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "last_modified", "updated", "mtime",
)  # fmt: skip
"""What file systems call the version of a file, the best first."""
_NEEDS: Final = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_BLOCK: Final = 1 << 23
"""Bytes that are asked for at a time."""
_COPY_IT: Final = "copy it to a disk, and give that path"
_NEVER_REMOTE: Final = (".vms", ".vmu", ".dcm")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote slide.

    :param name: as seen from the slide's folder.
    :param version: its ETag, or the time of its last change.
    """

    name: str
    size: int
    url: str
    version: str

    def open(self) -> BinaryIO:
        """Open it for reading from its start.

        :raises OSError: it cannot be read now.
        """
        with _faults(self.url):
            system, path = _system(self.url)
            system.invalidate_cache()  # of what it was when it was listed
            return cast("BinaryIO", _Stream(system.open(path, "rb", block_size=_BLOCK, cache_type="readahead"), self))


class _Stream:
    """A remote file that is open; whatever a library raises is a failure of the connection."""

    def __init__(self, stream: Any, file: RemoteFile) -> None:
        self._stream, self._file = stream, file

    def read(self, size: int) -> bytes:
        with _faults(self._file.url):
            return bytes(self._stream.read(size))

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stream.close()
        if kind is None:
            self._refuse_changed()

    def _refuse_changed(self) -> None:
        with _faults(self._file.url):
            system, path = _system(self._file.url)
            system.invalidate_cache()
            now = _version(system.info(path))
        if now != self._file.version:
            what = f"has changed since it was listed ({self._file.version} → {now})"
            raise SlideError(what, path=self._file.url, hint="run the same command again")


def is_remote(path: Path) -> bool:
    """Whether a path is that of a file that represents a remote slide."""
    return remote_files(path) is not None


def remote_files(path: Path) -> Sequence[RemoteFile] | None:
    """The files of the remote slide that a file represents; None for any other path."""
    if FOLDER not in path.parts or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(_BEGIN):
        return None
    try:
        return [RemoteFile(**file) for file in parse_json(content)["remote slide"]]
    except (ValueError, TypeError) as error:
        hint = "remove it; the next run that is given the URL makes it again"
        raise SlideError(f"is no list of a remote slide's files: {error}", path=path, hint=hint) from error


def remote_identity(files: Sequence[RemoteFile]) -> tuple[int, str]:
    """The size of a remote slide, and a checksum over names, sizes and versions of its files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name if len(files) > 1 else ''}\0{file.size}\0{file.version}\n".encode())
    return sum(file.size for file in files), f"sha256:{digest.hexdigest()}"


def list_remote(url: str, workspace: Path, extensions: frozenset[str]) -> list[Path]:
    """Represent the slide at a URL, or all slides below it, by files in the workspace.

    :param extensions: of slides, looked for below a URL that is a folder.
    :raises UsageError: what opens such URLs is not installed; there is nothing at the URL, or no slide.
    :raises SurroundingsError: the server does not answer.
    """
    return patiently(lambda: _listed(url, workspace, extensions), url)


def _listed(url: str, workspace: Path, extensions: frozenset[str]) -> list[Path]:
    scheme = url.partition("://")[0]
    with _faults(url):
        system, path = _system(url)
        system.invalidate_cache()
        try:
            about = system.info(path)
        except FileNotFoundError as error:
            hint = "check the URL, and the credentials in the environment"
            raise UsageError("nothing is found there", path=url, hint=hint) from error
        if about.get("type") != "directory":
            found = {path: about}
            beside = path.removesuffix(".mrxs")
            if beside != path and system.exists(beside):
                found |= _below(system, beside)
            return [_represented(scheme, path, found, workspace)]
        everything = _below(system, path)
    slides = [file for file in everything if PurePosixPath(file).suffix.lower() in extensions]
    mirax = {file.removesuffix(".mrxs") for file in slides if file.endswith(".mrxs")}
    slides = [file for file in slides if not any(file.startswith(f"{folder}/") for folder in mirax)]
    if not slides:
        known = " ".join(sorted(extensions))
        raise UsageError("no slides there", path=url, hint=f"slides are found by their extension: {known}")
    made = []
    for slide in slides:
        beside = f"{slide.removesuffix('.mrxs')}/" if slide.endswith(".mrxs") else "\0"
        found = {slide: everything[slide], **{f: about for f, about in everything.items() if f.startswith(beside)}}
        made.append(_represented(scheme, slide, found, workspace))
    return made


def _below(system: Any, folder: str) -> dict[str, Mapping[str, Any]]:
    found = system.find(folder, detail=True)
    return {file: about for file, about in sorted(found.items()) if about.get("type") == "file"}


def _represented(scheme: str, slide: str, found: Mapping[str, Mapping[str, Any]], workspace: Path) -> Path:
    """Write the file that represents a slide, if it is not there as it should be."""
    above = slide.rpartition("/")[0]
    name = slide.rpartition("/")[2].partition("?")[0]
    own_url = slide if "://" in slide else f"{scheme}://{slide}"
    if reason := why_no_file_name(name):
        raise UsageError(f"the slide's name {name!a} {reason}", path=own_url, hint="rename it")
    if name.lower().endswith(_NEVER_REMOTE):
        hint = "copy all its files to a disk, and give that path"
        raise UsageError("slides of this format have files that only a disk can list", path=own_url, hint=hint)
    files = []
    for path, about in found.items():
        url = path if "://" in path else f"{scheme}://{path}"
        if (size := about.get("size")) is None:
            raise SlideError("the server does not state its size", path=url, hint=_COPY_IT)
        part = name if path == slide else path.removeprefix(f"{above}/")
        files.append(RemoteFile(part, int(size), url, _version(about, url)))
    place = workspace / FOLDER / hashlib.sha256(f"{scheme}://{above}".encode()).hexdigest()[:12] / name
    content = _BEGIN + json.dumps([asdict(file) for file in files], indent=1).encode() + b"}\n"
    if not place.is_file() or place.read_bytes() != content:
        with whole(place) as scratch:
            scratch.write_bytes(content)
    return place


def _version(about: Mapping[str, Any], url: str = "") -> str:
    for name in _VERSIONS:
        if about.get(name):
            return str(about[name]).strip('"')
    what = "the server states neither an ETag nor the time of the last change: nobody could see that it changes"
    raise SlideError(what, path=url, hint=_COPY_IT)


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    :raises UsageError: it is not installed.
    """
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        what = f"{scheme}:// needs {_NEEDS[scheme]}, which is not installed"
        hint = f'pip install "wsipipe-momkd[remote]"{" gcsfs" if _NEEDS[scheme] == "gcsfs" else ""}'
        raise UsageError(what, path=url, hint=hint) from error
    return system, path


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Take what libraries of networks raise, which is of many kinds, as a connection that has failed.

    :raises ConnectionResetError: which is tried again for some seconds.
    """
    try:
        yield
    except (WsipipeError, FileNotFoundError):
        raise
    except PermissionError as error:
        hint = "give your credentials in the environment (for s3://, AWS_PROFILE or AWS_ACCESS_KEY_ID)"
        raise SlideError(f"access is refused: {error}", path=url, hint=hint) from error
    except Exception as error:
        raise ConnectionResetError(errno.ECONNRESET, f"{type(error).__name__}: {error}") from error
