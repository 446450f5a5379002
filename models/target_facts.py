"""What a bundle holds of one of several targets, and which thresholds and prevalences a task can have."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from .tasks.task import Task


class TargetFacts(BaseModel):
    """What a model of several targets holds of one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: FiniteFloat
    """As :attr:`BundleFacts.threshold`."""
    threshold_from: str = ""
    """How it was chosen."""
    prevalence: float | None = Field(None, gt=0, lt=1)
    """As :attr:`BundleFacts.prevalence`, of the training patients who have a label of the target."""
    validation: float | None = None
    """The figure of the task for the validation patients, at the epoch that was kept; None where there is none."""
    patients: dict[str, int] = {}
    """Number of training and validation patients who have one."""


def refuse_other_scale(task: Task, threshold: float, prevalence: float | None) -> None:
    """Refuse a threshold or a prevalence that the task cannot have.

    :raises ValueError: it says which.
    """
    if task.has_prevalence and not 0 <= threshold <= 1:
        raise ValueError("threshold: Input should be less than or equal to 1, and not below 0")
    if prevalence is not None and not task.has_prevalence:
        raise ValueError(f"task {task.name} has no prevalence")
