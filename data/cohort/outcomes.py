"""What is asked of a patient: a class, a number, or a time with or without an event; and how tables spell it."""

from __future__ import annotations

import re
from math import isfinite
from typing import NamedTuple


class Survival(NamedTuple):
    """A follow-up: its length, in the unit of the cohort table, and whether it ended with the event."""

    time: float
    event: bool

    def __str__(self) -> str:
        return f"{'event' if self.event else 'censored'} at {float(self.time)!r}"


Label = int | float | Survival
"""A patient's label: the place of a class, from 0; a number; or a follow-up."""

_MOST_DIGITS = 9
"""Of a class's place."""
_FOLLOW_UP = re.compile(r"(event|censored) at (\S+)")


def as_number(label: Label) -> float:
    """The label as one number: the place of a class, the number, or the length of a follow-up."""
    return float(label.time if isinstance(label, Survival) else label)


def shown_label(label: Label) -> str:
    """A label for people: a number with four digits, a follow-up with three."""
    if isinstance(label, Survival):
        return f"{label.time:.3g}{'' if label.event else ', censored'}"
    return f"{label:.4g}"


def label_from_text(text: str) -> Label | None:
    """Read a label as ``str`` writes it: ``2``, ``2.0``, ``event at 31.5``, ``censored at 60.0``; None if it is none.

    A class is written without a decimal point, a number with one or with an exponent.
    """
    if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS:
        return int(text)
    follow_up = _FOLLOW_UP.fullmatch(text)
    try:
        number = float(follow_up[2] if follow_up else text)
    except ValueError:
        return None
    if not isfinite(number):
        return None
    return Survival(number, follow_up[1] == "event") if follow_up else number


def label_of(text: str, classes: int) -> Label | None:
    """Read a label of a question; None if it is none of its own.

    :param classes: how many classes it has; 0 if labels are numbers or follow-ups.
    """
    label = label_from_text(text)
    fits = label in range(classes) if isinstance(label, int) else not classes
    return label if fits else None
