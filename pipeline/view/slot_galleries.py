"""The gallery of a model's memory slots as the viewer shows it: on which slides, and where, their nearest tiles lie."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from ...data.manifest import Record
from ...stages.pages.slot_table import GalleryTile, read_gallery
from .fold_source import FEATURES_OF, tiles_in
from .inside import inside


def described_gallery(record: Record, workspace: Path) -> list[dict[str, Any]]:
    """The folds of a gallery with their slots, those with most attention first, and the tiles of each.

    :param record: of the gallery.
    :raises StoreError: its table is damaged, or lies outside of the workspace.
    """
    stores = {name: given.path or "" for name, given in record.inputs.items() if name.startswith(FEATURES_OF)}
    tiles = read_gallery(inside(workspace, record.outputs["tiles"].path))
    return [
        {"fold": fold, "slots": [_slot([*own], stores) for _, own in groupby(of_fold, lambda tile: tile.slot)]}
        for fold, of_fold in groupby(tiles, lambda tile: tile.fold)
    ]


def _slot(own: list[GalleryTile], stores: dict[str, str]) -> dict[str, Any]:
    first = own[0]
    return {
        "name": first.slot,
        "use": first.use,
        "attention": first.attention,
        "weight": first.weight,
        "tiles": [
            {
                "tiles": tiles_in(stores.get(f"{FEATURES_OF}{tile.slide_id}", "")),
                "slide": tile.slide_id,
                "place": [tile.x, tile.y],
                "side": round(tile.side),
                "nearness": tile.nearness,
            }
            for tile in own
        ],
    }
