"""The classes that a patient may be of, or the interval of their number, by the held-out patients of cross-validation.

It asks the task what the probabilities of a score are; the rule is in :mod:`.evaluation.conformal`. Of survival there
is none: a censored time does not say how far a prediction was off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from .applicability import Held
from .evaluation.conformal import LabelSet, fewest_patients, label_set, residual_limit
from .tasks.binary import class_of
from .tasks.prediction import PatientPrediction, Score
from .tasks.regression import number_of
from .tasks.task import Task

OF_CLASSES: Final = ("binary", "multiclass", "ordinal")
"""Tasks whose answers are probabilities of classes."""


def held_out(task: Task, rows: Sequence[PatientPrediction]) -> Held | None:
    """What cross-validation says of a question; None for a task of which it says nothing.

    :param rows: each patient as seen by the one fold that was not trained on them.
    """
    if task.name == "regression":
        return Held(residuals=[abs(number_of(row.label) - row.probability) for row in rows if row.label is not None])
    if task.name not in OF_CLASSES:
        return None
    strangeness: list[dict[int, list[float]]] = [{} for _ in task.classes]
    for row in rows:
        if row.label is not None:
            label, shares = class_of(row.label), row.shares or _shares(task, row.logit)
            strangeness[label].setdefault(row.fold, []).append(1 - shares[label])
    ordered = [{fold: sorted(values) for fold, values in sorted(own.items())} for own in strangeness]
    return Held(classes=list(task.classes), strangeness=ordered)


def label_set_of(
    task: Task, held: Held | None, by_fold: Mapping[int, Score], prediction: PatientPrediction, alpha: float
) -> LabelSet:
    """The classes that a patient may be of, or the interval of their number.

    :param by_fold: fold → the patient's score.
    """
    if held is None:
        return LabelSet(needed=f"there are no label sets for {task.name}")
    if task.name == "regression":
        limit = residual_limit(held.residuals, alpha)
        if limit is None:
            needed = f"an interval at {_level(alpha)} needs {fewest_patients(alpha)} held-out patients"
            return LabelSet(needed=needed, there=str(len(held.residuals)))
        return LabelSet(between=(prediction.probability - limit, prediction.probability + limit))
    shares = {fold: _shares(task, score) for fold, score in by_fold.items()}
    own = [{fold: 1 - share[label] for fold, share in shares.items()} for label in range(len(held.classes))]
    chosen = label_set(held.strangeness, own, alpha)
    if chosen is None:
        numbers = (sum(len(of_class.get(fold, ())) for fold in by_fold) for of_class in held.strangeness)
        of_each = zip(numbers, held.classes, strict=True)
        there = ", ".join(f"{number} {name}" for number, name in of_each)
        needed = f"a set at {_level(alpha)} needs {fewest_patients(alpha)} held-out patients of each class"
        return LabelSet(needed=needed, there=there)
    return LabelSet(classes=chosen)


def _level(alpha: float) -> str:
    return f"{100 * (1 - alpha):.3g} %"


def _shares(task: Task, score: Score) -> Sequence[float]:
    """The probability of each class by one score, those of two classes at even prevalence."""
    answer = task.answer([score], [0.5])
    return answer.shares or (1 - answer.probability, answer.probability)
