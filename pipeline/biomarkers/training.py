"""Training: runs the stages that make and evaluate a model of each biomarker; and which model is used afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.errors import BundleError, UsageError, WsipipeError
from ...data.manifest import Json, Manifest
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
    from ...stages.examples.stage import ExampleSlidesSettings, ExampleSlidesStage
    from ...stages.train.report_stage import TrainingReportStage
    from ...stages.train.slot_gallery import SlotGallerySettings, SlotGalleryStage

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
    gallery = SlotGallerySettings(device=config.train.device)
    examples = ExampleSlidesSettings(device=config.train.device)
    has_slots = find_method(config.train.method).network_for(to_train.biomarker.asked()).has_slots
    stages: list[Callable[[], Stage[Any]]] = [  # made one after the other: each plans from results of the one before
        to_train.split,
        lambda: to_train.train(config.train, folder),
        lambda: to_train.cross_validate(config.train, folder),
        *(
            [
                lambda: SlotGalleryStage(
                    gallery, folder, runner.workspace, features=to_train.features, has_slots=has_slots
                )
            ]
            if has_slots or Manifest.of(folder).latest(SlotGalleryStage.name)  # of a method before, to be removed
            else []
        ),
        lambda: ExampleSlidesStage(examples, folder, runner.workspace, features=to_train.features),
        lambda: TrainingReportStage(config.report, folder, runner.workspace, table=to_train.table),
    ]
    summaries = []
    for make in stages:
        ran = runner.run(make())
        if ran.stage in (SlotGalleryStage.name, ExampleSlidesStage.name):  # the model is whole without them
            summaries += [ran] if ran.done or ran.before or ran.failures else []
            continue
        summaries.append(ran)
        if ran.failures:
            return summaries, {"name": name, "failed": summaries[-1].stage}
        if summaries[-1].waits:
            return summaries, {"name": name, "waits": summaries[-1].waits}
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
        if "waits" in values:
            console.line(f"{name}: {values['waits']}")
            continue
        if "failed" in values:
            console.line(f"{name}: {values['failed']} failed, no metrics")
            continue
        console.line(f"{name}: {figure_of(values)}")
        console.line(f"  {values['report']}")


def figure_of(values: Mapping[str, Json]) -> str:
    """The main figure of a model with its interval, and of how many patients it is.

    :param values: what :func:`metrics_of` returns.
    """
    of_task = "measure" in values
    value, low, high = (
        values[key] for key in (("value", "low", "high") if of_task else ("auc", "auc_low", "auc_high"))
    )
    between = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
    main = "undefined" if value is None else f"{value:.3f}{between}"
    if not of_task:
        return f"AUC {main}, {values['n_patients']} patients, {values['n_positive']} positive"
    counts = "".join(f", {n} {name}" for name, n in values["counts"].items())
    return f"{values['measure']} {main}, {values['n_patients']} patients{counts}"


def choose_model(workspace: Path, named: Path | None, console: Console) -> Path:
    """The folder of a trained model. Of several in the workspace all are listed.

    :param named: given by ``--model``: a folder, or the name of a model of the workspace.
    :raises UsageError: none was named, and there is none or there are several.
    :raises BundleError: none was named, and none of those there can be used.
    """
    folder = workspace / "models"
    if named is not None:
        own = folder / named
        return own if not named.exists() and len(named.parts) == 1 and own.is_dir() else named
    found = sorted(bundle.parent.parent for bundle in folder.glob("*/fold-0/bundle.json"))
    described: dict[Path, str] = {}
    for model in found:
        try:
            described[model] = f"{model.name}: {description_of(model)}"
        except WsipipeError as error:
            console.note(f"{model.name}: cannot be used: {error.what}")
    if found and not described:
        hint = "copy them again, or train again; wsipipe verify FOLDER says what is wrong with one"
        raise BundleError(f"none of the {len(found)} models here can be used", path=folder, hint=hint)
    if not described:
        hint = "wsipipe train makes one; --model names one that lies elsewhere"
        raise UsageError("there is no model in this workspace", path=folder, hint=hint)
    for text in described.values():
        console.note(f"model {text}")
    if len(described) > 1:
        names = " or ".join(f"--model {model.name}" for model in described)
        raise UsageError(f"there are {len(described)} models", path=folder, hint=f"choose one: {names}")
    return next(iter(described))


def description_of(model: Path) -> str:
    """What a model predicts, how well, and when it was trained.

    :raises WsipipeError: it is damaged or incomplete.
    """
    from ...models.bundle import folds_of
    from ...stages.pages.asked_question import Question

    asked = folds_of(model)[0][1].question
    question = Question.asked(asked)
    if asked.targets:
        what = f"predicts {', '.join(asked.targets)}"
    elif asked.task == "binary":
        what = f"predicts {asked.label_column}: {question.positive} or {question.negative}"
    else:
        what = f"predicts {asked.label_column}: {', '.join(question.classes) or asked.task}"
    manifest = Manifest.of(model)
    records = [*manifest.latest("train").values(), *manifest.latest("import-checkpoint").values()]
    when = f"trained on {max(record.start for record in records).date()}" if records else "trained elsewhere"
    how_well = figure_of(metrics_of(model)) if (model / "metrics.json").exists() else "not evaluated"
    return f"{what}; {how_well}; {when}"
