"""Scores of tiles, checked against their positions before they are drawn or written."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

Floats = npt.NDArray[np.float64]


def scored_tiles(coords: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Corners (N, 2) and scores (N,) of a slide's tiles as float64.

    :raises UsageError: no tiles, not one score a tile, or scores that are not finite.
    """
    corners, values = np.asarray(coords, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not len(corners) or corners.shape != (len(values), 2) or values.ndim != 1:
        raise UsageError(f"coordinates {corners.shape} and scores {values.shape} are not N tiles' (N, 2) and (N,)")
    if not np.isfinite(values).all():
        raise UsageError(f"{(~np.isfinite(values)).sum()} of {len(values)} tile scores are not finite")
    return corners, values
