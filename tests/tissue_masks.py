"""Masks for tests that need one and no picture, and the area of a ring."""

from __future__ import annotations

import numpy as np
from wsipipe.data.tiling.tissue import TissueMask
from wsipipe.data.units import Mpp


def tissue(mask: np.ndarray, downsample: float = 32.0) -> TissueMask:
    return TissueMask(
        mask=mask,
        downsample=downsample,
        mpp=Mpp(8),
        verdict="tissue and glass",
        threshold=7,
        pen=np.zeros_like(mask),
    )


def ring_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
