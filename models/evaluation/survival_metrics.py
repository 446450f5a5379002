"""Figures of predicted risks, and of predicted shares without the event, over follow-ups some of which are censored.

A pair of patients is comparable if the first had the event before the other's time, or at the other's time of
censoring. Harrell's C (JAMA 247:2543, 1982) is the share of comparable pairs in which the first had the higher risk,
equal risks counting a half. Uno's C (Stat. Med. 30:1105, 2011) weighs each pair by 1 / G(t)², G the Kaplan–Meier
estimate of not being censored before t, so that it does not depend on when patients were censored. The AUC at a time
(Uno et al., J. Am. Stat. Assoc. 102:527, 2007) holds those who had the event by then, each weighed by 1 / G(their
time), against those who were followed beyond it without the event. The Brier score at a time is the squared difference
of the predicted share without the event from 1 or 0, weighed likewise (Graf et al., Stat. Med. 18:2529, 1999); the
integrated one is its mean over the times from the first horizon to the last, by trapezoids. Its chance is what the
Kaplan–Meier estimate of these patients gets. G counts events before censorings at the same time, and is that of all
patients in every bootstrap round.

scikit-survival has the same figures, and the tests hold these against it; it is not called here because it computes one
sample at a time, and the intervals need thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from .share_of_pairs import independent_pairs, lowest_share
from .task_metrics import Figures, Floats, TaskMetrics, ranked_share, share, with_intervals

Bools = npt.NDArray[np.bool_]
HARRELL, UNO, INTEGRATED = "C-index (Harrell)", "C-index (Uno)", "integrated Brier score"
WITH_EVENT = "with the event"
"""The count of patients on whom it depends how sure these figures are."""
QUARTILES = (0.25, 0.5, 0.75)


def at(time: float, unit: str = "") -> str:
    """A time with its unit, if there is one."""
    return f"{time:g} {unit}".strip()


def survival_figures(
    times: npt.ArrayLike,
    events: npt.ArrayLike,
    risks: npt.ArrayLike,
    *,
    horizons: Sequence[float] = (),
    shares: Sequence[Sequence[float]] = (),
    time_unit: str = "",
) -> Figures:
    """Make the function that computes the figures of N patients in bootstrap rounds.

    :param times, events, risks: (N,); a higher risk means an earlier event.
    :param horizons: times of the AUC; by default the quartiles of these patients' event times.
    :param shares: (N, horizons) predicted shares without the event; without them there are no Brier scores.
    :param time_unit: for the names of the figures.
    """
    t, e, r = np.asarray(times, np.float64), np.asarray(events, np.bool_), np.asarray(risks, np.float64)
    comparable, wins = _pairs(t, e, r)
    of_pair = _weights_of_uno(t, e)
    predicted = np.array([list(row) for row in shares], np.float64) if horizons and len(shares) else None
    chosen = tuple(horizons) or event_quartiles(t, e)

    def figures(weights: Floats) -> dict[str, Floats]:
        def pairs(matrix: Floats) -> Floats:
            total: Floats = ((weights @ matrix) * weights).sum(axis=1)
            return total

        found = {
            HARRELL: share(pairs(wins), pairs(comparable)),
            UNO: share(pairs(wins * of_pair), pairs(comparable * of_pair)),
        }
        for time in chosen:
            case, control = _weights_at(t, e, time)
            found[f"AUC at {at(time, time_unit)}"] = ranked_share(weights * case, weights * control, r)
        return found if predicted is None else found | _brier_scores(weights, t, e, predicted, chosen, time_unit)

    return figures


def survival_metrics(
    times: npt.ArrayLike,
    events: npt.ArrayLike,
    risks: npt.ArrayLike,
    *,
    horizons: Sequence[float] = (),
    shares: Sequence[Sequence[float]] = (),
    time_unit: str = "",
    rounds: int,
    seed: int,
) -> TaskMetrics:
    """Compute the figures of N patients with 95 % intervals.

    :param times, events, risks, horizons, shares, time_unit: as for :func:`survival_figures`.
    """
    t, e = np.asarray(times, np.float64), np.asarray(events, np.bool_)
    figures = survival_figures(t, e, risks, horizons=horizons, shares=shares, time_unit=time_unit)
    everyone = np.ones((1, len(t)))
    names = tuple(figures(everyone)) if len(t) else (HARRELL, UNO)
    chance = {name: 0.5 for name in names if "Brier" not in name}
    if any("Brier" in name for name in names):
        known = np.array([[_share_at(kaplan_meier(t, e), time) for time in horizons]] * len(t))
        by_chance = _brier_scores(everyone, t, e, known, horizons, time_unit)
        chance |= {name: float(value[0]) for name, value in by_chance.items() if np.isfinite(value[0])}
    return TaskMetrics(
        task="survival",
        n_patients=len(e),
        counts={WITH_EVENT: int(e.sum()), "censored": int((~e).sum())},
        figures=with_intervals(
            names, figures, e, rounds=rounds, seed=seed, pairs=_lowest_shares(t, e, horizons, time_unit)
        ),
        chance=chance,
        bootstrap_rounds=rounds,
        seed=seed,
    )


def harrell(times: npt.ArrayLike, events: npt.ArrayLike, risks: npt.ArrayLike) -> float:
    """Compute Harrell's C alone; NaN if no patients are comparable."""
    t, e, r = np.asarray(times, np.float64), np.asarray(events, np.bool_), np.asarray(risks, np.float64)
    comparable, wins = _pairs(t, e, r)
    total = float(comparable.sum())
    return float(wins.sum()) / total if total else float("nan")


def event_quartiles(times: npt.ArrayLike, events: npt.ArrayLike) -> tuple[float, ...]:
    """The quartiles of the event times, rounded to three digits; fewer if they are equal."""
    t = np.asarray(times, np.float64)[np.asarray(events, np.bool_)]
    exact = np.quantile(t, QUARTILES).tolist() if len(t) else []
    return tuple(sorted({float(f"{time:.3g}") for time in exact if time > 0}))


def median_follow_up(times: npt.ArrayLike, events: npt.ArrayLike) -> float | None:
    """Estimate the median time to censoring, events counting as censored (reverse Kaplan–Meier).

    Schemper and Smith, Control. Clin. Trials 17:343 (1996).

    :returns: None if fewer than half are known to have been censored.
    """
    t, e = np.asarray(times, np.float64), np.asarray(events, np.bool_)
    ends = np.unique(t[~e])
    below = ends[_uncensored(t, e, ends, before=False) <= 0.5]
    return float(below[0]) if len(below) else None


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


def _share_at(steps: list[tuple[float, float]], time: float) -> float:
    """The estimate at a time."""
    return next(left for step, left in reversed(steps) if step <= time)


def _pairs(t: Floats, e: Bools, r: Floats) -> tuple[Floats, Floats]:
    """Which pairs (N, N) are comparable, and what the first patient wins."""
    comparable = (e[:, None] & ((t[:, None] < t) | ((t[:, None] == t) & ~e))).astype(np.float64)
    return comparable, comparable * ((r[:, None] > r) + (r[:, None] == r) / 2)


def _lowest_shares(t: Floats, e: Bools, horizons: Sequence[float], time_unit: str) -> dict[str, float]:
    """The lower limit of each C-index and AUC where it is 1, by its name."""
    comparable, _ = _pairs(t, e, t)
    independent = {HARRELL: independent_pairs(comparable), UNO: independent_pairs(comparable * _weights_of_uno(t, e))}
    for time in tuple(horizons) or event_quartiles(t, e):
        case, control = _weights_at(t, e, time)
        independent[f"AUC at {at(time, time_unit)}"] = independent_pairs(case[:, None] * control)
    return {name: lowest_share(pairs) for name, pairs in independent.items() if pairs}


def _weights_of_uno(t: Floats, e: Bools) -> Floats:
    """What a pair weighs in Uno's C, by its first patient (N, 1)."""
    return np.asarray(np.where(e, 1 / _uncensored(t, e, t, before=True) ** 2, 0.0)[:, None])


def _uncensored(t: Floats, e: Bools, at_times: Floats, *, before: bool) -> Floats:
    """Estimate G, the share not censored by each of the times, or before them."""
    ends, censored = np.unique(t[~e], return_counts=True)
    at_risk = (t[:, None] > ends).sum(axis=0) + censored  # events come before censorings at the same time
    left = np.r_[1.0, np.cumprod(1 - censored / at_risk)]
    found: Floats = left[np.searchsorted(ends, at_times, side="left" if before else "right")]
    return found


def _weights_at(t: Floats, e: Bools, time: float) -> tuple[Floats, Floats]:
    """What each patient weighs who had the event by a time, and who was followed beyond it without."""
    had = e & (t <= time)
    beyond = t > time
    left = _uncensored(t, e, np.array([time]), before=False)[0]
    # Where somebody was followed beyond the time, the share that was not censored by it is above 0.
    case = np.where(had, 1 / np.where(had, _uncensored(t, e, t, before=True), 1.0), 0.0)
    return case, np.where(beyond, 1 / left if left > 0 else 0.0, 0.0)


def _brier_scores(
    weights: Floats, t: Floats, e: Bools, predicted: Floats, horizons: Sequence[float], time_unit: str
) -> dict[str, Floats]:
    """Brier scores at the horizons, and the integrated one, in each round; NaN at times that nobody was followed to."""
    found: dict[str, Floats] = {}
    for time, alive in zip(horizons, predicted.T, strict=True):
        case, control = _weights_at(t, e, time)
        scores = weights @ (case * alive**2 + control * (1 - alive) ** 2) / weights.sum(axis=1)
        found[f"Brier score at {at(time, time_unit)}"] = scores if (t > time).any() else np.full_like(scores, np.nan)
    if len(horizons) > 1:
        area = np.trapezoid(np.stack(list(found.values())), np.array(horizons), axis=0)
        found[INTEGRATED] = area / (horizons[-1] - horizons[0])
    return found


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
