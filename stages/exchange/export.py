"""export: tiles or features in another tool's format, beside ours and never in their place.

exports/clam/<tiles>/patches/<slide>.h5              what CLAM's feature extraction reads
exports/clam/<tiles>/process_list_autogen.csv        the slides, as its scripts list them
exports/trident/<tiles>/patches/<slide>_patches.h5   our own file, under the name that TRIDENT looks for
exports/clam/<features>/h5_files/, pt_files/         as CLAM's extraction leaves them
exports/trident/<features>/<slide>.h5                as TRIDENT's does
exports/anndata/<features>/<slide>.h5ad              an observation a tile
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...data.artifact import whole
from ...data.errors import SlideError, UsageError
from ...data.features.store import read_bag
from ...data.interop.anndata import write_anndata
from ...data.interop.clam import clam_process_list, write_clam_features, write_clam_tiles
from ...data.interop.trident import write_trident_features
from ...data.manifest import Manifest, OutputRecord, Record
from ...data.tiling.store import read_tiles, write_tiles
from ..registry import VERSIONS
from ..stage import Item, Outcome, OutputInput, Plan, Progress, Stage, ValueInput, upstream
from .settings import ExportSettings

PROCESS_LIST: Final = "process_list_autogen.csv"
"""What CLAM calls its list, beside ``patches/``."""


@dataclass(frozen=True)
class ProcessList:
    """The files of the slides that are exported."""

    slides: tuple[str, ...]


class ExportTilesStage(Stage[ExportSettings]):
    """Items are slides with tiles, and the list of them.

    :param tiles: the tile stage's folder.
    """

    name = "export"
    version = VERSIONS["export"]

    def __init__(self, settings: ExportSettings, folder: Path, workspace: Path, *, tiles: Path) -> None:
        super().__init__(settings, folder, workspace)
        self.tiles = tiles

    @property
    def sources(self) -> Sequence[Path]:
        return (self.tiles,)

    def plan(self) -> Plan:
        tiled = upstream(Manifest.of(self.tiles), "tile", self.workspace)
        if not tiled.records:
            raise UsageError("no slide is tiled", path=self.tiles, hint="run wsipipe tile first")
        tiles = {slide_id: record.outputs["tiles"] for slide_id, record in tiled.records.items()}
        items = [Item(slide_id, {"tiles": OutputInput(output)}, output) for slide_id, output in tiles.items()]
        notes = [*tiled.notes]
        if self.settings.format == "clam":
            files = sorted(_file_name(record) for record in tiled.records.values())
            listed = [file for file in files if _clam_finds(file)]
            if left := len(files) - len(listed):
                notes.append(
                    f"{left} of {len(files)} slides not in {PROCESS_LIST}: CLAM wants files with one extension"
                )
            items.append(Item(PROCESS_LIST, {"slides": ValueInput(listed)}, ProcessList(tuple(listed))))
        return Plan(items, notes=notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        if isinstance(item.payload, ProcessList):
            path = self.folder / PROCESS_LIST
            with whole(path) as scratch:
                scratch.write_text(clam_process_list(item.payload.slides), encoding="utf-8")
            return Outcome({"list": path})
        made: OutputRecord = item.payload
        tiles = read_tiles(self.workspace / made.path, digest=made.digest)
        if self.settings.format == "clam":
            path = self.folder / "patches" / f"{item.id}.h5"
            write_clam_tiles(path, tiles)
        else:
            path = self.folder / "patches" / f"{item.id}_patches.h5"
            write_tiles(path, tiles)
        return Outcome({"patches": path}, {"tiles": len(tiles)})


def _clam_finds(file: str) -> bool:
    try:
        clam_process_list([file])
    except SlideError:
        return False
    return True


def _file_name(record: Record) -> str:
    """The slide's file, as it was called when it was tiled."""
    return Path(record.inputs["slide"].path or record.item).name


class ExportFeaturesStage(Stage[ExportSettings]):
    """Items are slides with features.

    :param tiles: the tile stage's folder.
    :param features: the extraction's folder.
    """

    name = "export"
    version = VERSIONS["export"]

    def __init__(self, settings: ExportSettings, folder: Path, workspace: Path, *, tiles: Path, features: Path) -> None:
        super().__init__(settings, folder, workspace)
        self.tiles, self.features = tiles, features

    @property
    def sources(self) -> Sequence[Path]:
        return (self.features,)

    def plan(self) -> Plan:
        extracted = upstream(Manifest.of(self.features), "extract", self.workspace)
        if not extracted.records:
            raise UsageError("no slide has features", path=self.features, hint="run wsipipe extract first")
        stores = {slide_id: record.outputs["features"] for slide_id, record in extracted.records.items()}
        items = [
            Item(slide_id, {"features": OutputInput(output)}, self.workspace / output.path)
            for slide_id, output in stores.items()
        ]
        return Plan(items, notes=extracted.notes)

    def process(self, item: Item, progress: Progress) -> Outcome:
        bag = read_bag(item.payload)
        stats = {"tiles": len(bag.coords)}
        match self.settings.format:
            case "clam":
                write_clam_features(self.folder, item.id, bag)
                kinds = {"h5": "h5_files", "pt": "pt_files"}
                return Outcome({kind: self.folder / at / f"{item.id}.{kind}" for kind, at in kinds.items()}, stats)
            case "trident":
                tiles = self.tiles / f"{item.id}.h5"
                path = self.folder / f"{item.id}.h5"
                write_trident_features(path, bag, read_tiles(tiles) if tiles.is_file() else None)
            case "anndata":
                path = self.folder / f"{item.id}.h5ad"
                write_anndata(path, bag)
        return Outcome({"features": path}, stats)
