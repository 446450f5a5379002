"""What a question is made of, for settings and bundles: the names of the tasks, and how classes are written.

Light to import: settings and ``--help`` need it without PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from ...data.cohort.ids import id_key

TaskName = Literal["binary", "multiclass", "ordinal", "regression", "survival", "multitask"]
"""The tasks; the first is the default."""
WITH_CLASSES: tuple[TaskName, ...] = ("multiclass", "ordinal")
"""Tasks whose classes are listed."""
SurvivalLoss = Literal["hazards", "cox"]
"""Losses of survival; the first is the default."""


def class_values(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name of each class → the values that mean it: ``low=1+|2+`` are two values, ``high`` is its own.

    :raises ValueError: a name or a value is there twice, or is empty.
    """
    values: dict[str, tuple[str, ...]] = {}
    for text in classes:
        name, equals, listed = (part.strip() for part in text.partition("="))
        own = tuple(value.strip() for value in listed.split("|")) if equals else (name,)
        if not name or not all(own):
            raise ValueError(f"class {text!r} is not NAME or NAME=VALUE|VALUE")
        if name in values:
            raise ValueError(f"class {name} is there twice")
        values[name] = own
    keys = [id_key(value) for own in values.values() for value in own]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"{', '.join(twice)} cannot mean two classes")
    return values


def class_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes, in their order."""
    return tuple(class_values(classes))


class Parts(Protocol):
    """What the tasks need of a question, each its own."""

    @property
    def task(self) -> TaskName: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def robust(self) -> bool: ...
    @property
    def time_column(self) -> str: ...
    @property
    def event_column(self) -> str: ...
    @property
    def loss(self) -> SurvivalLoss: ...
    @property
    def horizons(self) -> list[float]: ...
    @property
    def time_unit(self) -> str: ...
    @property
    def targets(self) -> list[str]: ...


def refuse_parts(question: Parts) -> None:
    """Refuse a question without what its task needs, or with what is another task's.

    :raises ValueError: it says which.
    """
    task, columns = question.task, (question.time_column, question.event_column)
    if task in WITH_CLASSES:
        if len(class_values(question.classes)) < 2:
            raise ValueError(f"task {task} needs classes: the names of two classes or more")
    elif question.classes:
        raise ValueError(f"classes are for task {' or '.join(WITH_CLASSES)}; task is {task}")
    if task == "survival" and not all(columns):
        raise ValueError("task survival needs time_column and event_column")
    if task != "survival" and any(columns):
        raise ValueError(f"time_column and event_column are for task survival; task is {task}")
    if question.robust and task != "regression":
        raise ValueError(f"robust is for task regression; task is {task}")
    given = {"loss": question.loss != "hazards", "horizons": question.horizons, "time_unit": question.time_unit}
    if task != "survival" and any(given.values()):
        raise ValueError(f"{next(n for n, value in given.items() if value)} is for task survival; task is {task}")
    if task == "multitask" and not question.targets:
        raise ValueError("task multitask needs targets: the names of other biomarkers")
    if task != "multitask" and question.targets:
        raise ValueError(f"targets are for task multitask; task is {task}")
    names = [id_key(name) for name in question.targets]
    if twice := [name for name in question.targets if names.count(id_key(name)) > 1]:
        raise ValueError(f"target {twice[0]} is there twice")


@dataclass(frozen=True)
class TaskWords:
    """How pages and tables speak of a task's answers."""

    question: str
    """The question that a page begins with, before the name of the column."""
    value: str
    """What the number is that is shown for a patient."""
    called: bool = True
    """Whether a patient is called of a class, or above a threshold."""
    meaning: str = ""
    """What that figure means."""
    note: str = ""
    """What a reader should know of the numbers."""
    note_on_figures: str = ""
    """What a reader should know of the figures of a cohort; of no use beside the prediction of one patient."""


WORDS: Final[dict[TaskName, TaskWords]] = {
    "binary": TaskWords("Can it be predicted from an H&E slide alone", "probability"),
    "multiclass": TaskWords(
        "Which class, from an H&E slide alone",
        "probability of the call",
        meaning="Mean over the classes: given one patient of the class and one of another, how often the first gets "
        "the higher probability of it; guessing does so 50 times in 100.",
        note="Called is the class that would be most probable if all were equally frequent, as they are in training: "
        "a rare class is called where the slide is evidence for it, though a frequent one may be more probable.",
    ),
    "ordinal": TaskWords(
        "Which grade, from an H&E slide alone",
        "probability of the call",
        meaning="Given two patients of different classes, how often the one of the higher class is expected to be "
        "higher; guessing does so half of the times.",
        note="Called is the class that would be the median if all were equally frequent, as they are in training, so "
        "that rare classes are not passed over.",
        note_on_figures="The mean absolute error is in classes.",
    ),
    "regression": TaskWords(
        "Which value, from an H&E slide alone",
        "prediction",
        called=False,
        meaning="How well the order of the predictions agrees with that of the true values: 1 is perfect, 0 is none.",
        note="Predictions and errors are in the unit of the label; each fold has learned its scale from its own "
        "training patients.",
        note_on_figures="R² is below 0 where predictions are worse than the mean of these patients. Slope: by how "
        "much the true value rises where the predicted one rises by 1. 1 is good; above 1, predictions lie too close "
        "to each other; below 1, too far apart.",
    ),
    "survival": TaskWords(
        "Who has the event sooner, from an H&E slide alone",
        "risk",
        meaning="Given two patients, one of whom is known to have had the event before the other, how often that one "
        "has the higher risk; guessing does so half of the times.",
        note="The risk is minus the expected number of the fold's time intervals that a patient comes through without "
        "the event. High: at or above the median risk of the fold's validation patients.",
    ),
    "multitask": TaskWords(
        "Which of these markers, from an H&E slide alone",
        "mean of the targets",
        called=False,
        meaning="Mean over the targets of the figure by which each is judged.",
        note="One encoder learns all targets; each has a head of its own. A patient who misses a label of one still "
        "trains the others, and is not counted in the figures of the one.",
    ),
}
_COX: Final = replace(
    WORDS["survival"],
    note="The risk is the log hazard relative to the average training patient of the fold: 0.69 is twice the hazard. "
    "High: at or above the median risk of the fold's validation patients.",
)


def words_of(task: TaskName, loss: SurvivalLoss = "hazards") -> TaskWords:
    """How pages and tables speak of the answers of a task, trained with a loss."""
    return _COX if task == "survival" and loss == "cox" else WORDS[task]
