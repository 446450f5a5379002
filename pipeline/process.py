"""The process of a command: standard streams that can always be written to, and signals that end it in order.

A run of days must not end because nobody reads its messages any more: a pipe whose reader has left (``| head``), a
terminal that was closed, a log file on a full disk. What cannot be written is dropped, and the work goes on. Only the
standard library is imported here, so that all this holds from the first moment on.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn, TextIO

INTERRUPTED: Final = "interrupted; finished items are kept, and the same command continues from here"
_EXIT_CODE: Final = 130
_SHOW_CURSOR: Final = "\x1b[?25h"
_LEFT: Final = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Nobody reads any more: the other end of the pipe is closed, or the terminal is."""
_PLAIN: Final = {"→": "->", "×": "x", "µ": "u", "…": "...", "−": "-", "–": "-", "·": "|", "±": "+/-", "≥": ">="}
"""What signs of our messages are written as where the encoding of a stream lacks them."""

_signals: Final[list[int]] = []
"""Those that arrived."""


def run_command(load: Callable[[], Callable[[], object]]) -> None:
    """Run a command in this process, which ends with its exit code.

    Ctrl-C, SIGTERM (``docker stop``, Slurm) and SIGHUP (a closed terminal) interrupt it; a second one ends it at once,
    which costs no more than a kill does. So does the first while the command is being imported: nothing has begun.

    :param load: imports what the command needs, and returns the function to call.
    """
    _set_signals(_end_now)
    _open_closed_streams()
    out = sys.stdout = _unfailing(sys.stdout)
    sys.stderr = _unfailing(sys.stderr)
    command = load()
    _set_signals(_interrupt)
    try:
        command()
    except SystemExit as end:
        _close(out, end.code)
    _close(out, 0)


def was_interrupted() -> bool:
    """Whether a signal has asked this process to end: libraries turn the interrupt into errors of their own."""
    return bool(_signals)


def plain_signs(error: UnicodeError) -> tuple[str, int]:
    """Write signs that an encoding lacks in plain letters, or as ``\\u2026`` (the handler ``wsipipe-plain``)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(s) or s.encode("ascii", "backslashreplace").decode() for s in signs), error.end


codecs.register_error("wsipipe-plain", plain_signs)


# ----- signals -----


def _set_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or in the background
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _signals.append(number)
    if len(_signals) > 1:
        _end_now(number, frame)
    raise KeyboardInterrupt


def _end_now(number: int, frame: FrameType | None) -> NoReturn:
    """End without cleaning up: the next run does that. Workers end with this process, and so do its locks."""
    cursor = _SHOW_CURSOR if os.isatty(2) else ""
    with suppress(OSError):  # nobody is there to read it
        os.write(2, f"{cursor}{INTERRUPTED}\n".encode())
    os._exit(_EXIT_CODE)


# ----- streams -----


class _Sink(io.FileIO):
    """A file whose writes never fail: what cannot be written is dropped, and the first failure is kept."""

    failure: OSError | None = None

    def write(self, data: object) -> int:
        """Write bytes, or drop them."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self.failure is None:
            try:
                return super().write(view)
            except OSError as error:
                if error.errno == errno.EINTR:
                    raise
                self.failure = error
        return len(view)


def _open_closed_streams() -> None:
    """Give closed standard streams a place: the next file that is opened would get their number, and their text."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def writable(stream: TextIO | None) -> TextIO:
    """A standard stream to which any text can be written; one that drops it where the stream is None (closed)."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if isinstance(stream, io.TextIOWrapper) and stream.errors != "wsipipe-plain":
        stream.reconfigure(errors="wsipipe-plain")
    return stream


def _unfailing(stream: TextIO | None) -> TextIO:
    """The same stream, to be written to whatever becomes of it."""
    stream = writable(stream)
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # not a file: a notebook's, or a test's
        return stream
    sink = io.BufferedWriter(_Sink(number, "w", closefd=False))
    lines = number == 2 or stream.isatty()
    return io.TextIOWrapper(sink, encoding=stream.encoding, errors="wsipipe-plain", line_buffering=lines)


def _close(out: TextIO, code: object) -> NoReturn:
    """Write out what is left and end.

    :param code: the exit code. It is 1 if all went well but the result could not be written to a full disk.
    """
    out.flush()
    sink = getattr(getattr(out, "buffer", None), "raw", None)
    failure = sink.failure if isinstance(sink, _Sink) else None
    if failure is not None and failure.errno not in _LEFT:
        sys.stderr.write(f"error could not write the result to standard output: {failure.strerror}\n")
        code = code or 1
    sys.stderr.flush()
    sys.exit(code)  # type: ignore[arg-type]
