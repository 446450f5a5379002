"""A task is what a model answers, and everything that depends on it.

Networks ask it for the width of their head and the loss, training for targets, for the groups that it samples from and
for the score that stops it early, evaluation for the way from slides to a patient, the decision and the figures. Binary
(:mod:`.binary`) is the only task so far; another is a file beside it and a row in :data:`TASKS`.

A patient's *score* is one number that grows with the answer, such as log-odds; its *probability* is what people read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Final

from torch import Tensor

from ..evaluation.metrics import Metrics


@dataclass(frozen=True)
class Validation:
    """How a network does on the validation patients."""

    auc: float | None
    """None where they are of one class."""
    loss: float
    """Mean over the patients, against their labels."""
    rank_correlation: float | None
    """Spearman's, with their soft targets; None without these, or with too few."""

    @property
    def score(self) -> float:
        """What early stopping and the schedule maximise: the rank correlation, else the AUC, else minus the loss."""
        values = (self.rank_correlation, self.auc, -self.loss)
        return next(value for value in values if value is not None)


class Task(ABC):
    """What a model answers. A task holds no state."""

    name: ClassVar[str]
    outputs: ClassVar[int]
    """Numbers that a network's head gives for a slide."""
    page_parts: ClassVar[tuple[str, ...]]
    """Charts of the performance section that mean something for it, in the order of the page."""

    @abstractmethod
    def strata(self, labels: Mapping[str, int]) -> dict[str, int]:
        """Patient → stratum; splits keep the share of every stratum alike in all folds."""

    @abstractmethod
    def sampling_groups(self, labels: Sequence[int]) -> list[list[int]]:
        """Positions of the training patients in groups that training draws from equally often.

        :raises CohortError: these patients cannot train for the task.
        """

    @abstractmethod
    def value(self, patient_id: str, label: int, soft_target: float | None) -> float:
        """What the loss compares a patient's logits with: the soft target where there is one, else the label.

        :param patient_id: for messages.
        :raises UsageError: a label or a soft target that the task cannot have.
        """

    @abstractmethod
    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """The loss of logits (B, outputs) against the :meth:`value` of each (B), a scalar: the mean over the bags."""

    @abstractmethod
    def score(self, logits: Tensor) -> Tensor:
        """The score of slides, or of single tiles; (…, outputs) → (…)."""

    @abstractmethod
    def join(self, scores: Sequence[float]) -> float:
        """A patient's score from those of the patient's slides."""

    @abstractmethod
    def validate(
        self, labels: Sequence[int], scores: Sequence[float], soft_targets: Sequence[float | None]
    ) -> Validation:
        """How these patients' scores agree with their labels and soft targets."""

    @abstractmethod
    def probability(self, score: float) -> float:
        """The probability that a score stands for."""

    @abstractmethod
    def threshold(self, labels: Sequence[int], scores: Sequence[float]) -> tuple[float, str]:
        """The probability from which :meth:`call` decides, chosen on validation patients, and how it was chosen."""

    @abstractmethod
    def call(self, probability: float, threshold: float) -> int:
        """The label that a model settles on for a patient."""

    @abstractmethod
    def metrics(
        self,
        labels: Sequence[int],
        probabilities: Sequence[float],
        calls: Sequence[int],
        *,
        rounds: int,
        seed: int,
    ) -> Metrics:
        """Figures of these patients.

        :param rounds: of the bootstrap; 0 for no intervals.
        """


TASKS: Final = {"binary": "binary:BinaryTask"}
"""Name → module beside this one, and its class."""


def find_task(name: str) -> Task:
    """A task by its name."""
    module, _, kind = TASKS[name].partition(":")
    task: Task = getattr(import_module(f"{__package__}.{module}"), kind)()
    return task
