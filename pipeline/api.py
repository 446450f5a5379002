"""The Python API: the same calls that the command line makes.

>>> config = load_config(Path("wsipipe.toml"))  # doctest: +SKIP
>>> run(config, "tile", "extract", "train")  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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


def predict(
    config: Config,
    model: Path,
    *,
    name: str | None = None,
    features: str | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Predict on ``config.predict.slides`` with a trained model, from histology alone.

    :param model: the model's folder.
    :param name: name of the folder of predictions; default: the model's name.
    :param features: name of a folder of features; slides are then read from these alone, and no file is needed.
    :raises WsipipeError: an error that stops a whole stage.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return chain.predict(config, runner, model, name=name, features=features)[0]


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
    model: Path,
    *,
    name: str | None = None,
    labels: Mapping[str, Any] | None = None,
    other_patients: bool = False,
    prevalence: float | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Evaluate a trained model on the patients of ``config.cohort.table``; nothing is fitted to them.

    :param model: the model's folder, usually of another workspace.
    :param name: of the evaluation's folder; default: the model's.
    :param labels: ``label_column``, ``positive``, ``negative``, ``classes``, ``time_column`` and ``event_column``,
        where the table calls them otherwise than the model.
    :param other_patients: ids that the model knows are other people's here; only slides' bytes are compared.
    :param prevalence: the one that probabilities are shown at; default: that of the model's training patients.
    :raises WsipipeError: what keeps a whole stage from running.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return chain.evaluate(
        config,
        runner,
        model,
        labels=labels or {},
        name=name,
        other_patients=other_patients,
        prevalence=prevalence,
    )[0]


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
