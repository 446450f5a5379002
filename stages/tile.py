"""tile: finds the tissue on slides and cuts it into tiles.

<slide>.h5                    positions, tissue fraction and sharpness of the tiles
contours/<slide>.geojson      the tissue, for QuPath
qc/<slide>.jpg                what was found, to look at
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2

from ..data.artifact import whole
from ..data.cohort import CohortTable
from ..data.contours import geojson
from ..data.errors import SlideError
from ..data.manifest import Record
from ..data.readers import open_slide
from ..data.slide_match import match_slides
from ..data.slides_on_disk import FoundSlide, slide_identity
from ..data.tiles import write_tiles
from .settings import TileSettings
from .stage import FileInput, Input, Item, Outcome, Plan, Progress, Stage, ValueInput
from .tile_qc import draw_qc
from .tiling import tile_slide
from .versions import VERSIONS


def slide_digest(path: Path) -> str:
    """The digest by which a slide is known."""
    return slide_identity(path)[1]


class TileStage(Stage[TileSettings]):
    """Items are slides.

    :param slides: the slides to tile.
    :param table: cohort table whose ``mpp`` column speaks for slides that do not say it themselves.
    :param replace: let a slide take the place of another one of its name.
    """

    name = "tile"
    version = VERSIONS["tile"]
    processes = True

    def __init__(
        self,
        settings: TileSettings,
        folder: Path,
        workspace: Path,
        *,
        slides: Sequence[FoundSlide],
        table: CohortTable | None = None,
        replace: bool = False,
    ) -> None:
        super().__init__(settings, folder, workspace)
        self.slides, self.table, self.replace = slides, table, replace

    @property
    def workers(self) -> int:
        return self.settings.workers or os.cpu_count() or 1

    def setup(self) -> None:
        cv2.setNumThreads(1)  # a process a core is enough

    def plan(self) -> Plan:
        overrides: Mapping[str, float] = {}
        if self.table is not None:
            match = match_slides([slide.slide_id for slide in self.slides], self.table)
            overrides = match.mpps(self.table)
        standing = {r.item: r for r in self.manifest.records() if r.stage == self.name and r.status != "failed"}
        items, rejected = [], {}
        for slide in self.slides:
            try:
                if not self.replace:
                    _refuse_another(slide, standing.get(slide.slide_id))
            except SlideError as error:
                rejected[slide.slide_id] = error
                continue
            override = overrides.get(slide.slide_id, self.settings.mpp_override)
            inputs: dict[str, Input] = {"slide": FileInput(slide.path, slide_digest)}
            if override is not None:
                inputs["mpp_override"] = ValueInput(float(override))
            items.append(Item(slide.slide_id, inputs, (slide.path, override)))
        return Plan(items, rejected)

    def process(self, item: Item, progress: Progress) -> Outcome:
        path, override = item.payload
        settings = self.settings
        with open_slide(path, mpp_override=override) as slide:
            result = tile_slide(
                slide,
                item.id,
                mpp=settings.mpp,
                tile_px=settings.tile_px,
                overlap=settings.overlap,
                min_tissue=settings.min_tissue,
                native_tolerance=settings.native_tolerance,
                allow_upsample=settings.allow_upsample,
            )
        outputs = {
            "tiles": self.folder / f"{item.id}.h5",
            "contours": self.folder / "contours" / f"{item.id}.geojson",
            "qc": self.folder / "qc" / f"{item.id}.jpg",
        }
        write_tiles(outputs["tiles"], result.tiles)
        with whole(outputs["contours"]) as scratch:
            scratch.write_text(geojson(result.outlines), encoding="utf-8")
        with whole(outputs["qc"]) as scratch:
            draw_qc(result, scratch)
        overridden = {} if override is None else {"mpp_override": float(override)}
        stats = result.stats | {"reader": slide.reader} | overridden
        return Outcome(outputs, stats, status="done" if len(result.tiles) else "empty")


def _refuse_another(slide: FoundSlide, standing: Record | None) -> None:
    """Keep a slide from taking the place of the one that its name stands for here, if that one is still about.

    :raises SlideError: it would; or it cannot be read to tell.
    """
    before = standing.inputs.get("slide") if standing else None
    if before is None or before.path is None or before.path == str(slide.path) or not Path(before.path).exists():
        return
    if slide_digest(slide.path) != before.digest:
        raise SlideError(
            f"the name {slide.slide_id!r} already stands for another slide in this workspace: {before.path}",
            path=slide.path,
            hint="rename one of them, use another --workspace, or let this one take its place with --replace",
        )
