"""The multi-class task: which of C classes is a patient of?

There is a logit a class. A class's score is its logit minus the mean of the others', so that of two classes the second
has the log-odds of the binary task and the first minus these: networks, losses and gradients are then those of the
binary task to the bit. A patient's scores are the means of the slides', and the folds', scores; the probabilities
follow from them.

Training draws from all classes equally often, so the probabilities q that follow from scores are those at equally
frequent classes. Shown is the probability p_c = π_c q_c / Σ_k π_k q_k, where π are the shares of the classes among the
training patients (Saerens, Latinne and Decaestecker, Neural Computation 14:21, 2002, for C classes): of logits that is
ln π_c added to that of class c, and of two classes the binary task's log-odds of the prevalence, to the bit.

The call is made from q, as that of the binary task is made at even prevalence: the class that is most probable if all
are equally frequent, the one whose p_c is largest in proportion to π_c. So it does not depend on the prevalence, and a
rare class is called where the slide is evidence for it; by p a class of 10 % would hardly ever be called.
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
from ..audit.audited_outcomes import ClassOutcome, Outcome
from ..evaluation.class_metrics import class_figures, class_metrics, macro_auc
from ..evaluation.task_metrics import Figures, TaskMetrics
from .binary import class_of
from .prediction import EVEN, Answer, PatientPrediction, Prevalence, Score, SoftTarget, log_odds
from .task import Task, Validation

Floats = npt.NDArray[np.float64]


class MulticlassTask(Task):
    """Labels 0 to C − 1, the places of the classes.

    :param classes: their names; at least two.
    """

    name: ClassVar[str] = "multiclass"
    has_prevalence: ClassVar[bool] = True
    answer_columns: ClassVar[Mapping[str, str]] = {
        "call": "call",
        "probability of the call": "probability",
        "prevalence": "prevalence_cell",
    }
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

    def prevalence(self, labels: Sequence[Label]) -> tuple[float, ...]:
        """The share of each class."""
        places = [class_of(label) for label in labels]
        return tuple(places.count(place) / len(places) for place in range(len(self.classes)))

    def shares(self, scores: npt.ArrayLike, prevalence: Prevalence = EVEN) -> Floats:
        """Compute the probabilities of the classes from their scores; (…, C) → (…, C).

        :param prevalence: the share of each class; else they are equally frequent.
        """
        s, known = np.asarray(scores, np.float64), shares_of(prevalence)
        if self.outputs == 2:
            prior = log_odds(known[1]) if known else 0.0
            return np.asarray(expit(s + np.array([-prior, prior]) if known else s))
        logits = s * (self.outputs - 1) / self.outputs  # but for a constant
        return np.asarray(softmax(logits + np.log(known) if known else logits, axis=-1))

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
        return 0.0, "none: the most probable of equally frequent classes is called"

    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """The mean of the folds' scores; the call is the class of the highest score, of equals the first."""
        scores = np.array(vectors(by_fold)).mean(axis=0)
        call = int(self.shares(scores).argmax())  # at equally frequent classes: the same wherever it is shown
        return self._answer(by_fold, call, float(scores[call]), shares_of(prevalence))

    def _answer(self, by_fold: Sequence[Score], call: int, logit: float, prevalence: tuple[float, ...]) -> Answer:
        """What is shown of a call, at the prevalence."""
        every = np.array(vectors(by_fold))
        shares = self.shares(every.mean(axis=0), prevalence)
        return Answer(
            probability=float(shares[call]),
            logit=logit,
            spread=float(np.std(self.shares(every, prevalence)[:, call], ddof=1)) if len(every) > 1 else None,
            threshold=0.0,
            call=call,
            shares=tuple(shares.tolist()),
            prevalence=prevalence,
        )

    def figures_of(self, rows: Sequence[PatientPrediction]) -> Figures:
        """Those of :func:`~wsipipe.models.evaluation.class_metrics.class_figures`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        return class_figures(labels, [row.shares for row in rows], [row.call for row in rows], self.classes)

    def outcome(self, rows: Sequence[PatientPrediction]) -> Outcome:
        """Classes and their probabilities."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        return ClassOutcome(labels, [row.shares for row in rows], ordered=self.name == "ordinal")

    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> TaskMetrics:
        """Discrimination, calls and probabilities: :mod:`~wsipipe.models.evaluation.class_metrics`."""
        labels = [class_of(row.label) for row in rows if row.label is not None]
        shares, calls = [row.shares for row in rows], [row.call for row in rows]
        known = shares_of(rows[0].prevalence) if rows else ()
        return class_metrics(self.name, labels, shares, calls, self.classes, prevalence=known, rounds=rounds, seed=seed)


def shares_of(prevalence: Prevalence) -> tuple[float, ...]:
    """The share of each class in a population; empty where they are equally frequent."""
    return prevalence if isinstance(prevalence, tuple) else ()


def vectors(scores: Sequence[Score]) -> list[tuple[float, ...]]:
    """The scores of a task that gives a slide several numbers."""
    return [score if isinstance(score, tuple) else (score,) for score in scores]
