"""Slides' headers: format, size of a pixel, levels, and the tiles that there is room for. No tissue is looked for."""

from __future__ import annotations

from ...data.allotment import usable_cores
from ...data.errors import about
from ...data.slides.readers import open_with_mpp
from ...data.tiling.grid import plan_grid
from ...data.units import Mpp, TilePx
from ...stages.stage import Item, Outcome, Plan, Progress, Stage
from ...stages.tile.settings import TileSettings
from ...stages.tile.slide_tiling import refuse_grey, refuse_too_small
from ...stages.tile.stage import SlideToTile

_SECONDS = 60.0


class HeaderStage(Stage[TileSettings]):
    """Opens slides as the tile stage does, in processes that can be killed; it has no outputs and records nothing."""

    name = "check"
    version = 1
    processes = True

    @property
    def workers(self) -> int:
        return self.settings.workers or usable_cores()

    @property
    def seconds_an_item(self) -> float:
        return min(_SECONDS, self.settings.timeout * 60)

    def plan(self) -> Plan:
        return Plan(())  # its items are those of the tile stage

    def process(self, item: Item, progress: Progress) -> Outcome:
        task: SlideToTile = item.payload
        settings = self.settings
        with (
            about(task.path),
            open_with_mpp(task.path, task.mpp_override, overrule=settings.overrule_mpp) as slide,
        ):
            mpp = slide.believed_mpp()
            if settings.tissue == "auto" and not settings.tissue_from():
                refuse_grey(slide)
            grid = plan_grid(
                slide.level_dimensions,
                slide.level_downsamples,
                mpp,
                mpp=Mpp(settings.mpp),
                tile_px=TilePx(settings.tile_px),
                overlap=TilePx(settings.overlap),
                native_tolerance=settings.native_tolerance,
                level_policy=settings.level_policy,
                allow_upsample=settings.allow_upsample,
            )
            refuse_too_small(slide, grid)
            return Outcome(
                stats={
                    "grid_tiles": grid.columns * grid.rows,
                    "slide_mpp": round(float(mpp), 6),
                    "levels": len(slide.level_dimensions),
                    "format": slide.format,
                }
            )
