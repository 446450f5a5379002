"""A slide as it is viewed: its tiles, its layers, its outlines, and what lies at a place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...data.errors import StoreError, WsipipeError
from ...data.features.store import read_facts
from ...data.interop.qupath import placed, read_annotations
from ...data.slides.slide import Slide
from ...data.tiling.grid import Coords
from ...data.tiling.store import TileSet, read_tiles
from ...data.wording import figure
from ...stages.predict.reading import read_outputs
from .inside import inside, stamp
from .layers import DROPPED, KEPT, UNREADABLE, Codes, Layer, kept_picture, picture
from .slide_list import Scored, SlideRow
from .tile_columns import places_in, predicted_columns
from .tile_raster import Places, TilePlaces
from .zoom_tiles import most_zoom

MOST_LOADED: Final = 4
"""Slides whose layers stay in memory: of 100,000 tiles some MB each."""
_MOST_GRID: Final = 2_000_000
"""Positions of a grid; beyond it the dropped ones are not shown."""
_MOST_PLACES: Final = 128
"""Zoom tiles of a slide for which it is kept which tile lies where, of 256 kB each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewedSlide:
    """What is laid over a slide.

    :param coords: (M, 2) the kept tiles, then the dropped ones.
    :param kinds: (M + 1,) which is which.
    """

    tiles: TileSet
    coords: Coords
    kinds: Codes
    layers: Mapping[str, Layer]
    notes: Sequence[str]
    outlines: Sequence[Sequence[npt.NDArray[np.float64]]]
    folds: Mapping[str, Mapping[int, float]]
    """Name of the predictions → fold → its score; without tasks that have several."""
    _places: TilePlaces
    _kept: OrderedDict[tuple[int, int, int], Places] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def described(self, slide: Slide) -> dict[str, Any]:
        """What the page needs to know."""
        width, height = slide.dimensions
        grid = self.tiles.grid
        return {
            "width": int(width),
            "height": int(height),
            "zoom": most_zoom(slide.dimensions),
            "mpp": float(self.tiles.slide_mpp),
            "tile": int(grid.size_level0),
            "facts": [
                f"{width:,} × {height:,} px at {self.tiles.slide_mpp:.4g} µm",
                f"{len(self.tiles):,} tiles of {grid.tile_px} px at {grid.tile_mpp:.4g} µm",
            ],
            "reader": slide.reader,
            "folds": self.folds,
            "layers": [layer.described(self.tiles.coords) for layer in self.layers.values()],
            "notes": list(self.notes),
        }

    def picture(self, layer: str, scale: str, zoom: int, column: int, row: int) -> bytes:
        """The numbers of a layer under the pixels of a zoom tile.

        :param layer: its id; ``kept`` for which tiles are kept.
        :raises LookupError: there is no such layer or zoom.
        """
        finest = most_zoom(self.tiles.slide_size)
        if not 0 <= zoom <= finest:
            raise LookupError(f"there is no zoom {zoom}")
        places = self._raster(finest - zoom, column, row)
        if layer == "kept":
            return kept_picture(self.kinds, places, self.tiles.grid.size_level0 / (1 << (finest - zoom)))
        count = len(self.tiles)
        return picture(self.layers[layer], scale, np.where(places < count, places, -1))

    def at(self, x: float, y: float) -> dict[str, Any] | None:
        """The tile at a place and its values, in words; None if there is none."""
        number = self._places.at(x, y)
        if number is None:
            return None
        left, top = (int(at) for at in self.coords[number])
        kind = {KEPT: "kept", DROPPED: "dropped", UNREADABLE: "cannot be decoded"}[int(self.kinds[number])]
        values: list[tuple[str, str]] = []
        if number < len(self.tiles):
            for layer in self.layers.values():
                value = float(layer.values[number])
                if np.isfinite(value):
                    named = f"{layer.of} · {layer.name}" if layer.of else layer.name
                    values.append((named, figure(value) if layer.kind != "classes" else str(int(value))))
        side = int(self.tiles.grid.size_level0)
        return {"x": left, "y": top, "side": side, "kind": kind, "values": values}

    def _raster(self, coarser: int, column: int, row: int) -> Places:
        key = (coarser, column, row)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        places = self._places.raster(1 << coarser, column, row)
        with self._lock:
            self._kept[key] = places
            while len(self._kept) > _MOST_PLACES:
                self._kept.popitem(last=False)
        return places


class ViewedSlides:
    """The slides that were viewed last, read again when one of their files has changed."""

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._lock = Lock()
        self._loaded: OrderedDict[Hashable, ViewedSlide] = OrderedDict()

    def of(self, row: SlideRow, slide: Slide) -> ViewedSlide:
        """The slide of a row.

        :param slide: the same, open.
        :raises StoreError: its tiles cannot be read. Layers that cannot be read become notes.
        """
        outputs = [*row.record.outputs.values(), *(one for scored in row.scored for one in scored.outputs.values())]
        key = (row.key, slide.dimensions, *(stamp(self._workspace / output.path) for output in outputs))
        with self._lock:  # of two who ask for the same slide, one reads it
            if key not in self._loaded:
                self._loaded[key] = self._read(row, slide)
            self._loaded.move_to_end(key)
            while len(self._loaded) > MOST_LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[key]

    def _read(self, row: SlideRow, slide: Slide) -> ViewedSlide:
        notes: list[str] = []
        if row.why:
            notes.append(f"{row.state}: {row.why}")
        recorded = row.record.outputs.get("tiles")
        if recorded is None:
            raise StoreError(f"has no tiles ({row.state}{': ' if row.why else ''}{row.why})", path=row.id)
        tiles = read_tiles(inside(self._workspace, recorded.path))
        if tuple(tiles.slide_size) != tuple(slide.dimensions):
            was, now = ("{} × {}".format(*size) for size in (tiles.slide_size, slide.dimensions))
            raise StoreError(f"the slide now measures {now} px, and {was} when it was tiled", path=slide.path)
        layers = [
            Layer("", "tissue", tiles.tissue_fraction.astype(np.float64)),
            Layer("", "sharpness", tiles.sharpness.astype(np.float64)),
        ]
        folds: dict[str, Mapping[int, float]] = {}
        for scored in row.scored:
            try:
                found = list(predicted_columns(self._workspace, scored, tiles.coords, slide.origin))
            except (WsipipeError, OSError) as error:
                notes.append(str(error))
                continue
            if scored.stale:
                notes.append(f"predictions of {scored.name} are stale: {scored.stale}")
            layers += [Layer(scored.name, name, values, scored.stale) for name, values in found]
            folds |= self._folds(row, scored, notes)
        coords, kinds = self._kinds(row, tiles, notes)
        grid = tiles.grid
        return ViewedSlide(
            tiles=tiles,
            coords=coords,
            kinds=kinds,
            layers={layer.id: layer for layer in layers},
            notes=notes,
            outlines=self._outlines(row, slide, notes),
            folds=folds,
            _places=TilePlaces(coords, float(grid.size_level0), grid.step),
        )

    def _folds(self, row: SlideRow, scored: Scored, notes: list[str]) -> dict[str, Mapping[int, float]]:
        recorded = scored.outputs.get("prediction")
        if recorded is None:
            return {}
        try:
            output = read_outputs({row.id: inside(self._workspace, recorded.path)})[row.id]
        except (WsipipeError, OSError) as error:
            notes.append(str(error))
            return {}
        single = {fold: score for fold, score in output.logits.items() if not isinstance(score, tuple)}
        return {scored.name: single} if single else {}

    def _kinds(self, row: SlideRow, tiles: TileSet, notes: list[str]) -> tuple[Coords, Codes]:
        """All positions of the grid: those that are kept first."""
        dropped = np.empty((0, 2), np.int64)
        if tiles.grid.columns * tiles.grid.rows <= _MOST_GRID:
            everywhere = tiles.grid.coords()
            if len(tiles) and (places_in(everywhere, tiles.coords) >= 0).all():  # imported ones lie in no grid of ours
                dropped = everywhere[places_in(tiles.coords, everywhere) < 0]
        coords = np.concatenate([tiles.coords, dropped]).astype(np.int64)
        kinds = np.full(len(coords) + 1, DROPPED, np.uint8)
        kinds[: len(tiles)] = KEPT
        kinds[-1] = 0
        for features in row.features:
            try:
                bad = read_facts(inside(self._workspace, features)).bad_tiles
            except (WsipipeError, OSError) as error:
                notes.append(str(error))
                continue
            at = places_in(tiles.coords, np.array(bad, np.int64).reshape(-1, 2))
            kinds[at[at >= 0]] = UNREADABLE
        return coords, kinds

    def _outlines(self, row: SlideRow, slide: Slide, notes: list[str]) -> list[Sequence[npt.NDArray[np.float64]]]:
        recorded = row.record.outputs.get("contours")
        if recorded is None:
            return []
        try:
            found = read_annotations(inside(self._workspace, recorded.path))
            return list(placed(found, slide.origin, "scan").tissue)
        except (WsipipeError, OSError) as error:
            notes.append(str(error))
            return []
