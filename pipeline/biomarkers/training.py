"""Training: runs the stages that make and evaluate a model of each biomarker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.manifest import Json
from ..config import Config
from ..console import Console
from ..results import Summary
from ..run.runner import Runner
from .idle_settings import idle_settings
from .to_train import ToTrain, biomarkers_of, refuse_one_prevalence_for

if TYPE_CHECKING:
    from ...stages.stage import Stage


def train(
    config: Config,
    runner: Runner,
    names: Sequence[str] | None = None,
    *,
    features: str | None = None,
    prevalence: float | None = None,
) -> tuple[list[Summary], dict[str, Json]]:
    """Split, train, cross-validate and report each biomarker; its metrics by name.

    :param names: the biomarkers to train; all by default.
    :param features: name of the features' folder, such as ``0.5mpp-224px/uni2-h``; needed only where there are several.
    :param prevalence: the one that probabilities are shown at; default: the training patients'.
    :raises UsageError: a biomarker that is not configured, an existing model of other features, or one prevalence for
        several biomarkers.
    """
    summaries: list[Summary] = []
    metrics: dict[str, Json] = {}
    chosen = biomarkers_of(config, names)
    refuse_one_prevalence_for(config, chosen, prevalence)
    if idle := idle_settings(config.train):
        runner.console.note(f"{config.train.method} does not use {', '.join(idle)}: no effect here")
    for name in chosen:
        runner.console.heading(name)
        ran, metrics[name] = _train_one(config, runner, name, features, prevalence)
        summaries += ran
    return summaries, metrics


def _train_one(
    config: Config, runner: Runner, name: str, features: str | None, prevalence: float | None
) -> tuple[list[Summary], Json]:
    from ...models.training.methods import find_method
    from ...stages.train.report_stage import TrainingReportStage

    to_train = replace(ToTrain.of(config, runner, name, features, "models"), prevalence=prevalence)
    folder = to_train.folder
    to_train.refuse_other_features([folder])
    to_train.refuse_other_audit()
    uses_rna = find_method(config.train.method).uses_rna and config.train.use_rna
    if (
        uses_rna and not config.train.soft_targets
    ) or to_train.stores:  # soft targets without any RNA are refused below
        to_train.refuse_unread_rna()
    if not to_train.stores and config.train.use_rna and not config.train.soft_targets:
        runner.console.note("no expression store in this workspace: training on histology alone")
    stages: list[Callable[[], Stage[Any]]] = [  # made one after the other: each plans from results of the one before
        to_train.split,
        lambda: to_train.train(config.train, folder),
        lambda: to_train.cross_validate(config.train, folder),
        lambda: TrainingReportStage(config.report, folder, runner.workspace, table=to_train.table),
    ]
    summaries = []
    for make in stages:
        summaries.append(runner.run(make()))
        if summaries[-1].failures:
            return summaries, {"name": name, "failed": summaries[-1].stage}
    return summaries, metrics_of(folder)


def metrics_of(folder: Path) -> Json:
    """The main figures of a folder's ``metrics.json``: AUC with its interval, and numbers of patients."""
    from ...models.evaluation.task_metrics import TaskMetrics
    from ...stages.train.cross_validate import read_metrics

    pooled = read_metrics(folder / "metrics.json").pooled
    if isinstance(pooled, TaskMetrics):  # of a task other than the binary one
        return {
            "name": folder.name,
            "task": pooled.task,
            "measure": pooled.measure,
            **pooled.main.model_dump(mode="json"),
            "n_patients": pooled.n_patients,
            "counts": pooled.counts,
            "report": str(folder / "report.html"),
        }
    return {
        "name": folder.name,
        "auc": pooled.auc.value,
        "auc_low": pooled.auc.low,
        "auc_high": pooled.auc.high,
        "n_patients": pooled.n_patients,
        "n_positive": pooled.n_positive,
        "report": str(folder / "report.html"),
    }


def show_metrics(console: Console, metrics: Mapping[str, Json]) -> None:
    """Print the AUC of each model with its interval, and where the report is."""
    for name, values in metrics.items():
        if "failed" in values:
            console.line(f"{name}: {values['failed']} failed, no metrics")
            continue
        if "measure" in values:
            low, high = values["low"], values["high"]
            between = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
            main = "undefined" if values["value"] is None else f"{values['value']:.3f}{between}"
            counts = "".join(f", {n} {name}" for name, n in values["counts"].items())
            console.line(f"{name}: {values['measure']} {main}, {values['n_patients']} patients{counts}")
            console.line(f"  {values['report']}")
            continue
        interval = (
            "" if values["auc_low"] is None else f" (95 % interval {values['auc_low']:.3f} to {values['auc_high']:.3f})"
        )
        auc = "undefined" if values["auc"] is None else f"{values['auc']:.3f}{interval}"
        console.line(f"{name}: AUC {auc}, {values['n_patients']} patients, {values['n_positive']} positive")
        console.line(f"  {values['report']}")
