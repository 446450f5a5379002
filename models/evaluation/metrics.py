"""Metrics of binary predictions over patients, with 95 % intervals.

Single values come from scikit-learn. Sensitivity and specificity are proportions of patients and have Wilson's score
interval (:func:`wilson_interval`). Their mean, the balanced accuracy, has the interval that follows from both (MOVER:
Zou and Donner, Stat. Med. 27:1693, 2008): for ten patients without an error it is [0.72, 1] and not [1, 1]. The other
intervals are a stratified percentile bootstrap over patients (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, section 13.3), which knows only the given patients: if these happen to be separated perfectly, every round is,
too. That of the AUC is wider (:mod:`.share_of_pairs`). Where no round differs, F1 has that of F1 / (2 - F1), a
share of true positives among those who are positive or called so, by Wilson (Lam, Gopal and Qian, arXiv 2309.14621,
2023), and AUPRC, Brier score and calibration error have none, as an AUC between 0 and 1. A figure that is not defined,
such as the AUC of one class alone, is None and never NaN.

Calibration means that a probability of 0.3 comes true three times in ten. It is measured in two ways:

- The expected calibration error (Naeini, Cooper, Hauskrecht, AAAI 2015) over up to five groups of about equally many
  patients (:func:`calibration_bins`): the mean distance between the share of positives in a group and its mean
  probability, weighted by patients. It is biased upwards, since noise also adds distance: perfect probabilities have
  about 0.10 with 60 patients, 0.09 with 80, 0.05 with 300. A percentile interval would be biased twice and never
  contain the true value of perfect probabilities; the basic interval is used instead (Davison and Hinkley, Bootstrap
  Methods, 1997, section 5.2), cut off at 0. It contains the true value in 70 (perfect probabilities) to 94 of 100
  simulations: read it as a rough guide.
- Logistic recalibration (:mod:`.recalibration`; Cox, Biometrika 45:562, 1958). Calibration-in-the-large is a in logit
  P(positive) = a + logit p, the slope fixed at 1: 0 is perfect, below 0 the probabilities are too high on average. The
  slope is b in logit P(positive) = a + b · logit p, with an intercept of its own: 1 is perfect, below 1 the
  probabilities are too extreme, as after overfitting. The intervals are Wald's: a bootstrap within the classes would
  ignore the uncertainty of the share of positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from ...data.errors import UsageError
from .bootstrap import bootstrap
from .estimate import Z95, percentiles, within
from .estimate import Estimate as Estimate
from .recalibration import calibration_in_the_large, calibration_slope
from .share_of_pairs import lowest_share, share_of_pairs

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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
    calibration_error: Estimate
    calibration_slope: Estimate
    calibration_in_the_large: Estimate
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    bootstrap_rounds: int
    seed: int

    @property
    def measure(self) -> str:
        """Name of the figure by which methods are compared."""
        return "AUC"

    @property
    def main(self) -> Estimate:
        """The figure by which methods are compared."""
        return self.auc

    @property
    def main_chance(self) -> float:
        """What of it a model gets that knows nothing of the patient."""
        return 0.5

    @property
    def n_negative(self) -> int:
        """Patients whose label is negative."""
        return self.n_patients - self.n_positive

    def chance_brier(self, prevalence: float) -> float | None:
        """The Brier score of giving each of these patients the prevalence as probability; None without patients.

        :param prevalence: the one that the model's probabilities are at, so that both know the same.
        """
        if not self.n_patients:
            return None
        share = self.n_positive / self.n_patients
        return share * (1 - prevalence) ** 2 + (1 - share) * prevalence**2


def binary_metrics(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, calls: npt.ArrayLike, *, rounds: int = 2000, seed: int = 0
) -> Metrics:
    """Compute the figures of N patients with 95 % intervals.

    The same patients, rounds and seed give the same figures. AUPRC is average precision (steps, no interpolation), to
    be compared with the share of positives. F1 and sensitivity need a positive patient, specificity a negative one,
    AUC, AUPRC, balanced accuracy and calibration-in-the-large both, and the last one probabilities that are not all
    but 0 or 1. Intervals need two patients of each class and at
    least one round; those of proportions need only the proportion and a round. The calibration slope needs classes that
    overlap.

    :param labels: (N,) 0 or 1.
    :param probabilities: (N,) probability of label 1, in [0, 1].
    :param calls: (N,) 0 or 1, the predicted label of each patient.
    :param rounds: number of bootstrap rounds; 0 for no intervals at all.
    :raises UsageError: lengths differ, or a value is outside its range.
    """
    y, p, call = zeros_and_ones(labels), probabilities_of(probabilities), zeros_and_ones(calls, name="calls")
    if not len(y) == len(p) == len(call):
        raise UsageError(f"{len(y)} labels, {len(p)} probabilities and {len(call)} calls cannot be the same patients")
    n_positive = int(y.sum())
    values = _figures(y, p, call)
    intervals = min(n_positive, len(y) - n_positive) > 1 and rounds > 0
    drawn = bootstrap(y, p, call, _calibration_groups(p), rounds=rounds, seed=seed) if intervals else {}
    sensitivity, specificity = (_share(call[y], rounds), _share(~call[~y], rounds))

    n_called = int((y | call).sum())
    perfect = values.get("auc") in (0, 1)

    def estimate(name: str) -> Estimate:
        if name not in values or name not in drawn or (name == "auprc" and perfect):
            return Estimate(value=values.get(name))
        if name == "auc":
            return share_of_pairs(values[name], drawn[name], lowest_share(min(n_positive, len(y) - n_positive)))
        value, limits = values[name], percentiles(drawn[name])
        if name == "f1" and limits is None:
            low, high = (2 * share / (1 + share) for share in wilson_interval(int((y & call).sum()), n_called))
            return Estimate(value=value, low=min(value, low), high=max(value, high))  # despite rounding
        if name == "calibration_error" and limits is not None:
            low, high = limits
            limits = max(0.0, min(value, 2 * value - high)), min(1.0, max(value, 2 * value - low))
        return within(value, limits)

    return Metrics(
        n_patients=len(y),
        n_positive=n_positive,
        auc=estimate("auc"),
        auprc=estimate("auprc"),
        balanced_accuracy=mean_share((sensitivity, specificity), values.get("balanced_accuracy")),
        f1=estimate("f1"),
        sensitivity=sensitivity,
        specificity=specificity,
        brier=estimate("brier"),
        calibration_error=estimate("calibration_error"),
        calibration_slope=calibration_slope(y, p, intervals=intervals),
        calibration_in_the_large=calibration_in_the_large(y, p, intervals=intervals),
        true_positives=int((y & call).sum()),
        false_positives=int((~y & call).sum()),
        true_negatives=int((~y & ~call).sum()),
        false_negatives=int((y & ~call).sum()),
        bootstrap_rounds=rounds if drawn else 0,
        seed=seed,
    )


def _figures(y: Bools, p: Floats, call: Bools) -> dict[str, float]:
    """Compute the figures that are defined for these patients, without intervals."""
    values: dict[str, float] = {}
    if len(y):
        values["brier"] = brier_score_loss(y, p)
        values["calibration_error"] = _calibration_error(calibration_bins(y, p))
    if y.any():
        values["f1"] = f1_score(y, call)
    if y.any() and not y.all():
        values["auc"] = roc_auc_score(y, p)
        values["auprc"] = average_precision_score(y, p)
        values["balanced_accuracy"] = balanced_accuracy_score(y, call)
    return {name: float(value) for name, value in values.items()}


def youden_threshold(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float | None:
    """Find the threshold with the greatest sensitivity + specificity − 1 (Youden, Cancer 3:32, 1950), or None.

    A patient is called positive at or above it. Candidates lie half-way between neighbouring probabilities, so that
    a new patient with a slightly lower probability than a validation patient gets the same call; of equally good ones
    the nearest to 0.5 is taken. None if no threshold separates the classes: one class only, equal probabilities, or all
    worse than chance. Choose it on validation patients, never on the patients it is tested on.
    """
    y, p = zeros_and_ones(labels), probabilities_of(probabilities)
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
    """Compute the ROC's corners (points, 2): 1 − specificity, sensitivity, from (0, 0) to (1, 1); none for a class."""
    y, p = zeros_and_ones(labels), probabilities_of(probabilities)
    if y.all() or not y.any():
        return np.zeros((0, 2))
    false_positive_rate, true_positive_rate, _ = roc_curve(y, p)
    return np.column_stack([false_positive_rate, true_positive_rate])


def pr_points(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Floats:
    """Compute sensitivity and precision at each threshold (points, 2), by rising sensitivity; none for a class alone.

    Between two points the precision is that of the later one, as in average precision.
    """
    y, p = zeros_and_ones(labels), probabilities_of(probabilities)
    if y.all() or not y.any():
        return np.zeros((0, 2))
    precision, sensitivity, _ = precision_recall_curve(y, p)
    return np.column_stack([sensitivity[::-1], precision[::-1]])


@dataclass(frozen=True)
class CalibrationBin:
    """Patients of similar probability: their mean probability, the share of positives, and its 95 % Wilson interval."""

    n: int
    mean_probability: float
    share_positive: float
    low: float
    high: float


def calibration_bins(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 5) -> tuple[CalibrationBin, ...]:
    """Form up to ``bins`` groups of about equally many patients, by rising probability; ties stay together."""
    y, p = zeros_and_ones(labels), probabilities_of(probabilities)
    if not len(y):
        return ()
    group = _calibration_groups(p, bins)
    return tuple(_calibration_bin(y[group == i], p[group == i]) for i in np.unique(group))


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """Compute the 95 % score interval of a proportion, n ≥ 1 (Wilson, J. Am. Stat. Assoc. 22:209, 1927)."""
    share, z2 = hits / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # despite rounding, share is inside


def _share(right: Bools, rounds: int) -> Estimate:
    """Compute the share of correctly called patients, with Wilson's interval if intervals are requested."""
    if not len(right):
        return Estimate(value=None)
    estimate = share_estimate(int(right.sum()), len(right))
    return estimate if rounds else Estimate(value=estimate.value)


def share_estimate(hits: int, n: int) -> Estimate:
    """Compute a proportion of patients with Wilson's interval; None of no patients."""
    if not n:
        return Estimate(value=None)
    low, high = wilson_interval(hits, n)
    return Estimate(value=hits / n, low=low, high=high)


def mean_share(shares: Sequence[Estimate], value: float | None) -> Estimate:
    """Combine proportions of different patients into their mean, its interval recovered from all of them (MOVER).

    :param value: the mean.
    """
    if value is None or any(one.value is None for one in shares):
        return Estimate(value=None)
    known = [(one.value, one.low, one.high) for one in shares]
    if any(None in one for one in known):
        return Estimate(value=value)
    below, above = (
        sqrt(sum(((one[0] or 0) - (one[limit] or 0)) ** 2 for one in known)) / len(known) for limit in (1, 2)
    )
    return Estimate(value=value, low=max(0.0, value - below), high=min(1.0, value + above))


def _calibration_groups(p: Floats, bins: int = 5) -> npt.NDArray[np.intp]:
    """Compute the index of each patient's calibration group (N,)."""
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="closest_observation"))
    return np.searchsorted(edges, p, side="left")  # a patient on an edge belongs below it


def _calibration_bin(y: Bools, p: Floats) -> CalibrationBin:
    low, high = wilson_interval(int(y.sum()), len(y))
    return CalibrationBin(len(y), float(p.mean()), float(y.mean()), low, high)


def _calibration_error(bins: tuple[CalibrationBin, ...]) -> float:
    return sum(b.n * abs(b.share_positive - b.mean_probability) for b in bins) / sum(b.n for b in bins)


def zeros_and_ones(values: npt.ArrayLike, name: str = "labels") -> Bools:
    """Convert (N,) zeros and ones to booleans.

    :raises UsageError: there are other values.
    """
    array = np.asarray(values)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise UsageError(f"{name} must be a list of 0 and 1, got {_glimpse(array)}")
    return array.astype(bool)


def probabilities_of(values: npt.ArrayLike) -> Floats:
    """Convert (N,) probabilities to floats.

    :raises UsageError: a value is not a number from 0 to 1.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not ((array >= 0) & (array <= 1)).all():  # NaN fails both
        raise UsageError(f"probabilities must be a list of numbers from 0 to 1, got {_glimpse(array)}")
    return array


def _glimpse(array: npt.NDArray[np.generic]) -> str:
    shown: Sequence[object] = array.ravel()[:5].tolist()
    return f"shape {array.shape} beginning with {shown}"
