"""Labels of a question: read from the cohort table by the rules of its task, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...data.cohort.labels import PatientLabels, class_labels, join_labels, patient_labels
from ...data.cohort.measured import number_labels, survival_labels
from ...data.cohort.outcomes import Label
from ...data.cohort.slide_match import SlideMatch
from ...data.cohort.table import CohortTable
from ...models.tasks.question import class_values
from .settings import BiomarkerSettings


def question_labels(
    table: CohortTable,
    question: BiomarkerSettings,
    *,
    match: SlideMatch,
    unusable: Mapping[str, str],
    keep_frozen: bool,
    drop_conflicts: bool,
    to_train: bool,
    scores: Mapping[str, Label | str] | None = None,
) -> PatientLabels:
    """Read the patients' labels.

    :param match, unusable, keep_frozen, drop_conflicts: as for :func:`~wsipipe.data.cohort.labels.patient_labels`.
    :param to_train: whether every class must have patients.
    :param scores: of a signature, patient → label, or why there is none.
    :raises CohortError: the table does not have what the question needs.
    """
    if scores is not None:
        classes = ("low", "high") if question.task == "binary" else ()
        own = {patient: scores[patient] for patient in dict.fromkeys(table.frame["patient_id"])}
        return join_labels(
            table, question.signature, own, match=match, unusable=unusable, keep_frozen=keep_frozen, classes=classes
        )
    shared: dict[str, Any] = {
        "match": match,
        "unusable": unusable,
        "keep_frozen": keep_frozen,
        "drop_conflicts": drop_conflicts,
    }
    column = question.label_column
    if question.task == "binary":
        positive, negative = question.positive, question.negative
        return patient_labels(table, column, positive, negative, one_class_is_enough=not to_train, **shared)
    if question.task == "survival":
        return survival_labels(table, question.time_column, question.event_column, **shared)
    if question.task == "regression":
        return number_labels(table, column, **shared)
    return class_labels(table, column, class_values(question.classes), all_needed=to_train, **shared)
