"""What a model says of a patient: one record, whether out of fold, of another cohort, or of a new slide.

A patient's score is the mean over the folds of what each makes of the slides together, by the task's rule. The
threshold is the mean of the folds', the spread the standard deviation of their probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

if TYPE_CHECKING:
    from .task import Task  # loads torch, which pages do without

TRAINED_AT: Final = 0.5
"""The prevalence that probabilities are at: training draws both classes equally often."""


@dataclass(frozen=True, kw_only=True)
class PatientPrediction:
    """A patient, as read by the folds that were not trained on them."""

    patient_id: str
    label: int | None = None
    """1 for positive, 0 for negative; None where it is not known."""
    probability: float
    logit: float
    """The patient's score; of a binary task the log-odds of positive."""
    spread: float | None = None
    """Standard deviation over the folds of their probabilities; None of one fold."""
    threshold: float
    """Probability from which the patient is called positive."""
    call: int
    """The label that the model settles on: 1 where the patient is called positive, else 0."""
    slides: int
    folds: tuple[int, ...]
    why: str = ""
    """Why these folds and not others."""

    @property
    def fold(self) -> int:
        """The one fold of a patient who was read by one."""
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
        """The prediction of a patient from what each fold says of each slide.

        :param slides: fold → score, a slide each; all were read by the same folds.
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
