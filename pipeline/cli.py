"""The command line: flags in, one configuration, one call of :mod:`.chain`, an exit code out.

Exit codes: 0 all well, 1 some items failed, 2 usage, 130 interrupted. Nothing heavy is imported before it is needed,
so that ``wsipipe --help`` answers at once.
"""

from __future__ import annotations

import inspect
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import __version__
from ..data.errors import BusyError, SurroundingsError, UsageError, WsipipeError
from ..stages.settings import (
    BiomarkerSettings,
    CompareSettings,
    ExtractSettings,
    GenomicsSettings,
    PredictSettings,
    Settings,
    SplitSettings,
    TileSettings,
    TrainSettings,
)
from . import chain
from .config import FILE_NAME, Config, load_config, template
from .console import Console
from .executors import explain
from .flags import Flags, SectionFlags, give_signature
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
Gpu = Annotated[str | None, typer.Option("--gpu", help="number of the GPU to use; the same as --device cuda:N")]
Gpus = Annotated[str | None, typer.Option("--gpu", help="GPUs to use: 0, or 0,1, or all; a process each, one queue")]
Weights = Annotated[Path | None, typer.Option(help="the backbone's weights file, if it is not in the hub's cache")]


@contextmanager
def _console(*, json: bool, debug: bool) -> Iterator[Console]:
    """A command's surroundings: errors become messages and exit codes."""
    console = Console(json_only=json, debug=debug)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `docker stop` ends a run as Ctrl-C does
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: console.note(f"warning: {message}")
            yield console
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        console.note("interrupted; what is done stays done, and the same command goes on from here")
        raise typer.Exit(130) from None
    except WsipipeError as error:
        console.error(error)
        console.result({"error": {"type": type(error).__name__, "message": str(error), "hint": error.hint}})
        if debug:
            console.note(traceback.format_exc())
        raise typer.Exit(2 if isinstance(error, UsageError | BusyError) else 1) from None
    except Exception as error:  # noqa: BLE001  the outermost boundary: no trace without --debug
        told = explain(error)
        console.error(SurroundingsError(f"{told.type}: {told.message}", hint=told.hint))
        console.result({"error": told.model_dump(exclude={"retry"})})
        if debug:
            console.note(traceback.format_exc())
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _settings(file: Path | None, flags: dict[str, Any]) -> Config:
    """File and flags, the workspace as an absolute path."""
    settings = load_config(file, flags)
    return settings.model_copy(update={"workspace": settings.workspace.resolve()})


@dataclass
class _Call:
    """A command that works on a workspace: the flags given, and what the common options say."""

    flags: Flags
    console: Console
    options: dict[str, Any]

    def open(self) -> tuple[Config, Runner]:
        """The settings (file and flags) and a runner for the workspace."""
        settings = _settings(self.options["config"], {**self.flags, "workspace": self.options["workspace"]})
        again, replace = self.options["retry_failed"], self.options["replace"]
        return settings, Runner(settings.workspace, self.console, retry_failed=again, replace=replace)

    def on_gpu(self, section: str, gpu: str | None) -> None:
        """Let ``--gpu 0,1`` stand for ``--device cuda:0,cuda:1``, and ``--gpu all`` for every one."""
        if gpu is None:
            return
        if self.flags[section].get("device"):
            raise UsageError("--gpu and --device say the same thing", hint="give one of them")
        numbers = [number.strip() for number in gpu.split(",")]
        if numbers != ["all"] and not all(number.isdecimal() for number in numbers):
            raise UsageError(f"--gpu {gpu} names no GPU", hint="give a number such as 0, several such as 0,1, or all")
        self.flags[section]["device"] = ",".join(f"cuda:{number}" for number in numbers)

    def on_biomarkers(self, names: list[str] | None, table: Path | None, gpu: str | None) -> list[str] | None:
        """Take what training commands share; the biomarkers' names, one made up where its column alone is given."""
        self.on_gpu("train", gpu)
        self.flags["cohort"] = {"table": table}
        biomarker = {key: value for key, value in self.flags.pop("biomarker").items() if value is not None}
        if biomarker:
            names = names or [str(biomarker.get("label_column", "model")).lower()]
            self.flags["biomarkers"] = dict.fromkeys(names, biomarker)
        return names

    def finish(self, summaries: Sequence[Summary], extra: dict[str, Any] | None = None) -> None:
        """Show the closing table, or the closing object; exit with 1 if items failed."""
        self.console.summaries(summaries)
        self.console.result({"stages": [s.to_json() for s in summaries], **(extra or {})})
        if any(summary.failures for summary in summaries):
            raise typer.Exit(1)


def _common(
    *,
    config: ConfigFile = None,
    workspace: Workspace = None,
    retry_failed: Retry = False,
    replace: Replace = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The options of every command that works on a workspace."""


def _works(**sections: type[Settings]) -> Callable[[Callable[..., None]], None]:
    """Make a command of a function: with the common options, the flags of its sections, and a :class:`_Call`."""

    def decorate(function: Callable[..., None]) -> None:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()  # the first is the call
        common = list(inspect.signature(_common, eval_str=True).parameters.values())
        settings = SectionFlags(sections, frozenset(parameter.name for parameter in own))

        def command(**given: Any) -> None:
            options = {parameter.name: given.pop(parameter.name) for parameter in common}
            flags = settings.take_from(given)
            with _console(json=options["json"], debug=options["debug"]) as console:
                function(_Call(flags, console, options), **given)

        give_signature(command, [*own, *common, *settings.parameters], function)
        app.command(function.__name__.rstrip("_").replace("_", "-"))(command)

    return decorate


@_works(tile=TileSettings)
def tile(
    call: _Call,
    slides: Slides = None,
    *,
    table: Annotated[Path | None, typer.Option(help="cohort table with path and mpp columns")] = None,
) -> None:
    """Find the tissue on slides and cut it into tiles: HDF5, GeoJSON contours, a QC image each."""
    call.flags["cohort"] = {"slides": slides, "table": table}
    call.finish(chain.tile(*call.open()))


@_works(extract=ExtractSettings)
def extract(
    call: _Call,
    *,
    tiles: Annotated[
        str | None, typer.Option(help="which tiles, such as 0.5mpp-224px; needed only where there are several")
    ] = None,
    gpu: Gpus = None,
) -> None:
    """Turn tiles into feature vectors with a backbone: one zarr store a slide."""
    call.on_gpu("extract", gpu)
    call.finish([chain.extract(*call.open(), tiles=tiles)])


@_works()
def export(
    call: _Call,
    format: Annotated[Literal["clam", "trident", "anndata"], typer.Argument(help="whose format")],
    *,
    tiles: Annotated[
        str | None, typer.Option(help="which tiles, such as 0.5mpp-224px; needed only where there are several")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="export these features, such as 0.5mpp-224px/uni2-h, and not the tiles")
    ] = None,
) -> None:
    """Write tiles, or with --features features, in the layout of another tool, beside ours."""
    call.finish([chain.export(*call.open(), format, tiles=tiles, features=features)])


@_works()
def import_(
    call: _Call,
    folder: Annotated[Path, typer.Argument(help="TRIDENT's or CLAM's features: a folder of <slide>.h5")],
    *,
    backbone: Annotated[str, typer.Option(help="the backbone that made them: a name from `wsipipe backbones`")],
    weights: Annotated[Path | None, typer.Option(help="its weights file, so that new slides can be compared")] = None,
    tiles: Annotated[str | None, typer.Option(help="which tiles they are of, such as 0.5mpp-256px-imported")] = None,
) -> None:
    """Take over features that TRIDENT or CLAM has extracted, of tiles taken over with `tile --coordinates`."""
    call.flags["extract"] = {"backbone": backbone, "weights": weights}
    call.finish([chain.import_features(*call.open(), folder, tiles=tiles)])


@_works(genomics=GenomicsSettings)
def genomics(
    call: _Call,
    matrix: Annotated[Path | None, typer.Argument(help="expression matrix", show_default=False)] = None,
) -> None:
    """Read an expression matrix: patients × genes on a log scale, nothing fitted, nothing selected."""
    call.flags["genomics"]["matrix"] = matrix
    call.finish([chain.genomics(*call.open())])


@_works(train=TrainSettings, biomarker=BiomarkerSettings, split=SplitSettings)
def train(
    call: _Call,
    *,
    name: Annotated[
        list[str] | None, typer.Option(help="biomarkers of the settings file to train; default: all")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="cohort table: slide_id, patient_id, labels")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="which features, such as 0.5mpp-224px/uni2-h; needed only where there are several"),
    ] = None,
    gpu: Gpus = None,
) -> None:
    """Train and evaluate a model of a biomarker, fold by fold, with RNA as the teacher.

    The biomarker stands in the settings file as biomarkers.NAME, or is given here: --name her2 --label-column HER2Calc.
    """
    name = call.on_biomarkers(name, table, gpu)
    summaries, metrics = chain.train(*call.open(), name, features=features)
    chain.show_metrics(call.console, metrics)
    call.finish(summaries, {"models": metrics})


@_works(compare=CompareSettings, train=TrainSettings, biomarker=BiomarkerSettings, split=SplitSettings)
def compare(
    call: _Call,
    *,
    name: Annotated[list[str] | None, typer.Option(help="biomarkers of the settings file; default: all")] = None,
    table: Annotated[Path | None, typer.Option(help="cohort table: slide_id, patient_id, labels")] = None,
    features: Annotated[
        str | None,
        typer.Option(help="which features, such as 0.5mpp-224px/uni2-h; needed only where there are several"),
    ] = None,
    gpu: Gpus = None,
) -> None:
    """Train several methods on the same splits and hold them against MoMKD: CSV, a page, a figure."""
    name = call.on_biomarkers(name, table, gpu)
    summaries, results = chain.compare(*call.open(), name, features=features)
    chain.show_comparisons(call.console, results)
    call.finish(summaries, {"comparisons": results})


@_works(biomarker=BiomarkerSettings)
def import_checkpoint(
    call: _Call,
    checkpoints: Annotated[list[Path], typer.Argument(help="the authors' files, s_<fold>_mkd_checkpoint.pt, in order")],
    *,
    name: Annotated[str, typer.Option(help="name of the model, such as her2")],
    backbone: Annotated[str, typer.Option(help="the backbone of its features: a name from `wsipipe backbones`")],
    mpp: Annotated[float, typer.Option(help="µm per pixel of its tiles")],
    tile_px: Annotated[int, typer.Option(help="side of its tiles, in pixels")],
    pooling: Annotated[
        str | None, typer.Option(help="cls, mean or cls+mean; default: as the backbone's card says")
    ] = None,
    weights: Weights = None,
) -> None:
    """Make a model of the MoMKD authors' checkpoints, for predict. Their files do not say what must be said here."""
    biomarker = {key: value for key, value in call.flags.pop("biomarker").items() if value is not None}
    call.flags["biomarkers"] = {name: biomarker}
    call.flags["tile"] = {"mpp": mpp, "tile_px": tile_px}
    call.flags["extract"] = {"backbone": backbone, "pooling": pooling, "weights": weights}
    call.finish([chain.import_checkpoint(*call.open(), checkpoints, name)])


@_works(predict=PredictSettings)
def predict(
    call: _Call,
    slides: Slides = None,
    *,
    model: Annotated[Path, typer.Option("--model", "-m", help="a trained model's folder, such as work/models/her2")],
    name: Annotated[str | None, typer.Option(help="name of the predictions' folder; default: the model's")] = None,
    table: Annotated[Path | None, typer.Option(help="table with slide_id and patient_id, path, mpp")] = None,
    mpp_override: Annotated[float | None, typer.Option(help="µm per pixel of slides that do not say it")] = None,
    weights: Weights = None,
    batch_size: Annotated[int | None, typer.Option(help="tiles a batch")] = None,
    gpu: Gpu = None,
) -> None:
    """Predict a biomarker on slides from histology alone: CSV, heatmaps, GeoJSON, a page to look at."""
    call.on_gpu("predict", gpu)
    call.flags["predict"] |= {"slides": slides, "table": table}
    call.flags["tile"] = {"mpp_override": mpp_override}
    device = call.flags["predict"].get("device")
    call.flags["extract"] = {"weights": weights, "batch_size": batch_size, "device": device}
    summaries, result = chain.predict(*call.open(), model, name=name)
    chain.show_predictions(call.console, result)
    call.finish(summaries, result)


@_works()
def run(call: _Call) -> None:
    """Run the whole chain that the settings file describes: tile, extract, genomics, train, predict."""
    summaries, result = chain.everything(*call.open())
    chain.show_metrics(call.console, result["models"])
    call.finish(summaries, result)


@app.command()
def status(config: ConfigFile = None, workspace: Workspace = None, json: Json = False, debug: Debug = False) -> None:
    """Tell what is done, stale or failed, and why."""
    from .status import show_status

    with _console(json=json, debug=debug) as console:
        settings = _settings(config, {"workspace": workspace})
        show_status(settings, console, compare=config is not None or Path(FILE_NAME).is_file())


@app.command()
def backbones(json: Json = False, debug: Debug = False) -> None:
    """List the backbones known by name, their licences, and whether their weights are on this machine."""
    from .backbone_table import show_backbones

    with _console(json=json, debug=debug) as console:
        show_backbones(console)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="where to write it")] = Path(),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a settings file with every setting, its meaning and its default."""
    with _console(json=json, debug=debug) as console:
        file = folder / FILE_NAME
        if file.exists():
            raise UsageError("is there already", path=file, hint="edit it, or remove it first")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(template(), encoding="utf-8")
        console.line(f"wrote {file}; edit it, then `wsipipe run`")
        console.result({"file": str(file)})


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where the demo's cohort and results go")] = Path("wsipipe-demo"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a small cohort and run the whole chain on it, on the CPU, without a network."""
    from .demo import run_demo

    with _console(json=json, debug=debug) as console:
        run_demo(folder.resolve(), console)


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
