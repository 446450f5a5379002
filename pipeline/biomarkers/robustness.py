"""The robustness report: whether features show the label, or the site; of every backbone that a workspace has."""

from __future__ import annotations

from collections.abc import Sequence

from ...data.errors import UsageError
from ...data.manifest import Json
from ..config import Config
from ..folders import checked_name
from ..results import Summary
from ..run.runner import Runner
from .to_train import biomarkers_of


def robustness(
    config: Config, runner: Runner, names: Sequence[str] | None = None, *, features: Sequence[str] = ()
) -> tuple[list[Summary], dict[str, Json]]:
    """Ask features for the label and for what they should not show; returns the reports' paths, by biomarker.

    :param names: the biomarkers; all by default.
    :param features: names of the features' folders, such as ``0.5mpp-224px/uni2-h``; all by default.
    :raises UsageError: a biomarker that is not configured, no cohort table, or no such features.
    """
    from ...stages.robustness.stage import RobustnessStage, RobustnessStageSettings

    workspace, table = runner.workspace, config.cohort.table
    if table is None:
        raise UsageError(
            "no cohort table is given", hint="use --table, or table in [cohort]: slide_id, patient_id, labels"
        )
    root = workspace / "features"
    there = sorted(m.parent.relative_to(root).as_posix() for m in root.glob("*/*/manifest.jsonl"))
    wanted = [name.strip() for text in features for name in text.split(",")] or there
    if not wanted or (unknown := [name for name in wanted if name not in there]):
        what = f"no features are called {unknown[0]}" if wanted else "there are no features yet"
        hint = f"there are {', '.join(there)}" if there else "run wsipipe extract first"
        raise UsageError(what, path=root, hint=hint)
    folders = {name: (root / name, workspace / "tiles" / name.partition("/")[0]) for name in wanted}
    summaries: list[Summary] = []
    results: dict[str, Json] = {}
    for name in biomarkers_of(config, names):
        settings = RobustnessStageSettings(**config.robustness.model_dump(), **config.question(name).model_dump())
        folder = workspace / "robustness" / checked_name(name, "a report")
        summaries.append(runner.run(RobustnessStage(settings, folder, workspace, table=table, features=folders)))
        if not summaries[-1].failures:
            results[name] = {kind: str(folder / f"robustness.{kind}") for kind in ("csv", "html")}
    return summaries, results
