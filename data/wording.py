"""Formatting lists and numbers in sentences."""

from __future__ import annotations

from collections.abc import Sequence


def some(items: Sequence[str], most: int = 5) -> str:
    """The first few items of a list, and how many more there are.

    >>> some(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def in_words(items: Sequence[str], most: int = 5) -> str:
    """A list with "and" before the last item; a long one is shortened to its first items and the number of others.

    >>> in_words(["a"]), in_words(["a", "b", "c"]), in_words(["a", "b", "c"], most=1)
    ('a', 'a, b and c', 'a and 2 more')
    """
    *before, last = [*items[:most], f"{len(items) - most} more"] if len(items) > most else items
    return f"{', '.join(before)} and {last}" if before else last


def figure(value: float) -> str:
    """A number with three significant digits, or as a whole number from 100 on.

    >>> figure(0.12345), figure(12345)
    ('0.123', '12,345')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
