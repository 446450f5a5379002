"""The interval of a share of pairs in the right order: AUC, concordance and C-index.

It is the widest of three, and ends inside 0 and 1:

- The percentile interval of a bootstrap over patients (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
  section 13.3). Near 1 it lies too high, because the patients that make errors are few and often are not drawn.
- The normal interval of the log-odds of the share, with the standard deviation of the same rounds (as Pepe, The
  Statistical Evaluation of Medical Tests, 2003, section 5.2, has it with DeLong's): wider towards the middle.
- What is known if there is no error at all. Pairs of patients that have nobody in common are independent, and each is
  in the right order with the probability that the AUC estimates. Of k such pairs, all are with the probability AUC^k,
  whatever the scores are distributed like; so the 95 % interval of Clopper and Pearson (Biometrika 26:404, 1934) for k
  of k reaches from 0.025^(1/k) to 1. Somebody with an error does not make a higher AUC more certain, so no lower limit
  lies above this one (and, of shares near 0, no upper limit below 1 less it).

Of m positive and n negative patients k is the smaller of both: Hoeffding (J. Am. Stat. Assoc. 58:13, 1963, section 5)
takes a statistic of pairs apart in this way. In general, each pair counts for 1 / d, with d the most pairs that one
patient is in: k is the number of pairs divided by d, by the generalised Hölder inequality of Finner (Ann. Probab.
20:1893, 1992). So concordance and C-index have theirs too.

How often it holds the truth is measured by ``tests/benchmarks/auc_intervals.py``, with normal scores and with a few
patients of one class who look like the other, as wrong labels and mixed tumours do. There the bootstrap alone, and
Newcombe's method 5 (Stat. Med. 25:559, 2006), which takes the scores of both classes to be distributed exponentially,
hold it too rarely. Hanley and McNeil's and DeLong's errors are 0 at an AUC of 1.
"""

from __future__ import annotations

from math import exp, log
from typing import Final

import numpy as np
import numpy.typing as npt

from .estimate import TAIL, Z95, Estimate, differ

Floats = npt.NDArray[np.float64]
_ROUNDING: Final = 1e-12
"""By how much the sums of weighted pairs may miss 0 and 1, as where an AUC is weighted for censoring."""


def lowest_share(pairs: float) -> float:
    """Compute the lower limit of the share that is in the right order where all of k independent pairs are; k > 0."""
    return float(TAIL ** (1 / pairs))


def independent_pairs(weights: npt.ArrayLike) -> float:
    """Compute how many independent pairs the compared pairs amount to; 0 if none is compared.

    :param weights: (N, N) what each pair of patients counts for, 0 for pairs that are not compared.
    """
    of_pairs = np.asarray(weights, np.float64)
    most = float((of_pairs.sum(axis=0) + of_pairs.sum(axis=1)).max(initial=0))
    return float(of_pairs.sum()) / most if most else 0.0


def share_of_pairs(value: float, drawn: Floats, lowest: float) -> Estimate:
    """Compute the interval of a share of pairs, or of a mean of such shares.

    None where it lies between 0 and 1 and no round differs, as where all patients have the same score.

    :param drawn: (rounds,) the share in each round of a bootstrap over patients, one at least.
    :param lowest: its lower limit where it is 1.
    """
    if value >= 1 - _ROUNDING:
        return Estimate(value=1.0, low=lowest, high=1.0)
    if value <= _ROUNDING:
        return Estimate(value=0.0, low=0.0, high=1 - lowest)
    if not differ(drawn):
        return Estimate(value=value)
    low, high = (float(limit) for limit in np.quantile(drawn, [TAIL, 1 - TAIL]))
    half = Z95 * float(drawn.std()) / (value * (1 - value))
    return Estimate(
        value=value,
        low=min(low, _share(log(value / (1 - value)) - half), lowest),
        high=max(high, _share(log(value / (1 - value)) + half), 1 - lowest),
    )


def _share(log_odds: float) -> float:
    """The share of log-odds, without overflow."""
    if log_odds < 0:
        return exp(log_odds) / (1 + exp(log_odds))
    return 1 / (1 + exp(-log_odds))
