"""What a model says of a patient: one record, whether out of fold, of another cohort, or of a new slide.

A patient's score is the mean over the folds of the mean over the slides of the log-odds. The threshold is the mean of
the folds', the spread the standard deviation of their probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from scipy.special import expit

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
    """Log-odds of positive."""
    spread: float | None = None
    """Standard deviation over the folds of their probabilities; None of one fold."""
    threshold: float
    """Probability from which the patient is called positive."""
    slides: int
    folds: tuple[int, ...]
    why: str = ""
    """Why these folds and not others."""

    @property
    def call(self) -> int:
        """1 where the patient is called positive, else 0."""
        return int(self.probability >= self.threshold)

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
        *,
        label: int | None = None,
        why: str = "",
    ) -> Self:
        """The prediction of a patient from what each fold says of each slide.

        :param slides: fold → log-odds of positive, a slide each; all were read by the same folds.
        :param thresholds: fold → its threshold.
        """
        folds = tuple(sorted(slides[0]))
        by_fold = [float(np.mean([logits[fold] for logits in slides])) for fold in folds]
        logit = float(np.mean(by_fold))
        return cls(
            patient_id=patient_id,
            label=label,
            probability=float(expit(logit)),
            logit=logit,
            spread=float(np.std(expit(by_fold), ddof=1)) if len(folds) > 1 else None,
            threshold=float(np.mean([thresholds[fold] for fold in folds])),
            slides=len(slides),
            folds=folds,
            why=why,
        )
