"""The tiles of one slide: a record, the HDF5 file that stores it, and their pixels.

The file holds ``coords`` (N, 2) int64, ``tissue_fraction`` (N,) and ``sharpness`` (N,) float32, and TRIDENT can read it
unchanged: ``coords`` carries TRIDENT's attributes beside ours. TRIDENT's magnifications are 10 / mpp; from ours it
derives the same field of view, to a pixel of the level that it reads. It looks for ``patches/<id>_patches.h5``, where
``wsipipe export trident`` writes a copy of this file. If artefacts were looked for, ``artefacts`` (N, kinds) float32
says how much of each tile they cover; their names are in its attribute ``kinds``. Tiles that were dropped for them are
in ``dropped_coords`` (M, 2) and ``dropped_artefacts`` (M, kinds), if there are any.

====================  ==========================================================================
patch_size            side of a tile as the backbone sees it, px
patch_size_level0     the same in px of level 0
level0_magnification  10 / mpp of level 0
target_magnification  10 / true mpp of the tiles (slightly different from the requested mpp, see TileGrid)
overlap               px of the tile
name, savetodir       the slide's id; and ``.``, because a workspace may move
level0_width, _height px
====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..artifact import digest_of
from ..errors import StoreError
from ..files.hdf5 import Hdf5Content, read_hdf5, whole_hdf5
from ..files.reading_process import UnreadableError
from ..plain_files import refuse_pipe
from ..slides.slide import Rgb, Slide
from ..surroundings import patiently
from ..units import Level0Px, LevelPx, Mpp, TilePx
from ..version import __version__
from .artefacts import ARTEFACTS, DroppedTiles, TileArtefacts
from .grid import Coords, TileGrid
from .resize import resize_tile

ENCODING_TYPE: Final = "wsipipe-tiles"
ENCODING_VERSION: Final = "1"

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class TileSet:
    """The kept tiles of a slide, with everything needed to read their pixels."""

    slide_id: str
    slide_format: str
    """See :attr:`.slide.Slide.format`."""
    slide_size: tuple[Level0Px, Level0Px]
    """Width and height of level 0."""
    slide_mpp: Mpp
    """Microns per pixel of level 0 that was used: the file's, or an override."""
    grid: TileGrid
    min_tissue: float
    """Tiles with a smaller fraction of tissue are not in the set."""
    coords: Coords
    """(N, 2) x and y of the upper left corners in pixels of level 0, row by row."""
    tissue_fraction: Scores
    """(N,) from 0 to 1."""
    sharpness: Scores
    """(N,), see :mod:`.sharpness`; NaN for tiles that cannot be decoded."""
    sharpness_mpp: Mpp
    """Resolution at which sharpness was measured."""
    wsipipe: str = __version__
    """Version of wsipipe that made the set."""
    artefacts: TileArtefacts | None = None
    """How much of each tile artefacts cover; None if they were not looked for."""
    dropped: DroppedTiles | None = None
    """Tiles that were dropped for their artefacts; None if there are none."""

    def __len__(self) -> int:
        return len(self.coords)


def read_tile(slide: Slide, tiles: TileSet, index: int) -> Rgb:
    """Read the pixels of one tile, (tile_px, tile_px, 3) uint8 RGB, as the backbone needs them.

    A native tile is the slide's own pixels. Others are resized once: antialiased when they shrink, bicubic when
    ``allow_upsample`` enlarges them; see :func:`~.resize.resize_tile`.

    :raises SlideError: it cannot be decoded. There is no substitute: leave the tile out, and count it.
    """
    x, y = tiles.coords[index]
    return read_tile_at(slide, tiles.grid, int(x), int(y))


def read_tile_at(slide: Slide, grid: TileGrid, x: int, y: int) -> Rgb:
    """Read the pixels of the tile whose upper left corner is at (x, y) in pixels of level 0; see :func:`read_tile`."""
    return resize_tile(slide.read(grid.level, Level0Px(x), Level0Px(y), grid.read_px, grid.read_px), grid.tile_px)


def write_tiles(path: Path, tiles: TileSet) -> None:
    """Write a tile set, completely or not at all.

    The same set gives the same bytes: no times, no compression, a fixed order.

    :raises SurroundingsError: the disk is full or read-only.
    """
    with whole_hdf5(path) as file:
        file.attrs["encoding-type"] = ENCODING_TYPE
        file.attrs["encoding-version"] = ENCODING_VERSION
        arrays: dict[str, npt.NDArray[Any]] = {
            "coords": tiles.coords.astype(np.int64),
            "tissue_fraction": tiles.tissue_fraction.astype(np.float32),
            "sharpness": tiles.sharpness.astype(np.float32),
        }
        if tiles.artefacts is not None:
            arrays[_ARTEFACTS] = tiles.artefacts.shares.astype(np.float32)
        if tiles.dropped is not None:
            arrays[_DROPPED] = tiles.dropped.coords.astype(np.int64)
            arrays[_DROPPED_ARTEFACTS] = tiles.dropped.artefacts.shares.astype(np.float32)
        for name, array in arrays.items():
            # One chunk, so that each array has a checksum.
            chunks = (max(len(array), 1), *array.shape[1:])
            file.create_dataset(
                name, data=array, chunks=chunks, maxshape=(None, *array.shape[1:]), fletcher32=True, track_times=False
            )
        for key, value in (_trident_attributes(tiles) | _own_attributes(tiles)).items():
            file["coords"].attrs[key] = value
        for name in (_ARTEFACTS, _DROPPED_ARTEFACTS):
            if name in arrays:
                file[name].attrs[_KINDS] = ", ".join(ARTEFACTS)


def read_tiles(path: str | Path, *, digest: str | None = None) -> TileSet:
    """Read a tile set.

    :param digest: what the manifest says of the file's bytes; others are refused.
    :raises StoreError: no such file, damaged, not a tile set of wsipipe, or of an unknown encoding version.
    :raises SurroundingsError: it cannot be read for some seconds.
    """
    return patiently(lambda: _read(Path(path), digest), path)


def count_tiles(path: Path) -> int:
    """Read the number of tiles in a set.

    :raises StoreError: damaged, or not a tile set.
    """
    return patiently(lambda: _count(path), path)


def _read(path: Path, digest: str | None) -> TileSet:
    with _damage_named(path):
        if digest is not None and digest_of(path) != digest:
            raise StoreError("its bytes are not those that `wsipipe tile` has recorded", path=path, hint=_AGAIN)
        content = _content(path)
        _length(content)
        artefacts = _artefacts_in(content, _ARTEFACTS, "coords")
        return _tile_set(content.attributes["coords"], content.arrays, artefacts, _dropped_in(content))


def _count(path: Path) -> int:
    with _damage_named(path):
        return _length(_content(path, only_shapes=True))


_AGAIN: Final = "make the tiles again: remove it and run `wsipipe tile`"


def _content(path: Path, *, only_shapes: bool = False) -> Hdf5Content:
    content = read_hdf5(path, *_SHAPES, _ARTEFACTS, _DROPPED, _DROPPED_ARTEFACTS, only_shapes=only_shapes)
    encoding = content.of_file.get("encoding-type"), content.of_file.get("encoding-version")
    if encoding[0] != ENCODING_TYPE:
        raise StoreError("not a tile set of wsipipe", path=path, hint=_AGAIN)
    if encoding[1] != ENCODING_VERSION:
        wrong = f"encoding version {encoding[1]} (this wsipipe reads {ENCODING_VERSION})"
        raise StoreError(wrong, path=path, hint="use the wsipipe that wrote it, or " + _AGAIN)
    return content


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    refuse_pipe(path, StoreError)
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError("there is no such tile set", path=path, hint="run `wsipipe tile` first") from error
    except KeyError as error:
        raise StoreError(f"damaged: no {error.args[0]} in it", path=path, hint=_AGAIN) from error
    except (UnreadableError, ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"damaged: {error}", path=path, hint=_AGAIN) from error


_SHAPES: Final = {"coords": (2,), "tissue_fraction": (), "sharpness": ()}
_ARTEFACTS: Final = "artefacts"
_DROPPED: Final = "dropped_coords"
_DROPPED_ARTEFACTS: Final = "dropped_artefacts"
_KINDS: Final = "kinds"
_LARGEST: Final = 2**31
_SIZES: Final = {
    "patch_size": 8192,
    **dict.fromkeys(("read_px", "slide_mpp", "mpp", "level_mpp", "level_downsample"), _LARGEST),
    **dict.fromkeys(("level0_width", "level0_height", "sharpness_mpp"), _LARGEST),
}
"""The most that each size may be: of a tile, what the tile stage allows; of the others, what no slide has."""


def _length(content: Hdf5Content) -> int:
    """The number of tiles, by which the arrays must be as long."""
    count = int(content.attributes["coords"]["tile_count"])
    for name, shape in _SHAPES.items():
        if content.shapes[name] != (count, *shape):
            raise ValueError(f"{name} has the shape {content.shapes[name]}, not {(count, *shape)}")
    return count


def _artefacts_in(content: Hdf5Content, name: str, places: str) -> TileArtefacts | None:
    """The artefacts of the tiles at these places, if the file has them."""
    if name not in content.arrays:
        return None
    shares, kinds = content.arrays[name], content.attributes[name][_KINDS]
    wanted = (len(content.arrays[places]), len(ARTEFACTS))
    if kinds != ", ".join(ARTEFACTS):
        raise ValueError(f"{name} holds {kinds}, not {', '.join(ARTEFACTS)}")
    if shares.dtype.kind not in "if" or shares.shape != wanted:
        raise ValueError(f"{name} has the shape {shares.shape} of {shares.dtype}, not {wanted} of numbers")
    return TileArtefacts(shares)


def _dropped_in(content: Hdf5Content) -> DroppedTiles | None:
    """The tiles that were dropped for artefacts, if the file has any."""
    if _DROPPED not in content.arrays:
        return None
    coords, artefacts = content.arrays[_DROPPED], _artefacts_in(content, _DROPPED_ARTEFACTS, _DROPPED)
    if artefacts is None or coords.dtype.kind not in "if" or coords.shape[1:] != (2,):
        raise ValueError(f"{_DROPPED} has the shape {coords.shape} of {coords.dtype}, and {_DROPPED_ARTEFACTS} with it")
    return DroppedTiles(coords, artefacts)


def _tile_set(
    attributes: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    artefacts: TileArtefacts | None,
    dropped: DroppedTiles | None,
) -> TileSet:
    for name in _SHAPES:
        if arrays[name].dtype.kind not in "if":
            raise ValueError(f"{name} holds {arrays[name].dtype}, no numbers")
    for name, most in _SIZES.items():
        if not 0 < float(attributes[name]) <= most:
            raise ValueError(f"its {name} is {attributes[name]}, which is no size (the most is {most:,})")
    return TileSet(
        slide_id=str(attributes["name"]),
        slide_format=str(attributes["slide_format"]),
        slide_size=(Level0Px(int(attributes["level0_width"])), Level0Px(int(attributes["level0_height"]))),
        slide_mpp=Mpp(float(attributes["slide_mpp"])),
        grid=TileGrid(
            mpp=Mpp(float(attributes["mpp"])),
            tile_px=TilePx(int(attributes["patch_size"])),
            overlap=TilePx(int(attributes["overlap"])),
            level=int(attributes["level"]),
            downsample=float(attributes["level_downsample"]),
            level_mpp=Mpp(float(attributes["level_mpp"])),
            read_px=LevelPx(int(attributes["read_px"])),
            columns=int(attributes["grid_columns"]),
            rows=int(attributes["grid_rows"]),
        ),
        min_tissue=float(attributes["min_tissue"]),
        coords=arrays["coords"],
        tissue_fraction=arrays["tissue_fraction"],
        sharpness=arrays["sharpness"],
        sharpness_mpp=Mpp(float(attributes["sharpness_mpp"])),
        wsipipe=str(attributes["wsipipe_version"]),
        artefacts=artefacts,
        dropped=dropped,
    )


def _trident_attributes(tiles: TileSet) -> dict[str, int | float | str]:
    return {
        "patch_size": int(tiles.grid.tile_px),
        "patch_size_level0": int(tiles.grid.size_level0),
        "level0_magnification": 10 / tiles.slide_mpp,
        "target_magnification": 10 / tiles.grid.tile_mpp,
        "overlap": int(tiles.grid.overlap),
        "name": tiles.slide_id,
        "savetodir": ".",
        "level0_width": int(tiles.slide_size[0]),
        "level0_height": int(tiles.slide_size[1]),
    }


def _own_attributes(tiles: TileSet) -> dict[str, int | float | str | bool]:
    """Build the attributes that TRIDENT does not have; ``mpp`` in a name means microns per pixel."""
    grid = tiles.grid
    return {
        "tile_count": len(tiles),
        "slide_format": tiles.slide_format,
        "slide_mpp": float(tiles.slide_mpp),
        "mpp": float(grid.mpp),
        "tile_mpp": float(grid.tile_mpp),
        "level": grid.level,
        "level_downsample": grid.downsample,
        "level_mpp": float(grid.level_mpp),
        "read_px": int(grid.read_px),
        "resampled": not grid.native,
        "grid_columns": grid.columns,
        "grid_rows": grid.rows,
        "min_tissue": tiles.min_tissue,
        "sharpness_mpp": float(tiles.sharpness_mpp),
        "wsipipe_version": tiles.wsipipe,
    }
