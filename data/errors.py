"""The exceptions of wsipipe.

Every error that wsipipe raises on purpose is a :class:`WsipipeError` and states three things: which file (or setting),
what is wrong with it, and the way out. The two main branches decide what the next run does: an item with an
:class:`InputError` waits until its input changes, one with a :class:`SurroundingsError` is tried again.

    WsipipeError
    ├── UsageError            a wrong flag, setting or call                           (exit code 2)
    ├── BusyError             another run holds the lock                              (exit code 2)
    ├── InputError            the input is at fault: retried when it changes
    │   ├── SlideError        a slide that cannot be opened or decoded, or without a resolution
    │   ├── CohortError       a cohort table or its labels
    │   ├── ExpressionError   a genomics matrix
    │   ├── BackboneError     weights or architecture of a feature extractor
    │   ├── BundleError       a trained model on disk           (both: tried again by the next run
    │   └── StoreError        a damaged file of wsipipe's own    if the file is in the workspace)
    └── SurroundingsError     disk full, no memory left: retried on the next run
        └── DeviceError       a GPU that has failed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath


class WsipipeError(Exception):
    """Base class of all errors of wsipipe.

    :param what: what is wrong, as a sentence without its full stop.
    :param path: the file or setting concerned, named first in the message.
    :param hint: the way out, shown on a separate line.
    """

    def __init__(self, what: str, *, path: str | PathLike[str] | None = None, hint: str = "") -> None:
        super().__init__(what, path, hint)
        self.what = what
        self.path = None if path is None else fspath(path)
        self.hint = hint

    def __str__(self) -> str:
        return self.what if self.path is None else f"{self.path}: {self.what}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are sent between processes, and pickle does not restore keyword-only arguments by itself.
        return (_rebuild, (type(self), self.what, self.path, self.hint), self.__dict__)


@contextmanager
def about(path: str | PathLike[str]) -> Iterator[None]:
    """Name the file in errors of ours that the block raises without one: what checks its content need not know it."""
    try:
        yield
    except WsipipeError as error:
        if error.path is None:
            error.path = fspath(path)
        raise


def _rebuild(kind: type[WsipipeError], what: str, path: str | None, hint: str) -> WsipipeError:
    return kind(what, path=path, hint=hint)


class UsageError(WsipipeError):
    """A wrong flag, setting or call."""


class BusyError(WsipipeError):
    """Another run is writing to the same folder."""


class InputError(WsipipeError):
    """The input is at fault; the same input will fail again."""


class SlideError(InputError):
    """A slide that cannot be opened or decoded, or whose resolution is unknown."""


class CohortError(InputError):
    """A wrong cohort table, or wrong labels in it."""


class ExpressionError(InputError):
    """A genomics matrix that cannot be read."""


class BackboneError(InputError):
    """Wrong weights or architecture of a feature extractor."""


class BundleError(InputError):
    """A trained model on disk that cannot be used."""


class StoreError(InputError):
    """A damaged file of wsipipe's own, or of a format that this version cannot read; it may be made again."""


class SurroundingsError(WsipipeError):
    """The machine is at fault (disk full, device gone); the next run tries again."""


class DeviceError(SurroundingsError):
    """A GPU has failed; the process that used it cannot continue to use it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the machine or of a GPU, whichever library says so.

    PyTorch has a class for what its allocator of a GPU lacks. All else says it in words: ``CUDA error: out of memory``,
    ``DefaultCPUAllocator: can't allocate memory``, OpenCV's ``Insufficient memory``, a library for which there is no
    room (``failed to map segment``), a thread without a stack. A smaller batch helps with most of them.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # ctypes says with an OSError, and no errno, that a library cannot be loaded
    of_a_library = isinstance(error, RuntimeError | ImportError) or type(error).__module__ == "cv2"
    if not of_a_library and not (isinstance(error, OSError) and error.errno is None):
        return False
    text = str(error).partition("\n")[0].lower()
    return _NO_MEMORY.search(text) is not None


_NO_MEMORY = re.compile(
    r"out of memory|_status_alloc_failed|can't allocate memory|insufficient memory|failed to map segment"
    r"|can't start new thread|could not create a primitive$"  # oneDNN's words where it gets no memory
)
