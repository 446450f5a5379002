"""Training, from a configuration to stages in their order: biomarkers' models, and methods held against each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.errors import UsageError
from ..data.manifest import Json, Manifest, Record
from .config import Config
from .console import Console
from .folders import choose_folder, is_a_name
from .runner import Runner
from .summary import Summary, summed

if TYPE_CHECKING:
    from ..stages.settings import BiomarkerSettings, TrainSettings
    from ..stages.stage import Stage


def train(
    config: Config, runner: Runner, names: Sequence[str] | None = None, *, features: str | None = None
) -> tuple[list[Summary], dict[str, Json]]:
    """Split, train, evaluate and report each biomarker; its metrics by name.

    :param names: the biomarkers to train; all by default.
    :param features: name of the features' folder, such as ``0.5mpp-224px/uni2-h``; needed only where there are several.
    :raises UsageError: no biomarker is configured, or not that one; a model of other features is there.
    """
    summaries: list[Summary] = []
    metrics: dict[str, Json] = {}
    for name in _biomarkers(config, names):
        runner.console.heading(name)
        ran, metrics[name] = _train_one(config, runner, name, features)
        summaries += ran
    return summaries, metrics


def _biomarkers(config: Config, names: Sequence[str] | None) -> Sequence[str]:
    """The names asked for, or all."""
    if not config.biomarkers:
        raise UsageError(
            "no biomarker is given",
            hint="add [biomarkers.NAME] to the settings file, or use --label-column, --positive and --negative",
        )
    unknown = [name for name in names or () if name not in config.biomarkers]
    if unknown:
        raise UsageError(f"no biomarker is called {unknown[0]}", hint=f"there are {', '.join(config.biomarkers)}")
    return names or list(config.biomarkers)


@dataclass(frozen=True)
class _ToTrain:
    """A biomarker of the workspace, and what its models are trained from.

    :param folder: where the split lies.
    """

    config: Config
    runner: Runner
    name: str
    folder: Path
    table: Path
    features: Path
    stores: list[Path]

    @property
    def biomarker(self) -> BiomarkerSettings:
        return self.config.biomarkers[self.name]

    def split(self) -> Stage[Any]:
        from ..stages.split import SplitStage, SplitStageSettings

        settings = SplitStageSettings(**self.config.split.model_dump(), **self.biomarker.model_dump())
        return SplitStage(
            settings,
            self.folder,
            self.runner.workspace,
            table=self.table,
            tiles=self._tiles,
            features=self.features,
            molecular=self.stores,
        )

    def train(self, settings: TrainSettings, folder: Path) -> Stage[Any]:
        from ..stages.train import TrainStage

        return TrainStage(
            settings,
            folder,
            self.runner.workspace,
            biomarker=self.biomarker,
            tiles=self._tiles,
            features=self.features,
            stores=self.stores if settings.use_rna or settings.soft_targets else [],
            splits=self.folder,
            question=self.name,
        )

    def evaluate(self, settings: TrainSettings, folder: Path) -> Stage[Any]:
        from ..stages.evaluate import EvaluateSettings, EvaluateStage

        evaluate = EvaluateSettings(device=settings.device)
        return EvaluateStage(evaluate, folder, self.runner.workspace, features=self.features, splits=self.folder)

    def refuse_other_features(self, models: Iterable[Path]) -> None:
        """Models of other features are not replaced unless the user says so.

        :raises UsageError: naming both, and the ways out.
        """
        asked = _name_of_features(self.features)
        for folder in models:
            folds = sorted(Manifest.of(folder).latest("train").values(), key=lambda fold: fold.start)
            other = _features_of(folds[-1:]) - {asked}  # an earlier split may have left more folds
            if other and not self.runner.replace:
                raise UsageError(
                    f"what is here was trained on the features {min(other)}, not on {asked}",
                    path=folder,
                    hint=f"--features {min(other)} goes on with those; --replace trains anew; to keep both, use "
                    "another --name",
                )

    @property
    def _tiles(self) -> Path:
        return self.runner.workspace / "tiles" / self.features.parent.name


def _to_train(config: Config, runner: Runner, name: str, features: str | None, place: str) -> _ToTrain:
    from ..stages.teaching import stores_that_teach

    workspace = runner.workspace
    table = config.cohort.table
    if table is None:
        raise UsageError(
            "no cohort table is given", hint="use --table, or table in [cohort]: slide_id, patient_id, labels"
        )
    if not is_a_name(name):
        raise UsageError(f"{name!r} cannot be a model's name", hint="use letters, digits, dots, dashes and underscores")
    source = choose_folder(
        workspace / "features", config.features_name(), features, "features", "wsipipe extract", depth=2
    )
    if features is None and len(list((workspace / "features").glob("*/*/manifest.jsonl"))) > 1:
        runner.console.note(f"features: {_name_of_features(source)}; there are others here, --features chooses")
    stores = stores_that_teach(workspace / "genomics", config.train)
    return _ToTrain(config, runner, name, workspace / place / name, table, source, stores)


def _train_one(config: Config, runner: Runner, name: str, features: str | None) -> tuple[list[Summary], Json]:
    from ..stages.training_report import ReportSettings, TrainingReportStage

    to_train = _to_train(config, runner, name, features, "models")
    folder = to_train.folder
    to_train.refuse_other_features([folder])
    if not to_train.stores and config.train.use_rna and not config.train.soft_targets:
        runner.console.note("no expression store in this workspace: training on histology alone")
    stages: list[Callable[[], Stage[Any]]] = [  # made one after the other: each plans from what the one before left
        to_train.split,
        lambda: to_train.train(config.train, folder),
        lambda: to_train.evaluate(config.train, folder),
        lambda: TrainingReportStage(ReportSettings(), folder, runner.workspace),
    ]
    summaries = []
    for make in stages:
        summaries.append(runner.run(make()))
        if summaries[-1].failures:
            return summaries, {"name": name, "failed": summaries[-1].stage}
    return summaries, metrics_of(folder)


def compare(
    config: Config, runner: Runner, names: Sequence[str] | None = None, *, features: str | None = None
) -> tuple[list[Summary], dict[str, Json]]:
    """Train and evaluate methods on the same splits, and table them; where the tables are, by biomarker.

    The model that `wsipipe train` makes of the same settings is one of them, and is not trained twice.

    :param names: the biomarkers; all by default.
    :param features: name of the features' folder; needed only where there are several.
    :raises UsageError: no biomarker is configured, or not that one; a method that is none.
    """
    summaries: list[Summary] = []
    results: dict[str, Json] = {}
    for name in _biomarkers(config, names):
        ran, results[name] = _compare_one(config, runner, name, features)
        summaries += ran
    return summaries, results


def _compare_one(config: Config, runner: Runner, name: str, features: str | None) -> tuple[list[Summary], Json]:
    from ..stages.compare import CompareStage, CompareStageSettings
    from ..stages.omics_ceiling import OmicsCeilingStage
    from ..stages.variants import REFERENCE, variants

    rna = config.train.model_copy(update={"use_rna": True})
    to_train = _to_train(config.model_copy(update={"train": rna}), runner, name, features, "comparisons")
    comparison = to_train.folder
    asked = variants(config.compare.methods, config.train, rna=bool(to_train.stores))
    to_train.refuse_other_features(sorted(file.parent for file in comparison.glob("*/manifest.jsonl")))
    summaries = [runner.run(to_train.split())]
    trained = runner.workspace / "models" / name
    compared = []
    for variant in asked:
        runner.console.heading(f"{name}: {variant.label}")
        reuse = _is_trained(trained, variant.settings, to_train)
        folder = trained if reuse else comparison / variant.name
        splits = replace(to_train, folder=trained) if reuse else to_train
        if variant.settings is None:
            stores = to_train.stores
            ceiling = OmicsCeilingStage(config.train, folder, runner.workspace, splits=comparison, stores=stores)
            ran = [runner.run(ceiling)]
        else:
            ran = [runner.run(splits.train(variant.settings, folder))]
            if not ran[-1].failures:
                ran.append(runner.run(splits.evaluate(variant.settings, folder)))
        summaries += ran
        if not ran[-1].failures:
            compared.append((variant, folder))
    if REFERENCE not in {variant.name for variant, _ in compared}:
        return summed(summaries, comparison), {"name": name, "failed": REFERENCE}
    runner.console.heading(f"{name}: comparison")
    facts = [
        ("features", _name_of_features(to_train.features)),
        ("folds", f"{config.split.folds}, by {config.split.split_by}, seed {config.split.seed}"),
        ("epochs at most", str(config.train.epochs)),
        ("seed of the training", str(config.train.seed)),
    ]
    settings = CompareStageSettings(**to_train.biomarker.model_dump())
    stage = CompareStage(settings, comparison, runner.workspace, compared=compared, facts=facts)
    summaries.append(runner.run(stage))
    if summaries[-1].failures:
        return summed(summaries, comparison), {"name": name, "failed": stage.name}
    paths = {kind: str(comparison / f"comparison.{kind}") for kind in ("csv", "html", "png")}
    return summed(summaries, comparison), {"name": name, **paths}


def _is_trained(model: Path, settings: TrainSettings | None, comparison: _ToTrain) -> bool:
    """Whether a model was trained with these very settings, on the features and the very splits of the comparison."""
    if settings is None:
        return False
    splits = [Manifest.of(folder).latest("split").get("splits") for folder in (model, comparison.folder)]
    made = [record.outputs if record else {} for record in splits]
    digests = {frozenset((name, output.digest) for name, output in outputs.items()) for outputs in made}
    folds = Manifest.of(model).latest("train").values()
    return (
        len(digests) == 1
        and frozenset() not in digests
        and _features_of(folds) == {_name_of_features(comparison.features)}
        and all(fold.settings == settings.result_settings() for fold in folds)
    )


def _features_of(folds: Iterable[Record]) -> set[str]:
    """Names of the features that folds were trained on, as their records say."""
    stores = (i.path for fold in folds for name, i in fold.inputs.items() if name.startswith("features of "))
    return {_name_of_features(Path(store).parent) for store in stores if store}


def _name_of_features(folder: Path) -> str:
    """Such as ``0.5mpp-224px/uni2-h``."""
    return f"{folder.parent.name}/{folder.name}"


def metrics_of(folder: Path) -> Json:
    """What is told at once of a folder's ``metrics.json``."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    pooled = metrics["pooled"]
    auc = pooled["auc"]
    return {
        "name": folder.name,
        "auc": auc["value"],
        "auc_low": auc["low"],
        "auc_high": auc["high"],
        "n_patients": pooled["n_patients"],
        "n_positive": pooled["n_positive"],
        "report": str(folder / "report.html"),
    }


def show_metrics(console: Console, metrics: Mapping[str, Json]) -> None:
    """A line a model: AUC with its interval, and where the report is."""
    for name, values in metrics.items():
        if "failed" in values:
            console.line(f"{name}: {values['failed']} failed, no metrics")
            continue
        interval = (
            "" if values["auc_low"] is None else f" (95 % interval {values['auc_low']:.3f} to {values['auc_high']:.3f})"
        )
        auc = "undefined" if values["auc"] is None else f"{values['auc']:.3f}{interval}"
        console.line(f"{name}: AUC {auc}, {values['n_patients']} patients, {values['n_positive']} positive")
        console.line(f"  {values['report']}")
