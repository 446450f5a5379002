"""What a bundle holds of one of several targets, and which thresholds and prevalences a task can have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from .tasks.prediction import Prevalence
from .tasks.task import Task

Share = Annotated[float, Field(gt=0, lt=1)]
"""Of patients."""


class TargetFacts(BaseModel):
    """What a model of several targets holds of one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: FiniteFloat
    """As :attr:`BundleFacts.threshold`."""
    threshold_from: str = ""
    """How it was chosen."""
    prevalence: Share | tuple[Share, ...] | None = None
    """As :attr:`BundleFacts.prevalence`, of the training patients who have a label of the target."""
    validation: float | None = None
    """The figure of the task for the validation patients, at the epoch that was kept; None where there is none."""
    patients: dict[str, int] = {}
    """Number of training and validation patients who have one."""


def refuse_other_scale(task: Task, threshold: float, prevalence: Prevalence | None) -> None:
    """Refuse a threshold or a prevalence that the task cannot have.

    :raises ValueError: it says which.
    """
    if task.has_prevalence and not 0 <= threshold <= 1:
        raise ValueError("threshold: Input should be less than or equal to 1, and not below 0")
    if prevalence is not None and not task.has_prevalence:
        raise ValueError(f"task {task.name} has no prevalence")
    of_classes = prevalence if isinstance(prevalence, tuple) else ()
    if prevalence is not None and len(of_classes) != (0 if task.name == "binary" else len(task.classes)):
        raise ValueError(f"its prevalence is not that of the classes {', '.join(task.classes)}")
    if of_classes and abs(sum(of_classes) - 1) > 1e-6:
        raise ValueError("the shares of its classes do not add up to 1")
