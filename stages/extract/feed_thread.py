"""Threads of the feed, which report any error that ends them, so that no other thread waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from ...data.errors import WsipipeError


class FeedThread(Thread):
    """A daemon thread that reports its error; if it hangs, the process can still end.

    :param work: the function to run.
    :param failed: called in the thread with any error that ends ``work``.
    """

    def __init__(self, name: str, work: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._failed = work, failed

    def run(self) -> None:
        """Do the work."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  the boundary: raised again where the feed is run
            self._failed(as_exception(error))


def as_exception(error: BaseException) -> Exception:
    """Convert any error, such as a thread's ``SystemExit`` or a library's panic, to an ``Exception``."""
    if isinstance(error, Exception):
        return error
    stopped = WsipipeError(f"a thread was ended by {type(error).__name__}: {error}")
    stopped.__cause__ = error
    return stopped
