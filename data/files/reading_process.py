"""Reading a file in a process of its own, which is ended where a library does not come back from a damaged file.

HDF5 loops for ever over some damaged files and holds the interpreter's lock while it does, so that no thread goes on
and Ctrl-C is dead; for others it takes gigabytes, or crashes. So such files are opened in a second process, within
limits of time and memory, and this one gets the arrays. It is started once and reads many files.
"""

from __future__ import annotations

import os
import pickle
import signal
import stat
import struct
import subprocess
import sys
import traceback
from atexit import register
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from threading import Timer
from time import process_time
from typing import IO, Any, Final, TypeVar

from ..errors import SurroundingsError, WsipipeError
from ..surroundings import reading_fault

T = TypeVar("T")

_SECONDS: Final = 2
_BYTES_A_SECOND: Final = 5_000_000
"""Of the file. The slowest that was met are many short texts, which take twice as long as this allows for numbers."""
_LEAST_BYTES: Final = 256 * 2**20
_TIMES_THE_FILE: Final = 32
"""How many bytes one of a file may stand for. Counts compress to a third, zeros alone to a thousandth."""
_BESIDE: Final = 128 * 2**20
"""Memory for what is made while reading, beside twice the content: once as stored, once as it is handed over."""
_FORKS: Final = hasattr(os, "fork")
_PATIENCE: Final = 30 if _FORKS else 1
"""How many times longer than it may compute a process may take altogether: the rest is waiting for the storage."""
_LONGEST_TEXT: Final = 300
_AGAIN: Final = "then run the same command again: what is done stays done"


class UnreadableError(Exception):
    """What is wrong with a file, as a clause without path and way out: whoever knows its kind makes an error of it."""


def most_bytes(size: int) -> int:
    """How many bytes the content of a file may have, given the size of the file."""
    return max(_LEAST_BYTES, _TIMES_THE_FILE * size)


def in_bytes(number: float) -> str:
    """A number of bytes with its unit.

    >>> in_bytes(15_180), in_bytes(268_435_456), in_bytes(2.4e19)
    ('15.2 kB', '268 MB', '2.4e+10 GB')
    """
    unit, by = next((pair for pair in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if number >= pair[1]), ("bytes", 1.0))
    return f"{number / by:.3g} {unit}"


def read_in_a_process(read: Callable[..., T], path: Path, *arguments: Any) -> T:
    """What ``read(path, *arguments)`` gives, called in another process.

    Whatever it raises that is neither an error of ours nor a failure of the machine becomes an
    :class:`UnreadableError`, for a damaged file makes a library raise anything.

    :param read: a function of a module, with which it is imported there: one that loads little.
    :raises UnreadableError: the file is damaged, or reading it takes more time or memory than a file of its size may.
    :raises OSError: a failure of the machine, for :func:`.surroundings.patiently`.
    :raises SurroundingsError: the process does not start, was killed, or the storage does not answer.
    """
    limits = _Limits.of(path)
    idle = _idle.setdefault((os.getpid(), read.__module__), [])  # those of this process: a fork has none yet
    process = idle.pop() if idle else _Process(read.__module__)
    if not process.is_alive:  # ended by somebody else while it waited
        process.end()
        process = _Process(read.__module__)
    try:
        answer = process.ask((read, path.absolute(), arguments, limits), limits, path)
    except BaseException:
        process.end()
        raise
    if isinstance(answer, _Failure) and not _FORKS:
        process.end()
    else:
        idle.append(process)
    if isinstance(answer, _Failure):
        raise answer.error
    content: T = answer
    return content


@dataclass(frozen=True)
class _Limits:
    """What reading a file may cost."""

    size: int
    """Bytes of the file."""
    seconds: int
    """Of computing."""
    memory: int
    """Bytes."""

    @classmethod
    def of(cls, path: Path) -> _Limits:
        """The limits of a file, which is opened here once: so storage answers with the system's own error."""
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableError("it is a folder, or no file at all")
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
        return cls(size, _SECONDS + size // _BYTES_A_SECOND, 2 * most_bytes(size) + _BESIDE)


@dataclass(frozen=True)
class _Failure:
    """The answer where there is no content."""

    error: Exception


class _Process:
    """A process that answers requests, one at a time.

    :param module: the module with the functions that it will be asked to call; it starts with importing it.
    """

    def __init__(self, module: str) -> None:
        places = [place for place in sys.path if isinstance(place, str)]
        script = f"import sys; sys.path[:] = {places!r}; from {__name__} import serve; serve({module!r})"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what C libraries write of damaged files
            env={**os.environ, **threads},
            start_new_session=True,  # Ctrl-C is for this process, which ends the other; and its forks with it
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._requests, self._answers = process, process.stdin, process.stdout
        self._overdue = False
        try:
            ready = _receive(self._answers)
        except BaseException as error:
            self.end()
            if not isinstance(error, EOFError):
                raise
            what = f"the process that reads files does not start (exit code {process.poll()})"
            raise SurroundingsError(what, hint=f"most likely no memory was left: free some, {_AGAIN}") from None
        if isinstance(ready, _Failure):
            self.end()
            raise ready.error

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Any, limits: _Limits, path: Path) -> Any:
        """Send a request and wait for its answer."""
        watch = Timer(_PATIENCE * limits.seconds, self._give_up)
        watch.daemon = True
        watch.start()
        try:
            _send(self._requests, _framed(request))
            return _receive(self._answers)
        except (EOFError, BrokenPipeError):
            raise _why_it_ended(self._process.wait(), limits, path, overdue=self._overdue) from None
        finally:
            watch.cancel()

    def _give_up(self) -> None:
        self._overdue = True
        self._kill()

    def _kill(self) -> None:
        if _FORKS and self.is_alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self._kill()
        for stream in (self._requests, self._answers):
            with suppress(OSError):  # a request that it did not take cannot be flushed
                stream.close()
        with suppress(subprocess.TimeoutExpired):  # it waits for a dead disk, and ends when that answers
            self._process.wait(1)


_idle: Final[dict[tuple[int, str], list[_Process]]] = {}
"""The processes that wait for a request, by the process that started them, and by the module that they have."""


@register
def _end_all() -> None:
    for (owner, _), processes in _idle.items():
        if owner == os.getpid():
            while processes:
                processes.pop().end()


def _why_it_ended(code: int, limits: _Limits, path: Path, *, overdue: bool) -> Exception:
    """The error that a process leaves behind that ended without an answer."""
    if overdue and _FORKS:
        what = f"could not be read within {_PATIENCE * limits.seconds} s"
        return SurroundingsError(what, path=path, hint=f"the storage does not answer: check its mount, {_AGAIN}")
    number = code - _OF_A_SIGNAL
    if overdue or number == getattr(signal, "SIGXCPU", None):
        return UnreadableError(
            f"reading it comes to no end (stopped after {limits.seconds} s of computing, "
            f"the limit for a file of {in_bytes(limits.size)})"
        )
    if number in _CRASHES:
        return UnreadableError(f"the library that reads it crashes ({signal.Signals(number).name})")
    what = f"the process that reads it was ended (exit code {code})"
    return SurroundingsError(what, path=path, hint=f"most likely no memory was left: free some, {_AGAIN}")


_OF_A_SIGNAL: Final = 128
"""What is added to the number of the signal that ended a fork, in the exit code of the process that forked."""
_MET_DAMAGE: Final = 3
"""Exit code of a fork that has met a damaged file."""
_CRASHES: Final = frozenset(
    getattr(signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL") if hasattr(signal, name)
)


# ----- frames: a pickled value, and its arrays beside it -----


def _framed(value: Any) -> list[Any]:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [head, *(buffer.raw() for buffer in buffers)]
    return [struct.pack(f"<Q{len(parts)}Q", len(parts), *(len(part) for part in parts)), *parts]


def _send(stream: IO[bytes], frame: list[Any]) -> None:
    for part in frame:
        stream.write(part)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next value.

    :raises EOFError: the other side has ended.
    """
    [count] = struct.unpack("<Q", _exactly(stream, 8))
    lengths = struct.unpack(f"<{count}Q", _exactly(stream, 8 * count))
    head, *buffers = [_exactly(stream, length) for length in lengths]
    return pickle.loads(head, buffers=buffers)


def _exactly(stream: IO[bytes], count: int) -> bytearray:
    content = bytearray(count)
    view, filled = memoryview(content), 0
    while filled < count:
        read = stream.readinto(view[filled:])  # type: ignore[attr-defined]  # all binary streams of a process have it
        if not read:
            raise EOFError
        filled += read
    return content


# ----- in the other process -----


def serve(module: str) -> None:
    """Answer requests until there are no more.

    Where the system can fork, it is a fork that answers, and another one as soon as a file was damaged: it is made
    within milliseconds, has all that is imported, and nothing of what the file has done to the library.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not be taken for an answer
    try:
        import_module(module)
    except Exception as error:  # noqa: BLE001  raised again by who has asked
        _send(answers, _framed(_Failure(RuntimeError(f"{type(error).__name__}: {error}"))))
        return
    _send(answers, _framed(None))
    while _FORKS and (fork := os.fork()):
        code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        if code != _MET_DAMAGE:
            os._exit(code if code >= 0 else _OF_A_SIGNAL - code)
    code = 1
    try:
        code = _answer_all(requests, answers)
    finally:
        os._exit(code)


def _answer_all(requests: IO[bytes], answers: IO[bytes]) -> int:
    """Answer requests until a file is damaged; gives the exit code."""
    while True:
        try:
            read, path, arguments, limits = _receive(requests)
        except EOFError:
            return 0
        if _FORKS:
            _limit_this_process(limits)
        try:
            answer = _framed(read(path, *arguments))
        except MemoryError:
            wants = f"reading it takes more than {in_bytes(limits.memory)} of memory"
            failure: Exception = UnreadableError(f"{wants}, the limit for a file of {in_bytes(limits.size)}")
        except Exception as error:  # noqa: BLE001  a damaged file makes a library raise anything
            failure = _portable(error)
        else:
            _send(answers, answer)
            continue
        _send(answers, _framed(_Failure(failure)))
        return _MET_DAMAGE


def _limit_this_process(limits: _Limits) -> None:
    """Let the system end this process when it has computed too long, and refuse it memory; counted from now."""
    import resource  # Windows has none

    def limit(kind: int, most: int) -> None:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, ceil(process_time()) + limits.seconds)
    pages = Path("/proc/self/statm")
    if pages.exists():  # of Linux; elsewhere only what a file says of itself is held against a limit
        limit(resource.RLIMIT_AS, int(pages.read_text().split()[0]) * resource.getpagesize() + limits.memory)


def _portable(error: Exception) -> Exception:
    if isinstance(error, WsipipeError):
        return error
    fault = reading_fault(error)
    if fault is not None:
        return fault
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.encode("utf-8", "backslashreplace").decode()  # names in a damaged file are not always text
    unreadable = UnreadableError(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …")
    if not isinstance(error, UnreadableError):
        unreadable.add_note("".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace").decode())
    return unreadable
