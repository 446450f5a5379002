"""Slides by URL: ``s3://``, ``gs://``, ``az://`` and ``https://``, as fsspec opens them.

A remote slide is represented in the workspace by a small file with the slide's name, which lists the files of the
slide with their URLs, sizes and versions (ETag, or the time of the last change). Everything else treats that file as
the slide. It is identified by sizes and versions, and opened from a copy (:mod:`.staging`). Which files those are,
:mod:`.remote_finding` finds out.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ..artifact import whole
from ..errors import SlideError, UsageError, WsipipeError
from ..json_text import parse_json

FOLDER: Final = ".remote"
"""In the workspace: the files that represent remote slides."""
_BEGIN: Final = b'{"remote slide": '
_VERSIONS: Final = (
    "ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "last_modified", "updated", "mtime",
)  # fmt: skip
"""What file systems call the version of a file, the best first."""
_BLOCK: Final = 1 << 23
"""Bytes that are asked for at a time."""
COPY_IT: Final = "copy it to a disk, and give that path"


@dataclass(frozen=True)
class _Scheme:
    """What opens URLs that begin so.

    :param package: that fsspec needs for it.
    :param extra: of this project, that installs it.
    :param credentials: the variables of the environment that they are taken from.
    """

    package: str
    extra: str
    credentials: str


_S3: Final = _Scheme("s3fs", "remote", "AWS_PROFILE or AWS_ACCESS_KEY_ID")
_GS: Final = _Scheme("gcsfs", "remote-gs", "GOOGLE_APPLICATION_CREDENTIALS")
_AZ: Final = _Scheme(
    "adlfs", "remote-az", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING"
)
_WEB: Final = _Scheme("aiohttp", "remote", "of s3://, gs:// or az://: a web server is asked without any")
_SCHEMES: Final = {
    "s3": _S3, "gs": _GS, "gcs": _GS, "az": _AZ, "abfs": _AZ, "abfss": _AZ, "http": _WEB, "https": _WEB,
}  # fmt: skip


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
        with connection_faults(self.url):
            system, path = system_of(self.url)
            system.invalidate_cache()  # of what it was when it was listed
            return cast("BinaryIO", _Stream(system.open(path, "rb", block_size=_BLOCK, cache_type="readahead"), self))


class _Stream:
    """A remote file that is open; whatever a library raises is a failure of the connection."""

    def __init__(self, stream: Any, file: RemoteFile) -> None:
        self._stream, self._file = stream, file

    def read(self, size: int) -> bytes:
        with connection_faults(self._file.url):
            return bytes(self._stream.read(size))

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stream.close()
        if kind is None:
            self._refuse_changed()

    def _refuse_changed(self) -> None:
        with connection_faults(self._file.url):
            system, path = system_of(self._file.url)
            system.invalidate_cache()
            now = version_of(system.info(path), self._file.url)
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


def place_of(path: Path) -> str | Path:
    """Where a slide lies, for a message: the URL of a remote one, of its first file if it has several.

    Without what follows a question mark, which may be a key.
    """
    files = remote_files(path)
    return files[0].url.partition("?")[0] if files else path


def remote_identity(files: Sequence[RemoteFile]) -> tuple[int, str]:
    """The size of a remote slide, and a checksum over names, sizes and versions of its files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name if len(files) > 1 else ''}\0{file.size}\0{file.version}\n".encode())
    return sum(file.size for file in files), f"sha256:{digest.hexdigest()}"


def represent(name: str, files: Sequence[RemoteFile], place: Path) -> Path:
    """Write the file that represents a slide, if it is not there as it should be.

    :param name: of the slide; its extension says the format.
    :param place: the folder for it.
    """
    path = place / name
    content = _BEGIN + json.dumps([asdict(file) for file in files], indent=1).encode() + b"}\n"
    if not path.is_file() or path.read_bytes() != content:
        with whole(path) as scratch:
            scratch.write_bytes(content)
    return path


def version_of(about: Mapping[str, Any], url: str) -> str:
    """The version of a file, by what its server says of it.

    :raises SlideError: it says nothing that would show a change.
    """
    for name in _VERSIONS:
        if about.get(name):
            return str(about[name]).strip('"')
    what = "the server states neither an ETag nor the time of the last change: nobody could see that it changes"
    raise SlideError(what, path=url, hint=COPY_IT)


def system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    :raises UsageError: it is not installed, or lacks what it needs to know.
    """
    name = url.partition("://")[0]
    scheme = _SCHEMES[name]
    if scheme is _AZ and "@" in url.partition("://")[2].partition("/")[0]:
        hint = f"give the account in the environment ({scheme.credentials}), and the URL as {name}://CONTAINER/PATH"
        raise UsageError("an account in the URL is not used", path=url, hint=hint)
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and find_spec(scheme.package) is not None:
            hint = f"give your credentials in the environment ({scheme.credentials})"
            raise UsageError(str(error), path=url, hint=hint) from error
        what = f"{name}:// needs {scheme.package}, which is not installed"
        raise UsageError(what, path=url, hint=f'pip install "wsipipe-momkd[{scheme.extra}]"') from error
    return system, path


@contextmanager
def connection_faults(url: str) -> Iterator[None]:
    """Take what libraries of networks raise, which is of many kinds, as a connection that has failed.

    :raises ConnectionResetError: which is tried again for some seconds.
    """
    try:
        yield
    except (WsipipeError, FileNotFoundError):
        raise
    except PermissionError as error:
        hint = f"give your credentials in the environment ({_SCHEMES[url.partition('://')[0]].credentials})"
        raise SlideError(f"access is refused: {error}", path=url, hint=hint) from error
    except Exception as error:
        raise ConnectionResetError(errno.ECONNRESET, f"{type(error).__name__}: {error}") from error
