"""The regression task: which number does a patient have, such as a recurrence score?

There is one logit, the number in the scale of the fold's training patients: centred on their mean and divided by their
standard deviation, or with ``robust`` by their median and 1.4826 times the median absolute deviation, which a few
outliers do not move. Score, prediction and tile scores are in the unit of the label. The loss is the squared error in
that scale, or with ``robust`` Huber's (Ann. Math. Stat. 35:73, 1964) with δ = 1: squared up to one standard deviation,
linear beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...data.cohort.outcomes import Label
from ...data.cohort.splits import Strata
from ...data.errors import CohortError, UsageError
from ..audit.audited_outcomes import NumberOutcome, Outcome
from ..evaluation.number_metrics import number_figures, number_metrics
from ..evaluation.task_metrics import Figures, TaskMetrics
from .binary import one_number
from .prediction import EVEN, Answer, PatientPrediction, Prevalence, Score, SoftTarget
from .task import Task, Validation

QUARTERS = 4
PATIENTS_A_STRATUM = 10
"""With fewer patients than this for each quarter there are fewer strata."""
MAD_TO_SD = 1.4826
"""Of normally distributed numbers the standard deviation is so many median absolute deviations."""


class RegressionTask(Task):
    """Labels are numbers.

    :param robust: Huber's loss, and a scale that outliers do not move.
    :param centre, scale: of the training patients' labels (:meth:`fitted`).
    """

    name: ClassVar[str] = "regression"
    answer_columns: ClassVar[Mapping[str, str]] = {"prediction": "probability"}
    outputs = 1
    measure: ClassVar[str] = "Spearman's ρ"

    def __init__(self, robust: bool = False, centre: float = 0.0, scale: float = 1.0) -> None:
        if not (math.isfinite(centre) and math.isfinite(scale) and scale > 0):
            raise ValueError(f"labels cannot be scaled by {centre!r} and {scale!r}")
        self.robust, self.centre, self.scale = robust, centre, scale

    def fitted(self, labels: Sequence[Label]) -> Self:
        """Take centre and scale from the labels of training patients.

        :raises CohortError: all labels are the same.
        """
        y = np.array([number_of(label) for label in labels])
        centre, scale = float(y.mean()), float(y.std())
        if self.robust and (deviation := float(np.median(np.abs(y - np.median(y))))) > 0:
            centre, scale = float(np.median(y)), MAD_TO_SD * deviation
        if not scale > 1e-12 * max(1.0, abs(centre)):
            what = f"all training patients of this fold have the same label, {centre:g}"
            raise CohortError(what, hint="a number that does not vary cannot be learned: look at the label's column")
        return type(self)(self.robust, centre, scale)

    def state(self) -> dict[str, Any]:
        """Centre and scale."""
        return {"centre": self.centre, "scale": self.scale}

    def strata(self, labels: Mapping[str, Label]) -> dict[str, int]:
        """The quarters of the patients by their number, fewer where patients are few; of equal numbers by id."""
        order = sorted(labels, key=lambda patient: (number_of(labels[patient]), patient))
        parts = _parts(len(order))
        return {patient: rank * parts // len(order) for rank, patient in enumerate(order)}

    def strata_of_split(self, labels: Mapping[str, Label]) -> Strata:
        """The quarters with their names."""
        parts = _parts(len(labels))
        return Strata(self.strata(labels), tuple(f"in the {part} by value" for part in _PARTS[parts]))

    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
        """All patients are one group."""
        return [list(range(len(labels)))]

    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> float:
        """The number in the scale of the training patients."""
        if soft_target is not None:
            raise UsageError("soft targets are for the binary task", path=patient_id)
        if isinstance(label, tuple) or not math.isfinite(label):
            raise UsageError(f"a label is a finite number, not {label}", path=patient_id)
        return (label - self.centre) / self.scale

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """The squared error, or Huber's loss, of logits (B, 1)."""
        found, wanted = logits[..., 0], values.to(logits.dtype)
        if self.robust:
            return functional.huber_loss(found, wanted, reduction="none", delta=1.0)
        return (found - wanted).square()

    def score(self, logits: Tensor) -> Tensor:
        """The number in its own unit; (…, 1) → (…)."""
        return logits[..., 0] * self.scale + self.centre

    def join(self, scores: Sequence[Score]) -> float:
        """The mean of the slides' numbers, independent of their order."""
        return math.fsum(one_number(scores)) / len(scores)

    def validate(
        self, labels: Sequence[Label], scores: Sequence[Score], soft_targets: Sequence[SoftTarget | None]
    ) -> Validation:
        """The loss alone: a network is kept for the size of its errors, not for the order of patients."""
        values = torch.tensor([self.value("", label, None) for label in labels], dtype=torch.float64)
        logits = (torch.tensor(one_number(scores), dtype=torch.float64) - self.centre) / self.scale
        return Validation(None, float(self.loss(logits[:, None], values)), None)

    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """There is none."""
        return 0.0, "none: the number itself is the prediction"

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """The mean of the folds' numbers."""
        numbers = one_number(by_fold)
        value = float(np.mean(numbers))
        spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
        return Answer(probability=value, logit=value, spread=spread, threshold=0.0, call=0)

    def figures_of(self, rows: Sequence[PatientPrediction]) -> Figures:
        """Those of :func:`~wsipipe.models.evaluation.number_metrics.number_figures`."""
        return number_figures(*_pairs(rows))

    def outcome(self, rows: Sequence[PatientPrediction]) -> Outcome:
        """Numbers and predictions."""
        return NumberOutcome(*_pairs(rows))

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> TaskMetrics:
        """Correlation and errors: :mod:`~wsipipe.models.evaluation.number_metrics`."""
        return number_metrics(*_pairs(rows), rounds=rounds, seed=seed)


def number_of(label: Label) -> float:
    """The label of a task with numbers.

    :raises UsageError: it is none.
    """
    if isinstance(label, tuple):
        raise UsageError(f"a label is a number, not {label}")
    return float(label)


_PARTS: Final = {
    1: ("whole range",),
    2: ("lower half", "upper half"),
    3: ("lowest third", "middle third", "highest third"),
    4: ("lowest quarter", "second quarter", "third quarter", "highest quarter"),
}
"""Names of the strata, by their number."""


def _parts(patients: int) -> int:
    return max(1, min(QUARTERS, patients // PATIENTS_A_STRATUM))


def _pairs(rows: Sequence[PatientPrediction]) -> tuple[list[float], list[float]]:
    """Labels and predictions."""
    return [number_of(row.label) for row in rows if row.label is not None], [row.probability for row in rows]
