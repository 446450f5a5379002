"""Opening of slides in the background, each in a thread of its own that can be abandoned."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

from ...data.errors import SlideError
from ..stage import Item
from .feed_batch import OpenBag
from .feed_thread import as_exception


def opening_in_a_thread(item: Item, open_bag: Callable[[Item], OpenBag]) -> Future[OpenBag]:
    """Start opening an item in a daemon thread: if it hangs, the process can still end."""
    opening: Future[OpenBag] = Future()
    Thread(target=_open, args=(item, open_bag, opening), name="open", daemon=True).start()
    return opening


def bag_or_error(item: Item, opening: Future[OpenBag], seconds: float) -> OpenBag | Exception:
    """Return the opened slide or the error; a slide that is not open after ``seconds`` is given up."""
    if not opening.done():
        opening.add_done_callback(let_go)
        return SlideError(
            f"was given up after {seconds:g} s of opening it: the reader or the storage hangs",
            path=item.id,
            hint="check the file and its disk; if both are fine, raise --tile-timeout and use --retry-failed",
        )
    try:
        return opening.result()
    except Exception as error:  # noqa: BLE001  as it was raised in the thread
        return error


def let_go(opening: Future[OpenBag]) -> None:
    """Close a slide that was given up and has been opened after all."""
    if opening.exception() is None:
        bag = opening.result()
        bag.sink.discard()
        bag.close()


def _open(item: Item, open_bag: Callable[[Item], OpenBag], opening: Future[OpenBag]) -> None:
    try:
        opening.set_result(open_bag(item))
    except BaseException as error:  # noqa: BLE001  the boundary: a failed slide never stops the others
        opening.set_exception(as_exception(error))
