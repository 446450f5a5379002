"""The question that a model answers, as its bundle holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from ..data.errors import BundleError
from ..data.file_names import why_no_file_name
from ..data.molecular.signature_names import SetScore, refuse_signature
from .tasks.multitask import MultiTask
from .tasks.question import SurvivalLoss, TaskName, class_names, refuse_parts
from .tasks.task import Task, find_task


class TargetQuestion(BaseModel):
    """A question without a name: the task, the columns, and which values mean which class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    targets: list[str] = []
    """Of multitask: names of the targets, in the order of their heads."""

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


class Question(TargetQuestion):
    """The question a model answers, with its name; a bundle of a binary question stores no task."""

    name: str
    of_targets: dict[str, TargetQuestion] = {}
    """Of multitask: what each target asks."""

    @model_validator(mode="after")
    def _a_question_for_each_target(self) -> Self:
        if self.of_targets.keys() != set(self.targets):
            raise ValueError(f"the targets are {self.targets}, and there are questions of {list(self.of_targets)}")
        if any(question.targets for question in self.of_targets.values()):
            raise ValueError("a target has targets itself")
        if strange := [name for name in self.targets if why_no_file_name(name)]:
            raise ValueError(f"{strange[0]!r} cannot be a target's name")
        return self

    def asked(self, state: Mapping[str, Any] | None = None) -> Task:
        """Return the task; of several targets all of them, each with its own state."""
        if not self.targets:
            return super().asked(state)
        own = dict.fromkeys(self.targets) if state is None else state
        if own.keys() != set(self.targets) or not all(one is None or isinstance(one, dict) for one in own.values()):
            raise BundleError(
                f"what its task has learned is damaged: it is not of the targets {', '.join(self.targets)}",
                hint="copy the bundle again, or train again",
            )
        return MultiTask({name: self.of_targets[name].asked(own[name]) for name in self.targets})

    def of_target(self, name: str) -> Question:
        """What one of the targets asks."""
        return Question(name=name, **self.of_targets[name].model_dump())


_OF_OTHER_TASKS: Final = frozenset(
    {"task", "classes", "robust", "time_column", "event_column", "loss", "horizons", "time_unit"}
)
_OF_SIGNATURES: Final = frozenset({"signature", "signature_score", "cut"})
_OF_SEVERAL_TARGETS: Final = frozenset({"targets", "of_targets"})


def not_needed(question: Question) -> dict[str, Any]:
    """Fields of a bundle that a question leaves out: what only other tasks, signatures or several targets need."""
    fields: set[str] = set()
    left_out: dict[str, Any] = {"question": fields}
    if question.task == "binary":
        fields |= _OF_OTHER_TASKS
        left_out["task_state"] = True
    if not question.signature:
        fields |= _OF_SIGNATURES
        left_out["signature"] = True
    if not question.targets:
        fields |= _OF_SEVERAL_TARGETS
        left_out["of_targets"] = True
    return left_out
