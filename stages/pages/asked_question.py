"""What a page says that a model answers: the column, its values or classes, and how answers are put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from ...data.cohort.outcomes import Label, shown_label
from ...data.molecular.signature_target import Signature
from ...models.tasks.prediction import PatientPrediction
from ...models.tasks.question import SurvivalLoss, TaskName, TaskWords, class_names, words_of


class Asks(Protocol):
    """The question of a biomarker, or of a model."""

    @property
    def label_column(self) -> str: ...
    @property
    def positive(self) -> list[str]: ...
    @property
    def negative(self) -> list[str]: ...
    @property
    def task(self) -> TaskName: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def loss(self) -> SurvivalLoss: ...
    @property
    def time_unit(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Question:
    """The biomarker: a column of the cohort table, and the values that count as positive and as negative."""

    label_column: str
    positive: str
    negative: str
    task: TaskName = "binary"
    classes: tuple[str, ...] = ()
    """Names of the classes of other tasks than the binary one; empty where labels are not classes."""
    loss: SurvivalLoss = "hazards"
    time_unit: str = ""
    target: str = ""
    """Of a signature: how its score is made, in words."""
    of_several: bool = False
    """Whether it is one of several targets of a model."""

    @classmethod
    def of(cls, label_column: str, positive: Sequence[str], negative: Sequence[str]) -> Self:
        """Join the values of either class with commas."""
        return cls(label_column=label_column, positive=", ".join(positive), negative=", ".join(negative))

    @classmethod
    def asked(cls, question: Asks, signature: Signature | None = None, *, of_several: bool = False) -> Self:
        """The question of a biomarker or of a model, or of one of its targets.

        :param signature: the model's, if its target is one.
        """
        q = replace(cls.of(question.label_column, question.positive, question.negative), of_several=of_several)
        q = replace(q, target=signature.words) if signature is not None else q
        if question.task == "binary":
            return q
        names, unit = class_names(question.classes), question.time_unit
        return replace(q, task=question.task, classes=names, loss=question.loss, time_unit=unit)

    @property
    def words(self) -> TaskWords:
        """How the page speaks of the task."""
        return words_of(self.task, self.loss)

    def call_of(self, prediction: PatientPrediction) -> str:
        """The call of a patient, in words; empty in a task without calls."""
        if prediction.doubts:
            return "uncertain"
        if self.task == "binary" or self.classes:
            return self.name_of(prediction.call)
        return ("low", "high")[prediction.call] if self.words.called else ""

    def name_of(self, label: Label | None) -> str:
        """A label or a call, in words."""
        if label is None:
            return "–"
        if self.task == "binary":
            return self.positive if label else self.negative
        return self.classes[label] if self.classes and isinstance(label, int) else shown_label(label)
