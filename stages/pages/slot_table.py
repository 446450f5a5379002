"""The table of a gallery of memory slots: where on which slides the tiles lie that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...data.artifact import whole
from ...data.files.own_tables import read_own_rows
from ...data.files.safe_cells import SafeWriter
from .slot_page import FoldSlots

GALLERY: Final = "slots.html"
"""The page of the gallery, beside its model's report; as the item of the stage is called."""
GALLERY_COLUMNS: Final = ("fold", "slot", "use", "attention", "weight", "slide_id", "x", "y", "side", "nearness")


@dataclass(frozen=True, kw_only=True)
class GalleryTile:
    """A tile of the gallery: a row of ``slots.csv``.

    :param use: share of the fold's test tiles that are nearer to the slot than to any other.
    :param attention: share of a slide's attention on these tiles, a mean over the slides.
    :param weight: what the slot counts for, above zero for positive; None where slots have no weight.
    :param x, y, side: upper left corner and side, in pixels of level 0.
    :param nearness: as the network measures it; more is nearer.
    """

    fold: int
    slot: str
    use: float
    attention: float
    weight: float | None
    slide_id: str
    x: int
    y: int
    side: float
    nearness: float


def write_gallery(path: Path, folds: Sequence[FoldSlots]) -> None:
    """Write ``slots.csv``: a row for each tile, in the order of the page."""
    with whole(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        writer = SafeWriter(stream)
        writer.writerow(GALLERY_COLUMNS)
        for fold in folds:
            for slot in fold.used:
                of_slot = (fold.fold, slot.name, slot.use, slot.attention, "" if slot.weight is None else slot.weight)
                for tile in slot.tiles:
                    writer.writerow([*of_slot, tile.slide, tile.x, tile.y, tile.side, tile.nearness])


def read_gallery(path: Path) -> list[GalleryTile]:
    """Read ``slots.csv``.

    :raises StoreError: damaged.
    """
    return read_own_rows(path, GALLERY_COLUMNS, _tile)


def _tile(row: Mapping[str, str]) -> GalleryTile:
    return GalleryTile(
        fold=int(row["fold"]),
        slot=row["slot"],
        use=float(row["use"]),
        attention=float(row["attention"]),
        weight=float(row["weight"]) if row["weight"] else None,
        slide_id=row["slide_id"],
        x=int(row["x"]),
        y=int(row["y"]),
        side=float(row["side"]),
        nearness=float(row["nearness"]),
    )
