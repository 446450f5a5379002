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

from ...data.cohort.outcomes import Label
from ...data.errors import CohortError, UsageError
from ..evaluation.metrics import Metrics, binary_metrics, youden_threshold
from .prediction import (
    EVEN,
    Answer,
    PatientPrediction,
    Prevalence,
    Score,
    SoftTarget,
    log_odds,
    one_share,
    threshold_at,
)
from .task import Task, Validation

MIN_RANKED_PATIENTS = 5
"""With fewer validation patients that have a soft target, the rank correlation is too noisy, and the AUC is used."""


class BinaryTask(Task):
    """Labels 0 (negative) and 1 (positive)."""

    name: ClassVar[str] = "binary"
    outputs = 2
    classes = ("negative", "positive")
    has_prevalence: ClassVar[bool] = True
    answer_columns: ClassVar[Mapping[str, str]] = {
        name: name for name in ("probability", "logit", "threshold", "call", "prevalence")
    }
    page_parts: ClassVar[tuple[str, ...]] = ("roc", "pr", "distribution", "calibration", "decision")

    @property
    def share_names(self) -> tuple[str, ...]:
        """None: one probability says both."""
        return ()

    def strata(self, labels: Mapping[str, Label]) -> dict[str, int]:
        """The classes themselves."""
        return {patient: class_of(label) for patient, label in labels.items()}

    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
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

    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> float:
        """The probability of positive: y itself, or a soft target."""
        if label not in (0, 1):
            raise UsageError(f"a label is 0 or 1, not {label!r}", path=patient_id)
        if soft_target is None:
            return float(class_of(label))
        if isinstance(soft_target, tuple) or not 0 <= soft_target <= 1:  # NaN fails too
            raise UsageError(f"a soft target is a probability, not {soft_target!r}", path=patient_id)
        return float(soft_target)

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross entropy of each slide."""
        return functional.cross_entropy(logits, self.class_shares(values), reduction="none")

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross entropy of logits (B, 2) against the probability of positive (B)."""
        return functional.cross_entropy(logits, self.class_shares(values))

    def class_shares(self, values: Tensor) -> Tensor:
        """1 − t and t."""
        return torch.stack([1 - values, values], dim=1)

    def score(self, logits: Tensor) -> Tensor:
        """Log-odds, positive minus negative; (…, 2) → (…)."""
        return logits[..., 1] - logits[..., 0]

    def join(self, scores: Sequence[Score]) -> float:
        """The mean of the slides' log-odds, independent of their order."""
        return math.fsum(one_number(scores)) / len(scores)

    def validate(
        self, labels: Sequence[Label], scores: Sequence[Score], soft_targets: Sequence[SoftTarget | None]
    ) -> Validation:
        """AUC and cross entropy with the labels, Spearman's rank correlation with the soft targets."""
        logits = torch.tensor(scores, dtype=torch.float64)
        y = torch.tensor(labels, dtype=torch.float64)
        loss = float(functional.binary_cross_entropy_with_logits(logits, y))
        auc = float(roc_auc_score(y.numpy(), logits.numpy())) if 0 < y.sum() < len(y) else None
        return Validation(auc, loss, _rank_correlation(one_number(scores), soft_targets))

    def probability(self, score: float) -> float:
        """Logistic function of the log-odds; at even prevalence if these are."""
        return float(expit(score))

    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """Youden's threshold at even prevalence, or 0.5 if the validation patients do not determine one."""
        chosen = youden_threshold([class_of(label) for label in labels], expit(np.array(scores)))
        return (0.5, "default 0.5") if chosen is None else (chosen, "Youden on the validation patients")

    def prevalence(self, labels: Sequence[Label]) -> float:
        """Share of label 1."""
        return sum(map(class_of, labels)) / len(labels)

    def call(self, probability: float, threshold: float) -> int:
        """1 at or above the threshold."""
        return int(probability >= threshold)

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """The mean of the folds' log-odds, and the mean of their thresholds, moved to the prevalence."""
        prevalence = one_share(prevalence)
        logits, prior = one_number(by_fold), log_odds(prevalence)
        logit, threshold = float(np.mean(logits)), float(np.mean(thresholds))
        by_itself = [self.probability(score + prior) for score in logits]
        return Answer(
            probability=self.probability(logit + prior),
            logit=logit,
            spread=float(np.std(by_itself, ddof=1)) if len(by_itself) > 1 else None,
            threshold=threshold_at(threshold, prevalence),
            call=self.call(self.probability(logit), threshold),  # at even prevalence: the same wherever it is shown
            prevalence=prevalence,
        )

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> Metrics:
        """Discrimination, operating point, calibration: :func:`~wsipipe.models.evaluation.metrics.binary_metrics`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        probabilities = [row.probability for row in rows]
        return binary_metrics(labels, probabilities, [row.call for row in rows], rounds=rounds, seed=seed)


BINARY = BinaryTask()


def class_of(label: Label) -> int:
    """The place of a patient's class; labels of a task with classes are whole numbers.

    :raises UsageError: it is none.
    """
    if not isinstance(label, int):
        raise UsageError(f"a class is a whole number, not {label}")
    return label


def one_number(scores: Sequence[Score]) -> list[float]:
    """The scores of a task that gives a slide one number, as numbers."""
    return [score if not isinstance(score, tuple) else score[0] for score in scores]


def _rank_correlation(scores: Sequence[float], soft_targets: Sequence[SoftTarget | None]) -> float | None:
    """Spearman's correlation of scores and soft targets, over patients that have one; 0 if all scores are equal."""
    both = zip(scores, soft_targets, strict=True)
    pairs = [(score, target) for score, target in both if isinstance(target, int | float)]
    if len(pairs) < MIN_RANKED_PATIENTS or len({target for _, target in pairs}) < 2:
        return None
    known_scores, targets = zip(*pairs, strict=True)
    return float(spearmanr(known_scores, targets).statistic) if len(set(known_scores)) > 1 else 0.0
