"""The prediction for a patient: one record, whether out of fold, for another cohort, or for a new slide.

Each fold joins its scores of the patient's slides by the task's rule; the patient's score is the mean over the folds.
The threshold is the mean of the folds' thresholds, the spread the standard deviation of their probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from ...data.cohort.outcomes import Label

if TYPE_CHECKING:
    from .task import Task  # loads torch, which pages do not need

Score = float | tuple[float, ...]
"""What a network says of a slide: one number, or one a class."""

TRAINED_AT: Final = 0.5
"""The prevalence that probabilities refer to: training draws both classes equally often."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of a patient, by all its folds that may."""

    probability: float
    """Of positive; of one of several classes that of the called class; in tasks without a probability the prediction
    itself, in the unit of the label, or the risk."""
    logit: float
    """The patient's score; of a binary task the log-odds of positive."""
    spread: float | None = None
    """Standard deviation of the folds' probabilities; None with one fold."""
    threshold: float
    """Probability from which the patient is called positive; 0 in tasks without a threshold."""
    call: int
    """The predicted class: 1 if the patient is called positive, else 0; 0 in tasks without a call."""
    shares: tuple[float, ...] = ()
    """The probability of each class, or of no event by the end of each interval; empty for the other tasks."""


@dataclass(frozen=True, kw_only=True)
class PatientPrediction(Answer):
    """A patient's prediction by the folds that were not trained on them."""

    patient_id: str
    label: Label | None = None
    """Of a binary task 1 for positive, 0 for negative; None if unknown."""
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
        slides: Sequence[Mapping[int, Score]],
        thresholds: Mapping[int, float],
        task: Task,
        *,
        label: Label | None = None,
        why: str = "",
    ) -> Self:
        """Combine the scores of each slide by each fold into the prediction of a patient.

        :param slides: for each slide, fold → score; all slides were read by the same folds.
        :param thresholds: fold → its threshold.
        """
        folds = tuple(sorted(slides[0]))
        by_fold = [task.join([scores[fold] for scores in slides]) for fold in folds]
        answer = task.answer(by_fold, [thresholds[fold] for fold in folds])
        return cls(patient_id=patient_id, label=label, slides=len(slides), folds=folds, why=why, **vars(answer))
