"""The table of all stages: name, version, folders, settings and class of each.

The rest of wsipipe uses this table for the sections of the settings file, for ``wsipipe status``, to check whether a
record is of the stage's present version and, if the row names the class, for the stage's command and its step of
``wsipipe.run``. Classes are named here, not imported, because ``wsipipe --help`` reads this table.

A version is raised when the same settings and inputs would give other results than before, or when a setting's default
changes. Results of an older version are then stale, and are made again.
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
    from .stage import Stage


@dataclass(frozen=True)
class StageRow:
    """A stage of the table.

    :param name: name in manifests and on the console; also of its command and of its section of the settings file.
    :param folders: glob patterns of the folders of a workspace that contain its manifests.
    :param settings: class of its settings, as ``.module:Class`` relative to this package; empty if it has no section.
    :param stage: class of the stage, as ``.module:Class``, if ``Class.made(settings, workspace, source)`` makes it; it
        then has a command and a step of its own.
    :param after: the kind of folder that it reads, chosen by ``--tiles`` or ``--features`` and passed as ``source``.
    :param argument: the setting that its command takes as an argument, without a flag.
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

    def make(self, settings: Settings, workspace: Path, source: Path | None = None, **further: Any) -> Stage[Any]:
        """Make the stage.

        :param source: the folder that it reads.
        :param further: further arguments of the stage.
        """
        made: Stage[Any] = _found(self.stage).made(settings, workspace, source, **further)
        return made


STAGES: Final = (
    StageRow("tile", 2, ("tiles/*",), ".tile.settings:TileSettings"),
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
    StageRow("train", 3, ("models/*", "comparisons/*/*"), ".train.settings:TrainSettings"),
    StageRow("import-checkpoint", 1, ("models/*",)),
    StageRow("evaluate", 2, ("models/*", "comparisons/*/*")),
    StageRow("report", 4, ("models/*",)),
    StageRow("omics", 1, ("comparisons/*/*",)),
    StageRow("compare", 3, ("comparisons/*",), ".compare.settings:CompareSettings"),
    StageRow("predict", 1, ("predictions/*",), ".predict.settings:PredictSettings"),
    StageRow("summary", 2, ("predictions/*",)),
    StageRow("read", 1, ("evaluations/*",)),
    StageRow("external", 3, ("evaluations/*",)),
)  # fmt: skip
"""In the order of the chain."""

VERSIONS: Final[Mapping[str, int]] = MappingProxyType({row.name: row.version for row in STAGES})
FOLDERS: Final = tuple(dict.fromkeys(folder for row in STAGES for folder in row.folders))


def steps() -> dict[str, StageRow]:
    """The stages that have a command and a step of their own, by name."""
    return {row.name: row for row in STAGES if row.stage}


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module, __package__), name)
