"""What the user says about the names in a matrix, if the file alone does not decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Orientation = Literal["auto", "genes-in-rows", "patients-in-rows"]


@dataclass(frozen=True)
class Naming:
    """Which column has the names, and which of them are genes.

    :param column: title of the column (or name of the row) with the names; ``#2`` is the second column.
    :param drop: names of columns and rows to leave out.
    :param keep: names of columns and rows that are genes, though they do not look like genes.
    :param numbers: whether row numbers (0, 1, 2 …) are the names.
    :param of_all: whether every name in ``drop`` must be in this matrix; of several matrices, it may be in another.
    """

    column: str | None = None
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    numbers: bool = False
    of_all: bool = True


AS_WRITTEN = Naming()
"""The default: the file alone decides."""
