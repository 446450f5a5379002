"""A limit that a stated share of further values passes, from values that were measured.

With enough values it is one of them: of n, the ⌈(n + 1)(1 − share)⌉-th smallest, which a further value passes with at
most that probability whatever their distribution is. With fewer it is the prediction limit of a log-normal
distribution: the mean of the logarithms plus t(n − 1) · their standard deviation · √(1 + 1/n) (Hahn and Meeker,
*Statistical Intervals*, 1991).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.stats import t as student

FEWEST: Final = 5
"""Values below which there is no limit."""


def upper_limit(values: Sequence[float], share: float) -> float | None:
    """The limit that at most a share of further values passes; None with too few values.

    :param values: above zero.
    """
    n = len(values)
    if n < FEWEST:
        return None
    place = math.ceil((n + 1) * (1 - share))
    if place <= n:
        return float(np.sort(values)[place - 1])
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    reach = float(student.ppf(1 - share, n - 1)) * float(logs.std(ddof=1)) * math.sqrt(1 + 1 / n)
    return float(np.exp(logs.mean() + reach))


def lower_limit(values: Sequence[float], share: float) -> float | None:
    """The limit below which at most a share of further values lies; None with too few values.

    :param values: above zero.
    """
    limit = upper_limit([1 / value for value in values], share)
    return None if limit is None else 1 / limit
