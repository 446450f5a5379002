"""report: the page of a training run, from the files in its folder.

report.html     all that is known of the model: one file
figures/        its figures as SVG and PDF
tables/         its tables as CSV, and the settings that train it again
audit.json, audit.csv   what was found, if an audit was asked for
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...data.artifact import whole
from ...data.manifest import Record
from ...models.audit.confounding import Audit
from ...models.bundle import BundleFacts, read_facts
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import PatientPrediction, threshold_at
from ...models.training.methods import find_method
from ..lineage import Lineage
from ..pages.asked_question import Question
from ..pages.paper_parts import PaperParts
from ..pages.report_page import (
    Accounting,
    EpochRow,
    Facts,
    FoldSummary,
    SlotUsage,
    TrainingReport,
    facts_of_target,
    training_page,
)
from ..pages.targets_page import PART, TargetPart, targets_page
from ..pages.task_page import TaskReport, task_page
from ..paper.drawings import Judged
from ..paper.operating import operating_part
from ..paper.paper import Paper
from ..registry import VERSIONS
from ..stage import Input, Item, Outcome, OutputInput, Plan, Progress, Stage, upstream
from .audit import AnyAudit, Audited, write_audits
from .cross_validate import ModelMetrics, ModelTaskMetrics, read_metrics, read_oof
from .paper_of_model import PaperSources
from .patient_table import PatientRow, read_patients, reasons
from .settings import NETWORK_SIZES, ReportSettings


class TrainingReportStage(Stage[ReportSettings]):
    """The report stage; its single item ``report.html`` is made from the records of split, train and cross_validate.

    :param table: the cohort table, which an audit needs.
    """

    name = "report"
    version = VERSIONS["report"]
    items = "pages"
    closes = True

    def __init__(self, settings: ReportSettings, folder: Path, workspace: Path, *, table: Path | None = None) -> None:
        super().__init__(settings, folder, workspace)
        self.table = table

    def plan(self) -> Plan:
        records: dict[str, Record] = {}
        lineage = Lineage(self.workspace)
        for stage in ("split", "train", "cross_validate"):  # folds of an earlier split are no longer valid
            found = upstream(self.manifest, stage, self.workspace, lineage=lineage)
            records |= found.records
        tested = records["cross-validation"].inputs if "cross-validation" in records else {}
        records = {  # an earlier split may have had more folds than cross-validation has tested
            item: record for item, record in records.items() if not item.startswith("fold-") or item in tested
        }
        inputs: dict[str, Input] = {
            f"{item} {name}": OutputInput(output)
            for item, record in records.items()
            for name, output in record.outputs.items()
        }
        if "cross-validation" not in records:
            return Plan([], notes=found.notes)  # it has failed, or what it tested has changed since
        first = read_facts(self.workspace / records["fold-0"].outputs["bundle"].path)
        audited = self._audited(first)
        patients = read_patients(
            self.workspace / records["splits"].outputs["patients"].path, first.task.number_of_classes
        )
        sources = PaperSources.read(self.folder, self.workspace, records, patients, first, self.table)
        item = Item("report.html", inputs | audited.inputs | sources.inputs, (records, audited, sources))
        return Plan([item], notes=audited.notes)

    def _audited(self, bundle: BundleFacts) -> Audited:
        """Read the columns of the audit, if one was asked for."""
        return Audited.of(self.settings.audit, self.table, bundle.question) if self.settings.audit else Audited()

    def process(self, item: Item, progress: Progress) -> Outcome:
        records: Mapping[str, Record]
        audited: Audited
        sources: PaperSources
        records, audited, sources = item.payload

        def output(record: str, name: str) -> Path:
            return self.workspace / records[record].outputs[name].path

        bundles = [read_facts(output(name, "bundle")) for name in records if name.startswith("fold-")]
        bundles.sort(key=lambda bundle: bundle.fold)
        task = bundles[0].task
        patients = read_patients(output("splits", "patients"), task.number_of_classes)
        if isinstance(task, MultiTask):
            of_all, parts, judged = _of_targets(
                self.folder, patients, bundles, task, partial(output, "cross-validation")
            )
            paper = sources.paper(judged, bundles, _judged(of_all, "", None))
            shown = sources.parts(paper, figures=self.settings.figures)
            text = targets_page(replace(of_all, gallery=sources.gallery_page, paper=shown), parts)
            return self._write(text, write_audits(self.folder, {}), paper)
        oof = read_oof(output("cross-validation", "predictions"), task)
        metrics = read_metrics(output("cross-validation", "metrics"))
        found = audited.audit(oof, task)
        if isinstance(metrics, ModelTaskMetrics):
            report = _task_report(self.folder, patients, oof, metrics, bundles)
            paper = sources.paper([_judged(report, "", found)], bundles)
            shown = sources.parts(paper, figures=self.settings.figures)
            text = task_page(replace(report, audit=found, gallery=sources.gallery_page, paper=shown))
        else:
            of_two = _report(self.folder, patients, oof, metrics, bundles, found if isinstance(found, Audit) else None)
            paper = sources.paper([_judged(of_two, "", found)], bundles)
            shown = sources.parts(paper, figures=self.settings.figures)
            text = training_page(replace(of_two, gallery=sources.gallery_page, paper=shown))
        audits = {} if found is None else {bundles[0].method: found}
        return self._write(text, write_audits(self.folder, audits), paper)

    def _write(self, text: str, beside: Mapping[str, Path], paper: Paper) -> Outcome:
        """Write the page and the files for papers."""
        path = self.folder / "report.html"
        with whole(path) as scratch:
            scratch.write_text(text, encoding="utf-8")
        return Outcome(outputs={"page": path, **beside, **paper.write(self.folder, figures=self.settings.figures)})


def _judged(report: TrainingReport | TaskReport, target: str, audit: AnyAudit | None) -> Judged:
    """A model's answers to one question, as figures and tables for papers take them."""
    return Judged(
        target=target,
        question=report.question,
        rows=report.oof if isinstance(report, TrainingReport) else report.patients,
        metrics=report.metrics,
        folds=report.folds,
        audit=audit,
    )


def _of_targets(
    folder: Path,
    patients: list[PatientRow],
    bundles: list[BundleFacts],
    task: MultiTask,
    output: Callable[[str], Path],
) -> tuple[TaskReport, list[TargetPart], list[Judged]]:
    """The page of a model of several targets: what is of all together, the part of each, and its answers.

    :param output: finds a file of the cross-validation.
    """
    parts, judged = [], []
    for name, own in task.targets.items():
        rows = read_oof(output(f"predictions of {name}"), own)
        metrics = read_metrics(output(f"metrics of {name}"))
        of_target = [bundle.of_target(name) for bundle in bundles]
        label_known = [_for_target(patient, task, name) for patient in patients]
        validation = {bundle.fold: bundle.of_targets[name].validation for bundle in bundles}
        tested = Counter(row.fold for row in rows)

        def alone(
            fold: FoldSummary,
            validation: Mapping[int, float | None] = validation,
            tested: Mapping[int, int] = tested,
        ) -> FoldSummary:
            """A fold as the target's part shows it: curves are of all targets, and shown once."""
            of_all = tuple(replace(row, losses={}, validation_auc=None, validation_rank=None) for row in fold.history)
            n_test = tested[fold.fold]
            return replace(fold, history=of_all, validation_auc=validation[fold.fold], n_test=n_test)

        shown_once: dict[str, Any] = {"facts": (), "settings": (), "versions": (), "predict_command": ""}
        if isinstance(metrics, ModelTaskMetrics):
            of_task = _task_report(folder, label_known, rows, metrics, of_target)
            of_task = replace(of_task, run=name, folds=tuple(map(alone, of_task.folds)), **shown_once)
            judged.append(replace(_judged(of_task, name, None), folds=()))
            operating = PaperParts(operating=operating_part(of_task.question, rows))
            text = task_page(replace(of_task, paper=operating), PART)
        else:
            report = _report(folder, label_known, rows, metrics, of_target, None)
            question = replace(report.question, of_several=True)
            report = replace(report, run=name, question=question, folds=tuple(map(alone, report.folds)), **shown_once)
            judged.append(replace(_judged(report, name, None), folds=()))
            operating = PaperParts(operating=operating_part(question, rows))
            text = training_page(replace(report, paper=operating), PART)
        parts.append(TargetPart(name=name, metrics=metrics.pooled, html=Markup(text)))
    together = read_metrics(output("metrics"))
    assert isinstance(together, ModelTaskMetrics)
    return _task_report(folder, patients, [], together, bundles), parts, judged


def _for_target(patient: PatientRow, task: MultiTask, name: str) -> PatientRow:
    """A patient as one target counts them: without its label they are not used for it."""
    if patient.label is None or not patient.used:
        return patient
    label = task.label_of(name, patient.label)
    return replace(patient, label=label, used=label is not None, reason="" if label is not None else f"no {name} label")


def _report(
    folder: Path,
    patients: list[PatientRow],
    oof: list[PatientPrediction],
    metrics: ModelMetrics,
    bundles: list[BundleFacts],
    audit: Audit | None,
) -> TrainingReport:
    question = bundles[0].question
    test_auc = {fold.fold: fold.auc.value for fold in metrics.folds}
    return TrainingReport(
        run=folder.name,
        question=Question.asked(question, bundles[0].signature),
        accounting=_accounting(patients),
        metrics=metrics.pooled,
        prevalence=metrics.prevalence,
        folds=tuple(
            _fold(bundle, test_auc.get(bundle.fold), threshold_at(bundle.threshold, metrics.prevalence))
            for bundle in bundles
        ),
        oof=tuple(oof),
        slots=tuple(
            SlotUsage(fold=bundle.fold, positive=label == "positive", shares=tuple(use["shares"]))
            for bundle in bundles
            for label, use in bundle.training["memory"].items()
        ),
        facts=_facts(patients, bundles),
        settings=tuple((name, _shown(value)) for name, value in bundles[0].training["settings"].items()),
        versions=tuple(bundles[0].versions.items()),
        page_parts=bundles[0].task.page_parts,
        audit=audit,
        predict_command=_predict_command(folder),
    )


def _task_report(
    folder: Path,
    patients: list[PatientRow],
    oof: list[PatientPrediction],
    metrics: ModelTaskMetrics,
    bundles: list[BundleFacts],
) -> TaskReport:
    test = {fold.fold: fold.main.value for fold in metrics.folds}
    return TaskReport(
        kind="Training report",
        run=folder.name,
        question=Question.asked(bundles[0].question, bundles[0].signature),
        how=f"Each was predicted by the one fold of {len(bundles)} that was not trained on them. "
        "This is cross-validation within one cohort: other scanners and hospitals have not been tested.",
        accounting=_accounting(patients),
        metrics=metrics.pooled,
        folds=tuple(_fold(bundle, test.get(bundle.fold), bundle.threshold) for bundle in bundles),
        patients=tuple(oof),
        share_names=bundles[0].task.share_names,
        prevalence=metrics.prevalence,
        facts=_facts(patients, bundles),
        settings=tuple((name, _shown(value)) for name, value in bundles[0].training["settings"].items()),
        versions=tuple(bundles[0].versions.items()),
        predict_command=_predict_command(folder),
    )


def _accounting(patients: list[PatientRow]) -> Accounting:
    return Accounting(
        in_table=len(patients),
        used=sum(patient.used for patient in patients),
        dropped=tuple(reasons(patients).items()),
    )


def _predict_command(folder: Path) -> str:
    return f"wsipipe predict new_slides/ --model {folder.parent.parent.name}/models/{folder.name}"


def _fold(bundle: BundleFacts, test_auc: float | None, threshold: float) -> FoldSummary:
    """Summarise a fold, with epochs counted from 1; bundles and TensorBoard count them from 0."""
    history = bundle.training["history"]
    best = bundle.training["best_epoch"]
    return FoldSummary(
        fold=bundle.fold,
        n_train=bundle.patients["train"],
        n_validation=bundle.patients["validation"],
        n_test=bundle.patients["test"],
        validation_auc=history[best]["validation_auc"],
        test_auc=test_auc,
        threshold=threshold,
        best_epoch=best + 1,
        history=tuple(
            EpochRow(
                epoch=row["epoch"] + 1,
                losses=row["losses"],
                validation_auc=row["validation_auc"],
                validation_rank=row["validation_rank"],
                slot_entropy=tuple(value for name, value in row["figures"].items() if name.startswith("slot_entropy")),
            )
            for row in history
        ),
    )


def _facts(patients: list[PatientRow], bundles: list[BundleFacts]) -> Facts:
    used = [patient for patient in patients if patient.used]
    recipe, network = bundles[0].recipe, bundles[0].network
    genes = [len(bundle.genes) for bundle in bundles]
    sizes = ", ".join(f"{name.replace('_', ' ')} {network[name]}" for name in NETWORK_SIZES if name in network)
    return (
        *facts_of_target(bundles[0].signature),
        ("patients with slides", str(len(used))),
        ("of them with RNA", str(sum(patient.rna for patient in used))),
        ("slides", str(sum(len(patient.slides) for patient in used))),
        ("tiles", f"{recipe.tile_px} px at {recipe.tile['mpp']:g} µm per pixel"),
        ("backbone", f"{recipe.backbone}, {recipe.pooling_text}, {recipe.width} features"),
        ("backbone weights", recipe.weights_digest),
        ("genes a fold", f"{min(genes)} to {max(genes)}" if min(genes) != max(genes) else str(genes[0])),
        ("method", find_method(bundles[0].method).title),
        *([("network", sizes)] if sizes else []),
        *_chosen_facts(bundles),
    )


def _chosen_facts(bundles: list[BundleFacts]) -> Facts:
    """List the soft targets' AUC and the settings chosen by nested folds, if there are any."""
    rows: list[tuple[str, str]] = []
    soft = [bundle.training["soft_targets"] for bundle in bundles if bundle.training["soft_targets"]]
    targets = bundles[0].question.targets
    for name in targets or [""]:
        aucs = [(own[name] if targets else own)["out_of_fold_auc"] for own in soft]
        if aucs:
            of = f" of {name}" if name else ""
            shown = ", ".join(f"{auc:.3f}" for auc in aucs)
            rows.append((f"soft targets' AUC{of} among training patients, out of fold, by fold", shown))
    measure = "AUC" if bundles[0].question.task == "binary" else "score of the validation"
    for bundle in bundles:
        if bundle.training["choice"]:
            best = max(bundle.training["choice"], key=lambda candidate: candidate["auc"])
            words = ", ".join(f"{name} {value}" for name, value in best.items() if name != "auc")
            rows.append((f"chosen inside fold {bundle.fold}", f"{words} (inner {measure} {best['auc']:.3f})"))
    return tuple(rows)


def _shown(value: Any) -> str:
    """A setting as the settings file has it."""
    if value is None:
        return "preset's"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
