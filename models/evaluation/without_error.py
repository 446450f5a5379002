"""The interval of a share of pairs without an error: where an AUC is 1, so is that of every bootstrap round.

Pairs of patients that have nobody in common are independent, and each is in the right order with the probability that
the AUC estimates. Of k such pairs, all are with the probability AUC^k, whatever the scores are distributed like; so the
95 % interval of Clopper and Pearson (Biometrika 26:404, 1934) for k of k reaches from 0.025^(1/k) to 1. Of m positive
and n negative patients k is the smaller of both: Hoeffding (J. Am. Stat. Assoc. 58:13, 1963, section 5) takes a
statistic of pairs apart in this way. In general, each pair counts for 1 / d, with d the most pairs that one patient is
in: k is the number of pairs divided by d, by the generalised Hölder inequality of Finner (Ann. Probab. 20:1893, 1992).
So concordance and C-index have theirs too.

It covers the true value in at least 95 of 100 cohorts, and in more of them where errors are spread evenly. Newcombe's
method 5 (Stat. Med. 25:559, 2006) is narrower, because it takes the scores of both classes to be distributed
exponentially; it covers too rarely where a few patients of one class look like the other, as wrong labels and mixed
tumours do. Hanley and McNeil's and DeLong's errors are 0 at an AUC of 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .estimate import Estimate

Floats = npt.NDArray[np.float64]
_TAIL: Final = 0.025


def lowest_share(pairs: float) -> float:
    """Compute the lower limit of the share that is in the right order where all of k independent pairs are; k > 0."""
    return float(_TAIL ** (1 / pairs))


def independent_pairs(weights: npt.ArrayLike) -> float:
    """Compute how many independent pairs the compared pairs amount to; 0 if none is compared.

    :param weights: (N, N) what each pair of patients counts for, 0 for pairs that are not compared.
    """
    of_pairs = np.asarray(weights, np.float64)
    most = float((of_pairs.sum(axis=0) + of_pairs.sum(axis=1)).max(initial=0))
    return float(of_pairs.sum()) / most if most else 0.0


def without_error(value: float, low: float) -> Estimate | None:
    """The interval of a share of pairs that is 1 or, with all of them in the wrong order, 0; None for other values.

    :param low: its lower limit where it is 1.
    """
    if value == 1:
        return Estimate(value=value, low=low, high=1.0)
    return Estimate(value=value, low=0.0, high=1 - low) if value == 0 else None
