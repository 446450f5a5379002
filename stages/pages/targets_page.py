"""The page of a model of several targets: what they have in common, and the whole page of each as a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from ...models.evaluation.metrics import Estimate, Metrics
from ...models.evaluation.task_metrics import TaskMetrics
from .asked_question import Question
from .numbers import TEMPLATES, figure, mean_and_deviation
from .report_page import PredictionReport, learning_charts, prediction_page
from .task_page import TaskReport, caution_heading, task_cautions

PART = "part.html"
"""The layout of a page that is a part of another one."""


@dataclass(frozen=True, kw_only=True)
class TargetPart:
    """One target on the page."""

    name: str
    metrics: Metrics | TaskMetrics
    html: Markup
    """Its own page, made with the layout :data:`PART`."""

    @property
    def measure(self) -> str:
        """Name of the figure by which it is judged."""
        return self.metrics.measure

    @property
    def main(self) -> Estimate:
        """That figure."""
        return self.metrics.main

    @property
    def chance(self) -> float | None:
        """What a model gets that knows nothing of the patient."""
        return self.metrics.main_chance

    @property
    def n_patients(self) -> int:
        """How many patients have its label."""
        return self.metrics.n_patients


def targets_page(report: TaskReport, parts: Sequence[TargetPart]) -> str:
    """The report as HTML: one file that needs no other.

    :param report: of all targets together.
    """
    losses = tuple(dict.fromkeys(name for fold in report.folds for row in fold.history for name in row.losses))
    measure = report.metrics.measure
    return TEMPLATES.get_template("targets.html").render(
        report=report,
        metrics=report.metrics,
        question=report.question,
        parts=parts,
        heading=caution_heading(report),
        cautions=(*task_cautions(report.metrics), *report.differences),
        losses=losses,
        learning=[(fold, learning_charts(fold, losses, measure)) for fold in report.folds],
        test_mains=mean_and_deviation([fold.test_auc for fold in report.folds]),
    )


def target_prediction_page(
    report: PredictionReport, reports: Mapping[str, PredictionReport], question: Question
) -> str:
    """The prediction report of several targets: slides and heatmaps once, and the predictions of each target.

    :param report: any target's, for what the targets have in common.
    :param reports: target → its own.
    :param question: of all together.
    """
    parts, answers = [], {slide.slide: "" for slide in report.slides}
    for name, own in reports.items():
        bare = tuple(replace(slide, heatmap=None, evidence=None) for slide in own.slides)
        of_target = replace(own.question, of_several=True)
        alone = replace(own, name=name, question=of_target, slides=bare, failed=(), stale=(), facts=())
        parts.append((name, Markup(prediction_page(alone, PART))))
        for slide in own.slides:
            said = f"{name} {own.question.call_of(slide.prediction)} {figure(slide.prediction.probability)}"
            answers[slide.slide] += ("; " if answers[slide.slide] else "") + " ".join(said.split())
    together = replace(report, question=question, prevalence=None)
    return prediction_page(together, parts=parts, answers=answers)
