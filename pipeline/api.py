"""The Python API: the same calls that the command line makes.

>>> config = load_config(Path("wsipipe.toml"))  # doctest: +SKIP
>>> run(config, "tile", "extract", "train")  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..data.errors import UsageError
from ..stages import registry
from . import chain, comparison, training
from .config import Config
from .console import Console
from .results import Summary
from .run.runner import Runner
from .steps import run_step

Step = Literal["tile", "extract", "genomics", "train"] | str
"""A step of the chain; further stages of their own are steps too, by name."""


def run(
    config: Config, *steps: Step, retry_failed: bool = False, replace: bool = False, console: Console | None = None
) -> list[Summary]:
    """Bring steps of the chain up to date; without steps, all that is configured.

    :param retry_failed: try failed items again though their input is unchanged.
    :param replace: let these settings replace results of other settings.
    :returns: what each stage did, with the failures. A failed item raises nothing.
    :raises UsageError: a step that there is not.
    :raises WsipipeError: what keeps a whole stage from running.
    """
    known = ["tile", *registry.steps(), "train"]
    if unknown := [step for step in steps if step not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        raise UsageError(
            f"there is no step {unknown[0]!r}" + (f" (did you mean {near[0]!r}?)" if near else ""),
            hint=f"the steps are {', '.join(known)}; compare, predict and evaluate are calls of their own",
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
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Predict on ``config.predict.slides`` with a trained model, histology alone.

    :param model: the model's folder.
    :param name: of the predictions' folder; default: the model's.
    :raises WsipipeError: what keeps a whole stage from running.
    """
    return chain.predict(
        config, _runner(config, console, retry_failed=retry_failed, replace=replace), model, name=name
    )[0]


def compare(
    config: Config,
    *names: str,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Train several methods on the same splits and hold them against MoMKD (``config.compare`` says which).

    :param names: biomarkers; without, all that are configured.
    :raises WsipipeError: what keeps a whole stage from running.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return comparison.compare(config, runner, names)[0]


def evaluate(
    config: Config,
    model: Path,
    *,
    name: str | None = None,
    labels: Mapping[str, Any] | None = None,
    other_patients: bool = False,
    retry_failed: bool = False,
    replace: bool = False,
    console: Console | None = None,
) -> list[Summary]:
    """Judge a trained model on the patients of ``config.cohort.table``, nothing fitted.

    :param model: the model's folder, usually of another workspace.
    :param name: of the evaluation's folder; default: the model's.
    :param labels: ``label_column``, ``positive`` and ``negative``, where the table calls them otherwise than the model.
    :param other_patients: ids that the model knows are other people's here; only slides' bytes are compared.
    :raises WsipipeError: what keeps a whole stage from running.
    """
    runner = _runner(config, console, retry_failed=retry_failed, replace=replace)
    return chain.evaluate(config, runner, model, labels=labels or {}, name=name, other_patients=other_patients)[0]


def _runner(config: Config, console: Console | None, *, retry_failed: bool, replace: bool) -> Runner:
    return Runner(config.workspace.resolve(), console or Console(), retry_failed=retry_failed, replace=replace)
