"""Stage ``compare``: several methods on the same splits, compared with MoMKD on the same patients.

comparison.csv      one row per method: figures with intervals, mean and deviation over folds, DeLong's test
comparison.html     the same as a page, with ROC curves
comparison.png      a figure of the AUCs with their intervals
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
from ...models.tasks.prediction import PatientPrediction
from ...models.tasks.task import Task
from ...models.training.methods import METHODS
from ..lineage import Lineage
from ..pages.report_page import Question
from ..registry import VERSIONS
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from ..train.cross_validate import CrossValidateSettings, read_metrics, read_oof
from ..train.settings import BiomarkerSettings
from .figure import comparison_figure
from .page import comparison_page, comparison_table
from .results import ComparedMethod, Comparison
from .task_table import task_comparison_page, task_comparison_table
from .variants import Variant, reference_of


class CompareStageSettings(BiomarkerSettings):
    """The biomarker that all methods predict."""


class CompareStage(Stage[CompareStageSettings]):
    """One item, ``comparison``.

    :param compared: each method with the folder of its evaluation.
    :param facts: names and values of what all methods share, for the page.
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
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.compared, self.facts = compared, tuple(facts)

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
        reference = reference_of(self.settings.task)
        if not any(method.variant.name == reference for method in done):
            what = f"{METHODS[reference].title} itself has not been evaluated, so the others cannot be compared with it"
            raise CohortError(what, path=self.folder, hint="the messages above say why")
        return Plan([Item("comparison", inputs, done)], notes=notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        done: list[_Evaluated] = item.payload
        reference = reference_of(self.settings.task)
        task = self.settings.asked()
        predictions = {method.variant.name: read_oof(method.outputs["predictions"], task) for method in done}
        methods = tuple(_compared(method, predictions, reference, task) for method in done)
        comparison = Comparison(
            name=self.folder.name,
            question=Question.asked(self.settings),
            methods=methods,
            reference=reference,
            prevalence=predictions[reference][0].prevalence,
            facts=self.facts,
        )
        binary = self.settings.task == "binary"
        rows = (comparison_table if binary else task_comparison_table)(comparison)
        text = (comparison_page if binary else task_comparison_page)(comparison)
        outputs = {kind: self.folder / f"comparison.{kind}" for kind in ("csv", "html", "png")}
        with whole(outputs["csv"]) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
            writer = SafeWriter(stream)
            writer.writerow(rows[0])
            writer.writerows([row[name] for name in rows[0]] for row in rows)
        with whole(outputs["html"]) as scratch:
            scratch.write_text(text, encoding="utf-8")
        with whole(outputs["png"]) as scratch:
            comparison_figure(comparison, scratch)
        return Outcome(outputs, {"methods": len(methods)})


@dataclass(frozen=True)
class _Evaluated:
    variant: Variant
    outputs: Mapping[str, Path]
    seconds: float | None


def _compared(
    method: _Evaluated, predictions: Mapping[str, Sequence[PatientPrediction]], of: str, task: Task
) -> ComparedMethod:
    """Hold a method against the reference.

    :param of: the reference's name.
    """
    metrics = read_metrics(method.outputs["metrics"])
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
    return ComparedMethod(
        name=variant.name,
        title=variant.title,
        soft_targets=variant.settings is not None and variant.settings.soft_targets,
        metrics=metrics.pooled,
        fold_aucs=tuple(fold.main.value for fold in metrics.folds),
        roc=tuple(map(tuple, roc_points(labels, [row.probability for row in rows]).tolist())) if binary else (),
        against_reference=difference,
        note=variant.note,
        seconds=method.seconds,
    )


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
