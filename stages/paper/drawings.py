"""Which figures a paper can have of a model, by its task, and what each is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...data.cohort.outcomes import Survival
from ...models.audit.confounding import Audit
from ...models.audit.task_audit import TaskAudit
from ...models.evaluation.decision_curve import decision_curve
from ...models.evaluation.metrics import Estimate, Metrics, calibration_bins, pr_points, roc_points
from ...models.evaluation.survival_metrics import kaplan_meier
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.prediction import PatientPrediction
from ..pages.asked_question import Question
from ..pages.report_page import FoldSummary
from .performance_figures import (
    calibration_figure,
    confusion_figure,
    decision_figure,
    forest_figure,
    learning_figure,
    precision_recall_figure,
    roc_figure,
    scatter_figure,
    survival_figure,
    with_interval,
)
from .print_style import Drawn


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is known of a model's answers to one question.

    :param target: its name, if the model has several targets.
    :param rows: each patient as seen by folds that were not trained on them.
    """

    target: str = ""
    question: Question
    rows: Sequence[PatientPrediction]
    metrics: Metrics | TaskMetrics
    folds: Sequence[FoldSummary] = ()
    audit: Audit | TaskAudit | None = None

    @property
    def measure(self) -> str:
        """Name of the figure by which it is judged."""
        return self.metrics.measure


def drawings(judged: Judged) -> dict[str, Drawn]:
    """Name of the file → what draws it; nothing is drawn yet."""
    found = _binary(judged, judged.metrics) if isinstance(judged.metrics, Metrics) else _of_task(judged, judged.metrics)
    if judged.audit is not None and (rows := _rows_of_audit(judged.audit)):
        chance = 0.5 if isinstance(judged.audit, Audit) else judged.audit.chance
        label = f"{judged.audit.measure[0].upper()}{judged.audit.measure[1:]}, 95 % interval"
        found["audit"] = partial(forest_figure, rows, label, chance)
    if learning := learning_drawing(judged.folds, judged.measure):
        found["learning_curves"] = learning
    return {f"{judged.target}_{name}" if judged.target else name: draw for name, draw in found.items()}


def learning_drawing(folds: Sequence[FoldSummary], measure: str) -> Drawn | None:
    """The learning curves; None for a method that is fitted without epochs."""
    curves = []
    for fold in folds:
        losses = [(float(row.epoch), _whole_loss(row.losses)) for row in fold.history if row.losses]
        scores = [(float(row.epoch), row.validation_auc) for row in fold.history if row.validation_auc is not None]
        curves.append((fold.fold, losses, scores, fold.best_epoch))
    if not any(losses for _, losses, _, _ in curves):
        return None
    return partial(learning_figure, curves, "Training loss", f"Validation, {measure.partition(' (')[0]}")


def _whole_loss(losses: Mapping[str, float]) -> float:
    """The loss that was trained on; where its parts alone are known, their sum."""
    return losses["total"] if "total" in losses else sum(losses.values())


def _binary(judged: Judged, metrics: Metrics) -> dict[str, Drawn]:
    y, p = [row.label == 1 for row in judged.rows], [row.probability for row in judged.rows]
    of_folds = {row.folds: [one for one in judged.rows if one.folds == row.folds] for row in judged.rows}
    several = len(of_folds) > 1 and all(len(folds) == 1 for folds in of_folds)
    behind = [
        roc_points([one.label == 1 for one in own], [one.probability for one in own]) for own in of_folds.values()
    ]
    table = [
        [metrics.true_positives, metrics.false_negatives],
        [metrics.false_positives, metrics.true_negatives],
    ]
    names = (judged.question.positive, judged.question.negative)
    share = metrics.n_positive / max(1, metrics.n_patients)
    return {
        "roc": partial(roc_figure, [(with_interval("AUC", metrics.auc), roc_points(y, p))], behind if several else ()),
        "precision_recall": partial(
            precision_recall_figure, pr_points(y, p), with_interval("AUPRC", metrics.auprc), share
        ),
        "calibration": partial(calibration_figure, calibration_bins(y, p)),
        "decision_curve": partial(decision_figure, decision_curve(y, p)),
        "confusion": partial(confusion_figure, table, names),
    }


def _of_task(judged: Judged, metrics: TaskMetrics) -> dict[str, Drawn]:
    found: dict[str, Drawn] = {}
    names, rows = judged.question.classes, [row for row in judged.rows if row.label is not None]
    if names and rows and metrics.confusion:
        found["confusion"] = partial(confusion_figure, metrics.confusion, names)
        if judged.question.task == "multiclass":
            found["roc"] = partial(roc_figure, class_curves(rows, names, metrics.figures))
    follow_ups = [(row.label, row.call) for row in rows if isinstance(row.label, Survival)]
    if follow_ups:
        low, high = (steps_of([one for one, own in follow_ups if own == call]) for call in (0, 1))
        found["survival"] = partial(
            survival_figure, low, high, ("low predicted risk", "high predicted risk"), judged.question.time_unit
        )
    numbers = [(row.label, row.probability) for row in rows if isinstance(row.label, float)]
    if numbers:
        true, predicted = (list(column) for column in zip(*numbers, strict=True))
        found["predicted_and_true"] = partial(
            scatter_figure, true, predicted, with_interval(metrics.measure, metrics.main)
        )
    return found


def class_curves(
    rows: Sequence[PatientPrediction], names: Sequence[str], figures: Mapping[str, Estimate]
) -> list[tuple[str, np.ndarray]]:
    """The ROC curve of each class against the rest, with the words of its legend."""
    curves = []
    for place, name in enumerate(names):
        if len(names) == 2 and not place:
            continue
        points = roc_points([row.label == place for row in rows], [row.shares[place] for row in rows])
        estimate = figures.get(f"AUC of {name}", figures["AUC"])
        curves.append((with_interval(f"{name}: AUC", estimate), points))
    return curves


def steps_of(follow_ups: Sequence[Survival]) -> list[tuple[float, float]]:
    """The Kaplan–Meier estimate, to the end of the follow-up."""
    if not follow_ups:
        return []
    steps = kaplan_meier([one.time for one in follow_ups], [one.event for one in follow_ups])
    return [*steps, (max(one.time for one in follow_ups), steps[-1][1])]


def _rows_of_audit(audit: Audit | TaskAudit) -> list[tuple[str, str, Estimate | None]]:
    """Names, numbers of patients and figures: all patients, then the strata of each column."""
    rows: list[tuple[str, str, Estimate | None]] = [("All patients", f"{audit.n_patients:,}", audit.score)]
    for column in audit.columns:
        rows.append((column.column, "", None))
        rows += [
            (f"{group.stratum}", f"{group.n_patients:,}", group.figure) for group in column.subgroups if group.known
        ]
        rows.append(("within strata", f"{column.pooled.n_compared:,}", column.pooled.within))
    return rows
