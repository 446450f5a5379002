"""Pen on a slide, and what is black: both are taken out before anything is called tissue.

Ink has hues that haematoxylin, eosin and DAB do not have, or not so pure. Other stains do: methenamine silver is
counterstained with light green, trichromes and Alcian blue are as blue as a marker, and silver and melanin are black.
Two things tell such a stain from ink. Ink lies on the cover slip, out of focus, and is plain within its stroke but for
the tissue below, where a stained section has texture through and through. And a stain is most of what there is to see
on its slide, while ink stands beside the tissue, or over a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from .glass import PLAIN, chroma, extremes, texture_across
from .pieces import Mask, disc, morphed, pieces
from .slide import Rgb
from .units import Microns, Mpp, SquareMicrons

_MIN_PEN: Final = SquareMicrons(30_000)  # a stroke is a fraction of a millimetre wide; less is ink-coloured tissue
_PEN_MARGIN: Final = Microns(60)  # its rim, where ink and glass mix
_BORDER: Final = Microns(16)  # of a stroke, where the change from ink to glass looks like texture
_THROUGH: Final = 0.8  # part of a piece that has texture: through and through
_SOMEWHERE: Final = 0.4
_MOST: Final = 0.5  # part of all that is not glass


@dataclass(frozen=True, eq=False)
class Ink:
    """Ink and black."""

    mask: Mask
    """(height, width), with its rim."""
    doubtful: bool
    """Most of what is on the slide was taken for ink, though it has some texture."""


def find_ink(picture: Rgb, smooth: Rgb, plain: Mask, glass: Mask, mpp: Mpp) -> Ink:
    """Where there is ink, or black, on a slide.

    :param smooth: the picture, smoothed.
    :param plain: where it has no texture.
    :param glass: what looks like glass.
    """
    of_all = int((~glass).sum())
    parts = [_judged(seen, picture, of_all, mpp) for seen in (_ink_coloured(smooth, plain, mpp), _black(smooth))]
    mask = np.zeros_like(glass)
    for part in parts:
        mask |= _with_rim(part.mask, mpp)
    return Ink(mask, any(part.doubtful for part in parts))


def _ink_coloured(smooth: Rgb, plain: Mask, mpp: Mpp) -> Mask:
    """Hues of pens. Where there is no texture, which tissue has and a stroke has not, less will do: ink that has faded,
    or that light shines through."""
    plain = morphed(plain, cv2.MORPH_DILATE, np.ones(texture_across(mpp), np.uint8))  # texture looks over its border
    hue, saturation, _ = (np.asarray(part) for part in cv2.split(np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))))
    coloured = chroma(smooth)
    # OpenCV counts a hue in steps of two degrees.
    green = (hue > 75 / 2) & (hue < 196 / 2) & (coloured > 20)
    azure = (hue >= 196 / 2) & (hue < 218 / 2) & (coloured > 50)
    blue = (hue >= 196 / 2) & (hue < 245 / 2) & ((coloured > 90) & (saturation > 128) | (coloured > 40) & plain)
    red = ((hue > 345 / 2) | (hue < 15 / 2)) & (coloured > 100) & ((saturation > 204) | (saturation > 160) & plain)
    return np.asarray(green | azure | blue | red)


def _black(smooth: Rgb) -> Mask:
    """Dark without colour: marker, edges of the glass, what was not scanned."""
    lowest, highest = extremes(smooth)
    return (highest < 90) & (highest - lowest < 30)


def _judged(seen: Mask, picture: Rgb, of_all: int, mpp: Mpp) -> Ink:
    """What looks like ink, without specks, and without what is a stain."""
    kept = pieces(seen, _MIN_PEN, mpp)
    if kept.sum() < _MOST * of_all:
        return Ink(kept, doubtful=False)
    inner = morphed(kept, cv2.MORPH_ERODE, disc(_BORDER, mpp))
    count, labels = cv2.connectedComponents(kept.astype(np.uint8), connectivity=4)
    labels = np.asarray(labels)
    area, within, textured = (
        np.bincount(labels[part], minlength=count).astype(float)
        for part in (kept, inner, inner & _textured_within(inner, picture, mpp))
    )
    share = np.divide(textured, within, out=np.ones_like(within), where=within > 0)
    through = (share >= _THROUGH) & (within > 0)
    if area[through].sum() < _MOST * of_all:
        return Ink(kept, doubtful=bool(area[share >= _SOMEWHERE].sum() >= _MOST * of_all))
    plain = share < _SOMEWHERE  # ink beside a stain of its colour
    plain[0] = False
    return Ink(np.asarray(plain[labels]), doubtful=False)


def _textured_within(inner: Mask, picture: Rgb, mpp: Mpp) -> Mask:
    """Where green varies over 72 µm within a mask, whatever lies beside it."""
    green = np.asarray(cv2.extractChannel(picture, 1)).astype(np.float32)
    weight = inner.astype(np.float32)
    across = texture_across(mpp)

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(cv2.boxFilter(values, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT), np.float32)

    of_mask = np.maximum(mean(weight), 1e-6)
    average = mean(green * weight) / of_mask
    return np.asarray(mean(green * green * weight) / of_mask - average**2 >= PLAIN**2)


def _with_rim(ink: Mask, mpp: Mpp) -> Mask:
    return morphed(ink, cv2.MORPH_DILATE, disc(_PEN_MARGIN, mpp)) if ink.any() else ink
