"""A figure with its 95 % interval, and the percentile interval of a bootstrap.

Where no round differs from the others, the rounds say nothing of how certain the figure is: an interval from 1 to 1, or
from 0 to 0, would say that it is known for sure. Such a figure has no interval, unless another one is known for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

TAIL: Final = 0.025
Z95: Final = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""
_ROUNDING: Final = 1e-12
"""Relative: by how much rounds may differ that are the same but for the order in which they were summed up."""


class Estimate(BaseModel):
    """A figure and its 95 % interval. All are None if it is undefined; the limits are None if there is no interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    low: float | None = None
    high: float | None = None


def percentiles(drawn: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Find the limits of a percentile interval; None where they are the same, or where there is no round.

    :param drawn: (rounds,) the figure in each round of a bootstrap.
    """
    if not len(drawn):
        return None
    low, high = (float(limit) for limit in np.quantile(drawn, [TAIL, 1 - TAIL]))
    return (low, high) if high - low > _ROUNDING * max(abs(low), abs(high)) else None


def differ(drawn: npt.NDArray[np.float64]) -> bool:
    """Whether any round differs from the others."""
    return len(drawn) > 0 and float(np.ptp(drawn)) > _ROUNDING * float(np.abs(drawn).max())


def percentile_interval(value: float, drawn: npt.NDArray[np.float64]) -> Estimate:
    """Give a figure its percentile interval; none where the limits are the same."""
    return within(value, percentiles(drawn))


def within(value: float, limits: tuple[float, float] | None) -> Estimate:
    """Give a figure its limits, if it has some."""
    return Estimate(value=value) if limits is None else Estimate(value=value, low=limits[0], high=limits[1])
