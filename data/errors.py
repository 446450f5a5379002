"""The one tree of errors.

Every error that wsipipe raises on purpose descends from :class:`WsipipeError` and says three things: which
file (or setting), what is wrong with it, and the way out. The two branches decide what happens next time:
an :class:`InputError` waits for another input, a :class:`SurroundingsError` is simply tried again.

    WsipipeError
    ├── UsageError            a flag, a setting or a call that cannot be meant        (exit code 2)
    ├── BusyError             another run holds the lock                              (exit code 2)
    ├── InputError            the input is at fault: retried when it changes
    │   ├── SlideError        a slide that cannot be opened, decoded or placed in microns
    │   ├── CohortError       a cohort table or its labels
    │   ├── ExpressionError   a genomics matrix
    │   ├── BackboneError     weights or architecture of a feature extractor
    │   ├── BundleError       a trained model on disk        (both: tried again unasked where
    │   └── StoreError        a damaged file of ours          the file lies in the workspace)
    └── SurroundingsError     disk full, no memory left: retried on the next run
        └── DeviceError       a GPU that fails whatever it is given
"""

from __future__ import annotations

from os import PathLike, fspath


class WsipipeError(Exception):
    """Root of the tree.

    :param what: what is wrong, a sentence without its full stop.
    :param path: the file or setting it is about, named first in the message.
    :param hint: the way out, shown on a line of its own.
    """

    def __init__(self, what: str, *, path: str | PathLike[str] | None = None, hint: str = "") -> None:
        super().__init__(what, path, hint)
        self.what = what
        self.path = None if path is None else fspath(path)
        self.hint = hint

    def __str__(self) -> str:
        return self.what if self.path is None else f"{self.path}: {self.what}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive pickling by themselves; errors cross process borders.
        return (_rebuild, (type(self), self.what, self.path, self.hint), self.__dict__)


def _rebuild(kind: type[WsipipeError], what: str, path: str | None, hint: str) -> WsipipeError:
    return kind(what, path=path, hint=hint)


class UsageError(WsipipeError):
    """A flag, a setting or a call that cannot be meant."""


class BusyError(WsipipeError):
    """Another run is writing here."""


class InputError(WsipipeError):
    """The input is at fault; the same input will fail again."""


class SlideError(InputError):
    """A slide that cannot be opened, decoded or placed in microns."""


class CohortError(InputError):
    """A cohort table or the labels in it."""


class ExpressionError(InputError):
    """A genomics matrix."""


class BackboneError(InputError):
    """Weights or architecture of a feature extractor."""


class BundleError(InputError):
    """A trained model on disk."""


class StoreError(InputError):
    """A file of ours that is damaged, or of a format this version does not read; in the workspace it may be mended."""


class SurroundingsError(WsipipeError):
    """The machine is at fault (disk full, device gone); the next run tries again."""


class DeviceError(SurroundingsError):
    """A GPU has failed; the process that used it cannot go on with it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the machine or of a GPU, whichever library says so.

    PyTorch has a class for what its own allocator lacks. What CUDA, its libraries, Triton or MPS lack comes as a plain
    ``RuntimeError``: ``CUDA error: out of memory``, ``CUBLAS_STATUS_ALLOC_FAILED``. A smaller batch helps with either.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).partition("\n")[0].lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "_status_alloc_failed" in text)
