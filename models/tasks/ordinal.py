"""The ordinal task: which of C ordered classes, such as grades, is a patient of?

Cumulative logits (McCullagh, J. R. Stat. Soc. B 42:109, 1980): a_k = logit P(y > k), k = 0 … C − 2. The head gives C
− 1 numbers l, and a_0 = l_0, a_k = a_{k−1} − softplus(l_k): the logits fall with k for every patient, so that no class
gets a negative probability, as separate models of y > k may give. Unlike proportional odds the steps may differ between
patients. P(y = c) = σ(a_{c−1}) − σ(a_c), and the loss is minus its logarithm.

The scores of a slide are a; those of a patient are the means over slides and folds, which fall with k too. The call is
the median class, the one with the least expected distance. Training draws from all classes equally often: the shares
of the classes among the training patients are put back into their probabilities P(y = c), as for classes without an
order (:mod:`.multiclass`), and the call is the median at equally frequent classes, as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from ...data.cohort.outcomes import Label
from ..evaluation.ordinal_metrics import CONCORDANCE, ordinal_figures, ordinal_metrics
from ..evaluation.task_metrics import Figures, TaskMetrics
from .binary import class_of
from .multiclass import MulticlassTask, shares_of, vectors
from .prediction import EVEN, Answer, PatientPrediction, Prevalence, Score, SoftTarget
from .task import Validation

Floats = npt.NDArray[np.float64]


class OrdinalTask(MulticlassTask):
    """Labels 0 to C − 1, the places of the classes, the lowest first; what concerns classes is as for several classes.

    :param classes: their names; at least two.
    """

    name: ClassVar[str] = "ordinal"
    measure: ClassVar[str] = CONCORDANCE

    def __init__(self, classes: Sequence[str] = ("low", "high")) -> None:
        super().__init__(classes)
        self.outputs = len(self.classes) - 1

    @property
    def score_names(self) -> tuple[str, ...]:
        """What each score is of."""
        return tuple(f"score above {name}" for name in self.classes[:-1])

    def score(self, logits: Tensor) -> Tensor:
        """The cumulative logits a; (…, C − 1) → (…, C − 1)."""
        return torch.cat([logits[..., :1], -functional.softplus(logits[..., 1:])], dim=-1).cumsum(dim=-1)

    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """−ln P(y), where P = σ(a) σ(−b) (1 − exp(b − a)) of the logits a before and b after the class."""
        a = self.score(logits)
        steps = functional.softplus(logits[..., 1:])  # a_{k−1} − a_k, exactly
        above = functional.pad(functional.logsigmoid(a), (1, 0))  # ln P(y > k − 1); of the lowest class 0
        below = functional.pad(functional.logsigmoid(-a), (0, 1))  # ln P(y ≤ k); of the highest class 0
        between = functional.pad(torch.log(-torch.expm1(-steps)), (1, 1))
        return -(above + below + between).gather(-1, values.long()[..., None])[..., 0]

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Their mean."""
        return self.losses(logits, values).mean()

    def shares(self, scores: npt.ArrayLike, prevalence: Prevalence = EVEN) -> Floats:
        """Compute the probabilities of the classes from the cumulative logits; (…, C − 1) → (…, C)."""
        above = expit(np.asarray(scores, np.float64))
        ends = np.ones((*above.shape[:-1], 1))
        even = np.asarray(-np.diff(np.concatenate([ends, above, 0 * ends], axis=-1), axis=-1))
        known = shares_of(prevalence)
        if not known:
            return even
        weighted = even * np.array(known)
        return np.asarray(weighted / weighted.sum(axis=-1, keepdims=True))

    def validate(
        self, labels: Sequence[Label], scores: Sequence[Score], soft_targets: Sequence[SoftTarget | None]
    ) -> Validation:
        """Concordance of the expected class, and the loss."""
        y, a = np.array([class_of(label) for label in labels]), np.array(vectors(scores))
        shares = self.shares(a)
        c = float(ordinal_figures(y, shares, y, self.classes)(np.ones((1, len(y))))[CONCORDANCE][0])
        loss = -np.log(np.maximum(shares[np.arange(len(y)), y], np.finfo(float).tiny)).mean()
        return Validation(None if math.isnan(c) else c, float(loss), None)

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """The mean of the folds' logits; the call is the median class, the score the expected class."""
        logits = np.array(vectors(by_fold)).mean(axis=0)
        return self._answer(by_fold, int((logits > 0).sum()), float(expit(logits).sum()), shares_of(prevalence))

    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """There is none."""
        return 0.0, "none: the median of equally frequent classes is called"

    def figures_of(self, rows: Sequence[PatientPrediction]) -> Figures:
        """Those of :func:`~wsipipe.models.evaluation.ordinal_metrics.ordinal_figures`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        return ordinal_figures(labels, [row.shares for row in rows], [row.call for row in rows], self.classes)

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> TaskMetrics:
        """Order, agreement and distance: :mod:`~wsipipe.models.evaluation.ordinal_metrics`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        shares, calls = [row.shares for row in rows], [row.call for row in rows]
        known = shares_of(rows[0].prevalence) if rows else ()
        return ordinal_metrics(labels, shares, calls, self.classes, prevalence=known, rounds=rounds, seed=seed)
