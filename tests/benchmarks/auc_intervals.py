"""How often the 95 % interval of an AUC holds the truth, where the truth is known.

    python tests/benchmarks/auc_intervals.py --cohorts 1000

A row a number of patients and a true AUC, in per cent of the cohorts: the percentile bootstrap, or of a cohort without
an error the limit for that; the interval as it is (:mod:`wsipipe.models.evaluation.share_of_pairs`); and the mean width
of both. Scores of negative patients are standard
normal; of positive ones

- ``normal``: normal with the same spread,
- ``wider``: normal with 2.5 times the spread,
- ``alike``: as ``normal``, but for a few who lie below every negative patient, as wrong labels and mixed tumours do;
  they make half of the error.

``--other`` does the same for the C-index of follow-ups, a third of them censored, and the mean AUC of three classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from wsipipe.models.evaluation.bootstrap import draws
from wsipipe.models.evaluation.class_metrics import class_metrics
from wsipipe.models.evaluation.estimate import Estimate
from wsipipe.models.evaluation.share_of_pairs import lowest_share, share_of_pairs
from wsipipe.models.evaluation.survival_metrics import harrell, survival_metrics
from wsipipe.models.evaluation.task_metrics import weighted_auc

Floats = npt.NDArray[np.float64]
KINDS = ("normal", "wider", "alike")
SIZES = ((10, 10), (18, 18), (30, 30), (18, 60))
TRUTHS = (0.85, 0.9, 0.95, 0.98, 0.99)
WIDER = 2.5


def positives(kind: str, truth: float, size: tuple[int, int], draw: np.random.Generator) -> Floats:
    """Scores of positive patients, (cohorts, patients), with a true AUC against standard normal ones."""
    if kind == "wider":
        return draw.normal(norm.ppf(truth) * np.sqrt(1 + WIDER**2), WIDER, size)
    rest = (1 + truth) / 2 if kind == "alike" else truth
    scores = draw.normal(norm.ppf(rest) * np.sqrt(2), 1, size)
    return np.where(draw.random(size) < 1 - truth / rest, -100.0, scores)


def intervals(
    kind: str, truth: float, positive: int, negative: int, cohorts: int, rounds: int
) -> Iterator[tuple[Estimate, Estimate]]:
    """The interval of each cohort by the bootstrap, if it has an error, and as it is."""
    draw, y = np.random.default_rng(0), np.arange(positive + negative) < positive
    scores = np.column_stack(
        [positives(kind, truth, (cohorts, positive), draw), draw.normal(0, 1, (cohorts, negative))]
    )
    weights = draws(y, rounds, draw)
    for score in scores:
        value = float(weighted_auc(np.ones((1, len(y))), y, score)[0])
        drawn = weighted_auc(weights, y, score)
        found = share_of_pairs(value, drawn, lowest_share(min(positive, negative)))
        low, high = np.quantile(drawn, [0.025, 0.975])
        yield found if value in (0, 1) else Estimate(value=value, low=float(low), high=float(high)), found


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether an interval holds the truth."""
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def width(estimate: Estimate) -> float:
    """How wide it is."""
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def of_follow_ups(number: int, noise: float, draw: np.random.Generator) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    """Times, events and risks; about a third censored."""
    hazard = draw.normal(0, 1, number)
    event, censored = draw.exponential(np.exp(-2 * hazard)), draw.exponential(3, number)
    return np.minimum(event, censored), event <= censored, hazard + draw.normal(0, noise, number)


def of_three_classes(number: int, apart: float, draw: np.random.Generator) -> tuple[npt.NDArray[np.intp], Floats]:
    """Labels of as many patients of each class, and probabilities."""
    labels = np.repeat(np.arange(3), number)
    odds = draw.normal(0, 1, (3 * number, 3)) + apart * np.eye(3)[labels]
    return labels, np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)


def other(cohorts: int, rounds: int) -> None:
    """Print the table of the other shares of pairs; the truth is that of 4,000 patients."""
    print("| figure | patients | truth | as it is | width |\n| --- | --- | --- | --- | --- |")
    for noise in (1.0, 0.3):
        for number in (20, 40, 80):
            draw = np.random.default_rng(0)
            truth = float(np.mean([harrell(*of_follow_ups(4000, noise, draw)) for _ in range(3)]))
            found = [
                survival_metrics(*of_follow_ups(number, noise, draw), rounds=rounds, seed=0).main
                for _ in range(cohorts)
            ]
            _print_row("C-index (Harrell)", str(number), truth, found)
    for apart in (2.0, 3.0):
        for number in (10, 20):
            draw = np.random.default_rng(0)
            many, shares = of_three_classes(4000, apart, draw)
            truth = class_metrics("multiclass", many, shares, many, "abc", rounds=0, seed=0).main.value or 0.0
            found = []
            for _ in range(cohorts):
                labels, own = of_three_classes(number, apart, draw)
                found.append(class_metrics("multiclass", labels, own, labels, "abc", rounds=rounds, seed=0).main)
            _print_row("AUC of three classes", f"{number} of each", truth, found)


def _print_row(name: str, patients: str, truth: float, found: list[Estimate]) -> None:
    held, wide = np.mean([holds(one, truth) for one in found]), np.mean([width(one) for one in found])
    print(f"| {name} | {patients} | {truth:.3f} | {100 * held:.1f} | {wide:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--truths", type=float, nargs="+", default=list(TRUTHS))
    parser.add_argument("--other", action="store_true")
    given = parser.parse_args()
    if given.other:
        other(given.cohorts, given.rounds)
        return
    columns = " | ".join(f"{kind}: bootstrap, as it is (width)" for kind in KINDS)
    print(f"| patients | true AUC | {columns} |\n| --- | --- |{' --- |' * len(KINDS)}")
    for positive, negative in SIZES:
        for truth in given.truths:
            cells = []
            for kind in KINDS:
                pairs = [*intervals(kind, truth, positive, negative, given.cohorts, given.rounds)]
                alone, now = ([pair[place] for pair in pairs] for place in (0, 1))
                held = [100 * float(np.mean([holds(one, truth) for one in own])) for own in (alone, now)]
                wide = [float(np.mean([width(one) for one in own])) for own in (alone, now)]
                cells.append(f"{held[0]:.1f}, **{held[1]:.1f}** ({wide[0]:.2f}, {wide[1]:.2f})")
            print(f"| {positive} + {negative} | {truth} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
