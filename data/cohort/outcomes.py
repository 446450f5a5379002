"""What is asked of a patient: a class, a number, or a time with or without an event; and how tables spell it."""

from __future__ import annotations

import re
from math import isfinite
from typing import NamedTuple

from ..errors import UsageError


class Survival(NamedTuple):
    """A follow-up: its length, in the unit of the cohort table, and whether it ended with the event."""

    time: float
    event: bool

    def __str__(self) -> str:
        return f"{'event' if self.event else 'censored'} at {float(self.time)!r}"


class TargetLabels(tuple["int | float | Survival | None", ...]):
    """A patient's labels for several targets, in their order; None where one is missing."""

    def __str__(self) -> str:
        return _BETWEEN.join(_MISSING if label is None else str(label) for label in self)


Label = int | float | Survival | TargetLabels
"""A patient's label: the place of a class, from 0; a number; a follow-up; or one of these for each of several
targets."""
Classes = int | tuple[int, ...]
"""How many classes a question has, 0 if its labels are numbers or follow-ups; for several targets that of each."""

_BETWEEN, _MISSING = " / ", "?"
"""How labels of several targets are written: ``1 / ? / 0``."""

_MOST_DIGITS = 9
"""Of a class's place."""
_FOLLOW_UP = re.compile(r"(event|censored) at (\S+)")


def as_number(label: Label) -> float:
    """The label as one number: the place of a class, the number, or the length of a follow-up.

    :raises UsageError: it is of several targets.
    """
    if isinstance(label, TargetLabels):
        raise UsageError("labels of several targets are no number")
    return float(label.time if isinstance(label, Survival) else label)


def shown_label(label: Label) -> str:
    """A label for people: a number with four digits, a follow-up with three."""
    if isinstance(label, TargetLabels):
        return str(label)
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


def label_of(text: str, classes: Classes) -> Label | None:
    """Read a label of a question, ``1 / ? / 0`` for several targets; None if it is none of its own."""
    if isinstance(classes, tuple):
        parts = text.split(_BETWEEN)
        if len(parts) != len(classes):
            return None
        read = [None if part == _MISSING else label_of(part, own) for part, own in zip(parts, classes, strict=True)]
        known = [label for label in read if label is not None]
        sound = known and len(known) == sum(part != _MISSING for part in parts)
        return TargetLabels(read) if sound else None  # type: ignore[arg-type]  # those of a target are of one
    label = label_from_text(text)
    fits = label in range(classes) if isinstance(label, int) else not classes
    return label if fits else None
