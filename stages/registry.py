"""The table of all stages: name, version, folders of the manifests, settings and class.

Everything else about a stage follows from its row: the section of the settings file, its rows in ``wsipipe status``,
whether a record is of its present version and, if the row names the class, its command and its step of
``wsipipe.run``. Classes are given as import paths, not imported, since ``wsipipe --help`` reads this table.

A version is raised when the same settings and inputs would give other results than before, or when a setting's default
changes. Results of an older version are then stale and are made again. Former names of stages are in
:data:`~wsipipe.data.manifest.FORMER_STAGES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from .settings import Settings


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
    """

    name: str
    version: int
    folders: tuple[str, ...]
    settings: str = ""
    stage: str = ""
    after: Literal["", "tiles", "features"] = ""
    argument: str = ""

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


STAGES: Final = (
    StageRow("tile", 3, ("tiles/*",), ".tile.settings:TileSettings"),
    StageRow("index", 1, ("tiles/*",)),
    StageRow("export", 1, ("exports/*/*", "exports/*/*/*")),
    StageRow(
        "extract", 2, ("features/*/*",), ".extract.settings:ExtractSettings", ".extract.stage:ExtractStage",
        after="tiles",
    ),
    StageRow(
        "genomics", 4, ("genomics",), ".genomics.settings:GenomicsSettings", ".genomics.stage:GenomicsStage",
        argument="matrix",
    ),
    StageRow("split", 1, ("models/*", "comparisons/*"), ".train.settings:SplitSettings"),
    StageRow("train", 4, ("models/*", "comparisons/*/*"), ".train.settings:TrainSettings"),
    StageRow("import-checkpoint", 1, ("models/*",)),
    StageRow("cross_validate", 4, ("models/*", "comparisons/*/*")),
    StageRow("report", 6, ("models/*",)),
    StageRow("omics", 3, ("comparisons/*/*",)),
    StageRow("compare", 5, ("comparisons/*",), ".compare.settings:CompareSettings"),
    StageRow("predict", 3, ("predictions/*",), ".predict.settings:PredictSettings"),
    StageRow("prediction_report", 4, ("predictions/*",)),
    StageRow("read_slides", 2, ("evaluations/*",)),
    StageRow("external_evaluate", 5, ("evaluations/*",)),
)  # fmt: skip
"""All stages, in the order of the pipeline."""

VERSIONS: Final[Mapping[str, int]] = MappingProxyType({row.name: row.version for row in STAGES})
FOLDERS: Final = tuple(dict.fromkeys(folder for row in STAGES for folder in row.folders))


def steps() -> dict[str, StageRow]:
    """List the stages that have a command and a step of their own, by name."""
    return {row.name: row for row in STAGES if row.stage}


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module, __package__), name)
