"""What client and workers must have in common: versions, and the same files under the same paths.

The client's facts are compared with those of each worker before it gets work. A worker whose torch differs may give
other features; one that sees another folder under the workspace's path would write results where nobody looks.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ...data.artifact import remove, whole
from ...data.errors import SurroundingsError
from ...data.version import __version__
from ...stages.stage import FileInput, Item, OutputInput

_LIBRARIES: Final = (
    *("torch", "torchvision", "timm", "numpy", "openslide-python", "openslide-bin", "opencv-python-headless"),
    *("imagecodecs", "tifffile", "simplejpeg", "pillow", "scikit-learn", "h5py", "zarr", "numcodecs"),
)
"""Libraries that take part in the numbers, or in reading what another process wrote."""
_ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE: Final = 5.0
"""Seconds in which a new file must be seen by another machine; a shared file system may remember that it was absent."""
_MOST_FOLDERS: Final = 64
"""So many folders of slides are compared; of more, the first ones."""


@dataclass(frozen=True)
class SharedPlaces:
    """What every worker must find: the workspace with this run's mark in it, and files of its inputs.

    :param mark: a file in the workspace that holds ``nonce``.
    :param files: an input file of each folder, with its size in bytes; -1 for a folder.
    """

    workspace: str
    mark: str
    nonce: str
    files: Mapping[str, int]


@dataclass(frozen=True)
class Facts:
    """What is so on one machine."""

    host: str
    versions: Mapping[str, str]
    faults: Sequence[str] = ()
    """What of the shared places is not as it should be there."""


def versions() -> dict[str, str]:
    """Versions of wsipipe, Python and the libraries here; "absent" where one is not installed."""
    own = {
        "wsipipe": __version__,
        "the code of wsipipe": _code(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    return own | {name: _version(name) for name in _LIBRARIES}


def facts_here(places: SharedPlaces | None) -> Facts:
    """The facts of this machine, called on a worker."""
    return Facts(socket.gethostname(), versions(), [] if places is None else list(_faults(places)))


def _faults(places: SharedPlaces) -> Iterator[str]:
    mark = Path(places.mark)
    until = time.monotonic() + _PATIENCE
    while not mark.exists() and Path(places.workspace).is_dir() and time.monotonic() < until:
        time.sleep(0.1)
    if not Path(places.workspace).is_dir():
        yield f"the workspace {places.workspace} is not there"
    elif not mark.exists() or mark.read_text(encoding="utf-8") != places.nonce:
        yield f"{places.workspace} is another folder there than here"
    elif not os.access(places.workspace, os.W_OK):
        yield f"the workspace {places.workspace} cannot be written to"
    for name, size in places.files.items():
        file = Path(name)
        if not file.exists():
            yield f"{name} is not there"
        elif size >= 0 and file.stat().st_size != size:
            yield f"{name} is another file there than here"


def differences(client: Facts, worker: Facts) -> list[str]:
    """What differs on a worker, such as ``torch 2.10.0 (here 2.11.0)``."""
    unlike = [
        f"{name} {worker.versions.get(name, 'absent')} (here {own})"
        for name, own in client.versions.items()
        if worker.versions.get(name) != own
    ]
    return [*unlike, *worker.faults]


def refusal(workers: Mapping[str, Sequence[str]]) -> SurroundingsError:
    """The error of workers that differ.

    :param workers: worker → what differs.
    """
    first, *others = [f"{name}: {'; '.join(what)}" for name, what in workers.items()]
    more = f" (and {len(others)} more workers)" if others else ""
    return SurroundingsError(
        f"worker {first}{more}",
        hint="give all machines the same environment, and mount the workspace and the slides under the same paths",
    )


@contextmanager
def shared_places(workspace: Path, items: Iterable[Item]) -> Iterator[SharedPlaces]:
    """Mark the workspace while the block runs."""
    nonce = secrets.token_hex(16)
    mark = workspace / f".cluster-{nonce[:8]}"
    with whole(mark) as scratch:
        scratch.write_text(nonce, encoding="utf-8")
    try:
        yield SharedPlaces(str(workspace), str(mark), nonce, _files(items))
    finally:
        with suppress(OSError):
            remove(mark)


def _files(items: Iterable[Item]) -> dict[str, int]:
    """A file of each folder that the items read from, which is here."""
    found: dict[Path, Path] = {}
    for item in items:
        for source in item.inputs.values():
            path = source.path if isinstance(source, FileInput) else None
            if isinstance(source, OutputInput) and Path(source.output.path).is_absolute():
                path = Path(source.output.path)
            if path is not None and path.parent not in found and path.exists():
                found[path.parent] = path
        if len(found) >= _MOST_FOLDERS:
            break
    return {str(path): path.stat().st_size if path.is_file() else -1 for path in found.values()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@cache
def _code() -> str:
    """A short digest of the package's code: two clones may have one version and different code."""
    digest = hashlib.sha256()
    for folder in ("data", "models", "stages", "pipeline"):
        for file in sorted((_ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".toml", ".tsv", ".html", ".css"):
                digest.update(str(file.relative_to(_ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def compared(answer: Any, client: Facts) -> list[str]:
    """What differs on a worker by its answer, which may be the error that asking it raised."""
    if isinstance(answer, Facts):
        return differences(client, answer)
    if isinstance(answer, ModuleNotFoundError):
        return [f"{answer.name} is not installed there"]
    return [f"it cannot be asked ({type(answer).__name__}: {answer})"]
