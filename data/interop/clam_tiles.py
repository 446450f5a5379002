"""Tile positions as CLAM's extract_features_fp reads them, and the list of slides that it works through.

It reads ``<data_h5_dir>/patches/<slide>.h5``: for every row of ``coords`` the square of ``patch_size`` pixels of level
``patch_level`` whose upper left corner is there, in pixels of level 0. That is the square we read ourselves, pixel for
pixel; the resize to the backbone's input after it is CLAM's own (``--target_patch_size``). The other attributes are
those of create_patches_fp, for scripts that look at them:

=====================  ==================================================================================
downsample             pixels of level 0 along one of the level, (x, y)
downsampled_level_dim  width and height of the level that is read; to a pixel, for a tile set does not keep it
level_dim              the same
name, save_path        the slide's id; and ``.``, for a folder may move
=====================  ==================================================================================
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np

from ..artifact import whole
from ..errors import SlideError
from ..tiling.store import TileSet


def write_clam_tiles(path: Path, tiles: TileSet) -> None:
    """Write the positions of a slide's tiles for CLAM, whole; the same tiles give the same bytes.

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
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        # In one piece, without chunks: CLAM reads it row by row.
        coords = file.create_dataset("coords", data=tiles.coords.astype(np.int64), track_times=False)
        for key, value in attributes.items():
            coords.attrs[key] = value
    with whole(path) as scratch:
        scratch.write_bytes(buffer.getvalue())


def clam_process_list(slides: Sequence[str]) -> str:
    """The CSV that extract_features_fp takes as ``--csv_path``; create_patches_fp calls it process_list_autogen.csv.

    It takes the part of ``slide_id`` before the first occurrence of ``--slide_ext`` for the slide's name, looks for
    ``<name>.h5`` and ``<name><slide_ext>``, and knows one extension a run: slides of two formats need two runs.

    :param slides: file names of the slides, with their extensions.
    :raises SlideError: a name that CLAM would not find again.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["slide_id", "process", "status"])
    for slide in slides:
        name = PurePath(slide)
        if not name.suffix or slide != name.name or name.suffix in name.stem:
            wrong = "CLAM finds slides by a file name with one extension, which must not occur in the name as well"
            raise SlideError(wrong, path=slide, hint="rename the slide, or leave it out of the export")
        rows.writerow([slide, 0, "processed"])
    return text.getvalue()
