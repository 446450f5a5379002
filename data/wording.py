"""How lists appear in sentences."""

from __future__ import annotations

from collections.abc import Sequence


def some(items: Sequence[str], most: int = 5) -> str:
    """The first few of a list, and how many there are beside them.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
