"""The prediction for a patient: one record, whether out of fold, for another cohort, or for a new slide.

Each fold joins its scores of the patient's slides by the task's rule; the patient's score is the mean over the folds.
The threshold is the mean of the folds' thresholds, the spread the standard deviation of their probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from .task import Task  # loads torch, which pages do not need

TRAINED_AT: Final = 0.5
"""The prevalence that probabilities refer to: training draws both classes equally often."""


@dataclass(frozen=True, kw_only=True)
class PatientPrediction:
    """A patient's prediction by the folds that were not trained on them."""

    patient_id: str
    label: int | None = None
    """1 for positive, 0 for negative; None if unknown."""
    probability: float
    logit: float
    """The patient's score; of a binary task the log-odds of positive."""
    spread: float | None = None
    """Standard deviation of the folds' probabilities; None with one fold."""
    threshold: float
    """Probability from which the patient is called positive."""
    call: int
    """The predicted label: 1 if the patient is called positive, else 0."""
    slides: int
    folds: tuple[int, ...]
    why: str = ""
    """Why these folds were used and not others."""

    @property
    def fold(self) -> int:
        """The fold of a patient who was predicted by exactly one."""
        [fold] = self.folds
        return fold

    @classmethod
    def of(
        cls,
        patient_id: str,
        slides: Sequence[Mapping[int, float]],
        thresholds: Mapping[int, float],
        task: Task,
        *,
        label: int | None = None,
        why: str = "",
    ) -> Self:
        """Combine the scores of each slide by each fold into the prediction of a patient.

        :param slides: for each slide, fold → score; all slides were read by the same folds.
        :param thresholds: fold → its threshold.
        """
        folds = tuple(sorted(slides[0]))
        by_fold = [task.join([scores[fold] for scores in slides]) for fold in folds]
        logit, threshold = float(np.mean(by_fold)), float(np.mean([thresholds[fold] for fold in folds]))
        probability = task.probability(logit)
        return cls(
            patient_id=patient_id,
            label=label,
            probability=probability,
            logit=logit,
            spread=float(np.std([task.probability(one) for one in by_fold], ddof=1)) if len(folds) > 1 else None,
            threshold=threshold,
            call=task.call(probability, threshold),
            slides=len(slides),
            folds=folds,
            why=why,
        )
