"""The table of all stages: name, version, folders of the manifests, settings and class.

Everything else about a stage follows from its row: the section of the settings file, its rows in ``wsipipe status``,
whether a record is of its present version and, if the row names the class, its command and its step of
``wsipipe.run``. Classes are given as import paths, not imported, since ``wsipipe --help`` reads this table.

A version is raised when the same settings and inputs would give other results than before, or when a setting's default
changes. Results of an older version are then stale and are made again. Former names of stages are in
:data:`~wsipipe.data.manifest.FORMER_STAGES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from .output_checks import Check
    from .settings import Settings


@dataclass(frozen=True)
class OutputRow:
    """One kind of output of a stage, as ``wsipipe verify`` and ``wsipipe clean`` know it.

    :param pattern: glob pattern of its paths within the stage's folder.
    :param check: the function that compares its content with its record, as ``.module:function``
        (:mod:`~wsipipe.stages.output_checks`).
    :param small: it is a small file, so its bytes are compared with their digest even without ``--deep``.
    """

    pattern: str
    check: str = ""
    small: bool = False

    def checker(self) -> Check | None:
        """The function that checks it, if it has one."""
        found: Check | None = _found(self.check) if self.check else None
        return found


@dataclass(frozen=True)
class StageRow:
    """The row of one stage.

    :param name: its name in manifests and on the console, of its command and of its section of the settings file.
    :param folders: glob patterns of the workspace folders with its manifests.
    :param settings: its settings as ``.module:Class``, relative to this package; empty if it has no section of its own.
    :param stage: its class as ``.module:Class``, if ``Class.made(settings, workspace, source)`` builds it; it then has
        a command and a step of its own.
    :param after: the kind of folder that it reads, chosen by ``--tiles`` or ``--features`` and passed as ``source``.
    :param argument: the setting that its command takes without a flag.
    :param outputs: what it makes.
    :param command: the command that runs it; default: its name.
    :param unfinished: glob pattern of saved work from which it continues after an interruption.
    :param beside: names in its folder of files that it writes for people and does not record.
    :param look: what to look at when it has ended, within its folder; empty if its command says it otherwise.
    :param distributes: its items may run on other machines, and its command has ``--dask``.
    """

    name: str
    version: int
    folders: tuple[str, ...]
    settings: str = ""
    stage: str = ""
    after: Literal["", "tiles", "features"] = ""
    argument: str = ""
    outputs: tuple[OutputRow, ...] = ()
    command: str = ""
    unfinished: str = ""
    beside: tuple[str, ...] = ()
    distributes: bool = False
    look: str = ""

    @property
    def made_by(self) -> str:
        """The command that runs it."""
        return self.command or self.name

    @property
    def settings_type(self) -> type[Settings]:
        """The class of its settings."""
        found: type[Settings] = _found(self.settings)
        return found

    def make(self, settings: Settings, workspace: Path, source: Path | None = None, **further: Any) -> Any:
        """Build the stage, a :class:`~wsipipe.stages.stage.Stage`.

        :param source: the folder that it reads.
        :param further: further arguments of the stage.
        """
        return _found(self.stage).made(settings, workspace, source, **further)


_JSON: Final = ".output_checks:check_json"
_FOLDS: Final = tuple(
    OutputRow(pattern, ".output_checks:check_bundle") for pattern in ("fold-[0-9]", "fold-[0-9][0-9]")
)  # and no copy that somebody has made beside them
_AUDIT: Final = (OutputRow("audit.json", _JSON, small=True), OutputRow("audit.csv", small=True))
_FOR_PAPERS: Final = ("figures/*.svg", "figures/*.pdf", "tables/*.csv", "tables/settings.toml")
_PICTURES: Final = ("heatmaps/*.png", "evidence/*.png", "tiles/*.png", "scores/*.ome.tiff")

STAGES: Final = (
    StageRow(
        "tile", 3, ("tiles/*",), ".tile.settings:TileSettings",
        outputs=(
            OutputRow("*.h5", ".output_checks:check_tiles", small=True),
            OutputRow("contours/*.geojson", _JSON, small=True),
            OutputRow("qc/*.jpg"),
        ),
    ),
    StageRow(
        "index", 1, ("tiles/*",), command="tile", outputs=(OutputRow("qc/index.html", small=True),),
        look="qc/index.html",
    ),
    StageRow(
        "export", 1, ("exports/*/*", "exports/*/*/*"),
        outputs=(
            *map(OutputRow, ("patches/*.h5", "h5_files/*.h5", "pt_files/*.pt", "*.h5", "*.h5ad")),
            OutputRow("process_list_autogen.csv", small=True),
        ),
        look=".",
    ),
    StageRow(
        "extract", 2, ("features/*/*",), ".extract.settings:ExtractSettings", ".extract.stage:ExtractStage",
        after="tiles", outputs=(OutputRow("*.zarr", ".output_checks:check_features"),), distributes=True,
        look=".",
    ),
    StageRow(
        "encode", 1, ("slide_features/*/*",), ".encode.settings:EncodeSettings", ".encode.stage:EncodeStage",
        after="features", outputs=(OutputRow("*.zarr", ".output_checks:check_slide_vector"),), distributes=True,
    ),
    StageRow(
        "genomics", 4, ("genomics",), ".genomics.settings:GenomicsSettings", ".genomics.stage:GenomicsStage",
        argument="matrix",
        outputs=(
            OutputRow("*.zarr", ".output_checks:check_expression"),
            OutputRow("signatures.csv", small=True), OutputRow("qc.html", small=True),
        ),
        look="qc.html",
    ),
    StageRow(
        "split", 1, ("models/*", "comparisons/*"), ".train.settings:SplitSettings", command="train",
        outputs=(OutputRow("splits.csv", small=True), OutputRow("patients.csv", small=True)),
    ),
    StageRow(
        "train", 4, ("models/*", "comparisons/*/*"), ".train.settings:TrainSettings",
        outputs=_FOLDS, unfinished="partial/*", beside=("tensorboard",),
    ),
    StageRow(
        "import-checkpoint", 1, ("models/*",), outputs=_FOLDS, look=".",
    ),
    StageRow(
        "cross_validate", 9, ("models/*", "comparisons/*/*"), command="train",
        outputs=(
            OutputRow("applicability.json", _JSON, small=True),
            OutputRow("oof_predictions.csv", small=True), OutputRow("metrics.json", _JSON, small=True),
            OutputRow("targets/*/oof_predictions.csv", small=True),
            OutputRow("targets/*/metrics.json", _JSON, small=True),
        ),
    ),
    StageRow(
        "slot_gallery", 3, ("models/*",), command="train",
        outputs=(
            OutputRow("slots.html", small=True), OutputRow("slots.json", _JSON, small=True),
            OutputRow("slots.csv", small=True),
        ),
    ),
    StageRow(
        "example_slides", 1, ("models/*",), command="train", outputs=(OutputRow("examples/*/*.jpg"),),
    ),
    StageRow(
        "report", 12, ("models/*",), command="train",
        outputs=(
            OutputRow("report.html", small=True), *_AUDIT,
            *(OutputRow(pattern, small=True) for pattern in _FOR_PAPERS),
        ),
    ),
    StageRow(
        "omics", 7, ("comparisons/*/*",), command="compare",
        outputs=(OutputRow("oof_predictions.csv", small=True), OutputRow("metrics.json", _JSON, small=True)),
    ),
    StageRow(
        "compare", 10, ("comparisons/*",), ".compare.settings:CompareSettings",
        outputs=(
            *(
                OutputRow(f"{place}comparison.{kind}", small=True)
                for place in ("", "targets/*/") for kind in ("csv", "html", "png")
            ),
            *_AUDIT,
        ),
    ),
    StageRow(
        "robustness", 4, ("robustness/*",), ".robustness.settings:RobustnessSettings",
        outputs=(OutputRow("robustness.csv", small=True), OutputRow("robustness.html", small=True)),
    ),
    StageRow(
        "predict", 5, ("predictions/*",), ".predict.settings:PredictSettings",
        outputs=(
            OutputRow("slides/*.json", _JSON, small=True), OutputRow("geojson/*.geojson"), *map(OutputRow, _PICTURES),
        ),
    ),
    StageRow(
        "prediction_report", 8, ("predictions/*",), command="predict",
        outputs=(
            OutputRow("predictions.csv", small=True), OutputRow("predictions.parquet", small=True),
            OutputRow("predictions.json", _JSON, small=True), OutputRow("report.html", small=True),
        ),
    ),
    StageRow(
        "read_slides", 3, ("evaluations/*",), command="evaluate",
        outputs=(OutputRow("readings/*.json", _JSON, small=True),),
    ),
    StageRow(
        "external_evaluate", 11, ("evaluations/*",), command="evaluate",
        outputs=(
            *(OutputRow(name, small=True) for name in ("patients.csv", "predictions.csv", "report.html")),
            OutputRow("metrics.json", _JSON, small=True), *_AUDIT,
            OutputRow("targets/*/predictions.csv", small=True), OutputRow("targets/*/metrics.json", _JSON, small=True),
        ),
    ),
)  # fmt: skip
"""All stages, in the order of the pipeline."""

VERSIONS: Final[Mapping[str, int]] = MappingProxyType({row.name: row.version for row in STAGES})
FOLDERS: Final = tuple(dict.fromkeys(folder for row in STAGES for folder in row.folders))


def steps() -> dict[str, StageRow]:
    """List the stages that have a command and a step of their own, by name."""
    return {row.name: row for row in STAGES if row.stage}


def rows_of(folder: Path) -> list[StageRow]:
    """List the stages that may have a manifest in a folder.

    :param folder: relative to the workspace.
    """
    return [row for row in STAGES if any(fits(folder, pattern) for pattern in row.folders)]


def output_row(rows: Sequence[StageRow], path: PurePath) -> OutputRow | None:
    """Find the row of an output by its path within the stage's folder; None if no stage makes such a file."""
    return next((out for row in rows for out in row.outputs if fits(path, out.pattern)), None)


def fits(path: PurePath, pattern: str) -> bool:
    """Whether a relative path fits a pattern as a whole; ``PurePath.match`` alone compares from the right."""
    return len(path.parts) == pattern.count("/") + 1 and path.match(pattern)


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module, __package__), name)
