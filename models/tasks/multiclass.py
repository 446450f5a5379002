"""The multi-class task: which of C classes is a patient of?

There is a logit a class. A class's score is its logit minus the mean of the others', so that of two classes the second
has the log-odds of the binary task and the first minus these: networks, losses and gradients are then those of the
binary task to the bit. A patient's scores are the means of the slides', and the folds', scores; the probabilities
follow from them, and the patient is called of the most probable class.

Training draws from all classes equally often, so probabilities are those at equally frequent classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, log_softmax, softmax
from torch import Tensor
from torch.nn import functional

from ...data.cohort.outcomes import Label
from ...data.errors import CohortError, UsageError
from ..evaluation.class_metrics import class_figures, class_metrics, macro_auc
from ..evaluation.task_metrics import Figures, TaskMetrics
from .binary import class_of
from .prediction import EVEN, Answer, PatientPrediction, Score, SoftTarget
from .task import Task, Validation

Floats = npt.NDArray[np.float64]


class MulticlassTask(Task):
    """Labels 0 to C − 1, the places of the classes.

    :param classes: their names; at least two.
    """

    name: ClassVar[str] = "multiclass"
    answer_columns: ClassVar[Mapping[str, str]] = {"call": "call", "probability of the call": "probability"}
    page_parts: ClassVar[tuple[str, ...]] = ("confusion",)

    def __init__(self, classes: Sequence[str] = ("negative", "positive")) -> None:
        if len(classes) < 2:
            raise ValueError("a patient is of one of two classes at least")
        self.classes = tuple(classes)
        self.outputs = len(self.classes)

    def strata(self, labels: Mapping[str, Label]) -> dict[str, int]:
        """The classes themselves."""
        return {patient: class_of(label) for patient, label in labels.items()}

    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
        """The patients of each class.

        :raises CohortError: a class has none.
        """
        groups = [[place for place, y in enumerate(labels) if y == wanted] for wanted in range(len(self.classes))]
        missing = [name for name, group in zip(self.classes, groups, strict=True) if not group]
        if missing:
            what = f"the training part of this fold has no patient of class {', '.join(missing)}"
            raise CohortError(what, hint="use fewer folds, more patients, or fewer classes")
        return groups

    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> float:
        """The place of the class; several classes have no soft targets."""
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(self.classes):
            raise UsageError(f"a class is a number from 0 to {len(self.classes) - 1}, not {label!r}", path=patient_id)
        if soft_target is not None:
            raise UsageError("soft targets are for the binary task", path=patient_id)
        return float(label)

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """Cross entropy of logits (B, C) against the classes' places (B)."""
        return functional.cross_entropy(logits, self.class_shares(values).to(logits.dtype), reduction="none")

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Its mean, computed as the binary task does."""
        return functional.cross_entropy(logits, self.class_shares(values).to(logits.dtype))

    @property
    def score_names(self) -> tuple[str, ...]:
        """What each score is of."""
        return tuple(f"score of {name}" for name in self.classes)

    def score(self, logits: Tensor) -> Tensor:
        """Each logit minus the mean of the others; (…, C) → (…, C)."""
        others = (logits.sum(dim=-1, keepdim=True) - logits) / (self.outputs - 1)
        if self.outputs == 2:
            others = logits.flip(-1)  # exactly, as a sum minus one of its terms is not
        return logits - others

    def join(self, scores: Sequence[Score]) -> tuple[float, ...]:
        """The mean of the slides' scores, independent of their order."""
        return tuple(math.fsum(own) / len(own) for own in zip(*vectors(scores), strict=True))

    def shares(self, scores: npt.ArrayLike) -> Floats:
        """Compute the probabilities of the classes from their scores; (…, C) → (…, C)."""
        s = np.asarray(scores, np.float64)
        if self.outputs == 2:
            return np.asarray(expit(s))
        return np.asarray(softmax(s * (self.outputs - 1) / self.outputs, axis=-1))  # logits, but for a constant

    def validate(
        self, labels: Sequence[Label], scores: Sequence[Score], soft_targets: Sequence[SoftTarget | None]
    ) -> Validation:
        """The mean AUC of the classes, each against all others, and the cross entropy."""
        y, s = np.array([class_of(label) for label in labels]), np.array(vectors(scores))
        if self.outputs == 2:  # as the binary task computes it
            loss = functional.binary_cross_entropy_with_logits(
                torch.tensor(s[:, 1]), torch.tensor(y, dtype=torch.float64)
            )
            return Validation(macro_auc(y, s), float(loss), None)
        log_shares = log_softmax(s * (self.outputs - 1) / self.outputs, axis=1)
        return Validation(macro_auc(y, self.shares(s)), float(-log_shares[np.arange(len(y)), y].mean()), None)

    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """There is none."""
        return 0.0, "none: the most probable class is called"

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: float = EVEN) -> Answer:
        """The mean of the folds' scores; the call is the most probable class, of equals the first."""
        every = np.array(vectors(by_fold))
        shares = self.shares(every.mean(axis=0))
        call = int(shares.argmax())
        return Answer(
            probability=float(shares[call]),
            logit=float(every.mean(axis=0)[call]),
            spread=float(np.std(self.shares(every)[:, call], ddof=1)) if len(every) > 1 else None,
            threshold=0.0,
            call=call,
            shares=tuple(shares.tolist()),
        )

    def figures_of(self, rows: Sequence[PatientPrediction]) -> Figures:
        """Those of :func:`~wsipipe.models.evaluation.class_metrics.class_figures`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        return class_figures(labels, [row.shares for row in rows], [row.call for row in rows], self.classes)

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> TaskMetrics:
        """Discrimination, calls and probabilities: :mod:`~wsipipe.models.evaluation.class_metrics`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        shares, calls = [row.shares for row in rows], [row.call for row in rows]
        return class_metrics(self.name, labels, shares, calls, self.classes, rounds=rounds, seed=seed)


def vectors(scores: Sequence[Score]) -> list[tuple[float, ...]]:
    """The scores of a task that gives a slide several numbers."""
    return [score if isinstance(score, tuple) else (score,) for score in scores]
