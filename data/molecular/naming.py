"""What the user says of a matrix's names, where the file leaves it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Orientation = Literal["auto", "genes-in-rows", "patients-in-rows"]


@dataclass(frozen=True)
class Naming:
    """Where the names are and which of them are no genes.

    :param column: title of the column (or name of the row) that holds the names; ``#2`` is the second column.
    :param drop: columns and rows to leave out, by their names.
    :param keep: columns and rows that are genes though they look like none.
    :param numbers: whether row numbers (0, 1, 2 …) are the names.
    :param of_all: whether what is to be left out must be in this matrix; of several matrices, it may be in another.
    """

    column: str | None = None
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    numbers: bool = False
    of_all: bool = True


AS_WRITTEN = Naming()
"""The user says nothing: the file alone decides."""
