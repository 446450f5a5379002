"""One slide from its overview to its tiles: what the tile stage does, without files and manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..data.contours import Outline, outlines
from ..data.errors import SlideError
from ..data.grid import Coords, plan_grid
from ..data.overview import Overview, read_overview, sharpness_of_tiles
from ..data.slide import Slide
from ..data.tiles import TileSet
from ..data.tissue import TissueMask, find_tissue, tissue_fractions
from ..data.units import Mpp, TilePx

TOO_LITTLE_TISSUE: Final = "too little tissue"
NOT_SHARP: Final = "not sharp"
OVER_THE_EDGE: Final = "over the edge"


@dataclass(frozen=True, kw_only=True, eq=False)
class TileResult:
    """What tiling a slide gives."""

    tiles: TileSet
    """Those that are kept; none, rightly, where there is no tissue."""
    dropped: Mapping[str, Coords]
    """Why (:data:`TOO_LITTLE_TISSUE`, :data:`NOT_SHARP`) → positions of grid tiles that touch tissue and are not kept."""
    tissue: TissueMask
    outlines: list[Outline]
    overview: Overview

    @property
    def stats(self) -> dict[str, int | float | str]:
        """What the manifest keeps and the table shows."""
        grid, tissue = self.tiles.grid, self.tissue
        return {
            "tiles": len(self.tiles),
            "grid_tiles": grid.columns * grid.rows,
            "tissue_mm2": round(tissue.area / 1e6, 4),
            "tissue_fraction": round(float(tissue.mask.mean()), 4),
            "tissue_verdict": tissue.verdict,
            "ink_fraction": round(float(tissue.pen.mean()), 4),
            "slide_mpp": round(float(self.tiles.slide_mpp), 6),
            "tile_mpp": round(float(grid.tile_mpp), 6),
            "level": grid.level,
            "read_px": int(grid.read_px),
        }


def tile_slide(
    slide: Slide,
    slide_id: str,
    *,
    mpp: float,
    tile_px: int,
    overlap: int = 0,
    min_tissue: float = 0.5,
    native_tolerance: float = 0.02,
    allow_upsample: bool = False,
) -> TileResult:
    """Find the tissue of a slide and the tiles on it. Only the overview is decoded.

    :param mpp: microns per pixel of the tiles.
    :param tile_px: side of a tile at that resolution.
    :param overlap: what neighbours share, in the same pixels.
    :param min_tissue: least fraction of tissue in a tile that is kept.
    :param native_tolerance: a level this close to ``mpp`` is read without resampling (0.02 is 2 %).
    :param allow_upsample: accept a slide that is coarser than ``mpp``.
    :raises SlideError: no believable mpp, coarser than asked, smaller than one tile, or its overview cannot be decoded.
    :raises UsageError: an overlap that leaves no step between tiles.
    """
    slide_mpp = slide.believed_mpp()
    grid = plan_grid(
        slide.level_dimensions,
        slide.level_downsamples,
        slide_mpp,
        mpp=Mpp(mpp),
        tile_px=TilePx(tile_px),
        overlap=TilePx(overlap),
        native_tolerance=native_tolerance,
        allow_upsample=allow_upsample,
        path=slide.path,
    )
    overview = read_overview(slide)
    if not grid.columns * grid.rows:
        width, height = slide.dimensions
        side = grid.size_level0
        wrong = f"{width} × {height} px is too small for one tile, which takes {side} × {side} px of it"
        raise SlideError(wrong, path=slide.path, hint="ask for a smaller --tile-px or a finer --mpp, or leave it out")
    tissue = find_tissue(overview)
    coords = grid.coords()
    fractions = tissue_fractions(tissue, coords, grid.size_level0)
    # A tile without any tissue is never kept, not even with --min-tissue 0.
    touches = fractions > 0
    kept = touches & (fractions >= min_tissue)
    return TileResult(
        tiles=TileSet(
            slide_id=slide_id,
            slide_format=slide.format,
            slide_size=slide.dimensions,
            slide_mpp=slide_mpp,
            grid=grid,
            min_tissue=min_tissue,
            coords=coords[kept],
            tissue_fraction=fractions[kept],
            sharpness=sharpness_of_tiles(overview, coords[kept], grid.size_level0),
            sharpness_mpp=overview.mpp,
        ),
        dropped={TOO_LITTLE_TISSUE: coords[touches & ~kept]},
        tissue=tissue,
        outlines=outlines(tissue),
        overview=overview,
    )
