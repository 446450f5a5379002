"""The question that a model answers, as its bundle holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

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

    @model_validator(mode="after")
    def _all_that_the_task_needs(self) -> Self:
        refuse_parts(self)
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


OF_OTHER_TASKS: Final[dict[str, Any]] = {
    "question": {"task", "classes", "robust", "time_column", "event_column", "loss", "horizons", "time_unit"},
    "task_state": True,
}
"""Fields of a bundle that only tasks other than the binary one need: a bundle of a binary question is without them."""
