"""Tile scores as pictures: a heatmap on the slide's overview.

It is byte for byte the same for the same input: no dates, no random ids, a font that comes with matplotlib.
"""

from __future__ import annotations

from typing import Final, Literal

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

from ...data.errors import UsageError
from ...data.tiling.tile_scores import Floats, scored_tiles
from ...data.units import Mpp
from ..pages.sheet import FAINT, LINE, MARGIN, Rgb, Sheet

Scale = Literal["rank", "linear"]

COLOURS: Final = (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
"""(256, 3) RGB, low to high: perceptually uniform, and suitable for colour-blind people."""
SIGNED_COLOURS: Final = (matplotlib.colormaps["RdBu_r"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
"""(256, 3) RGB, against to for: blue, white in the middle, red; as suitable."""
OPACITY: Final = 0.5
"""Fraction of the colour in a scored pixel; the rest is the tissue in grey, so that its own colours do not mix in."""

_PANEL_LONGEST: Final = (640, 1400)
"""Pixels of the longer side: smaller overviews are enlarged to the first, larger ones reduced to the other."""
_COLUMN_NARROWEST: Final = 480  # px: what the legend needs
_BAR_HEIGHT: Final = 14
_CLIPPED_AT: Final = (0.01, 0.99)
_STRONGER: Final = 0.8
"""Opacity where a score is signed: white in the middle is no colour, and must not look like tissue."""


def draw_heatmap(
    overview: Rgb,
    downsample: float,
    coords: npt.ArrayLike,
    tile_size: float,
    scores: npt.ArrayLike,
    *,
    caption: str,
    scale: Scale = "rank",
    mpp: Mpp | None = None,
    score_name: str = "attention",
    ends: tuple[str, str] | None = None,
    longest: tuple[int, int] = _PANEL_LONGEST,
) -> Sheet:
    """Draw the overview, and beside it the overview in grey under the tiles' colours, with a legend.

    If tiles overlap, their positions on the colour scale are averaged. ``rank`` spreads the colours evenly over the
    slide's tiles, which shows the order but makes small differences look large; ``linear`` is linear in the score
    between the slide's 1st and 99th percentile. Of scores with a sign 0 is in the middle, and both scales are of their
    size. The legend names the scale and gives the scores themselves.

    :param overview: (H, W, 3) a small picture of the slide.
    :param downsample: level-0 pixels per overview pixel.
    :param coords: (N, 2) x and y of the tiles' upper left corners, level-0 pixels.
    :param tile_size: side of a tile, level-0 pixels.
    :param scores: (N,) one finite number per tile.
    :param caption: title above the picture.
    :param mpp: microns per level-0 pixel; with it a scale bar is drawn.
    :param ends: what scores below and above 0 speak for, if they have a sign.
    :param longest: pixels of the longer side of either picture, the least and the most.
    :raises UsageError: no tiles, scores that are not finite, or a tile that lies outside the overview.
    """
    corners, values = scored_tiles(coords, scores)
    longer = max(overview.shape[:2])
    panel = zoomed(overview, float(np.clip(longer, *longest)) / longer)
    zoom = panel.shape[1] / (overview.shape[1] * downsample)  # panel pixels per level-0 pixel
    places = scale_scores(values, scale) if ends is None else scale_signed(values, scale)
    heat = rasterise(corners * zoom, tile_size * zoom, places, panel.shape[:2])

    column = max(panel.shape[1], _COLUMN_NARROWEST)
    right = 2 * MARGIN + column
    sheet = Sheet(width=2 * column + 3 * MARGIN)
    sheet.title(caption)
    sheet.gap(4)
    sheet.text(MARGIN, "Slide", ink=FAINT)
    sheet.text(right, f"Slide in grey, {score_name} in colour", ink=FAINT)
    sheet.gap(LINE)
    sheet.picture(MARGIN, panel)
    sheet.picture(right, overlay(panel, heat, signed=ends is not None))
    sheet.gap(panel.shape[0] + 14)
    if mpp is not None:
        put_scale_bar(sheet, MARGIN, panel.shape[1], mpp / zoom)
    _put_legend(sheet, right, column, values, scale, score_name, ends)
    return sheet


def scale_scores(scores: Floats, scale: Scale) -> Floats:
    """Convert scores (N,) to positions on the colour scale (N,), 0 to 1; the middle if all scores are equal."""
    distinct, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return np.full(len(scores), 0.5)
    if scale == "rank":
        below = counts.cumsum() - counts
        return np.asarray(((below + (counts - 1) / 2) / (len(scores) - 1))[inverse])
    low, high = np.quantile(scores, _CLIPPED_AT)
    if low == high:  # fewer than one tile in a hundred differs from the rest
        return np.asarray(0.5 + np.sign(scores - low) / 2)
    return np.asarray(np.clip((scores - low) / (high - low), 0, 1))


def scale_signed(scores: Floats, scale: Scale) -> Floats:
    """Convert scores with a sign (N,) to positions on the colour scale (N,): 0.5 for 0, by their size to either end."""
    size = np.abs(scores)
    if scale == "rank":
        # Positions grow with the size from just above 0, so that the smallest keeps its side.
        place = (np.searchsorted(np.sort(size), size, side="right")) / len(size)
    else:
        most = float(np.quantile(size, _CLIPPED_AT[1])) or float(size.max())
        place = np.clip(size / most, 0, 1) if most else np.zeros(len(size))
    return np.asarray(0.5 + np.sign(scores) * place / 2)


def rasterise(corners: Floats, side: float, places: Floats, shape: tuple[int, ...]) -> Floats:
    """Draw squares of one size: the mean position on the colour scale at each pixel, NaN outside all squares.

    Each tile is four numbers in a table of differences, whose running sums are the image; the time grows with the
    number of tiles plus that of pixels, not with their product. A tile covers at least one pixel.

    :param corners: (N, 2) x and y of the upper left corners, in pixels of the image, fractions allowed.
    :param side: side of the squares, in pixels of the image.
    :param places: (N,) 0 to 1.
    :param shape: height and width of the image.
    :raises UsageError: a tile lies wholly outside the image.
    """
    limit = np.array([shape[1], shape[0]])
    start = np.rint(corners).astype(np.int64)
    stop = np.maximum(np.rint(corners + side).astype(np.int64), start + 1)
    # An overview's size is rounded: a tile on the far edge may begin at the pixel beyond it.
    outside = (stop < 0).any(axis=1) | (start > limit).any(axis=1)
    if outside.any():
        raise UsageError(
            f"{outside.sum()} of {len(corners)} tiles lie outside the overview",
            hint="downsample, coordinates and tile size must be those of this slide, in level-0 pixels",
        )
    start, stop = np.clip(start, 0, limit - 1), np.clip(stop, 1, limit)
    whole = np.rint(places * 65535).astype(np.int64)  # running sums of integers are exact
    total = _sum_of_squares(start, stop, whole, shape)
    count = _sum_of_squares(start, stop, np.ones_like(whole), shape)
    mean = np.full(count.shape, np.nan)
    np.divide(total, count * 65535.0, out=mean, where=count > 0)
    return mean


def overlay(panel: Rgb, heat: Floats, *, signed: bool = False) -> Rgb:
    """Turn the panel (H, W, 3) grey and lay the colours of ``heat`` (H, W; NaN for none) over it."""
    colours, opacity = (SIGNED_COLOURS, _STRONGER) if signed else (COLOURS, OPACITY)
    grey = cv2.cvtColor(cv2.cvtColor(panel, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    scored = np.isfinite(heat)
    colour = colours[np.rint(heat[scored] * 255).astype(np.intp)]
    grey[scored] = (1 - opacity) * grey[scored] + opacity * colour
    return np.rint(grey).astype(np.uint8)


def _sum_of_squares(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], values: npt.NDArray[np.int64], shape: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """Sum at each pixel the values of the squares that cover it (H, W)."""
    table = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    (x0, y0), (x1, y1) = start.T, stop.T
    np.add.at(table, (y0, x0), values)
    np.add.at(table, (y0, x1), -values)
    np.add.at(table, (y1, x0), -values)
    np.add.at(table, (y1, x1), values)
    return table.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]


def zoomed(image: Rgb, zoom: float) -> Rgb:
    """An image enlarged, or reduced without aliasing."""
    if zoom == 1:
        return image
    size = (max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom)))
    kernel = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=kernel), dtype=np.uint8)


def put_scale_bar(sheet: Sheet, x: int, widest: int, microns_per_px: float) -> None:
    """Draw a scale bar: the longest of 1, 2, 5, 10 … µm that takes at most a third of the panel."""
    room = widest / 3 * microns_per_px
    decade = 10.0 ** np.floor(np.log10(room))
    length = decade * max(step for step in (1, 2, 5) if step * decade <= room)
    bar = np.zeros((4, max(1, round(length / microns_per_px)), 3), np.uint8)
    sheet.picture(x, bar, below=5)
    sheet.text(x, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm", below=_BAR_HEIGHT + 4)


def _put_legend(
    sheet: Sheet, x: int, width: int, scores: Floats, scale: Scale, name: str, ends: tuple[str, str] | None
) -> None:
    grey = np.full((_BAR_HEIGHT, width, 3), 215, np.uint8)  # about as light as tissue, so that the colours compare
    signed = ends is not None
    sheet.picture(x, overlay(grey, np.tile(np.linspace(0, 1, width), (_BAR_HEIGHT, 1)), signed=signed))
    if ends is not None:
        most = np.abs(scores).max() if scale == "rank" else np.quantile(np.abs(scores), _CLIPPED_AT[1])
        texts = [f"{ends[0]} (−{most:.3g})", "0", f"{ends[1]} ({most:.3g})"]
        by = "rank of the size" if scale == "rank" else "size, clipped at the 99th percentile,"
        note = (
            f"Colour: {by} of a tile's {name} among the {len(scores):,} tiles of this slide, to the side of its sign."
        )
    elif scale == "rank":
        texts = [f"lowest ({scores.min():.3g})", f"median ({np.median(scores):.3g})", f"highest ({scores.max():.3g})"]
        note = f"Colour: rank of a tile's {name} among the {len(scores):,} tiles of this slide; scores in brackets."
    else:
        low, high = np.quantile(scores, _CLIPPED_AT)
        texts = [f"{value:.3g}" for value in (low, (low + high) / 2, high)]
        note = f"Colour: {name}, clipped at the 1st and 99th percentile of the {len(scores):,} tiles of this slide."
    if np.ptp(scores) == 0 and not signed:
        note = f"All tiles ({len(scores):,}) have the same {name}, {scores[0]:.3g}: there is nothing to rank."
        texts = ["", f"{scores[0]:.3g}", ""]
    sheet.text(x, texts[0], below=_BAR_HEIGHT + 4)
    sheet.text(x + width // 2, texts[1], below=_BAR_HEIGHT + 4, align="centre")
    sheet.text(x + width, texts[2], below=_BAR_HEIGHT + 4, align="right")
    sheet.gap(_BAR_HEIGHT + 4 + LINE)
    sheet.paragraph(x, note, width)
