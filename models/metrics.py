"""How good a binary prediction is, patient by patient, and how sure one may be of that.

Single values come from scikit-learn; the intervals are a stratified percentile bootstrap over patients (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3): patients are drawn with replacement within each
class, so that every round has both. A round is a vector of how often each patient was drawn, and all rounds are
computed at once. A figure that is not defined, such as the AUC of one class alone, is None and never NaN.

The percentile interval knows only the patients it was given: where ten patients happen to be told apart without
fault it is [1, 1]. Read it together with the number of patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from ..data.errors import UsageError

Floats = npt.NDArray[np.float64]
_CELLS_AT_ONCE: Final = 2_000_000  # rounds × patients held in memory together: 16 MB an array
_Z95: Final = 1.959963984540054  # 97.5th percentile of the standard normal


class Estimate(BaseModel):
    """A figure and its 95 % interval. All None where it is undefined; the limits None where a class has one patient."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    low: float | None = None
    high: float | None = None


class Metrics(BaseModel):
    """Figures of one set of patients, each patient once. The last four are the confusion matrix of the calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_patients: int
    n_positive: int
    auc: Estimate
    auprc: Estimate
    balanced_accuracy: Estimate
    f1: Estimate
    sensitivity: Estimate
    specificity: Estimate
    brier: Estimate
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    bootstrap_rounds: int
    seed: int

    @property
    def n_negative(self) -> int:
        """Patients whose label is negative."""
        return self.n_patients - self.n_positive


def binary_metrics(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, calls: npt.ArrayLike, *, rounds: int = 2000, seed: int = 0
) -> Metrics:
    """Figures of N patients with 95 % intervals. The same patients, rounds and seed give the same figures.

    AUPRC is average precision (steps, no interpolation), to be read against the share of positives. F1 and
    sensitivity need a positive patient, specificity a negative one, AUC, AUPRC and balanced accuracy both.

    :param labels: (N,) 0 or 1.
    :param probabilities: (N,) probability of label 1, in [0, 1].
    :param calls: (N,) 0 or 1: the label that the model settled on, patient by patient.
    :raises UsageError: lengths differ, or a value is outside its range.
    """
    y, p, call = _labels(labels), _probabilities(probabilities), _labels(calls, name="calls")
    if not len(y) == len(p) == len(call):
        raise UsageError(f"{len(y)} labels, {len(p)} probabilities and {len(call)} calls cannot be the same patients")
    n_positive = int(y.sum())
    n_negative = len(y) - n_positive
    values: dict[str, float] = {}
    if len(y):
        values["brier"] = brier_score_loss(y, p)
    if n_positive:
        values["f1"] = f1_score(y, call)
        values["sensitivity"] = recall_score(y, call)
    if n_negative:
        values["specificity"] = recall_score(y, call, pos_label=0)
    if n_positive and n_negative:
        values["auc"] = roc_auc_score(y, p)
        values["auprc"] = average_precision_score(y, p)
        values["balanced_accuracy"] = balanced_accuracy_score(y, call)
    drawn = _bootstrap(y, p, call, rounds, seed) if min(n_positive, n_negative) > 1 and rounds > 0 else {}

    def estimate(name: str) -> Estimate:
        if name not in values:
            return Estimate(value=None)
        if name not in drawn:
            return Estimate(value=float(values[name]))
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        return Estimate(value=float(values[name]), low=float(low), high=float(high))

    return Metrics(
        n_patients=len(y),
        n_positive=n_positive,
        auc=estimate("auc"),
        auprc=estimate("auprc"),
        balanced_accuracy=estimate("balanced_accuracy"),
        f1=estimate("f1"),
        sensitivity=estimate("sensitivity"),
        specificity=estimate("specificity"),
        brier=estimate("brier"),
        true_positives=int((y & call).sum()),
        false_positives=int((~y & call).sum()),
        true_negatives=int((~y & ~call).sum()),
        false_negatives=int((y & ~call).sum()),
        bootstrap_rounds=rounds if drawn else 0,
        seed=seed,
    )


def youden_threshold(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """The threshold with the greatest sensitivity + specificity − 1 (Youden, Cancer 3:32, 1950), or None.

    A patient is called positive at or above it. Candidates lie half-way between neighbouring probabilities, so that
    a new patient a hair below a validation patient is not called otherwise; of equal ones the nearest to 0.5 is
    taken. None where no threshold tells the classes apart: one class only, equal probabilities, or all worse than
    chance. To be chosen on validation patients, never on those it is tested on.
    """
    y, p = _labels(labels), _probabilities(probabilities)
    if y.all() or not y.any():
        return None
    distinct = np.unique(p)
    middles = (distinct[:-1] + distinct[1:]) / 2
    candidates = np.where(middles > distinct[:-1], middles, distinct[1:])  # no float lies between adjacent floats
    # In counts, and therefore exact: J × positives × negatives.
    called_positives = y.sum() - np.searchsorted(np.sort(p[y]), candidates)
    called_negatives = (~y).sum() - np.searchsorted(np.sort(p[~y]), candidates)
    gain = called_positives * (~y).sum() - called_negatives * y.sum()
    if not len(gain) or gain.max() <= 0:
        return None
    best = candidates[gain == gain.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def roc_points(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """Corners of the ROC, (points, 2): 1 − specificity, sensitivity, from (0, 0) to (1, 1); none of one class."""
    y, p = _labels(labels), _probabilities(probabilities)
    if y.all() or not y.any():
        return np.zeros((0, 2))
    false_positive_rate, true_positive_rate, _ = roc_curve(y, p)
    return np.column_stack([false_positive_rate, true_positive_rate])


@dataclass(frozen=True)
class CalibrationBin:
    """Patients of like probability: what was predicted, what came, and the 95 % Wilson interval of the latter."""

    n: int
    mean_probability: float
    share_positive: float
    low: float
    high: float


def calibration_bins(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 5) -> tuple[CalibrationBin, ...]:
    """Up to ``bins`` groups of about equally many patients, by rising probability; equal ones stay together."""
    y, p = _labels(labels), _probabilities(probabilities)
    if not len(y):
        return ()
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="closest_observation"))
    place = np.searchsorted(edges, p, side="left")  # a patient on an edge belongs below it
    return tuple(_calibration_bin(y[place == i], p[place == i]) for i in np.unique(place))


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion, n ≥ 1 (Wilson, J. Am. Stat. Assoc. 22:209, 1927)."""
    share, z2 = hits / n, _Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _calibration_bin(y: npt.NDArray[np.bool_], p: Floats) -> CalibrationBin:
    low, high = wilson_interval(int(y.sum()), len(y))
    return CalibrationBin(len(y), float(p.mean()), float(y.mean()), low, high)


def _bootstrap(
    y: npt.NDArray[np.bool_], p: Floats, call: npt.NDArray[np.bool_], rounds: int, seed: int
) -> dict[str, Floats]:
    """Every figure in every round, name → (rounds,). Both classes have patients."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // len(y))
    parts = [_rounds(y, p, call, min(step, rounds - start), rng) for start in range(0, rounds, step)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rounds(
    y: npt.NDArray[np.bool_], p: Floats, call: npt.NDArray[np.bool_], rounds: int, rng: np.random.Generator
) -> dict[str, Floats]:
    order = np.argsort(-p, kind="stable")  # by falling probability, so that cumulative sums walk down the thresholds
    y, p, call = y[order], p[order], call[order]
    n_positive, n_negative = int(y.sum()), int((~y).sum())
    weights = np.zeros((rounds, len(y)))  # how often each patient was drawn
    weights[:, y] = _draws(n_positive, rounds, rng)
    weights[:, ~y] = _draws(n_negative, rounds, rng)

    groups = np.flatnonzero(np.r_[True, np.diff(p) != 0])  # first patient of each distinct probability
    positives = np.add.reduceat(weights * y, groups, axis=1)
    negatives = np.add.reduceat(weights * ~y, groups, axis=1)
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    # A negative is beaten by all positives above it, and by half of those it ties with.
    auc = (negatives * (true_positives - positives / 2)).sum(axis=1) / (n_positive * n_negative)
    called = true_positives + false_positives
    precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
    auprc = (precision * positives).sum(axis=1) / n_positive

    tp, fp = weights @ (y & call), weights @ (~y & call)
    sensitivity, specificity = tp / n_positive, 1 - fp / n_negative
    return {
        "auc": auc,
        "auprc": auprc,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "f1": 2 * tp / (tp + fp + n_positive),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": weights @ (p - y) ** 2 / len(y),
    }


def _draws(n: int, rounds: int, rng: np.random.Generator) -> Floats:
    """(rounds, n): how often each of n patients comes up in n draws with replacement."""
    picks = rng.integers(0, n, size=(rounds, n)) + n * np.arange(rounds)[:, None]
    return np.bincount(picks.ravel(), minlength=rounds * n).reshape(rounds, n).astype(np.float64)


def _labels(values: npt.ArrayLike, name: str = "labels") -> npt.NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise UsageError(f"{name} must be a list of 0 and 1, got {_glimpse(array)}")
    return array.astype(bool)


def _probabilities(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not ((array >= 0) & (array <= 1)).all():  # NaN fails both
        raise UsageError(f"probabilities must be a list of numbers from 0 to 1, got {_glimpse(array)}")
    return array


def _glimpse(array: npt.NDArray[np.generic]) -> str:
    shown: Sequence[object] = array.ravel()[:5].tolist()
    return f"shape {array.shape} beginning with {shown}"
