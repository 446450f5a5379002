"""Stage ``compare``: several methods on the same splits, compared with MoMKD on the same patients.

comparison.csv      one row per method: figures with intervals, mean and deviation over folds, DeLong's test
comparison.html     the same as a page, with ROC curves
comparison.png      a figure of the AUCs with their intervals

Of several targets these compare the mean over the targets, and ``targets/<name>/`` has the same of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.artifact import whole
from ...data.errors import CohortError
from ...data.files.safe_cells import SafeWriter
from ...data.manifest import Manifest
from ...models.evaluation.metrics import roc_points
from ...models.evaluation.paired_tests import PairedDifference, delong
from ...models.evaluation.task_metrics import BootstrapDifference, paired_difference
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import EVEN, PatientPrediction
from ...models.tasks.target_figures import Rows, mean_figures, patients_of
from ...models.tasks.task import Task
from ...models.training.methods import METHODS
from ..lineage import Lineage
from ..pages.asked_question import Question
from ..registry import VERSIONS
from ..settings import Presentation
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from ..train.audit import NOT_AUDITED, Audited, write_audits
from ..train.cross_validate import (
    TARGETS,
    CrossValidateSettings,
    ModelMetrics,
    ModelTaskMetrics,
    read_metrics,
    read_oof,
)
from ..train.settings import AUDIT, BiomarkerSettings, QuestionSettings
from .figure import comparison_figure
from .page import comparison_page, comparison_table
from .results import ComparedMethod, Comparison
from .task_table import task_comparison_page, task_comparison_table
from .variants import Variant, reference_of


class CompareStageSettings(QuestionSettings):
    """The biomarker that all methods predict."""

    audit: list[str] = Presentation([], description=AUDIT)


class CompareStage(Stage[CompareStageSettings]):
    """One item, ``comparison``.

    :param compared: each method with the folder of its evaluation; of slide vectors the first is the reference.
    :param facts: names and values of what all methods share, for the page.
    :param table: the cohort table, which an audit needs.
    """

    name = "compare"
    version = VERSIONS["compare"]
    items = "comparisons"

    def __init__(
        self,
        settings: CompareStageSettings,
        folder: Path,
        workspace: Path,
        *,
        compared: Sequence[tuple[Variant, Path]],
        facts: Sequence[tuple[str, str]],
        table: Path | None = None,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.compared, self.facts, self.table = compared, tuple(facts), table
        names = [variant.name for variant, _ in compared]
        usual = reference_of(settings.task)
        self.reference = names[0] if names and usual not in names else usual

    @property
    def sources(self) -> Sequence[Path]:
        return [folder for _, folder in self.compared]

    def plan(self) -> Plan:
        inputs: dict[str, Input] = {}
        done: list[_Evaluated] = []
        notes: list[str] = []
        lineage = Lineage(self.workspace)
        for variant, folder in self.compared:
            stage = "omics" if variant.settings is None else "cross_validate"
            evaluated = upstream(Manifest.of(folder), stage, self.workspace, lineage=lineage)
            record = evaluated.records.get("cross-validation")
            if record is None:
                notes += [f"{variant.name}: {note}" for note in evaluated.notes]
                continue
            outputs = {name: self.workspace / output.path for name, output in record.outputs.items()}
            inputs |= {f"{variant.name} {name}": OutputInput(output) for name, output in record.outputs.items()}
            trained = lineage.latest(folder, "train")  # an earlier split may have had more folds
            seconds = sum(trained[fold].seconds for fold in record.inputs if fold in trained)
            done.append(_Evaluated(variant, outputs, seconds or None))
        if not any(method.variant.name == self.reference for method in done):
            title = METHODS[self.reference].title
            what = f"{title} itself has not been evaluated, so the others cannot be compared with it"
            raise CohortError(what, path=self.folder, hint="the messages above say why")
        settings = self.settings
        audited = Audited.of(settings.audit, self.table, settings)
        item = Item("comparison", inputs | audited.inputs, (done, audited))
        return Plan([item], notes=[*notes, *audited.notes])

    def process(self, item: Item, progress: Progress) -> Outcome:
        done: list[_Evaluated]
        audited: Audited
        done, audited = item.payload
        task, asked = self.settings.asked(), self.settings
        if not isinstance(task, MultiTask):
            outputs = self._write(self._compared(done, asked, task, audited=audited), self.folder)
            return Outcome(outputs, {"methods": len(done)})
        outputs = self._write(self._compared_targets(done, task), self.folder, targets=list(task.targets))
        for name, own in task.targets.items():
            of_target = self._compared(done, asked.of_targets[name], own, name)
            files = self._write(of_target, self.folder / TARGETS / name)
            outputs |= {f"{kind} of {name}": path for kind, path in files.items()}
        return Outcome(outputs, {"methods": len(done)})

    def _compared(
        self,
        done: Sequence[_Evaluated],
        asked: BiomarkerSettings,
        task: Task,
        target: str = "",
        audited: Audited = NOT_AUDITED,
    ) -> Comparison:
        """Hold the methods against the reference on one question.

        :param target: the one of several that it is.
        :param audited: the columns that the scores are audited against.
        """
        of = f" of {target}" if target else ""
        reference = self.reference
        predictions = {method.variant.name: read_oof(method.outputs[f"predictions{of}"], task) for method in done}
        audits = {name: found for name, rows in predictions.items() if (found := audited.audit(rows, task))}
        return Comparison(
            name=target or self.folder.name,
            question=Question.asked(asked, of_several=bool(target)),
            methods=tuple(_compared(method, predictions, reference, task, f"metrics{of}") for method in done),
            reference=reference,
            prevalence=predictions[reference][0].prevalence,
            facts=self.facts,
            audits=audits,
        )

    def _compared_targets(self, done: Sequence[_Evaluated], task: MultiTask) -> Comparison:
        """Hold the methods against the reference by the mean of the targets."""
        reference = self.reference
        rows = {
            method.variant.name: {
                name: read_oof(method.outputs[f"predictions of {name}"], own) for name, own in task.targets.items()
            }
            for method in done
        }
        return Comparison(
            name=self.folder.name,
            question=Question.asked(self.settings),
            methods=tuple(
                _method(
                    method,
                    read_metrics(method.outputs["metrics"]),
                    None
                    if method.variant.name == reference
                    else _of_means(rows[method.variant.name], rows[reference], task),
                )
                for method in done
            ),
            reference=reference,
            prevalence=EVEN,
            facts=self.facts,
        )

    def _write(self, comparison: Comparison, folder: Path, targets: Sequence[str] = ()) -> dict[str, Path]:
        """Write the table, the page and the figure of a comparison.

        :param targets: those that have a comparison of their own beside it.
        """
        binary = comparison.question.task == "binary"
        rows = (comparison_table if binary else task_comparison_table)(comparison)
        text = comparison_page(comparison) if binary else task_comparison_page(comparison, targets)
        outputs = {kind: folder / f"comparison.{kind}" for kind in ("csv", "html", "png")}
        with whole(outputs["csv"]) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = SafeWriter(stream)
            writer.writerow(rows[0])
            writer.writerows([row[name] for name in rows[0]] for row in rows)
        with whole(outputs["html"]) as scratch:
            scratch.write_text(text, encoding="utf-8")
        with whole(outputs["png"]) as scratch:
            comparison_figure(comparison, scratch)
        return outputs | write_audits(folder, comparison.audits)


@dataclass(frozen=True)
class _Evaluated:
    variant: Variant
    outputs: Mapping[str, Path]
    seconds: float | None


def _compared(
    method: _Evaluated, predictions: Mapping[str, Sequence[PatientPrediction]], of: str, task: Task, metrics: str
) -> ComparedMethod:
    """Hold a method against the reference.

    :param of: the reference's name.
    :param metrics: name of the output that holds its metrics.
    """
    variant, rows = method.variant, predictions[method.variant.name]
    reference = {row.patient_id: row for row in predictions[of]}
    binary = task.name == "binary"
    labels = [bool(row.label) for row in rows] if binary else []
    both = [(row, reference[row.patient_id]) for row in rows if row.patient_id in reference]
    difference: PairedDifference | BootstrapDifference | None = None
    if variant.name != of and not binary:
        difference = _bootstrapped([row for row, _ in both], [other for _, other in both], task)
    elif variant.name != of:
        of_both = [bool(row.label) for row, _ in both]
        difference = delong(of_both, [row.probability for row, _ in both], [other.probability for _, other in both])
    roc = tuple(map(tuple, roc_points(labels, [row.probability for row in rows]).tolist())) if binary else ()
    return _method(method, read_metrics(method.outputs[metrics]), difference, roc)


def _method(
    method: _Evaluated,
    metrics: ModelMetrics | ModelTaskMetrics,
    difference: PairedDifference | BootstrapDifference | None,
    roc: tuple[tuple[float, float], ...] = (),
) -> ComparedMethod:
    variant = method.variant
    return ComparedMethod(
        name=variant.name,
        title=variant.title,
        soft_targets=variant.settings is not None and variant.settings.soft_targets,
        metrics=metrics.pooled,
        fold_aucs=tuple(fold.main.value for fold in metrics.folds),
        roc=roc,
        against_reference=difference,
        note=variant.note,
        seconds=method.seconds,
    )


def _of_means(rows: Rows, others: Rows, task: MultiTask) -> BootstrapDifference | None:
    """The difference of the mean over the targets between two methods, on the same patients."""
    settings = CrossValidateSettings()
    patients = patients_of(rows)
    if patients != patients_of(others):
        return None
    one, other = mean_figures(task, rows, patients), mean_figures(task, others, patients)
    strata, rounds = [0] * len(patients), settings.bootstrap_rounds
    return paired_difference(one, other, task.measure, strata, rounds=rounds, seed=settings.seed)


def _bootstrapped(
    rows: Sequence[PatientPrediction], others: Sequence[PatientPrediction], task: Task
) -> BootstrapDifference | None:
    """The difference of the task's main figure between two methods, on the same patients in the same order."""
    if not rows:
        return None
    settings = CrossValidateSettings()
    strata = task.bootstrap_strata(rows)
    one, other = task.figures_of(rows), task.figures_of(others)
    return paired_difference(one, other, task.measure, strata, rounds=settings.bootstrap_rounds, seed=settings.seed)
