"""tile: finds the tissue on slides and cuts it into tiles.

<slide>.h5                    positions, tissue fraction and sharpness of the tiles
contours/<slide>.geojson      the tissue, for QuPath
qc/<slide>.jpg                the QC picture, to look at

Tissue is found by the mask that --tissue selects, by a network, or taken from annotations; or other tools have already
placed the tiles. A network may look for artefacts on the tiles, which are then counted, and dropped if asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import cv2

from ...data.allotment import usable_cores
from ...data.artifact import whole
from ...data.cohort.slide_match import match_slides
from ...data.errors import SlideError, SurroundingsError, UsageError, about
from ...data.interop.qupath import passed_over_note, placed, read_annotations, tissue_geojson
from ...data.interop.qupath_files import find_annotations
from ...data.interop.tile_positions import (
    ForeignTiles,
    find_foreign_tiles,
    read_foreign_tiles,
    refuse_other_magnification,
)
from ...data.manifest import Json, Record
from ...data.slides.finding import FoundSlide, slide_identity
from ...data.slides.readers import open_with_mpp
from ...data.slides.slide import Slide
from ...data.tiling.annotations import Annotations, annotated_tissue
from ...data.tiling.store import write_tiles
from ...data.tiling.tissue import Way, find_tissue
from ...models.segmentation_windows import WINDOWS
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, Plan, Progress, Stage, ValueInput
from .qc_picture import draw_qc
from .settings import NETWORKS, TileSettings
from .slide_tiling import FindTissue, TileResult, by_the_mask, tile_slide

if TYPE_CHECKING:
    from ...data.cohort.table import CohortTable
    from ...models.artefact_network import ArtefactNetwork
    from ...models.tissue_network import TissueNetwork


@dataclass(frozen=True, kw_only=True)
class SlideToTile:
    """A slide's files and overrides, as tiling needs them."""

    path: Path
    mpp_override: float | None
    annotations: Path | None
    coordinates: Path | None


def slide_digest(path: Path) -> str:
    """Compute the digest that identifies a slide."""
    return slide_identity(path)[1]


class TileStage(Stage[TileSettings]):
    """The tile stage; its items are slides.

    :param slides: the slides to tile.
    :param table: cohort table whose ``mpp`` column is used for slides whose files do not state it.
    :param replace: allow a slide to replace another one with the same name.
    :param notes: notes for the user about the search for slides.
    """

    name = "tile"
    version = VERSIONS["tile"]
    processes = True
    distributes = True

    def __init__(
        self,
        settings: TileSettings,
        folder: Path,
        workspace: Path,
        *,
        slides: Sequence[FoundSlide],
        table: CohortTable | None = None,
        replace: bool = False,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.slides, self.table, self.replace, self.notes = slides, table, replace, notes
        self.network: TissueNetwork | None = None
        self.artefacts: ArtefactNetwork | None = None

    @property
    def workers(self) -> int:
        on_gpu = self.uses_device and self._device() != "cpu"
        return self.settings.workers or (1 if on_gpu else usable_cores())

    @property
    def uses_device(self) -> bool:
        return any(getattr(self.settings, name) is not None for name in NETWORKS)

    def processes_on(self, cores: int) -> int:
        return self.settings.workers or cores

    def for_worker(self, device: str | None, cores: int) -> Self:
        stage = super().for_worker(device, cores)
        stage.slides, stage.table, stage.notes = (), None, ()
        return stage

    @property
    def seconds_an_item(self) -> float:
        return self.settings.timeout * 60

    def _device(self) -> str:
        from ...models.backbones.devices import choose_device  # loads torch, which tiling rarely needs

        return str(choose_device(self.settings.device))

    def setup(self) -> None:
        cv2.setNumThreads(1)  # there is a process per core already
        if self.uses_device and self.workers > 1:
            import torch

            torch.set_num_threads(max(usable_cores() // self.workers, 1))
        if self.settings.tissue_weights is not None:
            from ...models.tissue_network import TissueNetwork

            self.network = TissueNetwork.load(self.settings.tissue_weights, self._device(), processes=self.workers)
        if self.settings.artefact_weights is not None:
            from ...models.artefact_network import ArtefactNetwork

            mpp = self.settings.mpp_of_artefacts()
            weights, device = self.settings.artefact_weights, self._device()
            self.artefacts = ArtefactNetwork.load(weights, mpp, device, processes=self.workers)

    def resolved(self) -> Mapping[str, Json]:
        if self.settings.artefact_weights is None:
            return {}
        return {"artefact_mpp": self.settings.mpp_of_artefacts()}

    def plan(self) -> Plan:
        if len(sources := self.settings.tissue_from()) > 1:
            raise UsageError(f"{' and '.join(sources)} both say where the tissue is", hint="give one of them")
        if self.settings.annotation_classes and self.settings.annotations is None:
            raise UsageError("classes of annotations are given, but no annotations", hint="add --annotations")
        if self.settings.artefact_weights is None:
            for name in ("max_artefact", "artefact_mpp"):
                if getattr(self.settings, name) is not None:
                    raise UsageError(f"{name} is given, but no artefact weights", hint="add --artefact-weights")
        else:
            self.settings.mpp_of_artefacts()  # refused before any slide is opened
        overrides: Mapping[str, float] = {}
        notes = list(self.notes)
        if self.table is not None:
            match = match_slides([slide.slide_id for slide in self.slides], self.table)
            overrides = match.mpps(self.table)
            if self.table.mpps():  # a slide without a row has no mpp from the table
                notes += match.notes()
        standing = {r.item: r for r in self.manifest.records() if r.stage == self.name and r.status != "failed"}
        items, rejected = [], {}
        for slide in self.slides:
            try:
                if not self.replace:
                    _refuse_another(slide, standing.get(slide.slide_id))
                items.append(self._item(slide, overrides.get(slide.slide_id, self.settings.mpp_override)))
            except (SlideError, SurroundingsError) as error:
                rejected[slide.slide_id] = error
        return Plan(items, rejected, notes)

    def _item(self, slide: FoundSlide, mpp_override: float | None) -> Item:
        settings, drawn = self.settings, self.settings.annotations
        task = SlideToTile(
            path=slide.path,
            mpp_override=mpp_override,
            annotations=drawn
            and (find_annotations(drawn, slide.slide_id, slide.path.name) if drawn.is_dir() else drawn),
            coordinates=settings.coordinates and find_foreign_tiles(settings.coordinates, slide.slide_id),
        )
        inputs: dict[str, Input] = {"slide": FileInput(slide.path, slide_digest)}
        if mpp_override is not None:
            inputs["mpp_override"] = ValueInput(float(mpp_override))
            if settings.overrule_mpp:
                inputs["overrule_mpp"] = ValueInput(True)
        if task.annotations is not None:
            inputs["annotations"] = FileInput(task.annotations)
            if settings.annotation_origin is not None:
                inputs["annotation_origin"] = ValueInput(settings.annotation_origin)
        if task.coordinates is not None:
            inputs["coordinates"] = FileInput(task.coordinates)
        for name in NETWORKS:
            if (weights := getattr(settings, name)) is not None:
                inputs[name] = FileInput(weights, is_setting=True)
        if settings.max_artefact is not None:  # tile sets of before do not say which tiles were dropped
            inputs["dropped_tiles"] = ValueInput("listed")
        if settings.tissue_weights is not None:  # that of artefacts has always had windows
            inputs["windows"] = ValueInput(WINDOWS)
        return Item(slide.slide_id, inputs, task)

    def slide_of(self, item: Item) -> Path:
        task: SlideToTile = item.payload
        return task.path

    def process(self, item: Item, progress: Progress) -> Outcome:
        task: SlideToTile = item.payload
        settings = self.settings
        drawn = None
        if task.annotations is not None:
            drawn = read_annotations(task.annotations, settings.annotation_classes or None)
        with (
            about(task.path),
            open_with_mpp(self.at_hand(task.path), task.mpp_override, overrule=settings.overrule_mpp) as slide,
        ):
            result = tile_slide(
                slide,
                item.id,
                mpp=settings.mpp,
                tile_px=settings.tile_px,
                overlap=settings.overlap,
                min_tissue=settings.min_tissue,
                min_sharpness=settings.min_sharpness,
                native_tolerance=settings.native_tolerance,
                level_policy=settings.level_policy,
                allow_upsample=settings.allow_upsample,
                find=self._finder(drawn),
                placed=self._foreign_tiles(task, slide),
                find_artefacts=None if self.artefacts is None else self.artefacts.find,
                max_artefact=1.0 if settings.max_artefact is None else settings.max_artefact,
            )
        outputs = {
            "tiles": self.folder / f"{item.id}.h5",
            "contours": self.folder / "contours" / f"{item.id}.geojson",
            "qc": self.folder / "qc" / f"{item.id}.jpg",
        }
        write_tiles(outputs["tiles"], result.tiles)
        with whole(outputs["contours"]) as scratch:
            scratch.write_text(tissue_geojson(result.outlines, slide.origin), encoding="utf-8")
        with whole(outputs["qc"]) as scratch:
            draw_qc(result, scratch)
        override = task.mpp_override  # recorded only if it was used
        overridden = {} if override is None or result.tiles.slide_mpp != override else {"mpp_override": float(override)}
        stats = result.stats | {"reader": slide.reader} | overridden
        note = "" if drawn is None else passed_over_note(drawn)
        notes = [f"{item.id}: annotations in {note}"] if note else []
        if task.coordinates is None:
            notes += _notes(item.id, result, outputs["qc"])
        return Outcome(outputs, stats, status="done" if len(result.tiles) else "empty", notes=notes)

    def _foreign_tiles(self, task: SlideToTile, slide: Slide) -> ForeignTiles | None:
        """The tiles that another program has placed, if they are given; their magnification must be the slide's."""
        if task.coordinates is None:
            return None
        foreign = read_foreign_tiles(task.coordinates)
        if not (self.settings.overrule_mpp and task.mpp_override is not None):
            refuse_other_magnification(foreign, slide.believed_mpp())
        return foreign

    def _finder(self, annotations: Annotations | None) -> FindTissue:
        if annotations is not None:
            counted_from = self.settings.annotation_origin
            return lambda slide, overview: annotated_tissue(placed(annotations, slide.origin, counted_from), overview)
        if self.network is not None:
            return self.network.find
        way = way_of(self.settings)
        return by_the_mask if way == "auto" else lambda _, overview: find_tissue(overview, way)


def way_of(settings: TileSettings) -> Way | int:
    """Convert ``--tissue`` to a method of finding tissue: its name, or a number of grey levels."""
    return int(settings.tissue) if settings.tissue.isdigit() else cast("Way", settings.tissue)


def _notes(slide_id: str, result: TileResult, picture: Path) -> Sequence[str]:
    """Tell the user to look at a slide whose tissue mask is doubtful."""
    if result.tissue.verdict == "dark background":
        return (
            f"{slide_id}: bright colours on black, as in fluorescence: no tissue is searched (see {picture.name}); "
            "use --annotations or --tissue all if it is not",
        )
    if result.tissue.verdict != "not understood":
        return ()
    return (
        f"{slide_id}: tissue could not be recognised reliably ({len(result.tiles):,} tiles; see {picture.name}); "
        "choose with --tissue glass, --tissue all, or --tissue and a number of grey levels",
    )


def _refuse_another(slide: FoundSlide, standing: Record | None) -> None:
    """Refuse a slide whose name already belongs to another slide in this workspace, if that one still exists.

    :raises SlideError: it does.
    :raises SurroundingsError: the slide cannot be read to compare it.
    """
    before = standing.inputs.get("slide") if standing else None
    if before is None or before.path is None or before.path == str(slide.path) or not Path(before.path).exists():
        return
    if slide_digest(slide.path) != before.digest:
        raise SlideError(
            f"the name {slide.slide_id!r} already belongs to another slide in this workspace: {before.path}",
            path=slide.path,
            hint="rename one of them, use another --workspace, or replace the other one with --replace",
        )
