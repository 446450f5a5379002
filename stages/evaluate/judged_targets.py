"""The targets of a model that were judged on another cohort: each by itself, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from ...data.cohort.target_labels import LabelsOfTargets, of_target
from ...models.evaluation.metrics import Estimate
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.multitask import MultiTask
from ...models.tasks.target_figures import target_metrics
from ..pages.targets_page import PART, TargetPart, targets_page
from ..train import read_patients
from ..train.cross_validate import TARGETS, write_metrics
from ..train.read_patients import Folds, ReadPatient, folds_of_target
from .cohort import ExternalCohort, ExternalTask, cross_validated_auc
from .judged import Judged, facts_of, task_report


@dataclass(frozen=True)
class JudgedTargets:
    """The targets of a model on another cohort.

    :param targets: those of which patients of this cohort have labels.
    :param pooled: the mean of the targets beside each one's figure, over all patients.
    """

    name: str
    labels: LabelsOfTargets
    folds: Folds
    targets: Sequence[Judged]
    pooled: TaskMetrics
    by_fold: dict[int, TaskMetrics]

    def page(self, cohort: ExternalCohort, task: ExternalTask, cross_validated: Estimate | None) -> str:
        """The page of all targets, each with its own as a part."""
        of_part = replace(cohort, uncertain=None)  # the slides are the same for all targets, and named once
        parts = [
            TargetPart(name=one.name, metrics=one.pooled, html=Markup(one.page(of_part, task, PART)))
            for one in self.targets
        ]
        together = Judged(
            name=self.name,
            asked=task.asked,
            labels=self.labels,
            folds=self.folds,
            rows=(),
            pooled=self.pooled,
            by_fold=self.by_fold,
            alone={},
            cross_validated=cross_validated,
        )
        slides = len({slide for own in self.labels.slides.values() for slide in own})
        facts = (("slides", str(slides)), *facts_of(self.folds, (), task)[1:])
        report = task_report(together, cohort, facts)
        judged = {one.name for one in self.targets}
        absent = {**dict.fromkeys(self.labels.of_targets, "no patient here has its label"), **self.labels.absent}
        left_out = [f"Target {name} is not judged: {why}." for name, why in absent.items() if name not in judged]
        return targets_page(replace(report, differences=(*report.differences, *left_out)), parts)


def judge_targets(
    task: ExternalTask,
    labels: LabelsOfTargets,
    folds: Folds,
    targets: MultiTask,
    read: Sequence[ReadPatient],
    folder: Path,
) -> JudgedTargets:
    """Predict the patients for each target whose label they have, and compute the figures."""
    settings = task.asked
    judged = [
        Judged.of(
            name,
            settings.of_targets[name],
            of_target(labels, name),
            folds_of_target(folds, name),
            own,
            settings,
            cross_validated_auc(task.model / TARGETS / name),
        )
        for name in labels.of_targets
        if (own := read_patients.of_target(read, targets, name))
    ]
    rows = {one.name: one.rows for one in judged}
    metrics = {one.name: one.pooled for one in judged}
    pooled = target_metrics(targets, rows, metrics, rounds=settings.bootstrap_rounds, seed=settings.seed)
    by_fold = {}
    for _, facts in folds:
        fold = facts.fold
        known = {one.name: one for one in judged if fold in one.by_fold}
        of_fold = {name: one.alone[fold] for name, one in known.items()}
        own_metrics = {name: one.by_fold[fold] for name, one in known.items()}
        if known:
            by_fold[fold] = target_metrics(targets, of_fold, own_metrics, rounds=0, seed=settings.seed)
    return JudgedTargets(folder.name, labels, folds, judged, pooled, by_fold)


def write_targets(judged: JudgedTargets, folder: Path) -> dict[str, Path]:
    """Write the tables of each target; returns what they are, and where."""
    files: dict[str, Path] = {}
    for one in judged.targets:
        table, metrics = (folder / TARGETS / one.name / file for file in ("predictions.csv", "metrics.json"))
        one.write_predictions(table)
        write_metrics(metrics, one.pooled, one.by_fold, one.rows[0].prevalence)
        files |= {f"predictions of {one.name}": table, f"metrics of {one.name}": metrics}
    return files
