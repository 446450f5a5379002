"""Choosing the model to predict with: the one that was named, else the only one of the workspace."""

from __future__ import annotations

from pathlib import Path

from ..data.errors import UsageError, WsipipeError
from ..data.manifest import Manifest
from .console import Console


def choose_model(workspace: Path, named: Path | None, console: Console) -> Path:
    """The folder of a trained model. Of several in the workspace all are listed.

    :param named: given by ``--model``: a folder, or the name of a model of the workspace.
    :raises UsageError: none was named, and there is none or there are several.
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
    from ..models.bundle import folds_of
    from ..stages.pages.asked_question import Question
    from .biomarkers.training import figure_of, metrics_of

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
