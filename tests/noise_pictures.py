"""Tissue all over, of any size, drawn in a moment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noisy_tissue(seed: int, side: int) -> NDArray[np.uint8]:
    """Pink noise of two scales, (side, side, 3).

    :param side: a multiple of 16.
    """
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(side // 16, side // 16)), np.ones((16, 16)))
    value = 25 * coarse + 15 * rng.normal(size=(side, side))
    return np.clip(np.stack([200 + value, 110 + value, 170 + value], axis=-1), 0, 255).astype(np.uint8)
