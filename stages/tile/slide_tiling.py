"""Tiling of one slide, from its overview to its tiles: the tile stage's work without files and manifests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ...data.errors import SlideError
from ...data.interop.tile_positions import ForeignTiles, placed_on
from ...data.slides.slide import Slide
from ...data.tiling.artefacts import ArtefactMap, DroppedTiles
from ...data.tiling.contours import Outline, outlines
from ...data.tiling.grid import Coords, LevelPolicy, TileGrid, plan_grid
from ...data.tiling.overview import Overview, read_overview, shrink_mask
from ...data.tiling.sharpness import tile_sharpness
from ...data.tiling.store import Scores, TileSet
from ...data.tiling.tissue import TissueMask, find_tissue, tissue_fractions
from ...data.units import Level0Px, Mpp, TilePx

FindTissue = Callable[[Slide, Overview], TissueMask]
FindArtefacts = Callable[[Slide, Overview, Coords, Level0Px], ArtefactMap]
"""Finds the artefacts on tiles at these positions, of this side in pixels of level 0."""

TOO_LITTLE_TISSUE: Final = "too little tissue"
NOT_SHARP: Final = "not sharp"
OVER_THE_EDGE: Final = "over the edge"
ARTEFACT: Final = "artefact"

_SMALLER: Final = "leave it out; or cut smaller tiles: wsipipe tile with a smaller --tile-px or a finer --mpp"


@dataclass(frozen=True, kw_only=True, eq=False)
class TileResult:
    """The result of tiling a slide."""

    tiles: TileSet
    """The kept tiles; none if there is no tissue."""
    dropped: Mapping[str, Coords]
    """Reason → positions of dropped tiles, among those of the grid that touch tissue or those that were placed."""
    tissue: TissueMask
    outlines: list[Outline]
    overview: Overview
    artefacts: ArtefactMap | None = None
    """None if they were not looked for."""

    @property
    def stats(self) -> dict[str, int | float | str | None]:
        """Figures for the manifest and the table of results.

        ``bad_tiles`` counts tiles that cannot be decoded at the level where sharpness is measured; extraction counts
        those of the level that it reads.
        """
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
            "sharpness_median": _median(self.tiles.sharpness),
            "bad_tiles": int(np.isnan(self.tiles.sharpness).sum()),
            **{f"dropped_{why.replace(' ', '_')}": len(coords) for why, coords in self.dropped.items()},
            "unread_fraction": round(float(self.overview.unread.mean()), 6),
            **self._of_artefacts(),
        }

    def _of_artefacts(self) -> dict[str, int | float | None]:
        """Figures of the artefacts on all tiles where they were looked for, the dropped ones too."""
        if self.artefacts is None:
            return {}
        coords = np.concatenate([self.tiles.coords, self.dropped[ARTEFACT]])
        return self.artefacts.of_tiles(coords, self.tiles.grid.size_level0).stats()


def _median(sharpness: Scores) -> float | None:
    known = sharpness[~np.isnan(sharpness)]
    return round(float(np.median(known)), 4) if known.size else None


def by_the_mask(slide: Slide, overview: Overview) -> TissueMask:
    """Find the tissue in the overview by :func:`~wsipipe.data.tiling.tissue.find_tissue`.

    :raises SlideError: the slide is grey.
    """
    refuse_grey(slide)
    return find_tissue(overview)


def refuse_grey(slide: Slide) -> None:
    """Refuse a slide whose tissue cannot be found by its colour.

    :raises SlideError: the slide is grey.
    """
    if slide.grey:
        hint = "export it in colour; if it must be grey, show where the tissue is with --annotations or --coordinates"
        raise SlideError("a grey picture, but tissue is found by its colour", path=slide.path, hint=hint)


def refuse_too_small(slide: Slide, grid: TileGrid) -> None:
    """Refuse a slide that has no room for a tile.

    :raises SlideError: it is smaller than one tile.
    """
    if not grid.columns * grid.rows:
        width, height = slide.dimensions
        side = grid.size_level0
        wrong = f"{width} × {height} px is too small for one tile, which takes {side} × {side} px of it"
        raise SlideError(wrong, path=slide.path, hint=_SMALLER)


def _where_scanned(tissue: TissueMask, overview: Overview) -> TissueMask:
    """Remove areas that were not scanned from the mask, even if they were annotated as tissue."""
    if overview.unscanned is None:
        return tissue
    left_out = shrink_mask(overview.unscanned, round(tissue.downsample / overview.downsample))
    return replace(tissue, mask=tissue.mask & ~left_out)


def tile_slide(
    slide: Slide,
    slide_id: str,
    *,
    mpp: float,
    tile_px: int,
    overlap: int = 0,
    min_tissue: float = 0.5,
    min_sharpness: float = 0.0,
    native_tolerance: float = 0.02,
    level_policy: LevelPolicy = "coarsest",
    allow_upsample: bool = False,
    find: FindTissue = by_the_mask,
    placed: ForeignTiles | None = None,
    find_artefacts: FindArtefacts | None = None,
    max_artefact: float = 1.0,
) -> TileResult:
    """Find the tissue of a slide and the tiles on it. Only coarse levels are decoded, if the slide has them.

    :param mpp: microns per pixel of the tiles.
    :param tile_px: side of a tile at that resolution.
    :param overlap: overlap of neighbours, in the same pixels.
    :param min_tissue: minimum fraction of tissue in a kept tile.
    :param min_sharpness: minimum sharpness of a kept tile, see :mod:`~wsipipe.data.tiling.sharpness`; a tile of unknown
        sharpness, because it cannot be decoded, is kept, and extraction decides about it.
    :param native_tolerance: a level this close to ``mpp`` is read without resampling (0.02 is 2 %).
    :param level_policy: see :func:`~wsipipe.data.tiling.grid.plan_grid`.
    :param allow_upsample: accept a slide that is coarser than ``mpp``.
    :param find: the function that finds the tissue.
    :param placed: tiles that another tool has placed: kept in their order, regardless of their tissue, except those
        that reach over the edge.
    :param find_artefacts: the function that finds the artefacts on the tiles that are kept otherwise; None: nothing is
        known of them.
    :param max_artefact: maximum fraction of artefacts in a kept tile; a tile of which they are not known, because it
        cannot be decoded, is kept, and extraction decides about it.
    :raises SlideError: no plausible mpp, coarser than requested, smaller than one tile, an overview that cannot be
        decoded, or tiles placed outside the slide or of another size.
    :raises UsageError: an overlap with which tiles are less than a pixel apart.
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
        level_policy=level_policy,
        allow_upsample=allow_upsample,
    )
    overview = read_overview(slide)
    refuse_too_small(slide, grid)
    tissue = _where_scanned(find(slide, overview), overview)
    dropped: dict[str, Coords] = {}
    if placed is None:
        coords = grid.coords()
        fractions = tissue_fractions(tissue, coords, grid.size_level0)
        # A tile without any tissue is never kept, not even with --min-tissue 0.
        kept = (fractions >= min_tissue) & (fractions > 0)
        dropped[TOO_LITTLE_TISSUE] = coords[(fractions > 0) & ~kept]
        coords, fractions = coords[kept], fractions[kept]
    else:
        on_slide = placed_on(placed, grid, slide.level_dimensions, native_tolerance=native_tolerance, path=slide.path)
        grid, coords, dropped[OVER_THE_EDGE] = on_slide.grid, on_slide.coords, on_slide.over_edge
        fractions = tissue_fractions(tissue, coords, grid.size_level0)
    sharpness, sharpness_mpp = tile_sharpness(slide, coords, grid.size_level0)
    sharp = ~(sharpness < min_sharpness)
    dropped[NOT_SHARP] = coords[~sharp]
    coords, fractions, sharpness = coords[sharp], fractions[sharp], sharpness[sharp]
    found = artefacts = spoiled = None
    if find_artefacts is not None:
        found = find_artefacts(slide, overview, coords, grid.size_level0)
        artefacts = found.of_tiles(coords, grid.size_level0)
        clean = ~(artefacts.fraction > np.float32(max_artefact))
        dropped[ARTEFACT] = coords[~clean]
        spoiled = None if clean.all() else DroppedTiles(coords[~clean], artefacts.of(~clean))
        coords, fractions, sharpness = coords[clean], fractions[clean], sharpness[clean]
        artefacts = artefacts.of(clean)
    return TileResult(
        tiles=TileSet(
            slide_id=slide_id,
            slide_format=slide.format,
            slide_size=slide.dimensions,
            slide_mpp=slide_mpp,
            grid=grid,
            min_tissue=min_tissue if placed is None else 0.0,
            coords=coords,
            tissue_fraction=fractions,
            sharpness=sharpness,
            sharpness_mpp=sharpness_mpp,
            artefacts=artefacts,
            dropped=spoiled,
        ),
        dropped=dropped,
        tissue=tissue,
        outlines=outlines(tissue),
        overview=overview,
        artefacts=found,
    )
