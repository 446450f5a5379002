"""The binary task: is a patient positive or negative?

There are two logits, negative and positive; the score is the log-odds, positive minus negative. A patient's score is
the mean of the slides' log-odds, and the patient is called positive from a threshold chosen on the fold's validation
patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from ...data.errors import CohortError, UsageError
from ..evaluation.metrics import Metrics, binary_metrics, youden_threshold
from .task import Task, Validation

MIN_RANKED_PATIENTS = 5
"""With fewer validation patients that have a soft target, the rank correlation is too noisy, and the AUC is used."""


class BinaryTask(Task):
    """Labels 0 (negative) and 1 (positive)."""

    name: ClassVar[str] = "binary"
    outputs: ClassVar[int] = 2
    has_prevalence: ClassVar[bool] = True
    page_parts: ClassVar[tuple[str, ...]] = ("roc", "distribution", "calibration", "decision")

    def strata(self, labels: Mapping[str, int]) -> dict[str, int]:
        """The classes themselves."""
        return dict(labels)

    def sampling_groups(self, labels: Sequence[int]) -> list[list[int]]:
        """The negative patients, the positive patients.

        :raises CohortError: there are none of one class.
        """
        groups = [[place for place, label in enumerate(labels) if label == wanted] for wanted in (0, 1)]
        if not all(groups):
            raise CohortError(
                "the training part of this fold has patients of one class only",
                hint="use fewer folds, or more patients",
            )
        return groups

    def value(self, patient_id: str, label: int, soft_target: float | None) -> float:
        """The probability of positive: y itself, or a soft target."""
        if label not in (0, 1):
            raise UsageError(f"a label is 0 or 1, not {label!r}", path=patient_id)
        if soft_target is not None and not 0 <= soft_target <= 1:  # NaN fails too
            raise UsageError(f"a soft target is a probability, not {soft_target!r}", path=patient_id)
        return float(label if soft_target is None else soft_target)

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross entropy of logits (B, 2) against the probability of positive (B)."""
        return functional.cross_entropy(logits, torch.stack([1 - values, values], dim=1))

    def score(self, logits: Tensor) -> Tensor:
        """Log-odds, positive minus negative; (…, 2) → (…)."""
        return logits[..., 1] - logits[..., 0]

    def join(self, scores: Sequence[float]) -> float:
        """The mean of the slides' log-odds, independent of their order."""
        return math.fsum(scores) / len(scores)

    def validate(
        self, labels: Sequence[int], scores: Sequence[float], soft_targets: Sequence[float | None]
    ) -> Validation:
        """AUC and cross entropy with the labels, Spearman's rank correlation with the soft targets."""
        logits = torch.tensor(scores, dtype=torch.float64)
        y = torch.tensor(labels, dtype=torch.float64)
        loss = float(functional.binary_cross_entropy_with_logits(logits, y))
        auc = float(roc_auc_score(y.numpy(), logits.numpy())) if 0 < y.sum() < len(y) else None
        return Validation(auc, loss, _rank_correlation(scores, soft_targets))

    def probability(self, score: float) -> float:
        """Logistic function of the log-odds; at even prevalence if these are."""
        return float(expit(score))

    def threshold(self, labels: Sequence[int], scores: Sequence[float]) -> tuple[float, str]:
        """Youden's threshold at even prevalence, or 0.5 if the validation patients do not determine one."""
        chosen = youden_threshold(labels, expit(np.array(scores)))
        return (0.5, "default 0.5") if chosen is None else (chosen, "Youden on the validation patients")

    def prevalence(self, labels: Sequence[int]) -> float:
        """Share of label 1."""
        return sum(labels) / len(labels)

    def call(self, probability: float, threshold: float) -> int:
        """1 at or above the threshold."""
        return int(probability >= threshold)

    def metrics(
        self,
        labels: Sequence[int],
        probabilities: Sequence[float],
        calls: Sequence[int],
        *,
        rounds: int,
        seed: int,
    ) -> Metrics:
        """Discrimination, operating point, calibration: :func:`~wsipipe.models.evaluation.metrics.binary_metrics`."""
        return binary_metrics(labels, probabilities, calls, rounds=rounds, seed=seed)


BINARY = BinaryTask()


def _rank_correlation(scores: Sequence[float], soft_targets: Sequence[float | None]) -> float | None:
    """Spearman's correlation of scores and soft targets, over patients that have one; 0 if all scores are equal."""
    pairs = [(score, target) for score, target in zip(scores, soft_targets, strict=True) if target is not None]
    if len(pairs) < MIN_RANKED_PATIENTS or len({target for _, target in pairs}) < 2:
        return None
    known_scores, targets = zip(*pairs, strict=True)
    return float(spearmanr(known_scores, targets).statistic) if len(set(known_scores)) > 1 else 0.0
