"""The chain: which stages run for a configuration, and in which order. Command line and Python API both call it.

The names of the folders contain the settings that define the numbers in them:

    tiles/0.5mpp-224px/  features/0.5mpp-224px/<backbone>/  genomics/  models/<biomarker>/  predictions/<name>/
    exports/clam/0.5mpp-224px/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.errors import UsageError
from ..data.manifest import Json
from ..stages.features_folder import folder_of_vectors, stage_of
from .biomarkers.to_train import refuse_no_prevalence, refuse_unknown_signatures
from .biomarkers.training import metrics_of, train
from .config import Config
from .console import Console
from .folders import checked_name, choose_features, choose_tiles, named_after, refuse_another_source
from .given_slides import given_slides
from .model_features import features_of_model, settings_of_model
from .results import Summary, summed
from .run.runner import Runner
from .steps import run_step

if TYPE_CHECKING:
    from ..data.cohort.table import CohortTable
    from ..data.manifest import Record
    from ..data.slides.finding import FoundSlides


def tile(config: Config, runner: Runner) -> list[Summary]:
    """Tile the cohort's slides, and write a page that shows all of them.

    :raises UsageError: no slides are given or found.
    """
    from ..data.cohort.table import read_cohort

    table = read_cohort(config.cohort.table) if config.cohort.table else None
    found = given_slides(config.cohort.slides, table, runner.workspace)
    return _tile(config, runner, found, table)


def _tile(config: Config, runner: Runner, found: FoundSlides, table: CohortTable | None) -> list[Summary]:
    from ..stages.settings import Settings
    from ..stages.tile.index_stage import IndexStage
    from ..stages.tile.stage import TileStage

    folder = runner.workspace / "tiles" / config.tile.folder_name()
    stage = TileStage(
        config.tile, folder, runner.workspace, slides=found, table=table, replace=runner.replace, notes=found.notes()
    )
    return [runner.run(stage), runner.run(IndexStage(Settings(), folder, runner.workspace))]


def _tile_for_model(
    config: Config, runner: Runner, found: FoundSlides, table: CohortTable | None, *, allow_upsample: bool
) -> list[Summary]:
    """Tile new slides as a model's were tiled.

    Whether a slide may be enlarged is that slide's own affair: one that has been tiled stays as it is, so that allowing
    it for a coarse slide does not ask for the others to be tiled again.

    :param config: tiling as the model's.
    :param allow_upsample: enlarge slides that are coarser than the model's tiles.
    """
    from ..data.manifest import Manifest
    from ..data.slides.finding import FoundSlides

    folder = runner.workspace / "tiles" / config.tile.folder_name()
    tiled = {slide: r for slide, r in Manifest.of(folder).latest("tile").items() if r.status != "failed"}
    allowed = config.tile.allow_upsample or allow_upsample
    summaries: list[Summary] = []
    for enlarge in (False, True):
        chosen = [s for s in found if _allowed(tiled.get(s.slide_id), default=allowed) == enlarge]
        if chosen:
            tile_settings = config.tile.model_copy(update={"allow_upsample": enlarge})
            left_out = {} if summaries else found.left_out  # said once
            slides = FoundSlides(chosen, left_out)
            summaries += _tile(config.model_copy(update={"tile": tile_settings}), runner, slides, table)
    return summed(summaries, folder) if len(summaries) > 2 else summaries


def _allowed(tiled: Record | None, *, default: bool) -> bool:
    """Whether a slide was tiled with leave to enlarge it."""
    return default if tiled is None else bool(tiled.settings.get("allow_upsample", default))


def export(
    config: Config,
    runner: Runner,
    format: Literal["clam", "trident", "anndata"],
    *,
    tiles: str | None = None,
    features: str | None = None,
) -> Summary:
    """Write tiles, or features if they are named, in another tool's format.

    :param format: the tool whose format is written.
    :param tiles: name of the tiles' folder; needed only where there are several.
    :param features: name of the features' folder, such as ``0.5mpp-224px/uni2-h``.
    """
    from ..stages.exchange.export import ExportFeaturesStage, ExportTilesStage
    from ..stages.exchange.settings import ExportSettings

    root, settings = runner.workspace, ExportSettings(format=format)
    if features is not None:
        stores = choose_features(runner, config.features_name(), features)
        folder = root / "exports" / format / stores.parent.name / stores.name
        of_tiles = root / "tiles" / stores.parent.name
        return runner.run(ExportFeaturesStage(settings, folder, root, tiles=of_tiles, features=stores))
    if format == "anndata":
        raise UsageError("AnnData holds features, not tiles", hint="name them with --features")
    source = choose_tiles(runner, config.tile.folder_name(), tiles)
    return runner.run(ExportTilesStage(settings, root / "exports" / format / source.name, root, tiles=source))


def import_features(config: Config, runner: Runner, source: Path, *, tiles: str | None = None) -> Summary:
    """Import features that TRIDENT or CLAM has extracted from tiles that were imported too.

    :param source: the folder of their files.
    :param tiles: name of the tiles' folder; default: the imported tiles.
    """
    from ..stages.exchange.import_features import ImportStage
    from ..stages.tile.settings import TISSUE_FROM

    root = runner.workspace
    of_imported = f"*-{TISSUE_FROM['coordinates']}/manifest.jsonl"
    imported = [manifest.parent.name for manifest in (root / "tiles").glob(of_imported)]
    settings = config.tile
    if imported and settings.coordinates is None:  # --coordinates was given to `tile`; `import` has no such flag
        settings = settings.model_copy(update={"coordinates": Path()})
    wanted = imported[0] if len(imported) == 1 else settings.folder_name()
    of_tiles = choose_tiles(runner, wanted, tiles)
    folder = root / "features" / of_tiles.name / f"{config.extract.folder_name()}-imported"
    return runner.run(ImportStage(config.extract, folder, root, tiles=of_tiles, source=source.resolve()))


def predict(
    config: Config, runner: Runner, model: Path, *, name: str | None = None, features: str | None = None
) -> tuple[list[Summary], dict[str, Json]]:
    """Tile and extract slides with the settings that a model was trained with, and predict on them.

    :param model: the trained model's folder.
    :param name: name of the folder of predictions; default: the model's name.
    :param features: name of a folder of features; slides are then read from these alone, and no file is needed.
    :raises UsageError: slides and features are both given, or there is nothing to predict on.
    """
    from ..data.cohort.table import read_cohort
    from ..stages.predict.prediction_report import PredictionReportSettings, PredictionReportStage
    from ..stages.predict.recipe import recipe_of
    from ..stages.predict.settings import PredictSettings
    from ..stages.predict.stage import PredictionTask, PredictStage

    if features is not None and config.predict.slides:
        what = "slides are given, and features to be read in their place"
        raise UsageError(what, hint="leave one of them out; --table chooses slides that have features")
    workspace = runner.workspace
    recipe = recipe_of(model)
    folder = workspace / "predictions" / named_after(model, name, "predictions")
    refuse_another_source(runner, folder, "predict", model)
    recipe.refuse_other_width(model)
    recipe.refuse_other_transform(model)
    as_trained, notes = settings_of_model(config, recipe, model, from_slides=features is None)
    for note in notes:
        runner.console.note(note)

    table = read_cohort(config.predict.table) if config.predict.table else None
    if features is None:
        found = given_slides(config.predict.slides, table, workspace)
        ids = [slide.slide_id for slide in found]
    else:
        source = choose_features(runner, features_of_model(recipe, as_trained.features_name()), features)
        ids = _slides_with_features(config, runner, source, table)
    named, further = _patients_of(ids, table)
    # A slide whose patient nobody names is a patient of its own.
    slides = {slide: named.get(slide, slide) for slide in ids}

    summaries: list[Summary] = []
    if features is None:
        source = workspace / "features" / as_trained.features_name()
        summaries += _tile_for_model(as_trained, runner, found, table, allow_upsample=config.tile.allow_upsample)
        summaries.append(run_step("extract", as_trained, runner, as_trained.tile.folder_name(), only=ids))
        if recipe.encode is not None:
            summaries.append(run_step("encode", as_trained, runner, as_trained.features_name(), only=ids))
            source = folder_of_vectors(source, as_trained.encode.encoder)
    # How patients are judged is the report's affair: another level draws no heatmap again.
    own = config.predict.model_dump(include=set(PredictSettings.model_fields) - {"alpha"})
    settings = PredictSettings(**own)
    task = PredictionTask(
        model=model.resolve(),
        tiles=workspace / "tiles" / source.parent.name,
        features=source,
        slides=slides,
        further=further,
        unnamed=slides.keys() - named.keys(),
    )
    summaries.append(runner.run(PredictStage(settings, folder, workspace, task)))
    report = PredictionReportStage(
        PredictionReportSettings(prevalence=settings.prevalence, alpha=config.predict.alpha),
        folder,
        workspace,
        task,
        other_patients=settings.other_patients,
    )
    summaries.append(runner.run(report))
    result = {
        "predictions": str(folder / "predictions.csv"),
        "report": str(folder / "report.html"),
        "heatmaps": str(folder / "heatmaps"),
    }
    return summaries, result


def _patients_of(slides: Sequence[str], table: CohortTable | None) -> tuple[dict[str, str], dict[str, str]]:
    """The patients of slides, as far as the table or a barcode names them; and of all slides of the table."""
    from ..data.cohort.slide_match import match_slides
    from ..data.cohort.tcga import tcga_barcode

    named = {slide: code.patient for slide in slides if (code := tcga_barcode(slide))}
    if table is None:
        return named, {}
    patients = table.patient_of()
    named |= {disk: patients[row] for disk, row in match_slides(slides, table).rows.items()}
    return named, {slide: patient for slide, patient in patients.items() if slide}


def _slides_with_features(config: Config, runner: Runner, features: Path, table: CohortTable | None) -> list[str]:
    """The slides of a folder of features, or those of them that the table names; the others are counted.

    :raises UsageError: there are none.
    """
    from ..data.cohort.slide_match import match_slides
    from ..data.manifest import Manifest
    from ..data.wording import some

    there = sorted(
        s for s, record in Manifest.of(features).latest(stage_of(features)).items() if record.status == "done"
    )
    match = None if table is None else match_slides(there, table)
    chosen = there if match is None else sorted(match.rows)
    if match is not None and match.only_in_table:
        without = some(match.only_in_table, 3)
        runner.console.note(f"slides of the table without features, left out: {len(match.only_in_table)} ({without})")
    if not chosen:
        of_table = "" if table is None else f" of {table.source}"
        raise UsageError(f"no slide{of_table} has features here", path=features, hint="look with wsipipe status")
    return chosen


def evaluate(
    config: Config,
    runner: Runner,
    model: Path,
    *,
    labels: Mapping[str, Any],
    name: str | None = None,
    features: str | None = None,
    other_patients: bool = False,
    training_patients: bool = False,
    prevalence: float | None = None,
) -> tuple[list[Summary], dict[str, Json]]:
    """Evaluate a trained model on this workspace's patients; its metrics by name.

    :param model: the trained model's folder, usually of another workspace.
    :param labels: ``label_column``, ``positive``, ``negative``, ``classes``, ``time_column`` and ``event_column``,
        where this table names them differently from the table that the model was trained on.
    :param name: name of the evaluation's folder; default: the model's name.
    :param features: name of the features' folder; default: the one that the model's recipe names.
    :param other_patients: ids that the model knows are other people's here; only slides' bytes are compared.
    :param training_patients: patients who trained the model may be among them.
    :param prevalence: the one that probabilities are shown at; default: that of the model's training patients.
    :raises UsageError: no table, no features, no name for an evaluation, or a prevalence that cannot be.
    """
    from ..stages.evaluate.cohort import ExternalSettings, ExternalTask
    from ..stages.evaluate.stage import ExternalEvaluateStage, ReadSlidesSettings, ReadSlidesStage
    from ..stages.predict.recipe import recipe_of

    workspace, model, table = runner.workspace, model.resolve(), config.cohort.table
    if table is None:
        raise UsageError("no cohort table is given", hint="use --table: slide_id, patient_id, labels")
    refuse_no_prevalence(prevalence)
    recipe = recipe_of(model)
    folder = workspace / "evaluations" / named_after(model, name, "an evaluation")
    refuse_another_source(runner, folder, "external_evaluate", model, table)
    made_by = f"wsipipe tile --mpp {recipe.tile['mpp']:g} --tile-px {recipe.tile_px}, wsipipe extract --backbone "
    source = choose_features(runner, features_of_model(recipe), features, made_by + recipe.backbone)
    split = config.split.model_dump(include={"drop_conflicts", "tcga_slides"})
    task = ExternalTask(
        model=model,
        table=table,
        tiles=workspace / "tiles" / source.parent.name,
        features=source,
        asked=ExternalSettings.of(
            model,
            other_patients=other_patients,
            training_patients=training_patients,
            prevalence=prevalence,
            audit=config.report.audit,
            **split,
            **labels,
        ),
    )
    read = runner.run(ReadSlidesStage(ReadSlidesSettings(device=config.predict.device), folder, workspace, task))
    judged = runner.run(ExternalEvaluateStage(folder, workspace, task))
    failed = judged.stage if judged.failures else read.stage
    metrics = metrics_of(folder) if judged.done or judged.before else {"name": folder.name, "failed": failed}
    if judged.waits:
        metrics = {"name": folder.name, "waits": judged.waits}
    return [read, judged], {folder.name: metrics}


def import_checkpoint(
    config: Config, runner: Runner, checkpoints: Sequence[Path], name: str, *, prevalence: float | None = None
) -> Summary:
    """Make a model from checkpoints of the authors' MoMKD code, one checkpoint per fold.

    :param name: the model's name; the biomarker of that name must be configured.
    :param prevalence: the share of positives among its training patients, which checkpoints do not say.
    :raises UsageError: no such biomarker, or no name for a model.
    """
    from ..stages.exchange.import_checkpoint import ImportCheckpointStage

    folder = runner.workspace / "models" / checked_name(name, "a model")
    stage = ImportCheckpointStage(
        config.biomarkers[name],
        folder,
        runner.workspace,
        checkpoints=checkpoints,
        tile=config.tile,
        extract=config.extract,
        prevalence=prevalence,
    )
    return runner.run(stage)


def everything(config: Config, runner: Runner) -> tuple[list[Summary], dict[str, Json]]:
    """Run the whole chain, as far as it is configured, in order.

    :raises InputError: a biomarker is a signature that cannot be, as far as this is known before slides are read.
    """
    refuse_unknown_signatures(config, runner.workspace)
    summaries = [*tile(config, runner), run_step("extract", config, runner, config.tile.folder_name())]
    if config.genomics.sources():
        summaries.append(run_step("genomics", config, runner))
        if summaries[-1].failures and config.train.use_rna:
            runner.console.note(
                "not trained: the molecular data could not be read (use_rna = false trains on histology alone)"
            )
            return summaries, {"models": {}, "predictions": {}}
    trained, metrics = train(config, runner, features=config.features_name())
    summaries += trained
    predictions: dict[str, Json] = {}
    if config.predict.slides or config.predict.table:
        for name in config.biomarkers:
            runner.console.heading(f"{name}: new slides")
            ran, predictions[name] = predict(config, runner, runner.workspace / "models" / name)
            summaries += ran
    return summaries, {"models": metrics, "predictions": predictions}


def show_predictions(console: Console, result: Mapping[str, Json]) -> None:
    """Print where the predictions are."""
    for name in ("predictions", "report", "heatmaps"):
        console.line(f"{name}: {result[name]}")
