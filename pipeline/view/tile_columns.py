"""What is known of each tile of a slide: every number that a stage has written, by the name that it has there.

Tiling wrote the tissue fraction and the sharpness. Predictions wrote a column for each of their measurements:
attention, scores, and whatever else a version of wsipipe may write, into GeoJSON for QuPath.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ...data.errors import StoreError
from ...data.json_text import MOST_BYTES, read_bytes
from ...data.tiling.grid import Coords
from .inside import inside
from .slide_list import Scored

Column = npt.NDArray[np.float64]
"""(N,) a number for each of the slide's tiles, NaN where there is none."""

_AGAIN: Final = "remove it and run wsipipe predict again: only this slide is read again"


class _Geometry(msgspec.Struct):
    coordinates: list[list[tuple[float, float]]]


class _Properties(msgspec.Struct):
    measurements: dict[str, float]


class _Feature(msgspec.Struct):
    geometry: _Geometry
    properties: _Properties


class _Collection(msgspec.Struct):
    features: list[_Feature]


def predicted_columns(
    workspace: Path, scored: Scored, coords: Coords, origin: tuple[int, int]
) -> Iterator[tuple[str, Column]]:
    """The columns of a prediction, by name.

    :param coords: (N, 2) the slide's tiles, in pixels of level 0.
    :param origin: where GeoJSON counts from, see :attr:`~wsipipe.data.slides.slide.Slide.origin`.
    :raises StoreError: missing, damaged, or of other tiles.
    """
    for output in scored.outputs.values():
        path = inside(workspace, output.path)
        if path.suffix != ".geojson":
            continue
        corners, columns = columns_of_geojson(path)
        corners = corners + origin
        at = places_in(coords, corners)
        if (at < 0).any():
            what = f"{(at < 0).sum()} of {len(at)} tiles are not those of the slide's present tile set"
            raise StoreError(what, path=path, hint=_AGAIN)
        for name, values in columns.items():
            column = np.full(len(coords), np.nan)
            column[at] = values
            yield name, column


def places_in(coords: Coords, corners: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where each corner (M, 2) is among the tiles (N, 2); -1 for one that is not."""
    if not len(coords):
        return np.full(len(corners), -1, np.intp)
    known, asked = (_one_number(np.rint(of)) for of in (coords, corners))
    order = np.argsort(known, kind="stable")
    at = order[np.searchsorted(known, asked, sorter=order).clip(0, len(order) - 1)]
    return np.where(known[at] == asked, at, -1)


def _one_number(places: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    x, y = places.astype(np.int64).reshape(-1, 2).T
    return np.asarray((y << 32) + x)


def columns_of_geojson(path: Path) -> tuple[npt.NDArray[np.float64], Mapping[str, Column]]:
    """The corners (M, 2) and the measurements of the tiles of a prediction's GeoJSON.

    :raises StoreError: missing or damaged.
    """
    try:
        features = msgspec.json.decode(read_bytes(path, StoreError, hint=_AGAIN, most=MOST_BYTES), type=_Collection)
        corners = np.array([one.geometry.coordinates[0][0] for one in features.features], np.float64).reshape(-1, 2)
        names = dict.fromkeys(name for one in features.features for name in one.properties.measurements)
        columns = {
            name: np.array([one.properties.measurements.get(name, np.nan) for one in features.features], np.float64)
            for name in names
        }
    except (msgspec.MsgspecError, ValueError, IndexError, OverflowError, RecursionError, OSError) as error:
        raise StoreError(f"cannot be read: {error}", path=path, hint=_AGAIN) from error
    return _finite(corners, path), columns


def _finite(corners: npt.NDArray[np.float64], path: Path) -> npt.NDArray[np.float64]:
    if not (np.abs(corners) < 2**31).all():
        raise StoreError("holds positions that no slide has", path=path, hint=_AGAIN)
    return corners
