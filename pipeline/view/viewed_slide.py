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
from ...data.interop.qupath import placed, read_annotations
from ...data.slides.slide import Slide
from ...data.tiling.store import TileSet, read_tiles
from ...stages.predict.reading import read_outputs
from .fold_layers import ATTENTION, FoldLayers
from .fold_source import FoldSource
from .inside import inside, stamp
from .layers import Layer, kept_picture, picture
from .slide_list import Scored, SlideRow
from .tile_columns import predicted_columns
from .tile_kinds import TileKinds
from .tile_raster import Places, TilePlaces
from .zoom_tiles import most_zoom

MOST_LOADED: Final = 4
"""Slides whose layers stay in memory: of 100,000 tiles some MB each."""
_MOST_PLACES: Final = 128
"""Zoom tiles of a slide for which it is kept which tile lies where, of 256 kB each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewedSlide:
    """What is laid over a slide."""

    tiles: TileSet
    kinds: TileKinds
    layers: Mapping[str, Layer]
    notes: Sequence[str]
    outlines: Sequence[Sequence[npt.NDArray[np.float64]]]
    sources: Mapping[str, FoldSource]
    """Name of the predictions → the model whose folds may read the slide."""
    _of_folds: FoldLayers
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
            "folds": {name: dict(source.scores) for name, source in self.sources.items() if source.scores},
            "sources": [
                {
                    "of": name,
                    "model": source.model,
                    "folds": [source.named(fold) for fold in source.folds],
                    "why_none": source.why_none,
                }
                for name, source in self.sources.items()
            ],
            "artefacts": self.tiles.artefacts is not None,
            "layers": [layer.described(self.kinds.coords) for layer in self.layers.values()],
            "notes": list(self.notes),
        }

    def described_fold(self, named: str) -> list[dict[str, Any]]:
        """The same of the layers of one fold.

        :raises LookupError: there is no such fold for this slide.
        """
        if layers := self._of_fold(named):
            return [layer.described(self.tiles.coords) for layer in layers.values()]
        raise LookupError(named)

    def _layer(self, name: str) -> Layer:
        """A layer by its id."""
        return self.layers.get(name) or self._of_fold(name.partition("/")[0])[name]

    def _of_fold(self, named: str) -> Mapping[str, Layer]:
        """The layers of a fold, by what they belong to; none if that is no fold."""
        for source in self.sources.values():
            for fold in source.folds:
                if source.named(fold) == named:
                    return self._of_folds.of(source, fold, self.tiles.coords)
        return {}

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
            return kept_picture(self.kinds.codes, places, self.tiles.grid.size_level0 / (1 << (finest - zoom)))
        return picture(self._layer(layer), scale, places)

    def at(self, x: float, y: float, of: str = "") -> dict[str, Any] | None:
        """The tile at a place and its values, in words; None if there is none.

        :param of: what the layer that is looked at belongs to: the values by a fold are said if it is one.
        """
        number = self._places.at(x, y)
        if number is None:
            return None
        left, top = (int(at) for at in self.kinds.coords[number])
        layers = [*self.layers.values(), *self._of_fold(of).values()]
        said = ((f"{layer.of} · {layer.name}" if layer.of else layer.name, layer.in_words(number)) for layer in layers)
        side = int(self.tiles.grid.size_level0)
        values = [(name, value) for name, value in said if value]
        return {"x": left, "y": top, "side": side, "kind": self.kinds.said(number), "values": values}

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
        self._of_folds = FoldLayers(workspace)

    def of(self, row: SlideRow, slide: Slide) -> ViewedSlide:
        """The slide of a row.

        :param slide: the same, open.
        :raises StoreError: its tiles cannot be read. Layers that cannot be read become notes.
        """
        outputs = [*row.record.outputs.values(), *(one for scored in row.scored for one in scored.outputs.values())]
        standing = (*((one.name, one.stale) for one in row.scored), *((one.name, *one.folds) for one in row.tested))
        key = (row.key, slide.dimensions, standing, *(stamp(self._workspace / output.path) for output in outputs))
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
            what = f"has no tiles ({row.state}{': ' if row.why else ''}{row.why})"
            raise StoreError(what, path=row.id, hint="tile it: wsipipe tile")
        tiles = read_tiles(inside(self._workspace, recorded.path))
        if tuple(tiles.slide_size) != tuple(slide.dimensions):
            was, now = ("{} × {}".format(*size) for size in (tiles.slide_size, slide.dimensions))
            what = f"the slide now measures {now} px, and {was} when it was tiled"
            raise StoreError(what, path=slide.path, hint="tile it again, or bring the slide back")
        kinds = TileKinds.of(row, tiles, self._workspace, notes)
        layers = [
            Layer("", "tissue", tiles.tissue_fraction.astype(np.float64)),
            Layer("", "sharpness", tiles.sharpness.astype(np.float64)),
            *kinds.artefact_layers(),
        ]
        sources: dict[str, FoldSource] = {}
        for scored in row.scored:
            try:
                found = list(predicted_columns(self._workspace, scored, tiles.coords, slide.origin))
            except (WsipipeError, OSError) as error:
                notes.append(str(error))
                continue
            if scored.stale:
                notes.append(f"predictions of {scored.name} are stale: {scored.stale}")
            signed = bool(found) and self._of_folds.scores_are_signed(scored.model)
            layers += [
                Layer(scored.name, name, values, scored.stale, signed=signed and name != ATTENTION)
                for name, values in found
            ]
            if (source := self._source(row, scored, notes)) is not None:
                sources[scored.name] = source
        known = {(source.model, source.store) for source in sources.values()}
        sources |= {one.name: one for one in row.tested if (one.model, one.store) not in known}
        grid = tiles.grid
        return ViewedSlide(
            tiles=tiles,
            kinds=kinds,
            layers={layer.id: layer for layer in layers},
            notes=notes,
            outlines=self._outlines(row, slide, notes),
            sources=sources,
            _of_folds=self._of_folds,
            _places=TilePlaces(kinds.coords, float(grid.size_level0), grid.step),
        )

    def _source(self, row: SlideRow, scored: Scored, notes: list[str]) -> FoldSource | None:
        """The folds that read the slide for a prediction; None if its record does not say them."""
        recorded = scored.outputs.get("prediction", scored.outputs.get("reading"))
        if recorded is None:
            return None
        try:
            output = read_outputs({row.id: inside(self._workspace, recorded.path)})[row.id]
        except (WsipipeError, OSError) as error:
            notes.append(str(error))
            return None
        why_none = "the prediction is stale" if scored.stale else ""
        if not scored.model or Path(scored.model).is_absolute():
            why_none = "the model is not in this workspace"
        return FoldSource(
            name=scored.name,
            model=scored.model,
            store=scored.store,
            folds=() if why_none else sorted(output.logits),
            scores={fold: score for fold, score in output.logits.items() if not isinstance(score, tuple)},
            why_none=why_none,
        )

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
