"""What the fixture ``figure`` of the tests of a GPU is: it notes what a test has measured."""

from __future__ import annotations

from typing import Protocol


class Figure(Protocol):
    """Appends the figures of one measurement to a file."""

    def __call__(self, what: str, **figures: float | str | bool) -> None: ...
