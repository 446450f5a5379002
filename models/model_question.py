"""The question that a model answers, as its bundle holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from ..data.molecular.signature_names import SetScore, refuse_signature
from .tasks.question import SurvivalLoss, TaskName, class_names, refuse_parts
from .tasks.task import Task, find_task


class Question(BaseModel):
    """The question a model answers: the task, the columns, and which values mean which class.

    A bundle of a binary question stores no task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label_column: str
    positive: list[str]
    negative: list[str]
    task: TaskName = "binary"
    classes: list[str] = []
    robust: bool = False
    time_column: str = ""
    event_column: str = ""
    loss: SurvivalLoss = "hazards"
    horizons: list[float] = []
    time_unit: str = ""
    signature: str = ""
    signature_score: SetScore = "auto"
    cut: str = ""

    @model_validator(mode="after")
    def _all_that_the_task_needs(self) -> Self:
        refuse_parts(self)
        refuse_signature(self)
        return self

    def asked(self, state: Mapping[str, Any] | None = None) -> Task:
        """Return the task.

        :param state: what it has learned from training patients (:attr:`BundleFacts.task_state`).
        """
        return find_task(
            self.task,
            class_names(self.classes),
            state,
            robust=self.robust,
            loss=self.loss,
            horizons=self.horizons,
            time_unit=self.time_unit,
        )


_OF_OTHER_TASKS: Final = frozenset(
    {"task", "classes", "robust", "time_column", "event_column", "loss", "horizons", "time_unit"}
)
_OF_SIGNATURES: Final = frozenset({"signature", "signature_score", "cut"})


def not_needed(question: Question) -> dict[str, Any]:
    """Fields of a bundle that a question leaves out: those that only other tasks, or only signatures, need."""
    binary = question.task == "binary"
    fields = (_OF_OTHER_TASKS if binary else set()) | (set() if question.signature else _OF_SIGNATURES)
    left_out: dict[str, Any] = {"question": set(fields)}
    if binary:
        left_out["task_state"] = True
    return left_out if question.signature else left_out | {"signature": True}
