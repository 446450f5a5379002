"""Pen on a slide, and what is black: both are taken out before anything is called tissue.

Ink has hues that haematoxylin, eosin and DAB do not have, or not so pure. Other stains do: methenamine silver is
counterstained with light green, trichromes and Alcian blue are as blue as a marker, and silver and melanin are black.
Two things tell such a stain from ink. Ink lies on the cover slip, out of focus, and is plain within its stroke but for
the tissue below, where a stained section has texture through and through. And a stain is much of what there is to see
on its slide, or has the very colour of the rest, while ink stands beside tissue of another colour, or over part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..slides.slide import Rgb
from ..units import Microns, Mpp, SquareMicrons
from .glass import PLAIN, chroma, extremes, texture_across
from .pieces import Mask, disc, morphed, pieces

Density = npt.NDArray[np.float64]
"""(3,): optical density of red, green and blue."""

_MIN_PEN: Final = SquareMicrons(30_000)  # a stroke is a fraction of a millimetre wide; less is ink-coloured tissue
_PEN_MARGIN: Final = Microns(60)  # its rim, where ink and glass mix
_BORDER: Final = Microns(16)  # of a stroke, where the change from ink to glass looks like texture
_THROUGH: Final = 0.8  # part of a piece that has texture: through and through
_SOMEWHERE: Final = 0.4
_MUCH: Final = 0.5  # part of all that has texture
_MOST: Final = 0.5  # part of all that is neither glass nor black
_MUCH_INK: Final = 0.1  # part of a slide
_ALIKE: Final = 0.98  # cosine: black ink is at 0.97 and less of H&E, a blue marker at 0.95 of haematoxylin
_DENSITY: Final = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)  # of a grey level


@dataclass(frozen=True, eq=False)
class Ink:
    """Ink and black."""

    mask: Mask
    """(height, width), with its rim."""
    doubtful: bool
    """Much of what is on the slide was taken for ink, and may be stained tissue."""


def find_ink(picture: Rgb, smooth: Rgb, plain: Mask, glass: Mask, mpp: Mpp) -> Ink:
    """Where there is ink, or black, on a slide.

    :param smooth: the picture, smoothed.
    :param plain: where it has no texture.
    :param glass: what looks like glass, or is missing.
    """
    coloured = pieces(_ink_coloured(smooth, plain, mpp), _MIN_PEN, mpp)
    black = pieces(_black(smooth), _MIN_PEN, mpp)
    if not (coloured | black).any():
        return Ink(coloured, doubtful=False)
    textured = ~plain & ~glass
    white = _density(smooth, glass & (extremes(smooth)[0] < 255))
    rest = _density(smooth, textured & ~_with_rims([coloured, black], mpp)) - white
    kept, through, somewhat = [], 0, 0
    of_pieces = [_Pieces.of(part, picture, mpp) for part in (coloured, black)]
    for part in of_pieces:
        through += int((part.mask(part.textured >= _THROUGH) & textured).sum())
        somewhat += int((part.mask(part.textured >= _SOMEWHERE) & textured).sum())
    much = _MUCH * max(int(textured.sum()), 1)
    for part in of_pieces:
        if through >= much:
            stain = part.textured >= _SOMEWHERE
        else:
            stain = (part.textured >= _THROUGH) & part.absorb_like(rest, smooth, white)
        kept.append(part.mask(~stain))
    nothing_else = coloured.mean() > _MUCH_INK and coloured.sum() > _MOST * (~glass & ~black).sum()
    doubtful = through < much and (bool(nothing_else) or somewhat >= much)
    return Ink(_with_rims(kept, mpp), doubtful)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The connected pieces of a mask."""

    labels: npt.NDArray[np.int32]
    """(height, width); 0 is none."""
    textured: npt.NDArray[np.float64]
    """(number of labels,): the part of each that has texture."""

    @classmethod
    def of(cls, seen: Mask, picture: Rgb, mpp: Mpp) -> _Pieces:
        inner = morphed(seen, cv2.MORPH_ERODE, disc(_BORDER, mpp))
        count, found = cv2.connectedComponents(seen.astype(np.uint8), connectivity=4)
        labels = np.asarray(found, np.int32)
        within = np.bincount(labels[inner], minlength=count)
        textured = np.bincount(labels[inner & _textured_within(inner, picture, mpp)], minlength=count)
        return cls(labels, textured / np.maximum(within, 1))

    def mask(self, which: npt.NDArray[np.bool_]) -> Mask:
        """Those of the pieces for whose label it says so."""
        which = which.copy()
        which[0] = False
        return np.asarray(which[self.labels])

    def absorb_like(self, colour: Density, smooth: Rgb, white: Density) -> npt.NDArray[np.bool_]:
        """By label, whether a piece takes red, green and blue away from white in the proportions of a colour."""
        alike = np.zeros(len(self.textured), bool)
        for label in range(1, len(alike)):
            own = _density(smooth, self.labels == label) - white
            alike[label] = own @ colour >= _ALIKE * np.linalg.norm(own) * np.linalg.norm(colour) > 0
        return alike


def _density(smooth: Rgb, where: Mask) -> Density:
    """Mean optical density of red, green and blue; zeros where there is nothing."""
    if not where.any():
        return np.zeros(3)
    return np.asarray(_DENSITY[smooth[where]].mean(axis=0, dtype=np.float64))


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


def _with_rims(parts: list[Mask], mpp: Mpp) -> Mask:
    joined: Mask = np.logical_or.reduce(
        [morphed(part, cv2.MORPH_DILATE, disc(_PEN_MARGIN, mpp)) if part.any() else part for part in parts]
    )
    return joined
