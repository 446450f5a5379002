"""The layers of a slide: for each a number from 1 to 255 a tile, which the page colours, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ...data.wording import figure
from ...stages.predict.heatmap import scale_scores
from .tile_columns import Column
from .tile_raster import Places

Kind = Literal["kept", "scale", "signed", "classes"]
Codes = npt.NDArray[np.uint8]
"""(N + 1,) the number of each tile, 0 where it has none; the last one, of no tile, is 0."""

KEPT, DROPPED, UNREADABLE, ARTEFACT = 1, 2, 3, 4
FRAME: Final = 128
"""Added to the numbers of the tiles at their edges, where they are large enough to have any."""
_FRAMED_FROM: Final = 12  # px: side of a tile on the screen
_MOST_CLASSES: Final = 254
_MIDDLE: Final = 128
_STEPS: Final = 51
_TOP: Final = 12
_TOP_OF_SLOT: Final = 4


@dataclass(frozen=True, eq=False)
class SlotTiles:
    """The slots of a network's memory, and how the tiles of one slide lie to them.

    :param names: of the slots.
    :param weights: what each counts for, above zero for positive; empty where slots have no weight.
    :param nearness: (N,) of each tile to its nearest slot.
    :param attention: (N,) of each tile.
    """

    names: Sequence[str]
    weights: Sequence[float]
    nearness: Column
    attention: Column

    def described(self, nearest: Column, coords: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """The slots that are nearest to a tile, those with most attention first, each with the tiles nearest to it.

        :param nearest: (N,) the slot of each tile.
        """
        slots = []
        for slot in np.unique(nearest[np.isfinite(nearest)]).astype(int).tolist():
            own = np.flatnonzero(nearest == slot)
            first = own[np.argsort(-self.nearness[own], kind="stable")][:_TOP_OF_SLOT]
            slots.append(
                {
                    "slot": slot,
                    "tiles": int(own.size),
                    "attention": float(self.attention[own].sum()),
                    "weight": float(self.weights[slot]) if self.weights else None,
                    "nearest": [_place(coords, self.nearness, int(tile)) for tile in first],
                }
            )
        return sorted(slots, key=lambda slot: -slot["attention"])


@dataclass(frozen=True, eq=False)
class Layer:
    """One number of each tile, as the page shows it.

    :param of: the predictions or the fold that it belongs to; empty for what tiling measured.
    :param values: (N,) NaN for tiles without one; it may go on with the tiles that were dropped for artefacts.
    :param slots: of a layer of slots, where they are known by more than their numbers.
    :param signed: the sign means for and against, whichever signs there are.
    :param share: a share, coloured from 0 to 1 on each slide alike.
    """

    of: str
    name: str
    values: Column
    stale: str = ""
    slots: SlotTiles | None = None
    signed: bool = False
    share: bool = False

    @property
    def id(self) -> str:
        """How the page asks for it."""
        return f"{self.of}/{self.name}"

    @cached_property
    def kind(self) -> Kind:
        """How it is coloured: ``classes`` for numbers of slots, ``signed`` for what speaks for and against."""
        known = self.values[np.isfinite(self.values)]
        if not known.size:
            return "scale"
        low, high = known.min(), known.max()
        named = "slot" in self.name.casefold().replace("_", " ").split()
        if named and (known == np.rint(known)).all() and low >= 0 and high < _MOST_CLASSES:
            return "classes"
        return "signed" if low < 0 < high or (self.signed and (low or high)) else "scale"

    def codes(self, scale: str) -> Codes:
        """The number of each tile: for ``signed`` 128 is zero, for ``classes`` it is the class plus one.

        :param scale: ``rank`` spreads the tiles evenly; ``linear`` is linear between the extremes. Shares are linear.
        """
        if scale not in self._codes:
            self._codes[scale] = self._coded(scale)
        return self._codes[scale]

    @cached_property
    def _codes(self) -> dict[str, Codes]:
        return {}

    def _coded(self, scale: str) -> Codes:
        codes = np.zeros(len(self.values) + 1, np.uint8)
        known = np.flatnonzero(np.isfinite(self.values))
        if known.size:
            values = self.values[known]
            if self.kind == "classes":
                codes[known] = values + 1
            elif self.kind == "signed":
                codes[known] = np.rint(_MIDDLE + 127 * _strength(values, scale) * np.sign(values))
            else:
                codes[known] = 1 + np.rint(254 * (values.clip(0, 1) if self.share else _position(values, scale)))
        return codes

    def in_words(self, tile: int) -> str:
        """The value of a tile as the page says it; empty if it has none."""
        value = float(self.values[tile]) if tile < len(self.values) else np.nan
        if not np.isfinite(value):
            return ""
        if self.kind != "classes":
            return figure(value)
        return self.slots.names[int(value)] if self.slots else str(int(value))

    def described(self, coords: npt.NDArray[np.int64]) -> dict[str, Any]:
        """What the page needs to know of it.

        :param coords: (N, 2) of the tiles, or more.
        """
        known = np.flatnonzero(np.isfinite(self.values))
        order = known[np.argsort(-self.values[known], kind="stable")]
        values = self.values[known]
        low, high = (0.0, 1.0) if self.share or not known.size else (float(values.min()), float(values.max()))
        bottom = order[::-1][:_TOP] if self.kind == "signed" else order[:0]
        return {
            "id": self.id,
            "of": self.of,
            "name": self.name,
            "kind": self.kind,
            "stale": self.stale,
            "tiles": int(known.size),
            "low": low if known.size else None,
            "high": high if known.size else None,
            "share": self.share,
            "thresholds": {
                scale: _thresholds(np.array([low, high]) if self.share else values, self.kind, scale)
                for scale in ("rank", "linear")
                if known.size
            },
            "classes": sorted({int(value) for value in values}) if self.kind == "classes" else [],
            "names": list(self.slots.names) if self.slots and self.kind == "classes" else [],
            "slots": self.slots.described(self.values, coords) if self.slots and self.kind == "classes" else [],
            "top": [] if self.kind == "classes" else [_place(coords, self.values, int(i)) for i in order[:_TOP]],
            "bottom": [_place(coords, self.values, int(i)) for i in bottom],
        }


def picture(layer: Layer, scale: str, places: Places) -> bytes:
    """The numbers under the pixels of a zoom tile, 256 × 256 bytes, row by row.

    :param places: may name tiles for which the layer has no value.
    """
    return layer.codes(scale)[np.where(places < len(layer.values), places, -1)].tobytes()


def kept_picture(kinds: Codes, places: Places, side: float) -> bytes:
    """The same of which tiles are kept, dropped, unreadable or dropped for artefacts, with frames around them.

    :param kinds: (N + 1,).
    :param side: of a tile, in pixels of the picture.
    """
    codes = kinds[places]
    if side >= _FRAMED_FROM:
        edge = np.zeros(places.shape, bool)
        edge[:, 1:] |= places[:, 1:] != places[:, :-1]
        edge[1:] |= places[1:] != places[:-1]
        edge[:, :-1] |= (places[:, 1:] != places[:, :-1]) & (codes[:, 1:] == 0)
        edge[:-1] |= (places[1:] != places[:-1]) & (codes[1:] == 0)
        codes = np.where(edge & (codes > 0), codes + FRAME, codes).astype(np.uint8)
    return codes.tobytes()


def palettes() -> Mapping[str, Sequence[str]]:
    """The colours of each kind of layer, 256 of them as ``rrggbbaa``; the first, of no tile, is transparent."""
    import matplotlib.colors

    maps = {"scale": matplotlib.colormaps["viridis"], "signed": matplotlib.colormaps["PuOr_r"]}
    colours = {kind: np.vstack([np.zeros(4), of(np.linspace(0, 1, 255))]) for kind, of in maps.items()}
    of_classes = np.array([matplotlib.colors.to_rgba(f"#{colour}") for colour in _CLASS_COLOURS])
    colours["classes"] = np.vstack([np.zeros(4), of_classes[np.arange(_MOST_CLASSES + 1) % len(of_classes)]])
    kept = colours["kept"] = np.zeros((256, 4))
    for code, (red, green, blue), fill in _KEPT_COLOURS:
        kept[code] = red / 255, green / 255, blue / 255, fill
        kept[code + FRAME] = red / 255, green / 255, blue / 255, 1
    return {
        kind: ["".join(f"{round(part * 255):02x}" for part in colour) for colour in of] for kind, of in colours.items()
    }


_CLASS_COLOURS: Final = (
    *("0072b2", "e69f00", "882255", "56b4e9", "009e73", "cc79a7", "332288", "f0e442"),
    *("d55e00", "44aa99", "aa4499", "999933", "117733", "cc6677", "88ccee", "661100"),
)
"""Of slots: told apart by colour-blind people too (Okabe and Ito 2008, Tol 2021), and none is grey, as no tile is."""
_KEPT_COLOURS: Final = (
    (KEPT, (0, 114, 178), 0.18),
    (DROPPED, (120, 124, 130), 0.3),
    (UNREADABLE, (213, 94, 0), 0.6),
    (ARTEFACT, (176, 20, 150), 0.45),
)


def _position(values: Column, scale: str) -> Column:
    """From 0 to 1."""
    if scale == "rank":
        return scale_scores(values, "rank")
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low)) if high > low else np.full(len(values), 0.5)


def _strength(values: Column, scale: str) -> Column:
    """How far from zero, from 0 to 1."""
    strong = np.abs(values)
    return scale_scores(strong, "rank") if scale == "rank" else np.asarray(strong / strong.max())


def _thresholds(values: Column, kind: Kind, scale: str) -> list[float]:
    """The value, or for ``signed`` the distance from zero, at shares of the colour scale from 0 to 1."""
    if not values.size or kind == "classes":
        return []
    of = np.abs(values) if kind == "signed" else values
    shares = np.linspace(0, 1, _STEPS)
    if scale == "rank":
        return [float(value) for value in np.quantile(of, shares)]
    low = 0.0 if kind == "signed" else float(of.min())
    return [float(low + share * (of.max() - low)) for share in shares]


def _place(coords: npt.NDArray[np.int64], values: Column, tile: int) -> tuple[int, int, float]:
    return int(coords[tile, 0]), int(coords[tile, 1]), float(values[tile])
