"""Operating points of two classes, and the calls of each of several, as a section of a page and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ...models.evaluation.operating_points import OperatingPoint, fixed_points, point_of_calls
from ...models.tasks.prediction import PatientPrediction
from ..pages.asked_question import Question
from ..pages.numbers import TEMPLATES
from ..pages.paper_parts import NOTHING


def named_points(question: Question, rows: Sequence[PatientPrediction]) -> list[tuple[str, OperatingPoint]]:
    """Operating points of two classes, or of several classes the calls of each; nothing for other tasks."""
    if not rows or (question.task != "binary" and not question.classes):
        return []
    if question.task == "binary":
        return [(point.fixed or "by the model", point) for point in points_of(rows)]
    return [
        (name, point_of_calls([int(row.label == place) for row in rows], [int(row.call == place) for row in rows]))
        for place, name in enumerate(question.classes)
    ]


def points_of(rows: Sequence[PatientPrediction]) -> list[OperatingPoint]:
    """Operating points of patients whose labels are known: at the model's calls, and at fixed levels."""
    labels = [int(row.label == 1) for row in rows]
    return [
        point_of_calls(labels, [row.call for row in rows]),
        *fixed_points(labels, [row.probability for row in rows]),
    ]


def operating_part(question: Question, rows: Sequence[PatientPrediction], *, out_of_fold: bool = True) -> Markup:
    """The section on operating points, or on the calls of each class; empty for other tasks."""
    macros: Any = TEMPLATES.get_template("paper.html").module
    if not rows:
        return NOTHING
    if question.task == "binary":
        positive = sum(row.label == 1 for row in rows)
        part: Markup = macros.operating(points_of(rows), question, positive, len(rows), out_of_fold)
        return part
    part = macros.class_calls(named_points(question, rows), None) if question.classes else NOTHING
    return part
