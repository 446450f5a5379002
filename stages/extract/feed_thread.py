"""Threads of the feed: an error that one of them does not foresee is reported, so that nobody waits for it for ever."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from ...data.errors import WsipipeError


class FeedThread(Thread):
    """A daemon thread: one that hangs does not keep the process from ending.

    :param work: what it does.
    :param failed: called in the thread with the error that ended ``work``, whatever it is.
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
    """The error as one that ends no more than the work: a thread's ``SystemExit`` or a panic of a library too."""
    if isinstance(error, Exception):
        return error
    stopped = WsipipeError(f"a thread was ended by {type(error).__name__}: {error}")
    stopped.__cause__ = error
    return stopped
