"""What became of each position of a slide's grid: kept, dropped and why, or kept and not to be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from ...data.errors import WsipipeError
from ...data.features.store import read_facts
from ...data.tiling.artefacts import ARTEFACTS, TileArtefacts
from ...data.tiling.grid import Coords
from ...data.tiling.store import TileSet
from .inside import inside
from .layers import ARTEFACT, DROPPED, KEPT, UNREADABLE, Codes, Layer
from .slide_list import SlideRow
from .tile_columns import Column, places_in

_MOST_GRID: Final = 2_000_000
"""Positions of a grid; beyond it only those that were kept, or dropped for artefacts, are shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TileKinds:
    """The positions of a slide's tiles.

    :param coords: (M, 2) the N kept tiles, then those dropped for artefacts, then the other dropped ones.
    :param codes: (M + 1,) which is which; the last one, of no tile, is 0.
    :param artefacts: of the kept tiles and those that follow; None if they were not looked for.
    :param otherwise: why a tile of the rest was dropped, as far as it is known.
    """

    coords: Coords
    codes: Codes
    artefacts: TileArtefacts | None
    otherwise: str

    @classmethod
    def of(cls, row: SlideRow, tiles: TileSet, workspace: Path, notes: list[str]) -> Self:
        """Those of a slide.

        :param notes: what cannot be read is added to them.
        """
        spoiled, artefacts = np.empty((0, 2), np.int64), tiles.artefacts
        if tiles.dropped is not None and artefacts is not None:
            spoiled = tiles.dropped.coords.astype(np.int64)
            artefacts = TileArtefacts(np.concatenate([artefacts.shares, tiles.dropped.artefacts.shares]))
        known = np.concatenate([tiles.coords, spoiled]).astype(np.int64)
        rest = np.empty((0, 2), np.int64)
        if tiles.grid.columns * tiles.grid.rows <= _MOST_GRID:
            everywhere = tiles.grid.coords()
            if len(known) and (places_in(everywhere, known) >= 0).all():  # imported ones lie in no grid of ours
                rest = everywhere[places_in(known, everywhere) < 0]
        coords = np.concatenate([known, rest]).astype(np.int64)
        codes = np.full(len(coords) + 1, DROPPED, np.uint8)
        codes[: len(tiles)] = KEPT
        codes[len(tiles) : len(known)] = ARTEFACT
        codes[-1] = 0
        for features in row.features:
            try:
                bad = read_facts(inside(workspace, features)).bad_tiles
            except (WsipipeError, OSError) as error:
                notes.append(str(error))
                continue
            at = places_in(tiles.coords, np.array(bad, np.int64).reshape(-1, 2))
            codes[at[at >= 0]] = UNREADABLE
        counted = int(row.record.stats.get("dropped_artefact") or 0)
        if counted != len(spoiled):
            what = "were dropped for artefacts, and the tile set does not say which"
            notes.append(f"{counted - len(spoiled):,} tiles {what}")
        return cls(coords=coords, codes=codes, artefacts=artefacts, otherwise=_otherwise(row, counted - len(spoiled)))

    def artefact_layers(self) -> Iterator[Layer]:
        """How much of each tile artefacts cover, all together and each kind that occurs."""
        if self.artefacts is None:
            return
        yield Layer("", "artefacts", _column(self.artefacts.fraction), share=True)
        for name, shares in zip(ARTEFACTS, self.artefacts.shares.T, strict=True):
            if np.nan_to_num(shares).any():
                yield Layer("", f"artefacts: {name}", _column(shares), share=True)

    def said(self, number: int) -> str:
        """What became of a tile, in words."""
        code = int(self.codes[number])
        if code == ARTEFACT:
            return "dropped for artefacts"
        return {KEPT: "kept", UNREADABLE: "cannot be decoded"}.get(code, f"dropped{self.otherwise}")


def _column(shares: npt.NDArray[np.float32]) -> Column:
    return shares.astype(np.float64)


def _otherwise(row: SlideRow, unknown: int) -> str:
    """Why the other tiles were dropped: of several reasons tile sets do not say which is whose."""
    if "coordinates" in row.record.inputs:
        return ": not among the tiles that were placed"
    reasons = ["too little tissue"]
    if row.record.stats.get("dropped_not_sharp"):
        reasons.append("not sharp")
    if unknown > 0:
        reasons.append("artefacts")
    return f": {' or '.join(reasons)}"
