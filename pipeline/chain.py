"""The chain: from a configuration to stages in their order. The command line and the Python API both end here.

The folders' names carry the settings that give the numbers their meaning:

    tiles/0.5mpp-224px/  features/0.5mpp-224px/<backbone>/  genomics/  models/<biomarker>/  predictions/<name>/
    exports/clam/0.5mpp-224px/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.errors import UsageError
from ..data.manifest import Json
from .config import Config
from .console import Console
from .runner import Runner
from .summary import Summary

if TYPE_CHECKING:
    from ..data.cohort import CohortTable
    from ..data.slides_on_disk import FoundSlide
    from ..stages.settings import BiomarkerSettings, TrainSettings
    from ..stages.stage import Stage


def tile(config: Config, runner: Runner) -> list[Summary]:
    """Tile the cohort's slides, and make the page to leaf through them.

    :raises UsageError: no slides are given or found.
    """
    from ..data.cohort import read_cohort

    table = read_cohort(config.cohort.table) if config.cohort.table else None
    found = _slides(config.cohort.slides, table)
    return _tile(config, runner, found, table)


def _tile(config: Config, runner: Runner, found: Sequence[FoundSlide], table: CohortTable | None) -> list[Summary]:
    from ..stages.index import IndexStage
    from ..stages.settings import Settings
    from ..stages.tile import TileStage

    folder = runner.workspace / "tiles" / config.tile.folder_name()
    stage = TileStage(config.tile, folder, runner.workspace, slides=found, table=table, replace=runner.replace)
    return [runner.run(stage), runner.run(IndexStage(Settings(), folder, runner.workspace))]


def _slides(given: Sequence[Path], table: CohortTable | None) -> list[FoundSlide]:
    """The slides in the given places, else those that the cohort table has paths of."""
    from ..data.slides_on_disk import FoundSlide, checked_slide_id, find_slides

    if given:
        return find_slides(given)
    paths = table.paths() if table is not None else {}
    if table is None or not paths:
        raise UsageError(
            "no slides are given",
            hint="name files or folders on the command line, or slides in [cohort], or a table with a path column",
        )
    return [FoundSlide(checked_slide_id(slide, table.source), path) for slide, path in sorted(paths.items())]


def extract(config: Config, runner: Runner, *, tiles: str | None = None, only: Sequence[str] | None = None) -> Summary:
    """Extract features of tiled slides.

    :param tiles: name of the tiles' folder; needed only where there are several.
    :param only: keep to these slides.
    """
    from ..stages.extract import ExtractStage

    source = _choose(runner.workspace / "tiles", config.tile.folder_name(), tiles, "tiles", "wsipipe tile")
    folder = runner.workspace / "features" / source.name / config.extract.folder_name()
    return runner.run(ExtractStage(config.extract, folder, runner.workspace, tiles=source, only=only))


def export(
    config: Config,
    runner: Runner,
    format: Literal["clam", "trident", "anndata"],
    *,
    tiles: str | None = None,
    features: str | None = None,
) -> Summary:
    """Write tiles, or features if they are named, in another tool's format.

    :param format: whose.
    :param tiles: name of the tiles' folder; needed only where there are several.
    :param features: name of the features' folder, such as ``0.5mpp-224px/uni2-h``.
    """
    from ..stages.export import ExportFeaturesStage, ExportTilesStage
    from ..stages.settings import ExportSettings

    root, settings = runner.workspace, ExportSettings(format=format)
    if features is not None:
        stores = _choose(root / "features", config.features_name(), features, "features", "wsipipe extract", depth=2)
        folder = root / "exports" / format / stores.parent.name / stores.name
        of_tiles = root / "tiles" / stores.parent.name
        return runner.run(ExportFeaturesStage(settings, folder, root, tiles=of_tiles, features=stores))
    if format == "anndata":
        raise UsageError("AnnData holds features, not tiles", hint="name them with --features")
    source = _choose(root / "tiles", config.tile.folder_name(), tiles, "tiles", "wsipipe tile")
    return runner.run(ExportTilesStage(settings, root / "exports" / format / source.name, root, tiles=source))


def import_features(config: Config, runner: Runner, source: Path, *, tiles: str | None = None) -> Summary:
    """Take over features that TRIDENT or CLAM has extracted from tiles that were taken over too.

    :param source: the folder of their files.
    :param tiles: name of the tiles' folder; needed only where there are several.
    """
    from ..stages.import_features import ImportStage

    root = runner.workspace
    of_tiles = _choose(root / "tiles", config.tile.folder_name(), tiles, "tiles", "wsipipe tile")
    folder = root / "features" / of_tiles.name / f"{config.extract.folder_name()}-imported"
    return runner.run(ImportStage(config.extract, folder, root, tiles=of_tiles, source=source.resolve()))


def genomics(config: Config, runner: Runner) -> Summary:
    """Read the expression matrix."""
    from ..stages.genomics import GenomicsStage

    return runner.run(GenomicsStage(config.genomics, runner.workspace / "genomics", runner.workspace))


def train(
    config: Config, runner: Runner, names: Sequence[str] | None = None, *, features: str | None = None
) -> tuple[list[Summary], dict[str, Json]]:
    """Split, train, evaluate and report each biomarker; its metrics by name.

    :param names: the biomarkers to train; all by default.
    :param features: name of the features' folder, such as ``0.5mpp-224px/uni2-h``; needed only where there are several.
    :raises UsageError: no biomarker is configured, or not that one.
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
    """A biomarker of the workspace: what its models are trained from, and where they go."""

    config: Config
    runner: Runner
    name: str
    table: Path
    features: Path
    stores: list[Path]

    @property
    def biomarker(self) -> BiomarkerSettings:
        return self.config.biomarkers[self.name]

    @property
    def folder(self) -> Path:
        return self.runner.workspace / "models" / self.name

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

    @property
    def _tiles(self) -> Path:
        return self.runner.workspace / "tiles" / self.features.parent.name


def _to_train(config: Config, runner: Runner, name: str, features: str | None) -> _ToTrain:
    from ..stages.teaching import stores_that_teach

    workspace = runner.workspace
    table = config.cohort.table
    if table is None:
        raise UsageError(
            "no cohort table is given", hint="use --table, or table in [cohort]: slide_id, patient_id, labels"
        )
    if not _is_a_name(name):
        raise UsageError(f"{name!r} cannot be a model's name", hint="use letters, digits, dots, dashes and underscores")
    source = _choose(workspace / "features", config.features_name(), features, "features", "wsipipe extract", depth=2)
    return _ToTrain(config, runner, name, table, source, stores_that_teach(workspace / "genomics", config.train))


def _train_one(config: Config, runner: Runner, name: str, features: str | None) -> tuple[list[Summary], Json]:
    from ..stages.training_report import ReportSettings, TrainingReportStage

    to_train = _to_train(config, runner, name, features)
    folder = to_train.folder
    if not to_train.stores and config.train.use_rna:
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
    return summaries, _metrics_of(folder)


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
    from ..stages.compare import CompareStage, CompareStageSettings, variants
    from ..stages.omics_ceiling import OmicsCeilingStage

    rna = config.train.model_copy(update={"use_rna": True})
    to_train = _to_train(config.model_copy(update={"train": rna}), runner, name, features)
    comparison = runner.workspace / "comparisons" / name
    compared = []
    summaries = [runner.run(to_train.split())]
    for variant in variants(config.compare.methods, config.train, rna=bool(to_train.stores)):
        runner.console.heading(f"{name}: {variant.title}")
        folder = to_train.folder if variant.settings == config.train else comparison / variant.name
        if variant.settings is None:
            ceiling = OmicsCeilingStage(
                config.train, folder, runner.workspace, splits=to_train.folder, stores=to_train.stores
            )
            summaries.append(runner.run(ceiling))
        else:
            summaries.append(runner.run(to_train.train(variant.settings, folder)))
            if not summaries[-1].failures:
                summaries.append(runner.run(to_train.evaluate(variant.settings, folder)))
        compared.append((variant, folder))
    runner.console.heading(f"{name}: comparison")
    facts = [
        ("features", to_train.features.relative_to(runner.workspace / "features").as_posix()),
        ("folds", f"{config.split.folds}, by {config.split.split_by}, seed {config.split.seed}"),
        ("epochs at most", str(config.train.epochs)),
        ("seed of the training", str(config.train.seed)),
    ]
    settings = CompareStageSettings(**to_train.biomarker.model_dump())
    stage = CompareStage(settings, comparison, runner.workspace, compared=compared, facts=facts)
    summaries.append(runner.run(stage))
    paths = {kind: str(comparison / f"comparison.{kind}") for kind in ("csv", "html", "png")}
    return summaries, {"name": name, **paths}


def _metrics_of(folder: Path) -> Json:
    import json

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


def predict(
    config: Config, runner: Runner, model: Path, *, name: str | None = None
) -> tuple[list[Summary], dict[str, Json]]:
    """Tile, extract and predict slides as a model's bundle says.

    :param model: the trained model's folder.
    :param name: of the predictions' folder; default: the model's.
    """
    from ..data.cohort import read_cohort
    from ..data.slide_match import match_slides
    from ..data.tcga import tcga_barcode
    from ..models.bundle import folds_of
    from ..stages.predict import PredictionTask, PredictStage
    from ..stages.prediction_report import PredictionReportStage, SummarySettings
    from ..stages.settings import ExtractSettings, PredictSettings, TileSettings

    workspace = runner.workspace
    recipe = folds_of(model)[0][1].recipe
    here = config.tile.model_dump(include={"mpp_override", "workers", "timeout", "tissue_weights", "device"})
    # Annotations are of the slides that the model was trained on; of new ones all tissue is read.
    tile_settings = TileSettings(**{**recipe.tile, "annotation_classes": [], **here})
    runtime = config.extract.model_dump(include={"weights", "batch_size", "threads", "device"})
    extract_settings = ExtractSettings(**{**recipe.extract, **runtime})
    as_trained = config.model_copy(update={"tile": tile_settings, "extract": extract_settings})

    table = read_cohort(config.predict.table) if config.predict.table else None
    found = _slides(config.predict.slides, table)
    slides = {slide.slide_id: slide.slide_id for slide in found}  # without a table a slide is its own patient
    slides |= {slide: barcode.patient for slide in slides if (barcode := tcga_barcode(slide))}
    if table is not None:
        patients = dict(zip(table.frame["slide_id"], table.frame["patient_id"], strict=True))
        slides |= {disk: patients[row] for disk, row in match_slides(slides, table).rows.items()}

    tiles = workspace / "tiles" / tile_settings.folder_name()
    features = workspace / "features" / as_trained.features_name()
    folder = workspace / "predictions" / (name or model.resolve().name)
    summaries = _tile(as_trained, runner, found, table)
    summaries.append(extract(as_trained, runner, tiles=tiles.name, only=list(slides)))
    settings = PredictSettings(**config.predict.model_dump(include=set(PredictSettings.model_fields)))
    task = PredictionTask(model=model.resolve(), tiles=tiles, features=features, slides=slides)
    summaries.append(runner.run(PredictStage(settings, folder, workspace, task)))
    summaries.append(runner.run(PredictionReportStage(SummarySettings(), folder, workspace, task)))
    result = {
        "predictions": str(folder / "predictions.csv"),
        "report": str(folder / "report.html"),
        "heatmaps": str(folder / "heatmaps"),
    }
    return summaries, result


def import_checkpoint(config: Config, runner: Runner, checkpoints: Sequence[Path], name: str) -> Summary:
    """Make a model of checkpoints of the authors' MoMKD code, one a fold.

    :param name: of the model; its biomarker must be configured.
    :raises UsageError: no such biomarker, or no name for a model.
    """
    from ..stages.import_checkpoint import ImportCheckpointStage

    if not _is_a_name(name):
        raise UsageError(f"{name!r} cannot be a model's name", hint="use letters, digits, dots, dashes and underscores")
    folder = runner.workspace / "models" / name
    stage = ImportCheckpointStage(
        config.biomarkers[name],
        folder,
        runner.workspace,
        checkpoints=checkpoints,
        tile=config.tile,
        extract=config.extract,
    )
    return runner.run(stage)


def everything(config: Config, runner: Runner) -> tuple[list[Summary], dict[str, Json]]:
    """The whole chain: what is configured of it, in order."""
    summaries = [*tile(config, runner), extract(config, runner, tiles=config.tile.folder_name())]
    if config.genomics.sources():
        summaries.append(genomics(config, runner))
    trained, metrics = train(config, runner, features=config.features_name())
    summaries += trained
    predictions: dict[str, Json] = {}
    if config.predict.slides or config.predict.table:
        for name in config.biomarkers:
            runner.console.heading(f"{name}: new slides")
            ran, predictions[name] = predict(config, runner, runner.workspace / "models" / name)
            summaries += ran
    return summaries, {"models": metrics, "predictions": predictions}


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


def show_comparisons(console: Console, results: Mapping[str, Json]) -> None:
    """The table of each comparison, and where its page is."""
    import csv

    for name, values in results.items():
        console.heading(name)
        with Path(values["csv"]).open(encoding="utf-8", newline="") as stream:
            console.table(list(csv.DictReader(stream)))
        console.line(f"  {values['html']}")


def show_predictions(console: Console, result: Mapping[str, Json]) -> None:
    """Where the predictions are."""
    for name in ("predictions", "report", "heatmaps"):
        console.line(f"{name}: {result[name]}")


def _choose(root: Path, wanted: str, given: str | None, what: str, command: str, *, depth: int = 1) -> Path:
    """The folder asked for, else the configured one, else the only one there is.

    :raises UsageError: it is not there, or there are several to choose from.
    """
    there = sorted(m.parent for m in root.glob("*/" * depth + "manifest.jsonl"))
    names = [folder.relative_to(root).as_posix() for folder in there]
    if given is not None:
        if given not in names:
            raise UsageError(f"no {what} are called {given}", path=root, hint=f"there are {', '.join(names) or 'none'}")
        return root / given
    if wanted in names:
        return root / wanted
    if len(there) == 1:
        return there[0]
    if there:
        raise UsageError(f"there are several {what}", path=root, hint=f"choose with --{what}: {', '.join(names)}")
    raise UsageError(f"there are no {what} yet", path=root, hint=f"run {command} first")


def _is_a_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and all(c.isalnum() or c in "._-" for c in name)
