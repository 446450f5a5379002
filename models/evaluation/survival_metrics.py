"""Figures of predicted risks over follow-ups, some of which are censored.

A pair of patients is comparable if the first had the event before the other's time, or at the other's time of
censoring. Harrell's C (JAMA 247:2543, 1982) is the share of comparable pairs in which the first had the higher risk,
equal risks counting a half. Uno's C (Stat. Med. 30:1105, 2011) weighs each pair by 1 / G(t)², G the Kaplan–Meier
estimate of not being censored before t, so that it does not depend on when patients were censored. G is that of all
patients in every bootstrap round.
"""

from __future__ import annotations

from math import log

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from .task_metrics import Figures, Floats, TaskMetrics, share, with_intervals

Bools = npt.NDArray[np.bool_]
HARRELL, UNO = "C-index (Harrell)", "C-index (Uno)"


def survival_figures(times: npt.ArrayLike, events: npt.ArrayLike, risks: npt.ArrayLike) -> Figures:
    """Make the function that computes the figures of N patients in bootstrap rounds.

    :param times, events, risks: (N,); a higher risk means an earlier event.
    """
    t, e, r = np.asarray(times, np.float64), np.asarray(events, np.bool_), np.asarray(risks, np.float64)
    comparable = (e[:, None] & ((t[:, None] < t) | ((t[:, None] == t) & ~e))).astype(np.float64)
    wins = comparable * ((r[:, None] > r) + (r[:, None] == r) / 2)
    uncensored = np.array([_before(kaplan_meier(t, ~e), time) for time in t])
    of_pair = np.where(e & (uncensored > 0), 1 / np.maximum(uncensored, 1e-12) ** 2, 0.0)[:, None]

    def figures(weights: Floats) -> dict[str, Floats]:
        def pairs(matrix: Floats) -> Floats:
            total: Floats = ((weights @ matrix) * weights).sum(axis=1)
            return total

        return {
            HARRELL: share(pairs(wins), pairs(comparable)),
            UNO: share(pairs(wins * of_pair), pairs(comparable * of_pair)),
        }

    return figures


def survival_metrics(
    times: npt.ArrayLike, events: npt.ArrayLike, risks: npt.ArrayLike, *, rounds: int, seed: int
) -> TaskMetrics:
    """Compute the figures of N patients with 95 % intervals.

    :param times, events, risks: (N,).
    """
    e = np.asarray(events, np.bool_)
    return TaskMetrics(
        task="survival",
        n_patients=len(e),
        counts={"with the event": int(e.sum()), "censored": int((~e).sum())},
        figures=with_intervals((HARRELL, UNO), survival_figures(times, e, risks), e, rounds=rounds, seed=seed),
        chance={HARRELL: 0.5, UNO: 0.5},
        bootstrap_rounds=rounds,
        seed=seed,
    )


def kaplan_meier(times: npt.ArrayLike, events: npt.ArrayLike) -> list[tuple[float, float]]:
    """Estimate the share without the event (Kaplan and Meier, J. Am. Stat. Assoc. 53:457, 1958).

    :param times, events: (N,).
    :returns: (time, share from this time on), beginning with (0, 1), a step for each time of an event.
    """
    t, e = np.asarray(times, np.float64), np.asarray(events, np.bool_)
    steps, left = [(0.0, 1.0)], 1.0
    for time in np.unique(t[e]).tolist():
        left *= 1 - int((e & (t == time)).sum()) / int((t >= time).sum())
        steps.append((time, left))
    return steps


def _before(steps: list[tuple[float, float]], time: float) -> float:
    """The estimate just before a time."""
    return next((left for step, left in reversed(steps) if step < time), 1.0)


def log_rank(times: npt.ArrayLike, events: npt.ArrayLike, groups: npt.ArrayLike) -> float | None:
    """Compute the p-value of no difference between two groups (Mantel, Cancer Chemother. Rep. 50:163, 1966).

    :param times, events, groups: (N,); groups are 0 and 1.
    :returns: None if it is not defined, as with one group.
    """
    t, e, first = np.asarray(times, np.float64), np.asarray(events, np.bool_), np.asarray(groups) == 1
    excess = variance = 0.0
    for time in np.unique(t[e]):
        at_risk, died = int((t >= time).sum()), int((e & (t == time)).sum())
        of_first = int((first & (t >= time)).sum())
        excess += int((first & e & (t == time)).sum()) - died * of_first / at_risk
        if at_risk > 1:
            both = of_first * (at_risk - of_first) / at_risk**2
            variance += died * both * (at_risk - died) / (at_risk - 1)
    return float(chi2.sf(excess**2 / variance, 1)) if variance > 0 else None


def cox_loss(times: npt.ArrayLike, events: npt.ArrayLike, risks: npt.ArrayLike) -> float:
    """Compute minus the log partial likelihood of log hazards, a mean over the events; 0 without events.

    Tied events are Efron's (J. Am. Stat. Assoc. 72:557, 1977): with d of them at one time, the l-th (from 0) is held
    against the sum over those at risk, minus l / d of the sum over the tied ones.

    :param times, events, risks: (N,).
    """
    t, e, r = np.asarray(times, np.float64), np.asarray(events, np.bool_), np.asarray(risks, np.float64)
    if not e.any():
        return 0.0
    total, highest = 0.0, float(r.max())
    for time in np.unique(t[e]):
        tied, at_risk = r[e & (t == time)] - highest, r[t >= time] - highest
        sums = [float(np.exp(part).sum()) for part in (at_risk, tied)]
        total -= float(tied.sum()) - sum(log(sums[0] - i / len(tied) * sums[1]) for i in range(len(tied)))
    return total / int(e.sum())
