"""The prediction for a patient: one record, whether out of fold, for another cohort, or for a new slide.

Each fold joins its scores of the patient's slides by the task's rule; the patient's score is the mean over the folds.
The threshold is the mean of the folds' thresholds, the spread the standard deviation of their probabilities.

Training draws all classes equally often, so scores and thresholds of a fold are at even prevalence. A probability is
shown at a stated prevalence: of two classes its log-odds are added to the score, and the threshold moves along
(Prentice and Pyke, Biometrika 66:403, 1979; Saerens, Latinne and Decaestecker, Neural Computation 14:21, 2002). All
patients move by the same amount, so their order and their calls stay the same. Several classes: :mod:`.multiclass`. A
task without classes has no prevalence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from ...data.cohort.outcomes import Label
from ...data.errors import UsageError
from ..evaluation.conformal import NO_LABEL_SET, LabelSet

if TYPE_CHECKING:
    from .task import Task  # loads torch, which pages do not need

Score = float | tuple[float, ...]
"""What a network says of a slide: one number, or one a class."""

SoftTarget = float | tuple[float | None, ...]
"""What a patient is trained on in place of the label: of a binary task the probability of positive; of several targets
that of each, None where there is none."""

Prevalence = float | tuple[float, ...]
"""The share of positives in a population; of several classes the share of each, or none for equally frequent ones."""

EVEN: Final = 0.5
"""The prevalence that scores and the folds' thresholds are at: training draws both classes equally often."""


def log_odds(prevalence: float) -> float:
    """The logarithm of the odds of a prevalence.

    :raises UsageError: it does not lie between 0 and 1.
    """
    if not 0 < prevalence < 1:  # NaN fails too
        raise UsageError(f"a prevalence lies between 0 and 1, not at {prevalence}", hint="15 % positive is 0.15")
    return math.log(prevalence) - math.log1p(-prevalence)


def threshold_at(threshold: float, prevalence: float) -> float:
    """Move a threshold from even prevalence to another one; a threshold of 0 or 1 stays."""
    if prevalence == EVEN:
        return threshold
    positive, negative = threshold * prevalence, (1 - threshold) * (1 - prevalence)
    return positive / (positive + negative)


def one_share(prevalence: Prevalence) -> float:
    """The prevalence of a task with one.

    :raises UsageError: it is of several classes.
    """
    if isinstance(prevalence, tuple):
        raise UsageError(f"the prevalence of two classes is one number, not {prevalence}")
    return prevalence


def prevalence_cell(prevalence: Prevalence) -> float | str:
    """A prevalence as a cell of a table; :func:`read_prevalence` reads it."""
    return ";".join(map(repr, prevalence)) if isinstance(prevalence, tuple) else prevalence


def read_prevalence(text: str, classes: int) -> Prevalence:
    """Read the cell of a table.

    :param classes: how many the task has; 0 for one that has one prevalence, or none.
    :raises ValueError: it holds none.
    """
    shares = tuple(float(part) for part in text.split(";")) if text else () if classes else (EVEN,)
    if not all(0 < share < 1 for share in shares) or len(shares) not in ((0, classes) if classes else (1,)):
        raise ValueError(f"a prevalence is {text[:40]!r}")
    return shares if classes else shares[0]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of a patient, by all its folds that may."""

    probability: float
    """Of positive, at :attr:`prevalence`; of one of several classes that of the called class; in tasks without a
    probability the prediction itself, in the unit of the label, or the risk."""
    logit: float
    """The patient's score; of a binary task the log-odds of positive at even prevalence."""
    spread: float | None = None
    """Standard deviation of the folds' probabilities; None with one fold."""
    threshold: float
    """Probability from which the patient is called positive, at :attr:`prevalence`; of survival the risk from which
    they are called high; 0 in tasks without a threshold."""
    call: int
    """The predicted class: 1 if the patient is called positive, else 0; 0 in tasks without a call."""
    shares: tuple[float, ...] = ()
    """The probability of each class, or of no event by each horizon; empty for the other tasks."""
    prevalence: Prevalence = EVEN
    """The one that probabilities are at; tasks without classes do not use it."""

    @property
    def prevalence_cell(self) -> float | str:
        """It, for a table: of several classes the share of each in their order, empty for equally frequent ones."""
        return prevalence_cell(self.prevalence)


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
    doubts: tuple[str, ...] = ()
    """Why the patient gets no call; empty if they get one."""
    label_set: LabelSet = NO_LABEL_SET
    """What their label is at a stated level."""

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
        prevalence: Prevalence,
        label: Label | None = None,
        why: str = "",
    ) -> Self:
        """Combine the scores of each slide by each fold into the prediction of a patient.

        :param slides: for each slide, fold → score; all slides were read by the same folds.
        :param thresholds: fold → its threshold, at even prevalence as the scores are.
        :param prevalence: of the classes in the population that the probability is for; for a task with a prevalence.
        """
        folds = tuple(sorted(slides[0]))
        by_fold = [task.join([scores[fold] for scores in slides]) for fold in folds]
        answer = task.answer(by_fold, [thresholds[fold] for fold in folds], prevalence=prevalence)
        return cls(patient_id=patient_id, label=label, slides=len(slides), folds=folds, why=why, **vars(answer))
