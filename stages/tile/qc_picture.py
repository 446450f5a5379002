"""The QC picture of a slide, on which a person can check its tiling in two seconds.

Colour is never the only difference: tissue has a thick outline, kept tiles are blue squares, tiles with too little
tissue have a grey cross, tiles that are not sharp are orange and struck through, ink has an outline of black and white
dashes, and unreadable areas are hatched. If artefacts were looked for, each kind has a pattern of its own, and the
tiles dropped for them are struck through the other way. Tiles that are too small on the picture for frames are tinted
instead, with an outline around their whole area.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from ...data.slides.slide import Rgb
from ...data.tiling.artefacts import ARTEFACTS, COVERED
from ...data.tiling.grid import Coords
from ...data.tiling.tissue import Mask
from ...data.units import Microns, Mpp
from ...data.wording import figure
from ..pages.sheet import FACES, font
from .marks import FRAMED, LOOK_KEPT, LOOKS, Boxes, Look, hatch, mark, ring, texture
from .slide_tiling import TileResult

LONG_SIDE: Final = 1600
"""Pixels along the longer side of the slide's picture; the caption comes below."""

_TITLE_SIZE: Final = 34
_TEXT_SIZE: Final = 26  # px: readable when the picture is shown at half its size
_LINE: Final = 38
_QUALITY: Final = 85
_MIN_WIDTH: Final = 1000  # px: the caption needs them
_MARGIN: Final = 24

_OUTLINE: Final = (0, 130, 60)
_TEXT: Final = (28, 31, 35)
_FAINT: Final = (92, 98, 106)
_ALARM: Final = (176, 60, 0)
_RULE: Final = (200, 203, 207)
_PAPER: Final = (255, 255, 255)
_PALE_TISSUE: Final = (240, 222, 234)  # behind the samples of the legend


def draw_qc(result: TileResult, path: Path) -> None:
    """Write the QC image of a slide as a JPEG; the same result gives the same bytes."""
    Image.fromarray(qc_image(result)).save(path, "JPEG", quality=_QUALITY, subsampling=0)


def qc_image(result: TileResult) -> Rgb:
    """Draw the QC picture, (height, width, 3) uint8 RGB.

    It shows the overview with kept and dropped tiles, outlines of tissue and of excluded ink, and unreadable areas;
    below it a caption with facts, a legend and a scale bar.
    """
    picture, scale = _picture(result)
    framed = result.tiles.grid.step * scale >= FRAMED
    for _, coords, look in _kinds(result):
        mark(picture, _boxes(coords, result, scale), look, framed=framed)
    for kind, area in _artefacts(result).items():
        texture(picture, _enlarged(area, picture), kind)
    hatch(picture, _enlarged(result.overview.unread, picture))
    for piece in result.outlines:
        for line in (piece.outer, *piece.holes):
            points = np.rint(line * scale * 16).astype(np.int32)  # OpenCV's fixed point: a sixteenth of a pixel
            cv2.polylines(picture, [points], isClosed=True, color=_OUTLINE, thickness=2, lineType=cv2.LINE_AA, shift=4)
    ring(picture, _enlarged(result.tissue.pen, picture))  # last: within tissue, ink is a hole with an outline too
    return _with_caption(picture, result, scale, framed)


def _kinds(result: TileResult) -> list[tuple[str, Coords, Look]]:
    """List the kinds of tiles: name in the legend, positions, and how they are drawn."""
    dropped = [(f"dropped: {reason}", coords, LOOKS[reason]) for reason, coords in result.dropped.items()]
    return [("tiles kept", result.tiles.coords, LOOK_KEPT), *dropped]


def _artefacts(result: TileResult) -> dict[str, Mask]:
    """Where each kind of artefact covers at least half of a pixel of the mask; only kinds that occur."""
    if result.artefacts is None:
        return {}
    areas = result.artefacts.shares >= COVERED / 2
    return {kind: area for kind, area in zip(ARTEFACTS, areas, strict=True) if area.any()}


def _picture(result: TileResult) -> tuple[Rgb, float]:
    """Resize the overview to the drawing's size; also return pixels of the drawing along a pixel of level 0."""
    pixels = result.overview.pixels
    factor = LONG_SIDE / max(pixels.shape[:2])
    size = (max(round(pixels.shape[1] * factor), 1), max(round(pixels.shape[0] * factor), 1))
    kernel = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=kernel), np.uint8), factor / result.overview.downsample


def _boxes(coords: Coords, result: TileResult, scale: float) -> Boxes:
    side = result.tiles.grid.size_level0
    return np.rint(np.concatenate([coords, coords + side], axis=1) * scale).astype(np.int64)


def _enlarged(mask: Mask, picture: Rgb) -> Mask:
    """Resize a mask of the whole slide to the drawing's size."""
    size = (picture.shape[1], picture.shape[0])
    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)).astype(bool)


def _with_caption(picture: Rgb, result: TileResult, scale: float, framed: bool) -> Rgb:
    """Put the picture on a white sheet, with name, scale bar, why there are no tiles, facts and legend below it."""
    title, text = font(_TITLE_SIZE, bold=True), font(_TEXT_SIZE)
    height, width = picture.shape[:2]
    sheet_width = max(width, _MIN_WIDTH)
    room = sheet_width - 2 * _MARGIN
    dot = "  ·  "
    facts = [dot.join(row) for line in _facts(result) for row in _rows(line, room, text, text.getlength(dot))]
    why = [" ".join(row) for row in _rows(_why_empty(result).split(), room, text, text.getlength(" "))]
    samples = _samples(result, framed)
    legend = list(_rows([word for word, _ in samples], room, text, 2 * _LINE + _MARGIN))
    lines = len(why) + len(facts) + len(legend)

    top = height + _MARGIN
    sheet = Image.new("RGB", (sheet_width, top + 56 + _LINE * lines + 8 + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    left = (sheet_width - width) // 2
    pen.rectangle((left - 1, -1, left + width, height), outline=_RULE)
    sheet.paste(Image.fromarray(picture), (left, 0))

    right = sheet_width - _MARGIN
    bar, length = _scale_bar(Mpp(result.tiles.slide_mpp / scale), sheet_width // 5)
    pen.rectangle((right - bar + 1, top + 4, right, top + 11), _TEXT)
    pen.text((right - bar / 2, top + 18), _words(length), _TEXT, text, anchor="ma")

    pen.text((_MARGIN, top), _shortened(_printable(result.tiles.slide_id), title, room - bar - _MARGIN), _TEXT, title)
    y = top + 56
    for line, colour in [*((line, _ALARM) for line in why), *((line, _FAINT) for line in facts)]:
        pen.text((_MARGIN, y), line, colour, text)
        y += _LINE
    sample_of = dict(samples)
    for row in legend:
        x = float(_MARGIN)
        for word in row:
            sheet.paste(Image.fromarray(sample_of[word]), (round(x), y + 8))
            pen.text((x + sample_of[word].shape[1] + 10, y + 8), word, _TEXT, text)
            x += 2 * _LINE + _MARGIN + text.getlength(word)
        y += _LINE
    return np.asarray(sheet)


def _facts(result: TileResult) -> list[list[str]]:
    tiles, tissue = result.tiles, result.tissue
    grid, mpp = tiles.grid, tiles.slide_mpp
    width, height = tiles.slide_size
    field = Microns(grid.tile_px * grid.tile_mpp)
    share = f"{100 * tissue.mask.mean():.1f} % of the slide" if tissue.mask.any() else "none"
    return [
        [
            f"{width:,} × {height:,} px",
            f"{mpp:.4g} µm/px",
            f"{_words(Microns(width * mpp))} × {_words(Microns(height * mpp))}",
            tiles.slide_format,
        ],
        [
            f"tiles of {grid.tile_px} px at {grid.tile_mpp:.4g} µm/px ({_words(field)})",
            f"level {grid.level}, " + ("native pixels" if grid.native else f"{grid.read_px} → {grid.tile_px} px"),
        ],
        [f"tissue {share}", f"{figure(tissue.area / 1e6)} mm²", tissue.verdict],
        *_artefact_facts(result),
    ]


def _artefact_facts(result: TileResult) -> list[list[str]]:
    """How much of the tiles artefacts cover, the dropped tiles included."""
    stats = result.stats
    if stats.get("artefact_fraction") is None:
        return []
    shares = {kind: float(stats[f"artefact_{kind.replace(' ', '_')}"] or 0) for kind in ARTEFACTS}
    of_kinds = [f"{kind} {_percent(share)}" for kind, share in shares.items() if share]
    return [[f"artefacts on {_percent(float(stats['artefact_fraction'] or 0))} of the tiles' area", *of_kinds]]


def _why_empty(result: TileResult) -> str:
    """Say why no tile is kept; empty if some are."""
    if len(result.tiles):
        return ""
    if result.tissue.verdict == "dark background":
        return "Empty: bright colours on black, as in fluorescence. None of it is H&E."
    if result.tissue.verdict == "not understood":
        return (
            "Empty: tissue could not be recognised reliably. "
            "Choose with --tissue glass, --tissue all, or --tissue and a number of grey levels."
        )
    if not result.tissue.mask.any():
        return "Empty: no tissue was found" + (" apart from ink." if result.tissue.pen.any() else ".")
    dropped = [f"{len(coords):,} {reason}" for reason, coords in result.dropped.items() if len(coords)]
    if dropped:
        return f"Empty: no tile on the tissue is kept ({', '.join(dropped)})."
    return "Empty: there is tissue, but no whole tile lies on it."


def _samples(result: TileResult, framed: bool) -> list[tuple[str, Rgb]]:
    """Build the legend: a name for everything that occurs in the picture, and a sample of how it is drawn."""
    size = (28, 36)

    def blank() -> Rgb:
        return np.full((*size, 3), _PALE_TISSUE, np.uint8)

    samples = []
    if result.outlines:
        cv2.line(tissue := blank(), (0, size[0] // 2), (size[1], size[0] // 2), _OUTLINE, 3)
        samples.append(("tissue", tissue))
    for word, coords, look in _kinds(result):
        if len(coords):
            mark(tile := blank(), np.array([[4, 0, 31, 27]]), look, framed=framed)
            samples.append((f"{len(coords):,} {word}", tile))
    for kind in _artefacts(result):
        texture(area := blank(), np.ones(size, bool), kind)
        samples.append((kind, area))
    if result.tissue.pen.any():
        middle = np.zeros(size, bool)
        middle[size[0] // 2] = True
        ring(ink := blank(), middle)
        samples.append(("ink, left out", ink))
    if result.overview.unread.any():
        hatch(unread := blank(), np.ones(size, bool))
        samples.append((f"unreadable ({_percent(float(result.overview.unread.mean()))})", unread))
    return samples


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or not share else "< 0.1 %"


def _scale_bar(mpp: Mpp, longest: int) -> tuple[int, Microns]:
    """Choose the longest bar of 1, 2 or 5 times a power of ten µm that fits: in pixels of the drawing, and in µm."""
    power = 10.0 ** np.floor(np.log10(longest * mpp))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest * mpp)
    return round(length / mpp), Microns(length)


def _words(length: Microns) -> str:
    return f"{length / 1000:.3g} mm" if length >= 1000 else f"{length:.3g} µm"


def _rows(words: list[str], room: float, font: ImageFont.FreeTypeFont, between: float) -> Iterator[list[str]]:
    """Break words into rows of at most ``room`` pixels; ``between`` is the space that each takes beside its letters."""
    row: list[str] = []
    taken = 0.0
    for word in words:
        wide = font.getlength(word) + between
        if row and taken + wide > room:
            yield row
            row, taken = [], 0.0
        row.append(word)
        taken += wide
    if row:
        yield row


@lru_cache
def _drawable() -> frozenset[int]:
    return frozenset(FT2Font(str(FACES / "DejaVuSans-Bold.ttf")).get_charmap())


def _printable(text: str) -> str:
    r"""Replace letters that the font lacks by escapes such as ``\u73bb``, which unlike boxes distinguish slides."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(sign if ord(sign) in _drawable() else ascii(sign)[1:-1] for sign in composed)


def _shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Shorten text that is too long by leaving out its middle."""
    if font.getlength(text) <= room:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(text[: keep // 2] + "…" + text[-(keep // 2) :]) > room:
        keep -= 1
    return text[: keep // 2] + "…" + text[-(keep // 2) :]
