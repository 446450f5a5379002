"""The glass of a slide, and what on it is unlike glass: the tissue of any stain.

A fixed bound on colour holds for H&E. Pale counterstain, silver or thin tissue is hardly coloured at all, and with PAS
or Giemsa the glass may be as coloured as pale H&E. What is common to all of them is that tissue takes light away and
has texture, both in comparison with the glass *of this slide*:

- its colour is fitted over the slide (a quadratic surface to what is bright, plain and of no stain's colour), so that
  tinted glass and uneven light cancel out;
- its noise is how much brighter than that surface it gets, for nothing on a slide is brighter than glass;
- its texture is the median standard deviation over squares of 72 µm.

Unlike glass is what is darker than the glass in some channel by more than the noise, gaps between cells closed, and
either three times as textured as the glass or half as dark as what is. What has no colour at all, not even as much as
silver leaves, nor its contrast, is dust, dirt, an air bubble, a shadow, or tissue that nobody has stained: it is kept
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..slides.slide import Rgb
from ..units import Microns, Mpp, SquareMicrons
from .pieces import MIN_WIDTH, Mask, morphed, pieces, square, without_holes

Grey = npt.NDArray[np.uint8]
"""(height, width) uint8."""
Variance = npt.NDArray[np.float32]
"""(height, width): of green over squares of 72 µm, in grey levels squared."""

SMOOTHING: Final = Microns(5.0)
TEXTURE_ACROSS: Final = Microns(72)
"""Side of the square over which texture is judged: several cells."""
PLAIN: Final = 2.5
"""Texture below which nothing is tissue by its texture, in grey levels of standard deviation: glass has below 1, the
palest tissue in focus 4 and more."""
GLASS_SHARE: Final = 0.02
"""Part of a picture that must be glass for it to be known."""

_WIDEST: Final = 181  # px: squares of more grey levels do not add up in the 31 bits that OpenCV has for them
_DARKEST: Final = 140  # grey levels: dimly lit, or grey by the mounting medium
_STAIN: Final = 12  # grey levels that green is below red and blue: both stains of H&E take it out first, no glass does
_TINT: Final = 60  # grey levels of chroma: yellowed mounting medium, a warm lamp
_WHITE: Final = 254  # pure white says nothing of the glass: an area that was not scanned

_SAMPLES: Final = 20_000  # pixels of glass that its colour is fitted to
_FEWEST: Final = 200
_KNOTS: Final = 65  # along each side, at which the fitted colour is rounded: so it is the same on every machine
_OUTLIER: Final = 4  # grey levels off the fit: no glass
_FAR_OFF: Final = 25  # grey levels off the median, before anything is fitted

_DARKER: Final = 3  # grey levels beyond the noise
_TEXTURED: Final = 3  # times the texture of the glass
_OVER: Final = Microns(54)  # by half of it, texture is seen over its border
_GAP: Final = Microns(60)  # what is closed: lumina, the web of thin tissue
_SMALLEST: Final = SquareMicrons(30_000)  # dust that the closing joins stays below
_SOLID: Final = 0.7
_COLOURED: Final = 1.0  # grey levels of chroma, of means over 72 µm
_COLOURED_SHARE: Final = 0.04  # of the darkness: silver has 0.06 and more, dust 0.01
_CONTRAST: Final = 12  # grey levels of standard deviation
_SILVER: Final = SquareMicrons(250_000)  # so much of dust and dirt does not hang together
_BROAD: Final = Microns(200)  # no bubble's rim is as wide, and no shadow of the cover slip's edge


@dataclass(frozen=True, eq=False)
class Glass:
    """What the glass of a slide looks like."""

    colour: Rgb
    """(height, width, 3): what would be seen if there were nothing on it."""
    noise: int
    """Grey levels."""
    texture: float
    """Grey levels of standard deviation."""


@dataclass(frozen=True, eq=False)
class UnlikeGlass:
    """What is not glass."""

    tissue: Mask
    colourless: Mask
    """Textured and unlike glass, but without colour: dirt, or tissue that is not stained."""
    solid: Mask
    """Where most pixels take light away themselves. In a web, such as fat, few do, and the gaps were closed."""
    darker: int
    """Grey levels below the glass from which a pixel counts."""


def smoothed(picture: Rgb, mpp: Mpp, times: int = 1) -> Rgb:
    """The picture without what is finer than 5 µm, or a multiple of that."""
    sigma = times * SMOOTHING / mpp
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)


def extremes(picture: Rgb) -> tuple[Grey, Grey]:
    """Smallest and largest channel of each pixel."""
    red, green, blue = cv2.split(picture)
    lowest, highest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(lowest, np.uint8), np.asarray(highest, np.uint8)


def chroma(picture: Rgb) -> Grey:
    """Largest minus smallest channel of each pixel."""
    lowest, highest = extremes(picture)
    return highest - lowest


def texture(picture: Rgb, mpp: Mpp) -> Variance:
    """The variance of green, which most stains absorb most."""
    green, across = cv2.extractChannel(picture, 1), texture_across(mpp)
    square_of_mean = cv2.boxFilter(green, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT)
    cv2.multiply(square_of_mean, square_of_mean, dst=square_of_mean)
    mean_of_squares = cv2.sqrBoxFilter(green, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.subtract(mean_of_squares, square_of_mean, dst=mean_of_squares), np.float32)


def texture_across(mpp: Mpp) -> tuple[int, int]:
    """Pixels along the square over which texture is judged; an odd number."""
    across = min(2 * max(round(TEXTURE_ACROSS / mpp / 2), 1) + 1, _WIDEST)
    return across, across


def looks_like_glass(smooth: Rgb, plain: Mask) -> Mask:
    """Bright, without texture, and of no stain's colour, though perhaps tinted."""
    lowest, highest = extremes(smooth)
    red, green, blue = cv2.split(smooth)
    stained = np.asarray(cv2.subtract(cv2.addWeighted(red, 0.5, blue, 0.5, 0), green)) > _STAIN
    return np.asarray((lowest >= _DARKEST) & (highest - lowest <= _TINT) & ~stained & plain)


def tinted(smooth: Rgb, glass: Mask) -> Mask:
    """The part of the glass that tells its colour: none of it where there is next to none.

    Pure white says nothing of the glass: it is an area that was not scanned, where there is other glass beside it.
    """
    tells = glass & (extremes(smooth)[0] < _WHITE)
    return tells if tells.mean() >= GLASS_SHARE else np.zeros_like(tells)


def glass_of(smooth: Rgb, variance: Variance, glass: Mask, left_out: Mask) -> Glass:
    """The glass of a slide; where next to none is seen, the brightest that is stands in for it.

    :param glass: where there is glass, by :func:`looks_like_glass`.
    """
    known = tinted(smooth, glass)
    if not known.any():
        known = glass
    if known.mean() < GLASS_SHARE:
        seen = smooth[~left_out] if not left_out.all() else smooth.reshape(-1, 3)
        seen = seen[:: max(len(seen) // _SAMPLES, 1)]
        lowest = seen.min(axis=1)
        brightest = np.median(seen[lowest >= np.percentile(lowest, 99)], axis=0)
        return Glass(np.asarray(np.broadcast_to(np.rint(brightest).astype(np.uint8), smooth.shape)), 0, 0.0)
    colour = _fitted(smooth, known)
    brighter = extremes(np.asarray(cv2.subtract(smooth, colour), np.uint8))[1][known]
    step = max(brighter.size // _SAMPLES, 1)
    return Glass(
        colour,
        noise=int(np.percentile(brighter[::step], 99)),
        texture=float(np.sqrt(max(float(np.median(variance[known][::step])), 0.0))),
    )


def _fitted(smooth: Rgb, known: Mask) -> Rgb:
    """The colour of the glass all over the slide: a quadratic surface, never beyond the colours that are seen."""
    height, width = known.shape
    step = max(round((known.size / _SAMPLES) ** 0.5), 1)
    rows, columns = np.nonzero(known[::step, ::step])
    colours = smooth[::step, ::step][rows, columns].astype(np.float64)
    if not len(colours):
        colours = smooth[known].astype(np.float64)
    median = np.median(colours, axis=0)
    flat = np.asarray(np.broadcast_to(np.rint(median).astype(np.uint8), smooth.shape))
    if len(rows) < _FEWEST:
        return flat
    terms = _quadratic(columns * step / width * 2 - 1, rows * step / height * 2 - 1)
    fits = (np.abs(colours - median) <= _FAR_OFF).all(axis=1)
    factors = np.asarray(np.zeros((6, 3)))
    for _ in range(3):
        if fits.sum() < _FEWEST:
            return flat
        of_glass = terms[fits]
        factors = np.asarray(np.linalg.solve(of_glass.T @ of_glass + 1e-6 * np.eye(6), of_glass.T @ colours[fits]))
        fits = (np.abs(colours - terms @ factors) <= _OUTLIER).all(axis=1)
    if fits.sum() < _FEWEST:
        return flat
    lowest, highest = np.percentile(colours[fits], [1, 99], axis=0)
    at = np.linspace(-1, 1, _KNOTS)
    surface = _quadratic(*(side.ravel() for side in np.meshgrid(at, at))) @ factors
    knots = np.rint(surface.clip(lowest, highest)).astype(np.uint8).reshape(_KNOTS, _KNOTS, 3)
    return np.asarray(cv2.resize(knots, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _quadratic(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def darkness(smooth: Rgb, glass: Glass) -> Grey:
    """How much darker than the glass each pixel is, in the channel that differs most."""
    return extremes(np.asarray(cv2.subtract(glass.colour, smooth), np.uint8))[1]


def unlike_glass(smooth: Rgb, variance: Variance, glass: Glass, left_out: Mask, mpp: Mpp) -> UnlikeGlass:
    """What on a slide is not glass.

    :param left_out: ink, and what was not scanned or could not be read.
    """
    dark = darkness(smooth, glass)
    darker = _DARKER + glass.noise
    takes_light = (dark > darker) & ~left_out
    textured = variance >= max(PLAIN, _TEXTURED * glass.texture) ** 2
    textured = morphed(textured, cv2.MORPH_ERODE, square(_OVER, mpp))
    body = morphed(takes_light, cv2.MORPH_CLOSE, square(_GAP, mpp)) & ~left_out
    of_tissue = dark[takes_light & textured]
    dense = dark > max(float(np.median(of_tissue)) / 2 if of_tissue.size else 0.0, darker)
    found = morphed(body & (textured | dense), cv2.MORPH_OPEN, square(MIN_WIDTH, mpp))
    found = pieces(without_holes(found, left_out, mpp), _SMALLEST, mpp, MIN_WIDTH, goes_on=True)
    across = texture_across(mpp)
    solid = np.asarray(cv2.boxFilter(takes_light.astype(np.float32), cv2.CV_32F, (2 * across[0], 2 * across[1])))
    tissue = _stained(found, takes_light, _colour_over_cells(smooth, glass, mpp), dark, variance, mpp)
    return UnlikeGlass(tissue, found & ~tissue & textured, solid >= _SOLID, darker)


def _stained(
    found: Mask, takes_light: Mask, colour: npt.NDArray[np.float32], dark: Grey, variance: Variance, mpp: Mpp
) -> Mask:
    """The pieces that have a colour beside that of the glass, and large ones of the contrast of silver."""
    count, labels = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    inside = found & takes_light
    of_piece = np.asarray(labels)[inside]
    pixels = np.bincount(of_piece, minlength=count)
    mean_colour, mean_dark, contrast = (
        np.bincount(of_piece, weights=values[inside], minlength=count) / np.maximum(pixels, 1)
        for values in (colour, dark, variance >= _CONTRAST**2)
    )
    keep = mean_colour >= np.maximum(_COLOURED, _COLOURED_SHARE * mean_dark)
    broad = morphed(found, cv2.MORPH_OPEN, square(_BROAD, mpp))
    keep |= (contrast > 0.5) & (np.bincount(np.asarray(labels)[broad], minlength=count) * mpp**2 >= _SILVER)
    keep[0] = False
    return np.asarray(keep[np.asarray(labels)])


def _colour_over_cells(smooth: Rgb, glass: Glass, mpp: Mpp) -> npt.NDArray[np.float32]:
    """Chroma of the light that is taken away, of its means over 72 µm: in a JPEG, single pixels have no colour."""
    height, width = smooth.shape[:2]
    across, _ = texture_across(mpp)
    coarse = (max(width // across, 1), max(height // across, 1))
    taken = cv2.subtract(glass.colour, smooth, dtype=cv2.CV_16S)
    means = np.asarray(cv2.resize(taken, coarse, interpolation=cv2.INTER_AREA)).reshape(*coarse[::-1], 3)
    spread = (means.max(axis=2) - means.min(axis=2)).astype(np.float32)
    return np.asarray(cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
