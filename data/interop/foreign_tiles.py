"""Tile positions that another program has chosen: TRIDENT's and CLAM's HDF5 files.

Both hold ``coords`` (N, 2), x and y of the upper left corners in pixels of level 0, and say the rest in its attributes.

TRIDENT (``patches/<slide>_patches.h5``; its feature files carry the same attributes)
    reads squares of ``round(patch_size × level0_magnification / target_magnification)`` pixels of level 0; that is the
    field of view. Its magnifications are nominal (anything up to 0.3 µm is "40"), so only their ratio means something.
    ``patch_size_level0`` says the same rounded down. Newer files tell ``level0_width`` and ``level0_height``.
    Tiles may reach over the right and lower edge of the slide.

CLAM (``patches/<slide>.h5`` of create_patches_fp)
    reads ``patch_size`` pixels of the pyramid's level ``patch_level``; the field of view is ``patch_size`` ×
    ``downsample``, which is a pair (x, y). ``level_dim`` and ``downsampled_level_dim`` are both the size of that level.
    With its usual padding tiles may reach over the edge, and every piece of tissue has a grid of its own.

What cannot be read: CLAM's older files that keep the pictures (``imgs``) have coordinates in pixels of the level they
were read from, and feature files of CLAM have ``coords`` without any attribute, so that nobody knows how large a tile
was. ``custom_downsample`` (Fishing-Rod) has meant different things to different versions of the programs that read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np

from ..errors import SlideError, about
from ..slides.finding import existing
from ..surroundings import patiently, reading_fault
from ..tiling.grid import Coords, TileGrid
from ..units import Level0Px, LevelPx, TilePx

Source = Literal["trident", "clam"]

_AGAIN: Final = "make the coordinates again with a current TRIDENT or with CLAM's create_patches_fp"
_SQUARE_WITHIN: Final = 0.01  # relative: sizes of levels are rounded to whole pixels, each axis by itself
_SLACK: Final = 1e-6  # px: positions divided by a fractional downsample


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
    places = [place / name for place in (folder, folder / "patches") for name in _names(slide_id)]
    found = next((file for place in places if (file := existing(place)) and file.is_file()), None)
    if found is None:
        looked_for = ", ".join(place.relative_to(folder).as_posix() for place in places)
        hint = "give the folder that TRIDENT or CLAM has written `patches/` into, or leave the slide out"
        raise SlideError(f"no coordinates for {slide_id!r}; looked for {looked_for}", path=folder, hint=hint)
    return found


def _names(slide_id: str) -> tuple[str, str]:
    return f"{slide_id}_patches.h5", f"{slide_id}.h5"


def read_foreign_tiles(path: Path) -> ForeignTiles:
    """Read the coordinates of one slide, and how large its tiles are.

    :raises SlideError: no such file, no HDF5, no coordinates in it, or nothing that tells the size of the tiles.
    """
    with about(path):
        values, attributes, has_pictures = patiently(lambda: _held(path), path)
        if has_pictures:
            wrong = "made by CLAM's create_patches, which keeps pictures: its coordinates are not in pixels of level 0"
            raise SlideError(wrong, hint=_AGAIN)
        told = _Attributes(attributes)
        if {"target_magnification", "patch_size_level0"} & set(attributes):
            source: Source = "trident"
            size_level0 = _trident_size(told)
        elif "patch_level" in attributes:
            source = "clam"
            size_level0 = _clam_size(told)
        else:
            held = ", ".join(attributes) or "none"
            wrong = f"it does not say how large the tiles are (attributes of `coords`: {held})"
            hint = "give the files in `patches/` that the features were made from, not the features; or " + _AGAIN
            raise SlideError(wrong, hint=hint)
        width, height = told.number("level0_width"), told.number("level0_height")
        name = attributes.get("name")
        return ForeignTiles(
            path=path,
            source=source,
            coords=_coords(values),
            size_level0=size_level0,
            patch_px=TilePx(round(told.needed("patch_size"))),
            name=name.decode() if isinstance(name, bytes) else None if name is None else str(name),
            slide_size=None if width is None or height is None else (Level0Px(round(width)), Level0Px(round(height))),
        )


def _held(path: Path) -> tuple[Any, dict[str, Any], bool]:
    """Coordinates, their attributes, and whether there are pictures."""
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("coords"), h5py.Dataset):
                held = ", ".join(sorted(file)) or "nothing"
                raise SlideError(f"no dataset `coords` in it (it holds {held})", hint=_AGAIN)
            return file["coords"][()], dict(file["coords"].attrs), "imgs" in file
    except FileNotFoundError as error:
        raise SlideError("there is no such file", hint=_AGAIN) from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        if reading_fault(error):
            raise
        raise SlideError(f"not HDF5, or damaged: {error}", hint=_AGAIN) from error


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


@dataclass(frozen=True)
class _Attributes:
    values: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        """None where it is missing (TRIDENT writes ``None`` as a word)."""
        value = self.values.get(name)
        if value is None or str(value) == "None":
            return None
        try:
            number = float(np.asarray(value, np.float64).reshape(()))
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise SlideError(f"its {name} is {value!r}, which is no size", hint=_AGAIN)
        return number

    def needed(self, name: str) -> float:
        number = self.number(name)
        if not number:
            raise SlideError(f"it does not say how large the tiles are: no {name}", hint=_AGAIN)
        return number


def _trident_size(told: _Attributes) -> float:
    said = told.number("patch_size_level0")
    level0, target = told.number("level0_magnification"), told.number("target_magnification")
    if not level0 or not target:
        return float(told.needed("patch_size_level0"))
    size = float(round(told.needed("patch_size") * level0 / target))
    if said and abs(said - size) > 1:
        wrong = f"it contradicts itself: tiles of {size:g} px of level 0 by their magnifications, and of {said:g}"
        raise SlideError(wrong, hint=_AGAIN)
    return size


def _clam_size(told: _Attributes) -> float:
    if told.values.get("custom_downsample", 1) != 1:
        wrong = "its custom_downsample leaves open how large the tiles are"
        raise SlideError(wrong, hint=_AGAIN)
    if "downsample" not in told.values and told.number("patch_level") == 0:
        return told.needed("patch_size")
    try:
        pair = np.broadcast_to(np.asarray(told.values.get("downsample"), np.float64), 2)
    except (TypeError, ValueError):
        pair = np.full(2, math.nan)
    mean = float(pair.mean())
    if not (mean >= 1 and np.ptp(pair) <= _SQUARE_WITHIN * mean):
        said = told.values.get("downsample")
        raise SlideError(f"its downsample is {said}, which is no pair of sizes", hint=_AGAIN)
    return told.needed("patch_size") * mean


def _coords(values: Any) -> Coords:
    coords = np.asarray(values)
    if coords.size == 0:
        return np.zeros((0, 2), np.int64)
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iuf":
        wrong = f"its coordinates have the shape {coords.shape} and the type {coords.dtype}, not (N, 2) and numbers"
        raise SlideError(wrong, hint=_AGAIN)
    if not (np.isfinite(coords) & (coords == np.round(coords)) & (np.abs(coords) < 2**40)).all():
        raise SlideError("its coordinates are not whole pixels of level 0", hint=_AGAIN)
    if (coords < 0).any():
        wrong = f"{int((coords < 0).any(axis=1).sum())} tiles have negative coordinates"
        raise SlideError(wrong, hint=_AGAIN)
    return coords.astype(np.int64)
