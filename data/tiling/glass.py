"""A model of the glass of a slide, and the tissue of any stain as whatever differs from it.

A fixed threshold on colour works for H&E. Pale counterstain, silver or thin tissue has hardly any colour, and with PAS
or Giemsa the glass may be as coloured as pale H&E. With all stains, tissue absorbs light and has texture, compared to
the glass *of this slide*:

- the colour of the glass is a quadratic surface fitted to the bright, smooth, unstained pixels, so that tinted glass
  and uneven light cancel out;
- its noise is how far glass pixels exceed that surface, since nothing on a slide is brighter than glass;
- its texture is the median standard deviation over squares of 72 µm.

A pixel is unlike glass if it is darker than the glass in some channel by more than the noise (gaps between cells
closed), and either three times as textured as the glass or at least half as dark as the textured tissue. A piece
without any colour (less than silver has), and without the contrast of silver, is dust, dirt, an air bubble, a shadow or
unstained tissue, and is reported separately.
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
"""(height, width): variance of the green channel over squares of 72 µm, in grey levels squared."""

SMOOTHING: Final = Microns(5.0)
TEXTURE_ACROSS: Final = Microns(72)
"""Side of the square over which texture is measured: several cells."""
PLAIN: Final = 2.5
"""Standard deviation in grey levels below which a place counts as smooth: glass has less than 1, the palest tissue in
focus 4 and more."""
GLASS_SHARE: Final = 0.02
"""Fraction of a picture that must be glass for its colour to be estimated."""

_MAX_ACROSS: Final = 181  # px: sums of squared grey levels over larger squares overflow OpenCV's 31 bits
_MIN_GLASS: Final = 140  # grey levels: glass may be dimly lit, or grey from the mounting medium
_MAX_STAIN: Final = 12  # grey levels of green below red and blue: both stains of H&E absorb green first, glass does not
_MAX_TINT: Final = 60  # grey levels of chroma: yellowed mounting medium, a warm lamp
_WHITE: Final = 254  # pure white is usually an area that was not scanned, not glass

_SAMPLES: Final = 20_000  # pixels of glass that its colour is fitted to
_MIN_SAMPLES: Final = 200
_KNOTS: Final = 65  # along each side, at which the fitted colour is rounded: so it is the same on every machine
_MAX_RESIDUAL: Final = 4  # grey levels from the fit; pixels beyond are not glass
_MAX_FROM_MEDIAN: Final = 25  # grey levels from the median, before the first fit

_DARKER: Final = 3  # grey levels beyond the noise
_TEXTURED: Final = 3  # times the texture of the glass
_OVERLAP: Final = Microns(54)  # the square that measures texture also responds outside tissue, by half of this
_GAP: Final = Microns(60)  # closed: lumina, the web of thin tissue
_MIN_AREA: Final = SquareMicrons(30_000)  # more than dust joined by the closing
_SOLID: Final = 0.7
_MIN_CHROMA: Final = 1.0  # grey levels of chroma, of means over 72 µm
_MIN_CHROMA_SHARE: Final = 0.04  # of the darkness: silver has 0.06 and more, dust 0.01
_CONTRAST: Final = 12  # grey levels of standard deviation
_MIN_SILVER: Final = SquareMicrons(250_000)  # dust and dirt do not form connected pieces of this size
_BROAD: Final = Microns(200)  # wider than the rim of any bubble and the shadow of the cover slip's edge


@dataclass(frozen=True, eq=False)
class Glass:
    """The appearance of a slide's glass."""

    colour: Rgb
    """(height, width, 3): the slide as it would look if it were empty."""
    noise: int
    """Grey levels."""
    texture: float
    """Grey levels of standard deviation."""


@dataclass(frozen=True, eq=False)
class UnlikeGlass:
    """The parts of a slide that are unlike its glass."""

    tissue: Mask
    colourless: Mask
    """Textured and unlike glass, but without colour: dirt, or unstained tissue."""
    solid: Mask
    """Where most pixels absorb light themselves. In a web, such as fat, few do, and closing filled the gaps."""
    darker: int
    """Threshold in grey levels: a pixel must be darker than the glass by more than this."""


def smoothed(picture: Rgb, mpp: Mpp, times: int = 1) -> Rgb:
    """Blur the picture by a Gaussian of 5 µm, or ``times`` as much."""
    sigma = times * SMOOTHING / mpp
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)


def extremes(picture: Rgb) -> tuple[Grey, Grey]:
    """Return the smallest and the largest channel of each pixel."""
    red, green, blue = cv2.split(picture)
    lowest, highest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(lowest, np.uint8), np.asarray(highest, np.uint8)


def chroma(picture: Rgb) -> Grey:
    """Compute the largest minus the smallest channel of each pixel."""
    lowest, highest = extremes(picture)
    return highest - lowest


def texture(picture: Rgb, mpp: Mpp) -> Variance:
    """Compute the local variance of the green channel, which most stains absorb most."""
    green, across = cv2.extractChannel(picture, 1), texture_across(mpp)
    square_of_mean = cv2.boxFilter(green, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT)
    cv2.multiply(square_of_mean, square_of_mean, dst=square_of_mean)
    mean_of_squares = cv2.sqrBoxFilter(green, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.subtract(mean_of_squares, square_of_mean, dst=mean_of_squares), np.float32)


def texture_across(mpp: Mpp) -> tuple[int, int]:
    """Return the sides in pixels of the square over which texture is measured; an odd number."""
    across = min(2 * max(round(TEXTURE_ACROSS / mpp / 2), 1) + 1, _MAX_ACROSS)
    return across, across


def looks_like_glass(smooth: Rgb, plain: Mask) -> Mask:
    """Mark pixels that are bright, without texture and without a stain's colour, though perhaps tinted."""
    lowest, highest = extremes(smooth)
    red, green, blue = cv2.split(smooth)
    stained = np.asarray(cv2.subtract(cv2.addWeighted(red, 0.5, blue, 0.5, 0), green)) > _MAX_STAIN
    return np.asarray((lowest >= _MIN_GLASS) & (highest - lowest <= _MAX_TINT) & ~stained & plain)


def tinted(smooth: Rgb, glass: Mask) -> Mask:
    """Mark the part of the glass that shows its colour; empty if that is less than :data:`GLASS_SHARE`.

    Pure white is left out: beside other glass it is an area that was not scanned.
    """
    coloured = glass & (extremes(smooth)[0] < _WHITE)
    return coloured if coloured.mean() >= GLASS_SHARE else np.zeros_like(coloured)


def glass_of(smooth: Rgb, variance: Variance, glass: Mask, left_out: Mask) -> Glass:
    """Model the glass of a slide; if hardly any is visible, from the brightest pixels.

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
    """Fit the colour of the glass over the slide: a quadratic surface, clipped to the colours that occur."""
    height, width = known.shape
    step = max(round((known.size / _SAMPLES) ** 0.5), 1)
    rows, columns = np.nonzero(known[::step, ::step])
    colours = smooth[::step, ::step][rows, columns].astype(np.float64)
    if not len(colours):
        colours = smooth[known].astype(np.float64)
    median = np.median(colours, axis=0)
    flat = np.asarray(np.broadcast_to(np.rint(median).astype(np.uint8), smooth.shape))
    if len(rows) < _MIN_SAMPLES:
        return flat
    terms = _quadratic(columns * step / width * 2 - 1, rows * step / height * 2 - 1)
    fits = (np.abs(colours - median) <= _MAX_FROM_MEDIAN).all(axis=1)
    factors = np.asarray(np.zeros((6, 3)))
    for _ in range(3):
        if fits.sum() < _MIN_SAMPLES:
            return flat
        of_glass = terms[fits]
        factors = np.asarray(np.linalg.solve(of_glass.T @ of_glass + 1e-6 * np.eye(6), of_glass.T @ colours[fits]))
        fits = (np.abs(colours - terms @ factors) <= _MAX_RESIDUAL).all(axis=1)
    if fits.sum() < _MIN_SAMPLES:
        return flat
    lowest, highest = np.percentile(colours[fits], [1, 99], axis=0)
    at = np.linspace(-1, 1, _KNOTS)
    surface = _quadratic(*(side.ravel() for side in np.meshgrid(at, at))) @ factors
    knots = np.rint(surface.clip(lowest, highest)).astype(np.uint8).reshape(_KNOTS, _KNOTS, 3)
    return np.asarray(cv2.resize(knots, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _quadratic(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def darkness(smooth: Rgb, glass: Glass) -> Grey:
    """Compute how much darker than the glass each pixel is, in the channel that differs most."""
    return extremes(np.asarray(cv2.subtract(glass.colour, smooth), np.uint8))[1]


def unlike_glass(smooth: Rgb, variance: Variance, glass: Glass, left_out: Mask, mpp: Mpp) -> UnlikeGlass:
    """Find the parts of a slide that are unlike its glass.

    :param left_out: ink, and places that were not scanned or could not be read.
    """
    dark = darkness(smooth, glass)
    darker = _DARKER + glass.noise
    absorbs = (dark > darker) & ~left_out
    textured = variance >= max(PLAIN, _TEXTURED * glass.texture) ** 2
    textured = morphed(textured, cv2.MORPH_ERODE, square(_OVERLAP, mpp))
    body = morphed(absorbs, cv2.MORPH_CLOSE, square(_GAP, mpp)) & ~left_out
    of_tissue = dark[absorbs & textured]
    dense = dark > max(float(np.median(of_tissue)) / 2 if of_tissue.size else 0.0, darker)
    found = morphed(body & (textured | dense), cv2.MORPH_OPEN, square(MIN_WIDTH, mpp))
    found = pieces(without_holes(found, left_out, mpp), _MIN_AREA, mpp, MIN_WIDTH, goes_on=True)
    across = texture_across(mpp)
    solid = np.asarray(cv2.boxFilter(absorbs.astype(np.float32), cv2.CV_32F, (2 * across[0], 2 * across[1])))
    tissue = _stained(found, absorbs, _colour_over_cells(smooth, glass, mpp), dark, variance, mpp)
    return UnlikeGlass(tissue, found & ~tissue & textured, solid >= _SOLID, darker)


def _stained(
    found: Mask, absorbs: Mask, colour: npt.NDArray[np.float32], dark: Grey, variance: Variance, mpp: Mpp
) -> Mask:
    """Keep the pieces that have a colour of their own, and large ones with the contrast of silver."""
    count, labels = cv2.connectedComponents(found.astype(np.uint8), connectivity=4)
    inside = found & absorbs
    of_piece = np.asarray(labels)[inside]
    pixels = np.bincount(of_piece, minlength=count)
    mean_colour, mean_dark, contrast = (
        np.bincount(of_piece, weights=values[inside], minlength=count) / np.maximum(pixels, 1)
        for values in (colour, dark, variance >= _CONTRAST**2)
    )
    keep = mean_colour >= np.maximum(_MIN_CHROMA, _MIN_CHROMA_SHARE * mean_dark)
    broad = morphed(found, cv2.MORPH_OPEN, square(_BROAD, mpp))
    keep |= (contrast > 0.5) & (np.bincount(np.asarray(labels)[broad], minlength=count) * mpp**2 >= _MIN_SILVER)
    keep[0] = False
    return np.asarray(keep[np.asarray(labels)])


def _colour_over_cells(smooth: Rgb, glass: Glass, mpp: Mpp) -> npt.NDArray[np.float32]:
    """Compute the chroma of the absorbed light, averaged over 72 µm since JPEG gives single pixels no colour."""
    height, width = smooth.shape[:2]
    across, _ = texture_across(mpp)
    coarse = (max(width // across, 1), max(height // across, 1))
    absorbed = cv2.subtract(glass.colour, smooth, dtype=cv2.CV_16S)
    means = np.asarray(cv2.resize(absorbed, coarse, interpolation=cv2.INTER_AREA)).reshape(*coarse[::-1], 3)
    spread = (means.max(axis=2) - means.min(axis=2)).astype(np.float32)
    return np.asarray(cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
