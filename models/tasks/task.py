"""The interface of a task: the kind of question a model answers, and everything that depends on it.

A task defines, for networks, the width of their head and the loss; for training, the targets, the groups to sample from
and the score for early stopping; for evaluation, how slides combine into a patient, the decision and the figures.
Binary (:mod:`.binary`) is the only task so far; another one is a file beside it and a row in :data:`TASKS`.

A patient's *score* is one number that grows with the answer, such as log-odds; the *probability* is shown to people.
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
    """A network's performance on the validation patients."""

    auc: float | None
    """None if they are all of one class."""
    loss: float
    """Mean over the patients, against their labels."""
    rank_correlation: float | None
    """Spearman's correlation with their soft targets; None without soft targets, or with too few."""

    @property
    def score(self) -> float:
        """The value that early stopping and the schedule maximise: rank correlation, else AUC, else minus the loss."""
        values = (self.rank_correlation, self.auc, -self.loss)
        return next(value for value in values if value is not None)


class Task(ABC):
    """The kind of question a model answers; it holds no state."""

    name: ClassVar[str]
    outputs: ClassVar[int]
    """Width of a network's head."""
    page_parts: ClassVar[tuple[str, ...]]
    """Charts of the performance section that apply to it, in the order of the page."""

    has_prevalence: ClassVar[bool] = False
    """Whether its probabilities are at a prevalence, as those of two classes are that training draws evenly."""

    @abstractmethod
    def strata(self, labels: Mapping[str, int]) -> dict[str, int]:
        """Map each patient to a stratum; splits keep the share of every stratum equal in all folds."""

    @abstractmethod
    def sampling_groups(self, labels: Sequence[int]) -> list[list[int]]:
        """Group the positions of the training patients; training draws from each group equally often.

        :raises CohortError: these patients cannot train for the task.
        """

    @abstractmethod
    def value(self, patient_id: str, label: int, soft_target: float | None) -> float:
        """Return the target value of a patient's logits: the soft target if there is one, else the label.

        :param patient_id: for messages.
        :raises UsageError: a label or a soft target that the task cannot have.
        """

    @abstractmethod
    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Compute the loss of logits (B, outputs) against target values (B): a scalar, the mean over the bags."""

    @abstractmethod
    def score(self, logits: Tensor) -> Tensor:
        """Compute the scores of slides, or of single tiles, from logits; (…, outputs) → (…)."""

    @abstractmethod
    def join(self, scores: Sequence[float]) -> float:
        """Combine the scores of a patient's slides into the patient's score."""

    @abstractmethod
    def validate(
        self, labels: Sequence[int], scores: Sequence[float], soft_targets: Sequence[float | None]
    ) -> Validation:
        """Measure how well patients' scores agree with their labels and soft targets."""

    @abstractmethod
    def probability(self, score: float) -> float:
        """Convert a score to a probability."""

    @abstractmethod
    def threshold(self, labels: Sequence[int], scores: Sequence[float]) -> tuple[float, str]:
        """Choose the threshold for :meth:`call` on validation patients; also say how it was chosen."""

    def prevalence(self, labels: Sequence[int]) -> float | None:
        """Compute the share of positives of the training patients; None for a task without two classes."""
        return None

    @abstractmethod
    def call(self, probability: float, threshold: float) -> int:
        """Decide the predicted label of a patient."""

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
        """Compute the performance figures over patients.

        :param rounds: number of bootstrap rounds; 0 for no intervals.
        """


TASKS: Final = {"binary": "binary:BinaryTask"}
"""Name → module beside this one and the task's class in it."""


def find_task(name: str) -> Task:
    """Find a task by its name."""
    module, _, kind = TASKS[name].partition(":")
    task: Task = getattr(import_module(f"{__package__}.{module}"), kind)()
    return task
