"""The Python API: the same calls that the command line makes.

>>> config = load_config("wsipipe.toml")  # doctest: +SKIP
>>> run(config, "tile", "extract", "train")  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.errors import UsageError
from ..data.shards import Shard
from ..stages import registry
from . import chain
from .biomarkers import comparison, training
from .biomarkers import robustness as of_features
from .config import Config
from .console import Console
from .results import Summary
from .run.runner import Runner
from .steps import run_step

if TYPE_CHECKING:
    from .preflight.report import Report

Step = Literal["tile", "extract", "genomics", "train"] | str
"""A step of the chain; a stage that is registered with a command of its own is a step too, by its name."""


def run(
    config: Config, *steps: Step, retry_failed: bool = False, replace: bool = False, console: Console | None = None
) -> list[Summary]:
    """Bring steps of the chain up to date; without steps, everything that is configured.

    :param retry_failed: try failed items again even if their input has not changed.
    :param replace: replace results that were made with other settings.
    :returns: a summary of each stage, with its failures. A failed item raises nothing.
    :raises UsageError: a step that does not exist.
    :raises WsipipeError: an error that stops a whole stage.
    """
    known = ["tile", *registry.steps(), "train"]
    if unknown := [step for step in steps if step not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        raise UsageError(
            f"there is no step {unknown[0]!r}" + (f" (did you mean {near[0]!r}?)" if near else ""),
            hint=f"the steps are {', '.join(known)}; compare, predict and evaluate are separate functions",
        )
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    if not steps:
        return chain.everything(config, runner)[0]
    summaries: list[Summary] = []
    for step in steps:
        match step:
            case "tile":
                summaries += chain.tile(config, runner)
            case "train":
                summaries += training.train(config, runner)[0]
            case _:
                summaries.append(run_step(step, config, runner))
    return summaries


def check(config: Config, *, seconds: float = 120.0) -> Report:
    """Say what is wrong with settings, tables, RNA and slides, or will be; nothing is written.

    :param seconds: time limit for opening slides; those left are counted.
    :returns: its ``findings`` (``weight`` is ``stops`` or ``look``) and ``facts``.
    """
    from .preflight.check import check as look

    return look(config, seconds=seconds)


def tile(
    config: Config,
    *slides: str | Path,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Find the tissue on slides and divide it into tiles.

    :param slides: slide files, or folders of slides; default: those of ``config.cohort``.
    :raises WsipipeError: an error that stops the whole stage.
    """
    if slides:
        cohort = config.cohort.model_copy(update={"slides": [Path(slide) for slide in slides]})
        config = config.model_copy(update={"cohort": cohort})
    return chain.tile(config, _runner(config, console, retry_failed=retry_failed, replace=replace))


def extract(
    config: Config,
    *,
    tiles: str | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> Summary:
    """Turn tiles into features with ``config.extract.backbone``.

    :param tiles: name of the tiles' folder; needed only where there are several.
    :raises WsipipeError: an error that stops the whole stage.
    """
    return run_step("extract", config, _runner(config, console, retry_failed=retry_failed, replace=replace), tiles)


def train(
    config: Config,
    *names: str,
    features: str | None = None,
    prevalence: float | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Split, train and cross-validate a model of each biomarker.

    :param names: biomarkers; default: all that are configured.
    :param features: name of the features' folder; needed only where there are several.
    :param prevalence: the one that probabilities are shown at; default: that of the training patients.
    :raises WsipipeError: an error that stops a whole stage.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return training.train(config, runner, names, features=features, prevalence=prevalence)[0]


def predict(
    config: Config,
    model: str | Path | None = None,
    *,
    name: str | None = None,
    features: str | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Predict on ``config.predict.slides`` with a trained model, from histology alone.

    :param model: the model's folder, or its name; default: the only model of the workspace.
    :param name: name of the folder of predictions; default: the model's name.
    :param features: name of a folder of features; slides are then read from these alone, and no file is needed.
    :raises WsipipeError: an error that stops a whole stage.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return chain.predict(config, runner, _chosen(runner, model), name=name, features=features)[0]


def compare(
    config: Config,
    *names: str,
    prevalence: float | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Train several methods (``config.compare``) on the same splits and compare them with MoMKD.

    :param names: biomarkers; default: all that are configured.
    :param prevalence: the one that probabilities are shown at; default: that of the training patients.
    :raises WsipipeError: an error that stops a whole stage.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return comparison.compare(config, runner, names, prevalence=prevalence)[0]


def robustness(
    config: Config,
    *names: str,
    features: Sequence[str] = (),
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Ask features for the label and for what they should not show, such as the site (``config.robustness``).

    :param names: biomarkers; default: all that are configured.
    :param features: names of features' folders, such as ``0.5mpp-224px/uni2-h``; default: all of the workspace.
    :raises WsipipeError: an error that stops a whole stage.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return of_features.robustness(config, runner, names, features=features)[0]


def evaluate(
    config: Config,
    model: str | Path | None = None,
    *,
    name: str | None = None,
    labels: Mapping[str, Any] | None = None,
    other_patients: bool = False,
    training_patients: bool = False,
    prevalence: float | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Evaluate a trained model on the patients of ``config.cohort.table``; nothing is fitted to them.

    :param model: the model's folder, usually of another workspace; default: the only model of this one.
    :param name: of the evaluation's folder; default: the model's.
    :param labels: ``label_column``, ``positive``, ``negative``, ``classes``, ``time_column`` and ``event_column``,
        where the table calls them otherwise than the model.
    :param other_patients: ids that the model knows are other people's here; only slides' bytes are compared.
    :param training_patients: patients who trained the model may be among them; otherwise they are refused.
    :param prevalence: the one that probabilities are shown at; default: that of the model's training patients.
    :raises WsipipeError: what keeps a whole stage from running.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return chain.evaluate(
        config,
        runner,
        _chosen(runner, model),
        labels=labels or {},
        name=name,
        other_patients=other_patients,
        training_patients=training_patients,
        prevalence=prevalence,
    )[0]


def _chosen(runner: Runner, model: str | Path | None) -> Path:
    return training.choose_model(runner.workspace, None if model is None else Path(model), runner.console)


def _runner(config: Config, console: Console | None, *, retry_failed: bool, replace: bool) -> Runner:
    return Runner(
        config.workspace.resolve(),
        console or Console(),
        retry_failed=retry_failed,
        replace=replace,
        stage_to=config.stage_to,
        stage_bytes=config.stage_bytes,
        shard=None if config.shard is None else Shard.parse(config.shard),
    )
