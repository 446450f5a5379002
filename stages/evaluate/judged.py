"""A question that was judged on another cohort, the model's or one of its targets: predictions, figures, page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from markupsafe import Markup

from ...data.artifact import whole
from ...data.cohort.labels import PatientLabels
from ...data.files.safe_cells import SafeWriter
from ...models.audit.confounding import Audit
from ...models.bundle import BundleFacts
from ...models.evaluation.metrics import Estimate, Metrics
from ...models.evaluation.task_metrics import TaskMetrics
from ...models.tasks.prediction import EVEN, PatientPrediction, one_share, threshold_at
from ...models.tasks.task import Task
from ..pages.asked_question import Question
from ..pages.numbers import figure
from ..pages.paper_parts import PaperParts
from ..pages.report_page import PAGE, Accounting, Facts, facts_of_target
from ..pages.task_page import TaskReport, task_page
from ..paper.operating import operating_part
from ..train.audit import NOT_AUDITED, AnyAudit, Audited
from ..train.cross_validate import metrics_of, task_columns
from ..train.read_patients import Folds, ReadPatient, predictions
from ..train.settings import BiomarkerSettings
from .cohort import ExternalCohort, ExternalSettings, ExternalTask
from .page import ExternalReport, FoldAlone, external_page, kind_of_evaluation

PREDICTION_COLUMNS: Final = (
    "patient_id", "label", "probability", "spread", "logit", "threshold", "call", "slides", "folds", "prevalence",
)  # fmt: skip
"""Columns of ``predictions.csv``. Probability and threshold are at the prevalence, the logit at even prevalence."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One question on another cohort.

    :param name: of the evaluation, or of the target.
    :param asked: the question with the columns and values of this cohort.
    :param folds: the model's bundles, as of this question alone.
    :param rows: one for each patient.
    :param by_fold: the figures of each fold's model by itself, on the patients that it may read.
    :param alone: their predictions by that fold alone.
    :param audit: of the scores against columns of the cohort table; None if none was asked for.
    :param cross_validated: the main figure where the model was trained; None if it is unknown.
    """

    name: str
    asked: BiomarkerSettings
    labels: PatientLabels
    folds: Folds
    rows: Sequence[PatientPrediction]
    pooled: Metrics | TaskMetrics
    by_fold: Mapping[int, Metrics | TaskMetrics]
    cross_validated: Estimate | None
    alone: Mapping[int, Sequence[PatientPrediction]]
    audit: AnyAudit | None = None

    @classmethod
    def of(
        cls,
        name: str,
        asked: BiomarkerSettings,
        labels: PatientLabels,
        folds: Folds,
        read: Sequence[ReadPatient],
        settings: ExternalSettings,
        cross_validated: Estimate | None,
        audited: Audited = NOT_AUDITED,
    ) -> Self:
        """Predict the patients, and compute the figures.

        :param read: as of this question alone.
        """
        task, numbers = folds[0][1].task, [facts.fold for _, facts in folds]
        rows = predictions(read, folds, settings.prevalence)
        alone = {fold: predictions([one.by([fold]) for one in read], folds, settings.prevalence) for fold in numbers}
        return cls(
            name=name,
            asked=asked,
            labels=labels,
            folds=folds,
            rows=rows,
            pooled=metrics_of(rows, task, rounds=settings.bootstrap_rounds, seed=settings.seed),
            by_fold={fold: metrics_of(own, task, rounds=0, seed=settings.seed) for fold, own in alone.items() if own},
            cross_validated=cross_validated,
            alone=alone,
            audit=audited.audit(rows, task),
        )

    @property
    def task(self) -> Task:
        """The task of this question."""
        return self.folds[0][1].task

    def page(self, cohort: ExternalCohort, task: ExternalTask, layout: str = PAGE) -> str:
        """The page of this question, or with another layout the part of one."""
        facts = facts_of(self.folds, self.rows, task) if layout == PAGE else ()
        if isinstance(self.pooled, Metrics):
            return external_page(self._binary_report(self.pooled, cohort, task, facts, layout), layout)
        return task_page(task_report(self, cohort, facts), layout)

    def _binary_report(
        self, pooled: Metrics, cohort: ExternalCohort, task: ExternalTask, facts: Facts, layout: str
    ) -> ExternalReport:
        prevalence = one_share(self.rows[0].prevalence)
        question = Question.asked(self.asked, self.folds[0][1].signature, of_several=layout != PAGE)
        thresholds = {facts.fold: threshold_at(facts.threshold, prevalence) for _, facts in self.folds}
        binary = {fold: own for fold, own in self.by_fold.items() if isinstance(own, Metrics)}
        return ExternalReport(
            name=self.name,
            model=task.model.name,
            question=question,
            paper=PaperParts(operating=operating_part(question, self.rows, out_of_fold=False)),
            accounting=accounting(self.labels),
            metrics=pooled,
            prevalence=prevalence,
            folds=tuple(FoldAlone(fold=f, threshold=thresholds[f], metrics=own) for f, own in binary.items()),
            n_folds=len(thresholds),
            cross_validated=self.cross_validated,
            patients=tuple(self.rows),
            known_by_id=len(cohort.known_by_id),
            differences=tuple(cohort.differences(self.folds[0][1].recipe)),
            audit=self.audit if isinstance(self.audit, Audit) else None,
            uncertain=cohort.uncertain,
            facts=facts,
        )

    def write_predictions(self, path: Path) -> None:
        """Write ``predictions.csv``."""
        columns = {name: name for name in PREDICTION_COLUMNS}
        if self.task.name != "binary":
            columns = task_columns(self.task, ("patient_id", "label"), ("spread", "slides", "folds"))
        with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = SafeWriter(stream)
            writer.writerow([*columns, *self.task.share_names])
            for row in self.rows:
                values = {name: getattr(row, field) for name, field in columns.items()}
                values |= {"folds": ";".join(map(str, row.folds)), "spread": "" if row.spread is None else row.spread}
                writer.writerow([*values.values(), *row.shares])


def task_report(judged: Judged, cohort: ExternalCohort, facts: Facts) -> TaskReport:
    """The contents of the page of a question that is not binary, or of all targets together."""
    assert isinstance(judged.pooled, TaskMetrics)
    where = (
        f" Where the model was trained, cross-validation gave {figure(judged.cross_validated.value)}."
        if judged.cross_validated
        else ""
    )
    seen = (
        [f"Patients that some of the folds were trained on, read by the other folds: {n}."]
        if (n := len(cohort.partly_seen))
        else []
    )
    other = (
        [f"Slides that were prepared differently: {'; '.join(d)}."]
        if (d := cohort.differences(judged.folds[0][1].recipe))
        else []
    )
    question, uncertain = Question.asked(judged.asked, judged.folds[0][1].signature), cohort.uncertain
    return TaskReport(
        kind=kind_of_evaluation(len(cohort.partly_seen), len(judged.labels.labels)) or "Evaluation on another cohort",
        run=judged.name,
        question=question,
        paper=PaperParts(operating=operating_part(question, judged.rows, out_of_fold=False)),
        how=f"Nothing was fitted to this cohort.{where}",
        accounting=accounting(judged.labels),
        metrics=judged.pooled,
        of_folds=tuple((fold, own) for fold, own in judged.by_fold.items() if isinstance(own, TaskMetrics)),
        patients=tuple(judged.rows),
        share_names=judged.task.share_names,
        prevalence=judged.rows[0].prevalence if judged.rows else EVEN,
        audit=judged.audit,
        differences=(*seen, *(uncertain.cautions if uncertain else ()), *other),
        further=uncertain.part if uncertain else Markup(),
        facts=facts,
    )


def facts_of(folds: Folds, rows: Sequence[PatientPrediction], task: ExternalTask) -> Facts:
    """What the numbers were made of."""
    first: BundleFacts = folds[0][1]
    question = first.question
    values = question.positive if question.task == "binary" else question.classes
    return (
        *facts_of_target(first.signature),
        ("slides", str(sum(row.slides for row in rows))),
        ("features", f"{task.features.parent.name}/{task.features.name}"),
        ("tiles", f"{first.recipe.tile_px} px at {first.recipe.tile['mpp']:g} µm per pixel"),
        ("backbone", f"{first.recipe.backbone}, {first.recipe.pooling_text}"),
        ("backbone weights", first.recipe.weights_digest),
        ("model", f"{task.model.name}, method {first.method}, {len(folds)} folds"),
        ("its question", f"{question.label_column}: {', '.join(values) or question.task}"),
        ("wsipipe that trained it", first.versions.get("wsipipe", "unknown")),
    )


def accounting(labels: PatientLabels) -> Accounting:
    """How many patients were used and dropped."""
    return Accounting(
        in_table=len(labels.labels) + len(labels.dropped),
        used=len(labels.labels),
        dropped=tuple(labels.reasons.items()),
    )
