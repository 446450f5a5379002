"""CLAM's files: what its attributes say of tiles, and tiles, its list of slides and features written as it reads them.

``patches/<slide>.h5`` of create_patches_fp
    ``coords`` (N, 2), x and y of the upper left corners in pixels of level 0, and in its attributes the rest. CLAM
    reads ``patch_size`` pixels of the pyramid's level ``patch_level``; the field of view is ``patch_size`` ×
    ``downsample``, which is a pair (x, y). ``level_dim`` and ``downsampled_level_dim`` are both the size of that level.
    With its usual padding tiles may reach over the edge, and every piece of tissue has a grid of its own.

``h5_files/<slide>.h5`` and ``pt_files/<slide>.pt`` of extract_features_fp
    ``features`` (N, D) float32 and ``coords`` (N, 2) int32 without any attribute; the ``.pt`` is the features alone,
    as a torch tensor, which is what CLAM trains on. How large the tiles were only ``patches/<slide>.h5`` knows.

What cannot be read: CLAM's older files that keep the pictures (``imgs``) have coordinates in pixels of the level they
were read from. ``custom_downsample`` (Fishing-Rod) has meant different things to different versions of the programs
that read it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..artifact import whole
from ..errors import SlideError
from ..files.hdf5 import whole_hdf5
from ..tiling.store import TileSet
from .hdf5_arrays import Attributes, write_array

if TYPE_CHECKING:
    from ..features.store import Bag

_SQUARE_WITHIN: Final = 0.01  # relative: sizes of levels are rounded to whole pixels, each axis by itself
_LARGEST: Final = 2**40
"""Downsamples that no level has."""


def is_clam_s(coords: Attributes) -> bool:
    """Whether these are the attributes that CLAM gives to ``coords`` of tiles."""
    return "patch_level" in coords.values


def refuse_pictures(names: Sequence[str]) -> None:
    """Refuse (``SlideError``) CLAM's older files, by the names of what they hold."""
    if "imgs" in names:
        raise SlideError(
            "made by CLAM's create_patches, which keeps pictures: its coordinates are not in pixels of level 0"
        )


def clam_field_of_view(coords: Attributes) -> float:
    """Side of a tile in pixels of level 0.

    :raises SlideError: the attributes do not say it, or mean no square.
    """
    if coords.values.get("custom_downsample", 1) != 1:
        raise SlideError("its custom_downsample leaves open how large the tiles are")
    if "downsample" not in coords.values and coords.number("patch_level") == 0:
        return coords.size("patch_size")
    said = coords.values.get("downsample")
    try:
        pair = np.broadcast_to(np.asarray(said, np.float64), 2)
    except (TypeError, ValueError):
        pair = np.full(2, math.nan)
    mean = float(pair.mean()) if (pair < _LARGEST).all() else math.nan
    if not (mean >= 1 and np.ptp(pair) <= _SQUARE_WITHIN * mean):
        raise SlideError(f"its downsample is {said}, which is no pair of sizes")
    return coords.size("patch_size") * mean


def write_clam_tiles(path: Path, tiles: TileSet) -> None:
    """Write the positions of a slide's tiles for CLAM's extract_features_fp, whole; the same tiles give the same bytes.

    For every row of ``coords`` it reads the square of ``patch_size`` pixels of level ``patch_level`` whose upper left
    corner is there. That is the square we read ourselves, pixel for pixel; the resize to the backbone's input after it
    is CLAM's own (``--target_patch_size``). The other attributes are for scripts that look at them: ``level_dim``
    and ``downsampled_level_dim`` are right to a pixel, for a tile set does not keep the level's size, and
    ``save_path`` is ``.``, for a folder may move.

    :raises SlideError: there are no tiles; CLAM writes no file for such a slide, and fails on one.
    :raises SurroundingsError: the disk is full or read-only.
    """
    if not len(tiles):
        raise SlideError("it has no tiles, and CLAM cannot read an empty list", path=path, hint="leave the slide out")
    grid = tiles.grid
    level_size = np.array([max(round(side / grid.downsample), 1) for side in tiles.slide_size], np.int64)
    attributes: dict[str, Any] = {
        "patch_size": int(grid.read_px),
        "patch_level": grid.level,
        "downsample": np.array([grid.downsample, grid.downsample]),
        "downsampled_level_dim": level_size,
        "level_dim": level_size,
        "name": tiles.slide_id,
        "save_path": ".",
    }
    with whole_hdf5(path) as file:
        # In one piece, without chunks: CLAM reads it row by row.
        coords = file.create_dataset("coords", data=tiles.coords.astype(np.int64), track_times=False)
        for key, value in attributes.items():
            coords.attrs[key] = value


def clam_process_list(slides: Sequence[str]) -> str:
    """The CSV that extract_features_fp takes as ``--csv_path``; create_patches_fp calls it process_list_autogen.csv.

    It takes the part of ``slide_id`` before the first occurrence of ``--slide_ext`` for the slide's name, looks for
    ``<name>.h5`` and ``<name><slide_ext>``, and knows one extension a run: slides of two formats need two runs.

    :param slides: file names of the slides, with their extensions.
    :raises SlideError: a name that CLAM would not find again.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")  # as CLAM reads it: names stay as they are
    rows.writerow(["slide_id", "process", "status"])
    for slide in slides:
        name = PurePath(slide)
        if not name.suffix or slide != name.name or name.suffix in name.stem:
            wrong = "CLAM finds slides by a file name with one extension, which must not occur in the name as well"
            raise SlideError(wrong, path=slide, hint="rename the slide, or leave it out of the export")
        rows.writerow([slide, 0, "processed"])
    return text.getvalue()


def write_clam_features(folder: Path, slide_id: str, bag: Bag) -> None:
    """Write ``h5_files/<id>.h5`` and ``pt_files/<id>.pt`` as CLAM does, each whole; the same bag gives the same bytes
    (of the ``.pt``, with the same version of torch).

    :raises SlideError: there are no tiles; CLAM's networks cannot take an empty bag.
    :raises SurroundingsError: the disk is full or read-only.
    """
    import torch  # of all formats this one alone needs it

    if not len(bag.features):
        raise SlideError("it has no tiles, and CLAM cannot take an empty bag", path=slide_id, hint="leave it out")
    with whole_hdf5(folder / "h5_files" / f"{slide_id}.h5") as file:
        write_array(file, "features", bag.features, "<f4")
        write_array(file, "coords", bag.coords, "<i4")
    stream = io.BytesIO()  # torch writes a file's own name into it, and a scratch file has another
    torch.save(torch.from_numpy(bag.features.astype(np.float32)), stream)
    with whole(folder / "pt_files" / f"{slide_id}.pt") as scratch:
        scratch.write_bytes(stream.getbuffer())
