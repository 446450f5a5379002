"""The picture by which a person judges the tiling of a slide in two seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.slide import Rgb
from ..data.units import Microns, Mpp
from .tiling import TileResult

LONG_SIDE: Final = 1600
"""Pixels along the longer side of the slide's picture; the caption comes below."""

_FONTS: Final = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_QUALITY: Final = 85
_NARROWEST: Final = 1000  # px: the caption needs them
_MARGIN: Final = 20
_LINE: Final = 28

_OUTLINE: Final = (0, 130, 60)
_TILE: Final = (20, 70, 200)
_INK: Final = (220, 40, 30)
_TEXT: Final = (28, 31, 35)
_FAINT: Final = (100, 106, 114)
_PAPER: Final = (255, 255, 255)


def draw_qc(result: TileResult, path: Path) -> None:
    """Write the QC image of a slide as a JPEG; the same result gives the same bytes."""
    Image.fromarray(qc_image(result)).save(path, "JPEG", quality=_QUALITY, subsampling=0)


def qc_image(result: TileResult) -> Rgb:
    """The overview with kept tiles (blue), outlines of the tissue (green) and of ink taken out (red), a scale bar, and
    a caption: (height, width, 3) uint8 RGB.
    """
    picture, scale = _picture(result)
    _draw_tiles(picture, result, scale)
    _draw_ink(picture, result)
    for piece in result.outlines:
        for ring in (piece.outer, *piece.holes):
            points = np.rint(ring * scale * 16).astype(np.int32)  # OpenCV's fixed point: a sixteenth of a pixel
            cv2.polylines(picture, [points], isClosed=True, color=_OUTLINE, thickness=2, lineType=cv2.LINE_AA, shift=4)
    return _with_caption(picture, result, scale)


def _picture(result: TileResult) -> tuple[Rgb, float]:
    """The overview at the size of the drawing, and pixels of the drawing along a pixel of level 0."""
    pixels = result.overview.pixels
    factor = LONG_SIDE / max(pixels.shape[:2])
    size = (max(round(pixels.shape[1] * factor), 1), max(round(pixels.shape[0] * factor), 1))
    kernel = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=kernel), np.uint8), factor / result.overview.downsample


def _draw_tiles(picture: Rgb, result: TileResult, scale: float) -> None:
    """Frames of the kept tiles, the fainter the smaller they are, so that the tissue stays to be seen."""
    side = result.tiles.grid.size_level0
    corners = np.stack([result.tiles.coords, result.tiles.coords + side], axis=1) * scale
    framed = picture.copy()
    for start, end in np.rint(corners).astype(int).tolist():
        cv2.rectangle(framed, start, end, _TILE, 1)
    strength = min(max(side * scale / 40, 0.15), 0.6)
    cv2.addWeighted(framed, strength, picture, 1 - strength, 0, dst=picture)


def _draw_ink(picture: Rgb, result: TileResult) -> None:
    if result.tissue.pen.any():
        size = (picture.shape[1], picture.shape[0])
        ink = np.asarray(cv2.resize(result.tissue.pen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST))
        edges, _ = cv2.findContours(ink, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, edges, -1, _INK, 2, cv2.LINE_AA)


def _with_caption(picture: Rgb, result: TileResult, scale: float) -> Rgb:
    """The picture on a white sheet, and below it: name, facts, what the colours mean, and a scale bar."""
    title, text = (
        ImageFont.truetype(str(_FONTS / f"DejaVuSans{style}.ttf"), size) for style, size in (("-Bold", 24), ("", 19))
    )
    facts = _facts(result)
    height, width = picture.shape[:2]
    sheet = Image.new("RGB", (max(width, _NARROWEST), height + 2 * _MARGIN + 34 + _LINE * (len(facts) + 1)), _PAPER)
    sheet.paste(Image.fromarray(picture), ((sheet.width - width) // 2, 0))
    pen = ImageDraw.Draw(sheet)
    top, right = height + _MARGIN, sheet.width - _MARGIN

    bar, length = _scale_bar(Mpp(result.tiles.slide_mpp / scale), sheet.width // 5)
    pen.rectangle((right - bar, top + 8, right, top + 13), _TEXT)
    pen.text((right - bar / 2, top + 20), _words(length), _TEXT, text, anchor="ma")

    pen.text((_MARGIN, top), _shortened(result.tiles.slide_id, title, right - bar - 2 * _MARGIN), _TEXT, title)
    for number, line in enumerate(facts):
        pen.text((_MARGIN, top + 36 + _LINE * number), line, _FAINT, text)
    at = float(_MARGIN)
    for word, colour in (("tissue", _OUTLINE), ("tiles kept", _TILE), ("ink, left out", _INK)):
        if colour != _INK or result.tissue.pen.any():
            pen.text((at, top + 36 + _LINE * len(facts)), word, colour, text)
            at += text.getlength(word) + _MARGIN
    return np.asarray(sheet)


def _facts(result: TileResult) -> list[str]:
    tiles, tissue = result.tiles, result.tissue
    grid, mpp = tiles.grid, tiles.slide_mpp
    width, height = tiles.slide_size
    microns = f"{_words(Microns(width * mpp))} × {_words(Microns(height * mpp))}"
    field = f"{grid.tile_px} px at {grid.tile_mpp:.4g} µm/px ({_words(Microns(grid.tile_px * grid.tile_mpp))})"
    source = f"level {grid.level}, " + ("native pixels" if grid.native else f"{grid.read_px} → {grid.tile_px} px")
    share = f"{100 * tissue.mask.mean():.1f} %" if tissue.mask.any() else "none"
    return [
        f"{width:,} × {height:,} px  ·  {mpp:.4g} µm/px  ·  {microns}  ·  {tiles.slide_format}",
        f"{len(tiles):,} of {grid.columns * grid.rows:,} tiles kept  ·  {field}  ·  {source}",
        f"tissue {share}  ·  {tissue.area / 1e6:.3g} mm²  ·  {tissue.verdict}",
    ]


def _scale_bar(mpp: Mpp, longest: int) -> tuple[int, Microns]:
    """The longest bar of 1, 2 or 5 times a power of ten µm that fits: in pixels of the drawing, and in µm."""
    power = 10.0 ** np.floor(np.log10(longest * mpp))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest * mpp)
    return round(length / mpp), Microns(length)


def _words(length: Microns) -> str:
    return f"{length / 1000:.3g} mm" if length >= 1000 else f"{length:.3g} µm"


def _shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """``text``, with its middle left out where it is too long."""
    if font.getlength(text) <= room:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(text[: keep // 2] + "…" + text[-(keep // 2) :]) > room:
        keep -= 1
    return text[: keep // 2] + "…" + text[-(keep // 2) :]
