"""The robustness report: whether features show the label, or the site; of every backbone that a workspace has."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.manifest import Json
from ...stages.robustness.settings import WITH_CLASSES
from ..config import Config
from ..folders import checked_name, choose_features, features_there
from ..results import Summary
from ..run.runner import Runner
from .to_train import biomarkers_of, cohort_table, name_of_features


def robustness(
    config: Config, runner: Runner, names: Sequence[str] | None = None, *, features: Sequence[str] = ()
) -> tuple[list[Summary], dict[str, Json]]:
    """Ask features for the label and for what they should not show; returns the reports' paths, by biomarker.

    :param names: the biomarkers; all by default.
    :param features: names of the features' folders, such as ``0.5mpp-224px/uni2-h``; all by default.
    :raises UsageError: a biomarker that is not configured, no cohort table, or no such features.
    """
    from ...stages.robustness.stage import RobustnessStage, RobustnessStageSettings

    workspace, table = runner.workspace, cohort_table(config)
    named = [name.strip() for text in features for name in text.split(",")]
    asked: Sequence[str | None] = named or features_there(runner) or [None]  # which is refused: there are none yet
    chosen = [choose_features(runner, "", name) for name in asked]
    folders = {name_of_features(folder): (folder, workspace / "tiles" / folder.parent.name) for folder in chosen}
    summaries: list[Summary] = []
    results: dict[str, Json] = {}
    chosen_names = biomarkers_of(config, names)
    for name in chosen_names if names else _of_classes(config, chosen_names, runner):
        settings = RobustnessStageSettings(**config.robustness.model_dump(), **config.question(name).model_dump())
        folder = workspace / "robustness" / checked_name(name, "a report")
        summaries.append(runner.run(RobustnessStage(settings, folder, workspace, table=table, features=folders)))
        if not summaries[-1].failures:
            results[name] = {kind: str(folder / f"robustness.{kind}") for kind in ("csv", "html")}
    return summaries, results


def _of_classes(config: Config, names: Sequence[str], runner: Runner) -> Sequence[str]:
    """Those that have classes, if any has; a number or a survival in the same settings file stops none of them."""
    chosen = [name for name in names if config.question(name).task in WITH_CLASSES]
    if chosen and len(chosen) < len(names):
        others = [name for name in names if name not in chosen]
        runner.console.note(f"robustness: left out, since it asks for classes: {', '.join(others)}")
    return chosen or names
