"""The command line: each command turns its flags into one configuration and calls :mod:`.chain`.

Exit codes: 0 success, 1 some items failed, an input is wrong, ``verify`` found damage or ``check`` what will stop a
stage, 2 wrong usage, 130 interrupted. Nothing heavy is imported before it is needed, so that ``wsipipe --help``
answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.errors import UsageError
from ..data.version import __version__
from ..stages.compare.settings import CompareSettings
from ..stages.extract.settings import ExtractSettings
from ..stages.predict.settings import PredictSettings
from ..stages.registry import steps
from ..stages.robustness.settings import RobustnessSettings
from ..stages.tile.settings import TileSettings
from ..stages.train.settings import (
    AUDIT,
    AuditSettings,
    BiomarkerSettings,
    ReportSettings,
    SplitSettings,
    TrainSettings,
)
from .catalogue.commands import add_catalogue
from .checks.commands import add_upkeep
from .cluster_command import add_cluster
from .command import Call, Commands, Debug, Json, console_of, say_if_none_is_here, settings_of, works
from .exchange.commands import add_exchange
from .help.layout import App
from .process import run_command
from .steps import EncoderWeights, Features, Gpus, Weights, add_step

app = App(
    name="wsipipe",
    cls=Commands,
    help="From raw whole-slide images to a model that predicts a molecular biomarker from an H&E slide.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Biomarkers = Annotated[
    list[str] | None,
    typer.Option(help="biomarkers of the settings file (default: all), or a name for the one given by --label-column"),
]
Table = Annotated[Path | None, typer.Option(help="cohort table: slide_id, patient_id, labels")]
Slides = Annotated[list[Path] | None, typer.Argument(help="slide files, or folders of slides", show_default=False)]
Prevalence = Annotated[
    float | None,
    typer.Option(
        help="share of positive patients where the model is used, such as 0.15: probabilities, thresholds, Brier score "
        "and calibration are shown at it; default: that of the training patients",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="a trained model's folder; default: the only model of the workspace"),
]
Gpu = Annotated[str | None, typer.Option("--gpu", help="number of the GPU to use; the same as --device cuda:N")]


@works(app, distributes=True, tile=TileSettings)
def tile(
    call: Call,
    slides: Slides = None,
    *,
    table: Annotated[Path | None, typer.Option(help="cohort table with path and mpp columns")] = None,
) -> None:
    """Find the tissue on slides and divide it into tiles; for each slide: HDF5, GeoJSON contours, a QC image."""
    from . import chain

    call.flags["cohort"] = {"slides": slides, "table": table}
    call.finish(chain.tile(*call.open()))


for _row in steps().values():
    add_step(app, _row)


@works(
    app, distributes=True, train=TrainSettings, biomarker=BiomarkerSettings, split=SplitSettings, report=ReportSettings
)
def train(
    call: Call,
    *,
    name: Biomarkers = None,
    table: Table = None,
    features: Features = None,
    prevalence: Prevalence = None,
    gpu: Gpus = None,
) -> None:
    """Train a model of a biomarker, with RNA as the teacher, and evaluate it by cross-validation.

    The biomarker is defined in the settings file as biomarkers.NAME, or by flags: --name her2 --label-column HER2Calc.
    """
    from .biomarkers import training

    name = call.on_biomarkers(name, table, gpu)
    summaries, metrics = training.train(*call.open(), name, features=features, prevalence=prevalence)
    training.show_metrics(call.console, metrics)
    call.finish(summaries, {"models": metrics})


_OF_EACH_METHOD = ("method", "soft_targets", "use_rna", "shuffle_rna")


@works(
    app,
    hidden=_OF_EACH_METHOD,
    distributes=True,
    compare=CompareSettings,
    train=TrainSettings,
    biomarker=BiomarkerSettings,
    split=SplitSettings,
    report=AuditSettings,
)
def compare(
    call: Call,
    *,
    name: Biomarkers = None,
    table: Table = None,
    features: Features = None,
    prevalence: Prevalence = None,
    gpu: Gpus = None,
) -> None:
    """Train several methods on the same splits and compare them with MoMKD: CSV, a page, a figure."""
    from .biomarkers import comparison
    from .biomarkers.comparison_table import show_comparisons

    for flag in _OF_EACH_METHOD:
        if call.flags["train"][flag] is not None:
            what = f"--{flag.replace('_', '-')} does not go with compare, which sets it for each method"
            raise UsageError(what, hint="choose what to compare with --methods, such as --methods momkd,abmil+soft")
    name = call.on_biomarkers(name, table, gpu)
    summaries, results = comparison.compare(*call.open(), name, features=features, prevalence=prevalence)
    show_comparisons(call.console, results)
    call.finish(summaries, {"comparisons": results})


@works(app, robustness=RobustnessSettings, biomarker=BiomarkerSettings)
def robustness(
    call: Call,
    *,
    name: Biomarkers = None,
    table: Table = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="features to ask, such as 0.5mpp-224px/uni2-h,0.5mpp-224px/uni; default: all that are here"),
    ] = None,
) -> None:
    """Ask features of one backbone or several whether they show the label, or the site: CSV and a page."""
    from .biomarkers import robustness as of_features

    name = call.on_biomarkers(name, table, None)
    summaries, results = of_features.robustness(*call.open(), name, features=features or [])
    for paths in results.values():
        call.console.line(f"  {paths['html']}")
    call.finish(summaries, {"robustness": results})


@works(app, distributes=True, predict=PredictSettings)
def predict(
    call: Call,
    slides: Slides = None,
    *,
    model: Model = None,
    name: Annotated[str | None, typer.Option(help="name of the predictions' folder; default: the model's")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="predict from features of the workspace, such as 0.5mpp-224px/uni2-h, without the slides' files: all "
            "slides there, or those of --table"
        ),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="table with slide_id and patient_id, path, mpp")] = None,
    mpp_override: Annotated[float | None, typer.Option(help="µm per pixel, for slides that do not state it")] = None,
    overrule_mpp: Annotated[
        bool | None, typer.Option("--overrule-mpp", help="let --mpp-override and the table's mpp override the files")
    ] = None,
    allow_upsample: Annotated[
        bool | None,
        typer.Option(
            "--allow-upsample", help="enlarge slides that are coarser than the model's tiles; their rows say so"
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help=TileSettings.model_fields["timeout"].description)] = None,
    tissue_weights: Annotated[
        Path | None, typer.Option(help="tissue weights that the model's slides were tiled with")
    ] = None,
    artefact_weights: Annotated[
        Path | None, typer.Option(help="artefact weights that the model's slides were tiled with")
    ] = None,
    tile_timeout: Annotated[
        float | None, typer.Option(help=ExtractSettings.model_fields["tile_timeout"].description)
    ] = None,
    max_bad_tiles: Annotated[
        float | None, typer.Option(help=ExtractSettings.model_fields["max_bad_tiles"].description)
    ] = None,
    weights: Weights = None,
    encoder_weights: EncoderWeights = None,
    batch_size: Annotated[int | None, typer.Option(help="tiles per batch")] = None,
    gpu: Gpus = None,
) -> None:
    """Predict a biomarker on slides from histology alone: CSV, heatmaps, GeoJSON, a report page."""
    from . import chain
    from .biomarkers import training

    call.on_gpu("predict", gpu)
    call.flags["predict"] |= {"slides": slides, "table": table}
    call.flags["tile"] = {"mpp_override": mpp_override, "overrule_mpp": overrule_mpp}
    call.flags["tile"] |= {"allow_upsample": allow_upsample, "timeout": timeout}
    call.flags["tile"] |= {"tissue_weights": tissue_weights, "artefact_weights": artefact_weights}
    device = call.flags["predict"].get("device")
    call.flags["extract"] = {"weights": weights, "batch_size": batch_size, "device": device}
    call.flags["encode"] = {"weights": encoder_weights, "device": device}
    call.flags["extract"] |= {"tile_timeout": tile_timeout, "max_bad_tiles": max_bad_tiles}
    settings, runner = call.open()
    chosen = training.choose_model(runner.workspace, model, call.console)
    summaries, result = chain.predict(settings, runner, chosen, name=name, features=features)
    chain.show_predictions(call.console, result)
    call.finish(summaries, result)


@works(app, distributes=True)
def evaluate(
    call: Call,
    *,
    model: Model = None,
    table: Annotated[Path | None, typer.Option(help="table of this cohort: slide_id, patient_id, labels")] = None,
    name: Annotated[str | None, typer.Option(help="name of the evaluation's folder; default: the model's")] = None,
    features: Annotated[
        str | None, typer.Option(help="features, such as 0.5mpp-224px/uni2-h; default: those the model needs")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="column of the label; default: the model's")] = None,
    positive: Annotated[list[str] | None, typer.Option(help="values that mean positive; default: the model's")] = None,
    negative: Annotated[list[str] | None, typer.Option(help="values that mean negative; default: the model's")] = None,
    classes: Annotated[
        list[str] | None, typer.Option(help="the model's classes with this table's values, such as low=1+|2+")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="of survival: the time's column; default: the model's")
    ] = None,
    event_column: Annotated[str | None, typer.Option(help="of survival: of the event; default: the model's")] = None,
    drop_conflicts: Annotated[
        bool | None,
        typer.Option(help="drop patients with both positive and negative rows; otherwise they are an error"),
    ] = None,
    other_patients: Annotated[
        bool, typer.Option("--other-patients", help=PredictSettings.model_fields["other_patients"].description)
    ] = False,
    training_patients: Annotated[
        bool,
        typer.Option(
            "--training-patients",
            help="evaluate on patients who trained the model too, each read by the folds that did not see them; the "
            "page is titled so",
        ),
    ] = False,
    prevalence: Prevalence = None,
    audit: Annotated[list[str] | None, typer.Option(help=AUDIT)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; auto takes the first GPU")] = None,
    gpu: Gpu = None,
) -> None:
    """Evaluate a trained model on another cohort, the patients of this workspace: metrics, calibration, a page.

    Tile and extract their slides first, with the settings of the model. Label column and values are those of the
    model, unless they are given. Nothing is fitted.
    """
    from . import chain
    from .biomarkers import training

    labels: dict[str, str | list[str] | None] = {
        **{"label_column": label_column, "positive": positive or None, "negative": negative or None},
        **{"classes": classes or None, "time_column": time_column, "event_column": event_column},
    }
    call.flags |= {"predict": {"device": device}, "split": {"drop_conflicts": drop_conflicts}}
    call.flags |= {"cohort": {"table": table}, "report": {"audit": audit or None}}
    call.on_gpu("predict", gpu)
    settings, runner = call.open()
    summaries, metrics = chain.evaluate(
        settings,
        runner,
        training.choose_model(runner.workspace, model, call.console),
        labels=labels,
        name=name,
        features=features,
        other_patients=other_patients,
        training_patients=training_patients,
        prevalence=prevalence,
    )
    training.show_metrics(call.console, metrics)
    call.finish(summaries, {"evaluations": metrics})


@works(app, distributes=True)
def run(call: Call, *, gpu: Gpus = None) -> None:
    """Run the whole chain that the settings file describes: tile, extract, genomics, train, predict.

    It begins with a quick `wsipipe check`, says what that found, and goes on.
    """
    from . import chain
    from .biomarkers import training
    from .preflight.command import check_before_run

    call.on_gpus(gpu)
    settings, runner = call.open()
    say_if_none_is_here(call.console, call.options["config"])
    if settings.shard is None:
        call.console.note("check: looking at settings, tables, RNA and the headers of slides")
        check_before_run(settings, call.console)
    summaries, result = chain.everything(settings, runner)
    training.show_metrics(call.console, result["models"])
    for predictions in result["predictions"].values():
        chain.show_predictions(call.console, predictions)
    call.finish(summaries, result)


add_exchange(app)
add_upkeep(app)
add_cluster(app)
add_catalogue(app)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where to write it")] = Path(),
    show: Annotated[bool, typer.Option("--print", help="print it instead of writing a file")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a settings file with every setting, its meaning and its default."""
    from .init_command import write_settings

    with console_of(json=json, debug=debug) as console:
        write_settings(folder, console, show=show)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where the demo's cohort and results go")] = Path("wsipipe-demo"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a small synthetic cohort and run the whole chain on it, on the CPU, without internet access."""
    from .demo.chain import run_demo

    with console_of(json=json, debug=debug) as console:
        run_demo(folder.resolve(), console)


@app.command()
def view(
    workspace: Annotated[
        Path | None, typer.Argument(help="folder of the results; default: that of the settings file here, or work")
    ] = None,
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes any free one", min=0, max=65535)] = 0,
    host: Annotated[str, typer.Option(help="address to listen on; others than this machine's own are warned of")] = (
        "127.0.0.1"
    ),
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the page in the browser")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at a workspace in the browser: slides with deep zoom, tiles, attention and predictions. Writes nothing."""
    from .view.command import view as serve

    with console_of(json=json, debug=debug) as console:
        serve(settings_of(None, {"workspace": workspace}).workspace, console, host=host, port=port, browser=browser)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wsipipe {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line in this process; :mod:`.entry` does the same, and does not load this module before."""
    run_command(lambda: app)
