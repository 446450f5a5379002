"""The command line: flags in, one configuration, one call of :mod:`.chain`, an exit code out.

Exit codes: 0 all well, 1 some items failed, 2 usage, 130 interrupted. Nothing heavy is imported before it is needed,
so that ``wsipipe --help`` answers at once.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..data.errors import BusyError, UsageError, WsipipeError
from ..stages.settings import (
    BiomarkerSettings,
    ExtractSettings,
    GenomicsSettings,
    PredictSettings,
    SplitSettings,
    TileSettings,
    TrainSettings,
)
from . import chain
from .config import FILE_NAME, Config, load_config, template
from .console import Console
from .flags import Flags, takes
from .runner import Runner
from .summary import Summary

app = typer.Typer(
    name="wsipipe",
    help="From raw whole-slide images to a model that reads a molecular biomarker off an H&E slide.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help=f"settings file (default: {FILE_NAME} here, if there is one)")
]
Workspace = Annotated[Path | None, typer.Option("--workspace", "-w", help="folder of all results (default: work)")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traces of errors")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="try failed items again though their input is unchanged")]
Replace = Annotated[bool, typer.Option("--replace", help="let these settings replace results of other settings")]
Slides = Annotated[list[Path] | None, typer.Argument(help="slide files, or folders of slides", show_default=False)]
Gpu = Annotated[int | None, typer.Option("--gpu", help="number of the GPU to use; the same as --device cuda:N")]


@dataclass
class _Session:
    """A command's surroundings, and the exit code that it ends with."""

    console: Console
    summaries: list[Summary]

    def finish(self, summaries: Sequence[Summary], extra: dict[str, Any] | None = None) -> None:
        """Show the closing table, or the closing object."""
        self.summaries += summaries
        self.console.summaries(summaries)
        self.console.result({"stages": [s.to_json() for s in summaries], **(extra or {})})


@contextmanager
def _session(*, json: bool = False, debug: bool = False) -> Iterator[_Session]:
    console = Console(json_only=json, debug=debug)
    session = _Session(console, [])
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
        yield session
    except KeyboardInterrupt:
        console.note("interrupted; what is done stays done, and the same command goes on from here")
        raise typer.Exit(130) from None
    except WsipipeError as error:
        console.error(error)
        console.result({"error": {"type": type(error).__name__, "message": str(error), "hint": error.hint}})
        if debug:
            console.note(traceback.format_exc())
        raise typer.Exit(2 if isinstance(error, UsageError | BusyError) else 1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    if any(summary.failures for summary in session.summaries):
        raise typer.Exit(1)


def _open(
    session: _Session,
    flags: Flags,
    *,
    config: Path | None = None,
    workspace: Path | None = None,
    retry_failed: bool = False,
    replace: bool = False,
) -> tuple[Config, Runner]:
    settings = load_config(config, {**flags, "workspace": workspace})
    place = settings.workspace.resolve()
    runner = Runner(place, session.console, retry_failed=retry_failed, replace=replace)
    return settings.model_copy(update={"workspace": place}), runner


def _on_gpu(flags: Flags, section: str, gpu: int | None) -> None:
    if gpu is not None:
        if flags[section].get("device"):
            raise UsageError("--gpu and --device say the same thing", hint="give one of them")
        flags[section]["device"] = f"cuda:{gpu}"


@app.command()
@takes(tile=TileSettings)
def tile(
    slides: Slides = None,
    *,
    flags: Flags,
    table: Annotated[Path | None, typer.Option("--table", help="cohort table with path and mpp columns")] = None,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the tissue on slides and cut it into tiles: HDF5, GeoJSON contours, a QC image each."""
    with _session(json=json, debug=debug) as session:
        flags["cohort"] = {"slides": slides, "table": table}
        settings, runner = _open(
            session, flags, config=config, workspace=workspace, retry_failed=retry_failed, replace=replace
        )
        session.finish([chain.tile(settings, runner)])


@app.command()
@takes(extract=ExtractSettings)
def extract(
    *,
    flags: Flags,
    tiles: Annotated[
        str | None,
        typer.Option("--tiles", help="which tiles, such as 0.5mpp-224px; needed only where there are several"),
    ] = None,
    gpu: Gpu = None,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn tiles into feature vectors with a backbone: one zarr store a slide."""
    with _session(json=json, debug=debug) as session:
        _on_gpu(flags, "extract", gpu)
        settings, runner = _open(
            session, flags, config=config, workspace=workspace, retry_failed=retry_failed, replace=replace
        )
        session.finish([chain.extract(settings, runner, tiles=tiles)])


@app.command()
@takes(genomics=GenomicsSettings)
def genomics(
    matrix: Annotated[Path | None, typer.Argument(help="expression matrix", show_default=False)] = None,
    *,
    flags: Flags,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read an expression matrix: patients × genes on a log scale, nothing fitted, nothing selected."""
    with _session(json=json, debug=debug) as session:
        flags["genomics"]["matrix"] = matrix
        settings, runner = _open(
            session, flags, config=config, workspace=workspace, retry_failed=retry_failed, replace=replace
        )
        session.finish([chain.genomics(settings, runner)])


@app.command()
@takes(train=TrainSettings, biomarker=BiomarkerSettings, split=SplitSettings)
def train(
    *,
    flags: Flags,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="biomarkers of the settings file to train; default: all")
    ] = None,
    table: Annotated[Path | None, typer.Option("--table", help="cohort table: slide_id, patient_id, labels")] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", help="which features, such as 0.5mpp-224px/uni2-h; needed only where there are several"
        ),
    ] = None,
    gpu: Gpu = None,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train and evaluate a model of a biomarker, fold by fold, with RNA as the teacher.

    The biomarker stands in the settings file as biomarkers.NAME, or is given here: --name her2 --label-column HER2Calc.
    """
    with _session(json=json, debug=debug) as session:
        _on_gpu(flags, "train", gpu)
        biomarker = {key: value for key, value in flags.pop("biomarker").items() if value is not None}
        if biomarker:
            names = name or [str(biomarker.get("label_column", "model")).lower()]
            flags["biomarkers"] = dict.fromkeys(names, biomarker)
            name = names
        flags["cohort"] = {"table": table}
        settings, runner = _open(
            session, flags, config=config, workspace=workspace, retry_failed=retry_failed, replace=replace
        )
        summaries, metrics = chain.train(settings, runner, name, features=features)
        chain.show_metrics(session.console, metrics)
        session.finish(summaries, {"models": metrics})


@app.command()
@takes(predict=PredictSettings)
def predict(
    slides: Slides = None,
    *,
    flags: Flags,
    model: Annotated[Path, typer.Option("--model", "-m", help="a trained model's folder, such as work/models/her2")],
    name: Annotated[
        str | None, typer.Option("--name", help="name of the predictions' folder; default: the model's")
    ] = None,
    table: Annotated[Path | None, typer.Option("--table", help="table with slide_id and patient_id, path, mpp")] = None,
    mpp_override: Annotated[float | None, typer.Option(help="µm per pixel of slides that do not say it")] = None,
    weights: Annotated[Path | None, typer.Option(help="the backbone's weights file, if it is not in the cache")] = None,
    batch_size: Annotated[int | None, typer.Option(help="tiles a batch")] = None,
    gpu: Gpu = None,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict a biomarker on slides from histology alone: CSV, heatmaps, GeoJSON, a page to look at."""
    with _session(json=json, debug=debug) as session:
        _on_gpu(flags, "predict", gpu)
        flags["predict"] |= {"slides": slides, "table": table}
        flags["tile"] = {"mpp_override": mpp_override}
        flags["extract"] = {"weights": weights, "batch_size": batch_size, "device": flags["predict"].get("device")}
        settings, runner = _open(
            session, flags, config=config, workspace=workspace, retry_failed=retry_failed, replace=replace
        )
        summaries, result = chain.predict(settings, runner, model, name=name)
        chain.show_predictions(session.console, result)
        session.finish(summaries, result)


@app.command()
def run(
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the whole chain that the settings file describes: tile, extract, genomics, train, predict."""
    with _session(json=json, debug=debug) as session:
        settings, runner = _open(
            session, {}, config=config, workspace=workspace, retry_failed=retry_failed, replace=replace
        )
        summaries, result = chain.everything(settings, runner)
        chain.show_metrics(session.console, result["models"])
        session.finish(summaries, result)


@app.command()
def status(config: ConfigFile = None, workspace: Workspace = None, json: Json = False, debug: Debug = False) -> None:
    """Tell what is done, stale or failed, and why."""
    from .status import show_status

    with _session(json=json, debug=debug) as session:
        settings, _ = _open(session, {}, config=config, workspace=workspace)
        show_status(settings, session.console, compare=config is not None or Path(FILE_NAME).is_file())


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where to write it")] = Path(),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a settings file with every setting, its meaning and its default."""
    with _session(json=json, debug=debug) as session:
        file = folder / FILE_NAME
        if file.exists():
            raise UsageError("is there already", path=file, hint="edit it, or remove it first")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(template(), encoding="utf-8")
        session.console.line(f"wrote {file}; edit it, then `wsipipe run`")
        session.console.result({"file": str(file)})


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where the demo's cohort and results go")] = Path("wsipipe-demo"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a small cohort and run the whole chain on it, on the CPU, without a network."""
    from .demo import run_demo

    with _session(json=json, debug=debug) as session:
        run_demo(folder.resolve(), session.console)


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
    """Entry point of the ``wsipipe`` command."""
    app()
