"""Pen ink and black areas on a slide; both are excluded before tissue is searched.

Ink has hues that haematoxylin, eosin and DAB lack, or do not have as pure. Other stains do have them: methenamine
silver is counterstained with light green, trichromes and Alcian blue are as blue as a marker, and silver and melanin
are black. Two properties distinguish such a stain from ink. Ink lies on the cover slip, out of focus, and its strokes
are smooth apart from tissue below them, while a stained section has texture throughout. And a stain makes up much of
the tissue of its slide, or has the same colour as the rest, while ink lies beside tissue of another colour, or over
part of it.
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

_MIN_PEN: Final = SquareMicrons(30_000)  # a stroke is a fraction of a millimetre wide; smaller is ink-coloured tissue
_PEN_MARGIN: Final = Microns(60)  # the rim of a stroke, where ink and glass mix
_BORDER: Final = Microns(16)  # the border of a stroke, where the step from ink to glass looks like texture
_MOSTLY_TEXTURED: Final = 0.8  # fraction of a piece that has texture
_PARTLY_TEXTURED: Final = 0.4
_MUCH_OF_TISSUE: Final = 0.5  # fraction of all pixels with texture
_MOST_OF_CONTENT: Final = 0.5  # fraction of all pixels that are neither glass nor black
_MUCH_OF_SLIDE: Final = 0.1
_MIN_COSINE: Final = 0.98  # of two colours: black ink has at most 0.97 to H&E, a blue marker 0.95 to haematoxylin
_DENSITY: Final = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)  # optical density of each grey level


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink and black areas of a slide."""

    mask: Mask
    """(height, width), including the rims of strokes."""
    doubtful: bool
    """Whether much of the slide was classified as ink and may in fact be stained tissue."""


def find_ink(picture: Rgb, smooth: Rgb, plain: Mask, glass: Mask, mpp: Mpp) -> Ink:
    """Find ink and black areas on a slide.

    :param smooth: the picture, smoothed.
    :param plain: where it has no texture.
    :param glass: places that look like glass or are missing.
    """
    coloured = pieces(_ink_coloured(smooth, plain, mpp), _MIN_PEN, mpp)
    black = pieces(_black(smooth), _MIN_PEN, mpp)
    if not (coloured | black).any():
        return Ink(coloured, doubtful=False)
    textured = ~plain & ~glass
    white = _density(smooth, glass & (extremes(smooth)[0] < 255))
    rest = _density(smooth, textured & ~_with_rims([coloured, black], mpp)) - white
    ink, mostly, partly = [], 0, 0
    coloured_and_black = [_Pieces.of(part, picture, mpp) for part in (coloured, black)]
    for part in coloured_and_black:
        mostly += int((part.mask(part.textured >= _MOSTLY_TEXTURED) & textured).sum())
        partly += int((part.mask(part.textured >= _PARTLY_TEXTURED) & textured).sum())
    much = _MUCH_OF_TISSUE * max(int(textured.sum()), 1)
    for part in coloured_and_black:
        if mostly >= much:
            stain = part.textured >= _PARTLY_TEXTURED
        else:
            stain = (part.textured >= _MOSTLY_TEXTURED) & part.absorb_like(rest, smooth, white)
        ink.append(part.mask(~stain))
    nothing_else = coloured.mean() > _MUCH_OF_SLIDE and coloured.sum() > _MOST_OF_CONTENT * (~glass & ~black).sum()
    doubtful = mostly < much and (bool(nothing_else) or partly >= much)
    return Ink(_with_rims(ink, mpp), doubtful)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The connected pieces of a mask."""

    labels: npt.NDArray[np.int32]
    """(height, width); 0 is none."""
    textured: npt.NDArray[np.float64]
    """(number of labels,): the fraction of each piece that has texture."""

    @classmethod
    def of(cls, seen: Mask, picture: Rgb, mpp: Mpp) -> _Pieces:
        inner = morphed(seen, cv2.MORPH_ERODE, disc(_BORDER, mpp))
        count, found = cv2.connectedComponents(seen.astype(np.uint8), connectivity=4)
        labels = np.asarray(found, np.int32)
        within = np.bincount(labels[inner], minlength=count)
        textured = np.bincount(labels[inner & _textured_within(inner, picture, mpp)], minlength=count)
        return cls(labels, textured / np.maximum(within, 1))

    def mask(self, which: npt.NDArray[np.bool_]) -> Mask:
        """Mark the pieces whose label is selected."""
        which = which.copy()
        which[0] = False
        return np.asarray(which[self.labels])

    def absorb_like(self, colour: Density, smooth: Rgb, white: Density) -> npt.NDArray[np.bool_]:
        """Decide by label whether a piece absorbs red, green and blue in the same proportions as a colour."""
        alike = np.zeros(len(self.textured), bool)
        for label in range(1, len(alike)):
            own = _density(smooth, self.labels == label) - white
            alike[label] = own @ colour >= _MIN_COSINE * np.linalg.norm(own) * np.linalg.norm(colour) > 0
        return alike


def _density(smooth: Rgb, where: Mask) -> Density:
    """Compute the mean optical density of red, green and blue; zeros for an empty mask."""
    if not where.any():
        return np.zeros(3)
    return np.asarray(_DENSITY[smooth[where]].mean(axis=0, dtype=np.float64))


def _ink_coloured(smooth: Rgb, plain: Mask, mpp: Mpp) -> Mask:
    """Mark the hues of pens.

    In places without texture (tissue has it, a stroke does not) a weaker colour is enough: ink may have faded or be
    translucent.
    """
    # The square that measures texture reaches beyond the border of textured places.
    plain = morphed(plain, cv2.MORPH_DILATE, np.ones(texture_across(mpp), np.uint8))
    hue, saturation, _ = (np.asarray(part) for part in cv2.split(np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))))
    coloured = chroma(smooth)
    # OpenCV counts a hue in steps of two degrees.
    green = (hue > 75 / 2) & (hue < 196 / 2) & (coloured > 20)
    azure = (hue >= 196 / 2) & (hue < 218 / 2) & (coloured > 50)
    blue = (hue >= 196 / 2) & (hue < 245 / 2) & ((coloured > 90) & (saturation > 128) | (coloured > 40) & plain)
    red = ((hue > 345 / 2) | (hue < 15 / 2)) & (coloured > 100) & ((saturation > 204) | (saturation > 160) & plain)
    return np.asarray(green | azure | blue | red)


def _black(smooth: Rgb) -> Mask:
    """Mark dark pixels without colour: marker, edges of the glass, areas that were not scanned."""
    lowest, highest = extremes(smooth)
    return (highest < 90) & (highest - lowest < 30)


def _textured_within(inner: Mask, picture: Rgb, mpp: Mpp) -> Mask:
    """Mark where green varies over 72 µm, counting only pixels inside the mask."""
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
