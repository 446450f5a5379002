"""What a child process needs to live and die with its parent: Ctrl-C, the user's script, the parent's end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Final

_HIDING: Final = threading.Lock()


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Make processes that are started in the block ignore Ctrl-C from the start.

    Ctrl-C reaches all processes of the group; the parent then ends its workers.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep processes that are started in the block from importing the user's script again.

    multiprocessing imports it in every process, which would run a script without an ``if __name__ == "__main__"`` guard
    from its beginning.
    """
    with _HIDING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def end_with(parent: Connection) -> None:
    """End this process as soon as its parent closes the other end of the connection, or dies."""
    if sys.platform == "linux":
        # A signal of the system also ends a process in which a decoder hangs and holds the interpreter's lock.
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC)
        if parent.poll():  # before the signal was asked for
            os._exit(1)
        _kept.append(parent)
    else:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


_kept: Final[list[Connection]] = []
"""Connections whose closing shows that the parent has ended; kept open, and never read."""


def _exit_after(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)
