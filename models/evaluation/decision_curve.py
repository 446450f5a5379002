"""The decision curve: the net benefit of acting on a model's probabilities, by threshold probability.

Who treats from a probability of t on weighs a needless treatment with t / (1 - t) of a needed one (Vickers and Elkin,
Med. Decis. Making 26:565, 2006). The net benefit is in true positives per patient; treating all and treating none are
what a model must beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...data.errors import UsageError
from .metrics import probabilities_of, zeros_and_ones

Floats = npt.NDArray[np.float64]
THRESHOLDS: Final = tuple(i / 100 for i in range(1, 100))


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit at each of :data:`THRESHOLDS`; that of treating none is 0 everywhere."""

    thresholds: tuple[float, ...]
    model: tuple[float, ...]
    treat_all: tuple[float, ...]


def net_benefit(labels: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> float:
    """Compute TP / n - FP / n · t / (1 - t), where patients at or above the threshold t are treated.

    :param labels: (N,) 0 or 1.
    :param probabilities: (N,) probability of label 1, at the prevalence of these patients.
    :raises UsageError: no patients, or a threshold that does not lie between 0 and 1.
    """
    y, p = zeros_and_ones(labels), probabilities_of(probabilities)
    if not len(y) or len(y) != len(p):
        raise UsageError(f"{len(y)} labels and {len(p)} probabilities have no net benefit")
    if not 0 < threshold < 1:
        raise UsageError(f"a threshold probability lies between 0 and 1, not at {threshold}")
    treated = p >= threshold
    harm = threshold / (1 - threshold)
    return float(((y & treated).sum() - (~y & treated).sum() * harm) / len(y))


def decision_curve(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> DecisionCurve:
    """Compute the net benefit of the model and of treating all at each threshold; parameters as :func:`net_benefit`."""
    everyone = np.ones(len(zeros_and_ones(labels)))
    return DecisionCurve(
        THRESHOLDS,
        tuple(net_benefit(labels, probabilities, t) for t in THRESHOLDS),
        tuple(net_benefit(labels, everyone, t) for t in THRESHOLDS),
    )
