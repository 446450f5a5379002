"""A picture of a slide's tiles that weigh most and least, in rows, with their scores and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...data.errors import UsageError
from ..pages.sheet import FAINT, LINE, MARGIN, Rgb, Sheet
from .heatmap import put_scale_bar, zoomed

_TILE: Final = 200
_GAP: Final = 10
_COLUMNS: Final = 6
_NARROWEST: Final = 480


@dataclass(frozen=True)
class TileRow:
    """Tiles that are shown together, in their order.

    :param images: (h, w, 3) each.
    :param scores: of each tile.
    :param score_name: what the scores are.
    """

    title: str
    images: Sequence[Rgb]
    scores: Sequence[float]
    score_name: str


def draw_tiles(rows: Sequence[TileRow], path: Path, *, caption: str, tile_um: float | None = None) -> None:
    """Write a PNG of tiles, six side by side, each with its place in its row and its score.

    :param tile_um: side of a tile in microns; with it a scale bar is drawn under each row.
    :raises UsageError: no images, or not one score per image.
    """
    if not any(row.images for row in rows) or any(len(row.images) != len(row.scores) for row in rows):
        counts = [(len(row.images), len(row.scores)) for row in rows]
        raise UsageError(f"tile images and scores {counts} make no picture")
    step = _TILE + _GAP
    widest = max(min(len(row.images), _COLUMNS) for row in rows)
    sheet = Sheet(width=max(_NARROWEST, widest * step - _GAP) + 2 * MARGIN)
    sheet.title(caption)
    for row in rows:
        if not row.images:
            continue
        sheet.gap(8)
        if row.title:
            sheet.text(MARGIN, row.title, ink=FAINT)
            sheet.gap(LINE)
        for first in range(0, len(row.images), _COLUMNS):
            for column, image in enumerate(row.images[first : first + _COLUMNS]):
                x, place = MARGIN + column * step, first + column
                sheet.picture(x, zoomed(image, _TILE / max(image.shape[:2])))
                score = f"{row.scores[place]:.3g}".replace("-", "−")
                sheet.text(x, f"{place + 1}.  {row.score_name} {score}", below=_TILE + 4)
            sheet.gap(_TILE + 4 + LINE + 8)
        if tile_um is not None:
            put_scale_bar(sheet, MARGIN, _TILE, tile_um / _TILE)
            sheet.gap(LINE + 18)
    path.write_bytes(sheet.png())
