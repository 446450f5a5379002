"""The interface of a task: the kind of question a model answers, and everything that depends on it.

A task defines, for networks, the width of their head and the loss; for training, the targets, the groups to sample from
and the score for early stopping; for evaluation, how slides combine into a patient, the decision and the figures.
A task is a file beside this one and a row in :data:`TASKS`; several of them that one network learns are
:class:`~.multitask.MultiTask`.

A patient's *score* is a number that grows with the answer, such as log-odds, or one number a class; what is shown to
people, such as a probability, is made of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, Self

from torch import Generator, Tensor
from torch.nn import functional

from ...data.cohort.outcomes import Classes, Label
from ...data.cohort.splits import Strata
from ...data.cohort.target_splits import TargetStrata
from ...data.errors import BundleError
from ..audit.audited_outcomes import Outcome
from ..evaluation.metrics import Metrics
from ..evaluation.task_metrics import Figures, TaskMetrics
from .prediction import EVEN, Answer, PatientPrediction, Prevalence, Score, SoftTarget


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
    """The kind of question a model answers."""

    name: ClassVar[str]
    outputs: int
    """Width of a network's head."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their labels; empty if labels are not classes."""
    measure: ClassVar[str] = "AUC"
    """Name of the figure by which methods are compared."""
    compares_patients: ClassVar[bool] = False
    """Whether the loss compares patients: a step then needs bags of two patients or more, a linear model a row each."""
    answer_columns: ClassVar[Mapping[str, str]]
    """Columns of tables → the field of the :class:`Answer` that each shows."""
    page_parts: ClassVar[tuple[str, ...]] = ()
    """Charts of the performance section that apply to it, in the order of the page."""

    has_prevalence: ClassVar[bool] = False
    """Whether its probabilities are at a prevalence, as those of classes are that training draws evenly."""
    value_width: ClassVar[int] = 1
    """How many numbers the target value of a patient has."""

    @property
    def number_of_classes(self) -> Classes:
        """How many classes its labels have, for reading them from tables."""
        return len(self.classes)

    @property
    def share_names(self) -> tuple[str, ...]:
        """Names of a prediction's shares, for columns of tables."""
        return tuple(f"probability of {name}" for name in self.classes)

    @property
    def score_names(self) -> tuple[str, ...]:
        """What each score of a tile is of, in a task that gives it several."""
        return ()

    @property
    def score_length(self) -> int:
        """How many numbers the score of a slide has; 0 if it is a number by itself."""
        return len(self.score_names)

    def fitted(self, labels: Sequence[Label]) -> Self:
        """Return the task with what it learns from the labels of a fold's training patients, such as their scale.

        :raises CohortError: these patients cannot train for the task.
        """
        return self

    def state(self) -> dict[str, Any]:
        """Return what :meth:`fitted` has learned, as JSON values for the bundle."""
        return {}

    @abstractmethod
    def strata(self, labels: Mapping[str, Label]) -> dict[str, int]:
        """Map each patient to a stratum; splits keep the share of every stratum equal in all folds."""

    def strata_of_split(self, labels: Mapping[str, Label]) -> Strata | TargetStrata:
        """The strata with their names, for messages."""
        return Strata(self.strata(labels), self.classes)

    @abstractmethod
    def sampling_groups(self, labels: Sequence[Label]) -> list[list[int]]:
        """Group the positions of the training patients; training draws from each group equally often.

        :raises CohortError: these patients cannot train for the task.
        """

    def step_sampler(self, labels: Sequence[Label]) -> Callable[[int, Generator], list[int]] | None:
        """Return how the patients of a step are drawn together, for a loss that compares them; else None.

        :param labels: of the training patients.
        :returns: from the number of bags and a generator, the positions of different patients.
        """
        return None

    @abstractmethod
    def value(self, patient_id: str, label: Label, soft_target: SoftTarget | None) -> float | tuple[float, ...]:
        """Return the target value of a patient's logits: the soft target if there is one, else the label.

        :param patient_id: for messages.
        :raises UsageError: a label or a soft target that the task cannot have.
        """

    @abstractmethod
    def losses(self, logits: Tensor, values: Tensor) -> Tensor:
        """Compute the loss of each of B logits (B, outputs) against their target values (B, …): (B)."""

    def loss(self, logits: Tensor, values: Tensor) -> Tensor:
        """Compute the mean of the losses over the bags, a scalar."""
        return self.losses(logits, values).mean()

    def class_shares(self, values: Tensor) -> Tensor:
        """Return how much each class is the target, (B, …) target values → (B, C); for a task with classes.

        Of classes that is 1 for the patient's own, 0 for the others; with a soft target t, 1 − t and t.
        """
        return functional.one_hot(values.long(), len(self.classes)).to(values.dtype)

    @abstractmethod
    def score(self, logits: Tensor) -> Tensor:
        """Compute the scores of slides, or of single tiles, from logits; (…, outputs) → (…), or (…, C) of C classes."""

    def slide_scores(self, logits: Tensor) -> Tensor:
        """Compute the scores of slides with all that a patient's answer needs, (…, outputs) → (…), or (…, M)."""
        return self.score(logits)

    def after_fit(self, labels: Sequence[Label], scores: Sequence[Score]) -> Self:
        """Return the task with what it learns from the trained network's scores of the training patients.

        It is asked of a task whose loss compares patients, and therefore does not fix the level of its scores.
        """
        return self

    @abstractmethod
    def validate(
        self, labels: Sequence[Label], scores: Sequence[Score], soft_targets: Sequence[SoftTarget | None]
    ) -> Validation:
        """Measure how well patients' scores agree with their labels and soft targets."""

    @abstractmethod
    def threshold(self, labels: Sequence[Label], scores: Sequence[Score]) -> tuple[float, str]:
        """Choose the threshold of the call on validation patients; also say how it was chosen."""

    @abstractmethod
    def join(self, scores: Sequence[Score]) -> Score:
        """Combine the scores of a patient's slides into the patient's score."""

    def prevalence(self, labels: Sequence[Label]) -> Prevalence | None:
        """Compute the share of positives, or of each class, of the training patients; None without classes."""
        return None

    @abstractmethod
    def answer(self, by_fold: Sequence[Score], thresholds: Sequence[float], *, prevalence: Prevalence = EVEN) -> Answer:
        """Combine the folds' scores of a patient into what is shown to people.

        :param thresholds: each fold's own, at even prevalence as the scores are.
        :param prevalence: the one to show probabilities at; for a task with a prevalence.
        """

    def figures_of(self, rows: Sequence[PatientPrediction]) -> Figures:
        """Make the function that computes the figures of these patients in bootstrap rounds, for a comparison.

        The binary task has none: its methods are compared by DeLong's test.
        """
        raise NotImplementedError

    def outcome(self, rows: Sequence[PatientPrediction]) -> Outcome:
        """Labels and scores of these patients as an audit judges them; the binary task has an audit of its own."""
        raise NotImplementedError

    def bootstrap_strata(self, rows: Sequence[PatientPrediction]) -> list[int]:
        """The stratum of each patient, within which the bootstrap draws."""
        return [row.label if isinstance(row.label, int) else 0 for row in rows]

    @abstractmethod
    def figures(self, rows: Sequence[PatientPrediction], *, rounds: int, seed: int) -> Metrics | TaskMetrics:
        """Compute the performance figures over patients, whose labels are all known.

        :param rounds: number of bootstrap rounds; 0 for no intervals.
        """


TASKS: Final = {
    "binary": "binary:BinaryTask",
    "multiclass": "multiclass:MulticlassTask",
    "ordinal": "ordinal:OrdinalTask",
    "regression": "regression:RegressionTask",
    "survival": "survival:SurvivalTask",
}
"""Name → module beside this one and the task's class in it."""

COX: Final = "cox:CoxTask"
"""The survival task with the other loss."""


def find_task(
    name: str,
    classes: Sequence[str] = (),
    state: Mapping[str, Any] | None = None,
    *,
    robust: bool = False,
    loss: str = "hazards",
    horizons: Sequence[float] = (),
    time_unit: str = "",
) -> Task:
    """Find a task by its name.

    :param classes: names of the classes, for a task that has some.
    :param state: what the task has learned from its training patients (:meth:`Task.state`).
    :param robust: whether the loss of a number bears outliers.
    :param loss, horizons, time_unit: of survival.
    :raises BundleError: the state is not that of such a task.
    """
    module, _, kind = (COX if name == "survival" and loss == "cox" else TASKS[name]).partition(":")
    given: dict[str, Any] = {"classes": tuple(classes)} if classes and name != "binary" else {}
    given |= {"robust": True} if robust else {}
    given |= {"horizons": tuple(horizons), "time_unit": time_unit} if name == "survival" else {}
    try:
        task: Task = getattr(import_module(f"{__package__}.{module}"), kind)(**given, **(state or {}))
    except (TypeError, ValueError) as error:
        what = f"what its task {name} has learned is damaged: {error}"
        raise BundleError(what, hint="copy the bundle again, or train again") from error
    return task
