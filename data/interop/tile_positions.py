"""Tile positions that TRIDENT or CLAM has chosen, and where they lie on a slide of ours.

Which of the two wrote a file is seen in the attributes of its ``coords`` (:mod:`.trident`, :mod:`.clam`). Feature files
of CLAM have ``coords`` without any attribute, so that nobody knows how large a tile was: they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ..errors import SlideError
from ..tiling.grid import Coords, TileGrid
from ..units import Level0Px, LevelPx, Mpp, TilePx
from .clam import clam_field_of_view, is_clam_s, refuse_pictures
from .hdf5_arrays import ReadArrays, of_file, read_arrays, tile_coords
from .slide_files import file_of_slide
from .trident import is_trident_s, not_its_magnification, trident_field_of_view, trident_slide_size

Source = Literal["trident", "clam"]

_AGAIN: Final = "make the coordinates again with a current TRIDENT or with CLAM's create_patches_fp"
TRUE_MPP: Final = "give the slide's true µm per pixel to wsipipe tile, with --mpp-override and --overrule-mpp"
_SLACK: Final = 1e-6  # px: positions divided by a fractional downsample


@dataclass(frozen=True, kw_only=True)
class FieldOfView:
    """How large the tiles of a file are."""

    source: Source
    size_level0: float
    """Side of a tile's field of view in pixels of level 0."""
    patch_px: TilePx
    """Side of a tile as that program hands it to its backbone (TRIDENT) or to the resize before it (CLAM)."""
    magnification: float | None = None
    """The tiles' nominal one, if the file tells."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignTiles:
    """Where another program has put the tiles of a slide."""

    path: Path
    source: Source
    coords: Coords
    """As in the file, in its order."""
    size_level0: float
    """Side of a tile's field of view in pixels of level 0."""
    patch_px: TilePx
    """Side of a tile as that program hands it to its backbone (TRIDENT) or to the resize before it (CLAM)."""
    name: str | None
    """The slide, if the file tells."""
    slide_size: tuple[Level0Px, Level0Px] | None
    """Width and height of the slide that they were made for, if the file tells."""
    magnification: float | None = None
    """The tiles' nominal one, if the file tells."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedTiles:
    """Foreign tiles as tiles of ours."""

    grid: TileGrid
    """The grid as planned, with the side of the square to read that the foreign tiles have."""
    coords: Coords
    """Those that lie wholly inside the slide, each once, in the file's order."""
    over_edge: Coords
    """Those that reach over the right or lower edge."""
    repeated: int
    """How many said the same as one before."""


def find_foreign_tiles(folder: Path, slide_id: str) -> Path:
    """The coordinates of a slide: ``<id>.h5`` or ``<id>_patches.h5``, in a folder or in ``patches/`` below it.

    :raises SlideError: there are none.
    """
    places = [[f"{below}{slide_id}{ending}"] for below in ("", "patches/") for ending in ("_patches.h5", ".h5")]
    hint = "give the folder that TRIDENT or CLAM has written `patches/` into, or leave the slide out"
    return file_of_slide(f"coordinates for {slide_id!r}", folder, places, hint=hint)


def read_foreign_tiles(path: Path) -> ForeignTiles:
    """Read the coordinates of one slide, and how large its tiles are.

    :raises SlideError: no such file, no HDF5, no coordinates in it, or nothing that tells the size of the tiles.
    """
    with of_file(path, SlideError, _AGAIN):
        read = read_arrays(path, "coords")
        field, attributes = field_of_view(read), read.attributes["coords"]
        return ForeignTiles(
            path=path,
            source=field.source,
            coords=tile_coords(read.values["coords"]),
            size_level0=field.size_level0,
            patch_px=field.patch_px,
            name=attributes.text("name"),
            slide_size=trident_slide_size(attributes),
            magnification=field.magnification,
        )


def field_of_view(read: ReadArrays) -> FieldOfView:
    """How large the tiles are, by the attributes of ``coords``; the error names no file.

    :raises SlideError: nothing tells, or it contradicts itself.
    """
    refuse_pictures(read.names)
    attributes = read.attributes["coords"]
    if is_trident_s(attributes):
        source: Source = "trident"
        size_level0 = trident_field_of_view(attributes)
        magnification = attributes.number("target_magnification") or None
    elif is_clam_s(attributes):
        source = "clam"
        size_level0, magnification = clam_field_of_view(attributes), None
    else:
        held = ", ".join(attributes.values) or "none"
        wrong = f"it does not say how large the tiles are (attributes of `coords`: {held})"
        hint = "give the files in `patches/` that the features were made from, not the features; or " + _AGAIN
        raise SlideError(wrong, hint=hint)
    patch_px = TilePx(round(attributes.size("patch_size")))
    return FieldOfView(source=source, size_level0=size_level0, patch_px=patch_px, magnification=magnification)


def refuse_other_magnification(foreign: ForeignTiles, slide_mpp: Mpp) -> None:
    """Refuse tiles whose magnification says that the slide's pixels are of another size.

    Then either the slide's µm per pixel are wrong here, or those that TRIDENT believed.

    :raises SlideError: it says so.
    """
    if wrong := not_its_magnification(foreign.magnification, foreign.size_level0 * slide_mpp / foreign.patch_px):
        wrong += f" as on a slide of {slide_mpp:g}"
        raise SlideError(wrong, path=foreign.path, hint=TRUE_MPP)


def placed_on(
    foreign: ForeignTiles,
    grid: TileGrid,
    level_dimensions: Sequence[tuple[int, int]],
    *,
    native_tolerance: float,
    path: str | PathLike[str],
) -> PlacedTiles:
    """Take foreign tiles for tiles of a grid that was planned for this slide.

    Their field of view must be the grid's to a pixel of level 0 (or half a pixel of the level that is read, if that is
    more). Within ``native_tolerance`` of what was asked it is taken over as it is: programs that think in nominal
    magnifications have 0.505 µm on one slide where they have 0.499 on the next.

    :param level_dimensions: width and height of each level in its own pixels, finest first.
    :param path: the slide, for messages.
    :raises SlideError: another field of view, or tiles of another slide.
    """
    width, height = level_dimensions[0]
    if foreign.slide_size is not None and foreign.slide_size != (width, height):
        wrong = f"made for a slide of {_size(foreign.slide_size)} px, and {path} has {_size((width, height))}"
        raise SlideError(wrong, path=foreign.path, hint="give the coordinates of this very file")
    outside = np.any(foreign.coords >= (width, height), axis=1)
    if outside.any():
        x, y = foreign.coords[outside][0]
        count = f"{int(outside.sum())} of {len(foreign.coords)} tiles"
        wrong = f"{count} lie outside {path} ({_size((width, height))} px), at {x}, {y}, say"
        hint = "they are of another slide, or not in pixels of its level 0: give the coordinates of this very file"
        raise SlideError(wrong, path=foreign.path, hint=hint)
    grid = _with_field_of(foreign, grid, native_tolerance)
    _, first = np.unique(foreign.coords, axis=0, return_index=True)
    coords = foreign.coords[np.sort(first)]
    own = coords / grid.downsample + grid.read_px
    inside = (coords + grid.size_level0 <= (width, height)) & (own <= np.add(level_dimensions[grid.level], _SLACK))
    whole = inside.all(axis=1)
    return PlacedTiles(
        grid=grid,
        coords=coords[whole],
        over_edge=coords[~whole],
        repeated=len(foreign.coords) - len(coords),
    )


def _with_field_of(foreign: ForeignTiles, grid: TileGrid, native_tolerance: float) -> TileGrid:
    slide_mpp = grid.level_mpp / grid.downsample
    if abs(grid.read_px * grid.downsample - foreign.size_level0) <= max(1.0, grid.downsample / 2):
        return grid
    mpp = foreign.size_level0 * slide_mpp / grid.tile_px
    if abs(mpp / grid.mpp - 1) <= native_tolerance:
        return replace(grid, read_px=LevelPx(max(round(foreign.size_level0 / grid.downsample), 1)))
    wrong = (
        f"its tiles have {foreign.size_level0:g} px of level 0 and so {mpp:.6g} µm per pixel at {grid.tile_px} px; "
        f"asked is {grid.mpp:g}"
    )
    raise SlideError(wrong, path=foreign.path, hint=f"ask for what they have: --mpp {mpp:.6g} --tile-px {grid.tile_px}")


def _size(dimensions: tuple[int, int]) -> str:
    return f"{dimensions[0]} × {dimensions[1]}"
