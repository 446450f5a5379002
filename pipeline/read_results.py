"""Results as arrays and frames, for the Python API: thumbnails, predictions, heatmaps."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..data.errors import StoreError
from ..data.file_names import why_no_file_name
from ..data.files.safe_cells import plain_cell
from ..data.json_text import read_bytes
from ..data.slides.readers import open_slide
from ..data.tiling.overview import read_overview
from .view.tile_columns import columns_of_geojson

if TYPE_CHECKING:
    from ..data.slides.slide import Rgb

_TABLES = ("predictions.csv", "oof_predictions.csv")
_WORDS = ("patient_id", "slide_id", "folds", "model", "date")
"""Columns that stay text, whatever they look like."""


def read_thumbnail(slide: str | Path, *, mpp_override: float | None = None) -> Rgb:
    """Read a whole slide at about 8 µm per pixel, (height, width, 3) uint8 RGB.

    :param mpp_override: microns per pixel of level 0, if the file does not state it.
    :raises SlideError: it cannot be opened or decoded, or its mpp is unknown.
    """
    with open_slide(slide, mpp_override) as opened:
        return read_overview(opened).pixels


def read_predictions(folder: str | Path) -> pd.DataFrame:
    """Read a table of predictions: of new slides, of an evaluation, or out of fold.

    Numbers are numbers, and what is missing is NaN or an empty text.

    :param folder: such as ``work/predictions/her2``, ``work/evaluations/her2`` or ``work/models/her2``; or the table.
    :raises StoreError: there is none, or it cannot be read.
    """
    place = Path(folder)
    table = next((file for name in _TABLES if (file := place / name).is_file()), place)
    text = read_bytes(table, StoreError, hint="give a folder of predictions, of an evaluation or of a model").decode()
    header, *rows = [[plain_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""))] or [[]]
    if not {"patient_id", "slide_id"} & set(header):
        raise StoreError("is no table of predictions", path=table, hint="it has a column patient_id")
    frame = pd.DataFrame(rows, columns=header, dtype=str)
    for name in frame.columns.difference(list(_WORDS)):
        numbers = pd.to_numeric(frame[name].where(frame[name] != ""), errors="coerce")
        if (numbers.notna() == (frame[name] != "")).all() and numbers.notna().any():
            frame[name] = numbers
    return frame


def read_heatmap(folder: str | Path, slide: str) -> dict[str, npt.NDArray[np.float32]]:
    """Read the heatmaps of a slide: name of a score → (height, width), four pixels a tile, 0 outside all tiles.

    :param folder: of predictions, such as ``work/predictions/her2``.
    :param slide: the slide's id.
    :raises StoreError: there is none, or it cannot be read.
    """
    import tifffile

    path = _of_slide(folder, "scores", slide, ".ome.tiff")
    try:
        with tifffile.TiffFile(path) as file:
            described = tifffile.xml2dict(file.ome_metadata or "")["OME"]["Image"]["Pixels"]["Channel"]
            planes = np.asarray(file.series[0].asarray(), np.float32)
    except (OSError, ValueError, KeyError, TypeError, tifffile.TiffFileError) as error:
        raise StoreError(f"cannot be read: {error}", path=path, hint="run wsipipe predict again") from error
    channels = described if isinstance(described, list) else [described]
    names = [str(channel["Name"]) for channel in channels]
    return dict(zip(names, planes.reshape(len(names), *planes.shape[-2:]), strict=True))


def read_tile_scores(folder: str | Path, slide: str) -> pd.DataFrame:
    """Read the scores of a slide's tiles: a row a tile, with ``x`` and ``y`` of its upper left corner and each score.

    Positions are in pixels of level 0, from the corner of the scanned area, as QuPath counts.

    :param folder: of predictions, such as ``work/predictions/her2``.
    :param slide: the slide's id.
    :raises StoreError: there are none, or they cannot be read.
    """
    corners, columns = columns_of_geojson(_of_slide(folder, "geojson", slide, ".geojson"))
    return pd.DataFrame({"x": corners[:, 0], "y": corners[:, 1], **columns})


def _of_slide(folder: str | Path, kind: str, slide: str, suffix: str) -> Path:
    """The file of a slide in a folder of predictions.

    :raises StoreError: there is none.
    """
    path = Path(folder) / kind / f"{slide}{suffix}"
    if why_no_file_name(slide) or not path.is_file():
        there = sorted(file.name.removesuffix(suffix) for file in (Path(folder) / kind).glob(f"*{suffix}"))
        hint = f"there are {', '.join(there[:5])}" if there else "give a folder such as work/predictions/her2"
        raise StoreError(f"there is nothing of slide {slide!r}", path=Path(folder) / kind, hint=hint)
    return path
