"""The page of the robustness report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...models.evaluation.feature_robustness import FEWEST, FOLDS
from ..pages.numbers import TEMPLATES

if TYPE_CHECKING:
    from .stage import Answer, RobustnessStageSettings


def robustness_page(name: str, settings: RobustnessStageSettings, answers: Sequence[Answer]) -> str:
    """Render the page as HTML, in one file that needs no other.

    :param name: of the biomarker.
    """
    return TEMPLATES.get_template("robustness.html").render(
        name=name,
        label=settings.label_column,
        settings=settings,
        answers=answers,
        columns=list(answers[0].columns),
        fewest=FEWEST,
        folds=FOLDS,
    )
