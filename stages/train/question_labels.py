"""Labels of a question: read from the cohort table by the rules of its task, for training and evaluation alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...data.cohort.labels import PatientLabels, class_labels, join_labels, patient_labels
from ...data.cohort.measured import number_labels, survival_labels
from ...data.cohort.outcomes import Label
from ...data.cohort.slide_match import SlideMatch
from ...data.cohort.table import CohortTable
from ...data.cohort.target_labels import join_targets
from ...data.errors import CohortError, about
from ...models.tasks.question import class_values
from .settings import BiomarkerSettings, QuestionSettings


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
    :param to_train: whether every class must have patients, and every target a column; a target whose column another
        cohort's table lacks is left out, which the labels' notes say.
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
    if isinstance(question, QuestionSettings) and question.targets:
        absent = {} if to_train else _absent(table, question)
        if len(absent) == len(question.targets):
            what = f"the table has a column of none of the targets: {'; '.join(absent.values())}"
            raise CohortError(what, path=table.source, hint=f"it has: {', '.join(map(str, table.frame.columns))}")
        of_targets = {}
        for name in question.targets:
            if name not in absent:
                with about(f"biomarkers.{name}"):
                    of_targets[name] = question_labels(table, question.of_targets[name], to_train=to_train, **shared)
        return join_targets(of_targets, absent, question.targets)
    column = question.label_column
    if question.task == "binary":
        positive, negative = question.positive, question.negative
        return patient_labels(table, column, positive, negative, one_class_is_enough=not to_train, **shared)
    if question.task == "survival":
        return survival_labels(table, question.time_column, question.event_column, **shared)
    if question.task == "regression":
        return number_labels(table, column, **shared)
    return class_labels(table, column, class_values(question.classes), all_needed=to_train, **shared)


def _absent(table: CohortTable, question: QuestionSettings) -> dict[str, str]:
    """The targets whose columns the table does not have, with the reason."""
    absent = {}
    for name, own in question.of_targets.items():
        columns = (own.time_column, own.event_column) if own.task == "survival" else (own.label_column,)
        try:
            for column in columns:
                table.column(column)
        except CohortError as error:
            absent[name] = error.what
    return absent
