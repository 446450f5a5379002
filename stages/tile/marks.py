"""Drawing of tiles, ink, artefacts and unreadable areas on the picture of a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ...data.slides.slide import Rgb
from ...data.tiling.tissue import Mask
from .slide_tiling import ARTEFACT, NOT_SHARP, OVER_THE_EDGE, TOO_LITTLE_TISSUE

Colour = tuple[int, int, int]
Boxes = npt.NDArray[np.int64]
"""(N, 4): left, top, right and lower edge of tiles, in pixels of the drawing."""

FRAMED: Final = 12
"""Minimum pixels from tile to tile for frames; with less, frames would cover the tissue."""

_LARGE: Final = 40  # px: side from which a tile's frame gets a pale rim
_KEPT: Final = (0, 90, 225)
_LITTLE: Final = (95, 95, 95)
_BLURRED: Final = (230, 125, 0)
_ARTEFACT: Final = (176, 20, 150)
_PAPER: Final = (255, 255, 255)


@dataclass(frozen=True)
class Look:
    """How tiles of one kind are drawn. All numbers but ``sign`` are opacities from 0 to 1."""

    colour: Colour
    line: float
    """Of the frame and the sign."""
    small_line: float
    """Of the frame and the sign on the smallest tiles that have frames."""
    fill: float
    tint: float
    """Of the fill if tiles are too small for frames; the line then surrounds their whole area."""
    sign: tuple[tuple[float, float, float, float], ...] = ()
    """Strokes in a tile of side 1, each from x, y to x, y."""
    frame: bool = True


_CROSS: Final = ((0.36, 0.36, 0.64, 0.64), (0.36, 0.64, 0.64, 0.36))
_SLASH: Final = ((0.0, 1.0, 1.0, 0.0),)
_BACKSLASH: Final = ((0.0, 0.0, 1.0, 1.0),)
LOOK_KEPT: Final = Look(_KEPT, line=0.8, small_line=0.3, fill=0.06, tint=0.12)
_NOT_KEPT: Final = Look(_LITTLE, line=0.7, small_line=0.7, fill=0, tint=0.25, sign=_CROSS, frame=False)
LOOKS: Final = {
    TOO_LITTLE_TISSUE: _NOT_KEPT,
    OVER_THE_EDGE: _NOT_KEPT,
    NOT_SHARP: Look(_BLURRED, line=0.9, small_line=0.9, fill=0.25, tint=0.45, sign=_SLASH),
    ARTEFACT: Look(_ARTEFACT, line=0.9, small_line=0.9, fill=0.12, tint=0.45, sign=_BACKSLASH),
}


def mark(picture: Rgb, boxes: Boxes, look: Look, *, framed: bool) -> None:
    """Draw tiles of one kind; every pixel is painted once, so that overlapping tiles do not become darker."""
    if not len(boxes):
        return
    height, width = picture.shape[:2]
    side = int(boxes[0, 2] - boxes[0, 0])
    area, lines = np.zeros((2, height, width), np.uint8)
    for left, top, right, below in boxes.tolist():
        cv2.rectangle(area, (left, top), (max(right - 1, left), max(below - 1, top)), 255, cv2.FILLED)
        if framed and look.frame:
            cv2.rectangle(lines, (left, top), (min(right, width - 1), min(below, height - 1)), 255, 1)
        for x, y, to_x, to_y in look.sign if framed else ():
            start = round(left + x * (right - left)), round(top + y * (below - top))
            end = round(left + to_x * (right - left)), round(top + to_y * (below - top))
            cv2.line(lines, start, end, 255, 1 if side < 60 else 2)
    _paint(picture, area, look.colour, look.fill if framed else look.tint)
    strength = look.line
    if framed:
        strength = float(np.interp(side, (FRAMED, _LARGE), (look.small_line, look.line)))
        if side >= _LARGE:  # a pale rim, visible on dark tissue
            _paint(picture, np.asarray(cv2.dilate(lines, np.ones((3, 3), np.uint8)), np.uint8), _PAPER, 0.4)
    elif look.frame:
        edges, _ = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(lines, edges, -1, 255, 1)
    _paint(picture, lines, look.colour, strength)


def _paint(picture: Rgb, where: npt.NDArray[np.uint8], colour: Colour, opacity: float) -> None:
    """Mix a colour into the pixels that are not 0 in ``where``."""
    left, top, width, height = cv2.boundingRect(where)
    if opacity and width:
        remaining = np.arange(256)[:, None] * (1 - opacity)
        table = np.rint(remaining + np.array(colour) * opacity).astype(np.uint8)
        part = np.s_[top : top + height, left : left + width]
        cv2.copyTo(cv2.LUT(picture[part], table[None]), where[part], picture[part])


def ring(picture: Rgb, ink: Mask) -> None:
    """Draw black and white dashes around ink, visible on any colour."""
    if not ink.any():
        return
    lines = np.zeros(ink.shape, np.uint8)
    edges, _ = cv2.findContours(ink.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(lines, edges, -1, 255, 3)
    picture[lines > 0] = 255
    picture[(lines > 0) & _stripes(ink, 14, 7)] = 0


def hatch(picture: Rgb, unread: Mask) -> None:
    """Hatch the areas that could not be read."""
    if not unread.any():
        return
    picture[unread] = 215
    picture[unread & _stripes(unread, 14, 3)] = 90


def texture(picture: Rgb, where: Mask, kind: str) -> None:
    """Draw an area of one kind of artefact: a colour and a pattern of its own, with an outline."""
    y, x = np.ogrid[: where.shape[0], : where.shape[1]]
    patterns: dict[str, Mask] = {
        "fold": x % 7 < 2,
        "dark spot": (x % 7 < 3) & (y % 7 < 3),
        "pen": y % 7 < 2,
        "air bubble": (x - y) % 9 < 2,
        "out of focus": (x // 5 + y // 5) % 2 == 0,
    }
    colour = OF_ARTEFACTS[kind]
    lines = np.where(where & patterns[kind], 255, 0).astype(np.uint8)
    edges, _ = cv2.findContours(where.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(lines, edges, -1, 255, 2)
    _paint(picture, lines, colour, 0.75)


OF_ARTEFACTS: Final[dict[str, Colour]] = {
    "fold": (200, 30, 30),
    "dark spot": (25, 25, 25),
    "pen": (95, 0, 190),
    "air bubble": (0, 135, 140),
    "out of focus": (175, 115, 0),
}


def _stripes(like: Mask, every: int, wide: int) -> Mask:
    """Build a mask of diagonal stripes, ``wide`` pixels each and ``every`` pixels apart."""
    y, x = np.ogrid[: like.shape[0], : like.shape[1]]
    return np.asarray((x + y) % every < wide)
