"""Where the tissue is: a deterministic mask at about 8 µm per pixel.

Tissue is coloured and has texture; glass has neither. The colour of a pixel is its chroma (largest minus smallest
channel, after the picture has been smoothed over 5 µm and the tint of the glass divided out); Otsu's threshold parts
the two (N. Otsu, IEEE Trans. SMC 9, 1979), and what it finds is followed into paler places as long as they have the
texture of tissue (hysteresis: J. Canny, IEEE Trans. PAMI 8, 1986). Chroma stands in for HSV's saturation, which noise
makes large in black areas. Otsu is wrong wherever there are not just these two classes, hence the guards:

- pen ink (blue, green to teal, red) and black (pen, edges of the glass, unscanned area) are found by colour and
  taken out first, and so is what could not be read;
- the threshold is held between :data:`LOWEST` and :data:`HIGHEST`, so that it neither falls into the noise of an
  empty slide nor climbs between pale and dense tissue;
- where next to no glass is to be seen, the image is a cropped region: all that has colour is tissue;
- a picture that glows on black is fluorescence: nothing in it is H&E, and the mask is empty.

Specks, fibres and holes are judged by their size in µm, so that the same tissue gives the same mask on every scanner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ..slides.slide import Rgb
from ..units import Level0Px, Microns, Mpp, SquareMicrons
from .overview import Overview, shrink

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Verdict = Literal["tissue and glass", "tissue all over", "nothing", "dark background", "annotated", "learned"]

MASK_MPP: Final = Mpp(8.0)
LONG_SIDE: Final = 256
"""Pixels along the longer side of the mask of a slide that is smaller than that at 8 µm, where it has them."""

SMOOTHING: Final = Microns(5.0)
TEXTURE_ACROSS: Final = Microns(72)
"""Side of the square over which texture is judged: several cells."""
LOWEST: Final = 7
HIGHEST: Final = 11
"""Bounds of the threshold, in grey levels of chroma (0 to 255)."""
WEAK: Final = 5
"""Chroma, smoothed over twice as much, above which textured surroundings of tissue are tissue too. Glass, its tint
divided out, stays below, the noise of strong JPEG compression included."""
PLAIN: Final = 2.5
"""Texture below which nothing is tissue by its texture, in grey levels of standard deviation: glass has below 1, the
palest tissue in focus 4 and more."""

MIN_PIECE: Final = SquareMicrons(15_000)
"""Smaller pieces are specks: just over the field of one 224-px tile at 0.5 µm per pixel (12,544 µm²)."""
MIN_WIDTH: Final = Microns(56)
"""What is nowhere so wide is a hair, a textile fibre, or the coloured rim of a line: half the side of such a tile."""
MAX_HOLE: Final = SquareMicrons(6_000)
"""Smaller gaps within tissue (fat cells, lumina, cracks) belong to it: less than half of such a tile, so that none is
kept for a hole that was filled."""

_MIN_PEN: Final = SquareMicrons(30_000)  # a stroke is a fraction of a millimetre wide; less is ink-coloured tissue
_PEN_MARGIN: Final = Microns(60)  # its rim, where ink and glass mix
_RIM: Final = Microns(24)  # over which smoothing mixes tissue and glass
_GLASS_SHARE: Final = 0.02
_GLASS_DARKEST: Final = 140  # grey levels: dimly lit, or grey by the mounting medium
_STAIN: Final = 12  # grey levels that green is below red and blue: both stains of H&E take it out first, no glass does
_TINT: Final = 60  # grey levels of chroma: yellowed mounting medium, a warm lamp


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueMask:
    """Tissue of a whole slide."""

    mask: Mask
    """(height, width)."""
    downsample: float
    """Pixels of level 0 along one pixel, on both axes."""
    mpp: Mpp
    verdict: Verdict
    threshold: int
    """Chroma above which a pixel is tissue."""
    pen: Mask
    """(height, width): ink and black, which were taken out."""

    @property
    def area(self) -> SquareMicrons:
        return SquareMicrons(float(self.mask.sum()) * self.mpp**2)


def find_tissue(overview: Overview) -> TissueMask:
    """Mask the tissue in an overview. The same pixels give the same mask; no pixels make it fail."""
    height, width = overview.pixels.shape[:2]
    wanted = min(MASK_MPP, overview.mpp * max(height, width) / LONG_SIDE)
    factor = max(round(wanted / overview.mpp), 1)
    picture = shrink(overview.pixels, factor)
    mpp = Mpp(overview.mpp * factor)
    unread = _shrunk(overview.unread, factor)
    mask = np.zeros(picture.shape[:2], bool)
    pen = np.zeros_like(mask)
    threshold = LOWEST
    verdict: Verdict = "dark background"
    if not _is_fluorescence(picture, ~unread):
        smooth = _smooth(picture, mpp)
        plain = _plain(picture, mpp)
        pen = (_ink(smooth, _to_its_border(plain, mpp), mpp) | _black(smooth, mpp)) & ~unread
        left_out = pen | unread
        glass = _glass(smooth, plain) & ~left_out
        chroma, around = (_chroma(seen) for seen in _without_tint((smooth, _smooth(picture, mpp, 2)), glass))
        threshold, verdict = _threshold(chroma, left_out, glass)
        mask = _followed((chroma > threshold) & ~left_out, (around > WEAK) & ~plain & ~left_out, mpp)
        mask = _without_holes(mask, left_out, mpp)
        mask = _pieces(mask, MIN_PIECE, mpp, MIN_WIDTH)
        if not mask.any():
            verdict = "nothing"
    return TissueMask(
        mask=mask, downsample=overview.downsample * factor, mpp=mpp, verdict=verdict, threshold=threshold, pen=pen
    )


def tissue_fractions(
    tissue: TissueMask, coords: npt.NDArray[np.int64], size_level0: Level0Px
) -> npt.NDArray[np.float32]:
    """Share of tissue in each tile, (N,), from 0 to 1, exact to the fraction of a mask pixel (integral image).

    :param coords: (N, 2) positions in pixels of level 0.
    :param size_level0: side of a tile in pixels of level 0.
    """
    table = np.asarray(cv2.integral(tissue.mask.astype(np.uint8), sdepth=cv2.CV_64F), np.float64)
    side = size_level0 / tissue.downsample
    start = np.asarray(coords, np.float64) / tissue.downsample
    left, top = start[:, 0], start[:, 1]
    right, bottom = left + side, top + side
    area = _at(table, right, bottom) - _at(table, left, bottom) - _at(table, right, top) + _at(table, left, top)
    # A tile beside the tissue has none of it, and not the last digits of a difference of large numbers.
    noise = 64 * np.finfo(np.float64).eps * max(table[-1, -1], 1.0)
    area[area <= noise] = 0
    area[area >= side**2 - noise] = side**2
    return np.asarray((area / side**2).clip(0, 1), np.float32)


def _at(table: Floats, x: Floats, y: Floats) -> Floats:
    """The integral image between its knots: bilinear is exact, for the mask is constant within a pixel."""
    x, y = x.clip(0, table.shape[1] - 1), y.clip(0, table.shape[0] - 1)
    column = np.minimum(x.astype(np.int64), table.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), table.shape[0] - 2)
    right, below = x - column, y - row
    return np.asarray(
        (table[row, column] * (1 - right) + table[row, column + 1] * right) * (1 - below)
        + (table[row + 1, column] * (1 - right) + table[row + 1, column + 1] * right) * below
    )


def _smooth(picture: Rgb, mpp: Mpp, times: int = 1) -> Rgb:
    sigma = times * SMOOTHING / mpp
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)


def _chroma(picture: Rgb) -> npt.NDArray[np.uint8]:
    lowest, highest = _extremes(picture)
    return highest - lowest


def _extremes(picture: Rgb) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Smallest and largest channel of each pixel."""
    red, green, blue = cv2.split(picture)
    lowest, highest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(lowest, np.uint8), np.asarray(highest, np.uint8)


def _is_fluorescence(picture: Rgb, read: Mask) -> bool:
    """Pure colours on black. Tissue on black, as scanners and masks leave it, reflects in all three channels."""
    lowest, highest = _extremes(picture)
    lit = (highest >= 40) & read
    return bool(lit.sum() < 0.9 * read.sum() and (not lit.any() or np.median(lowest[lit]) < 25))


def _plain(picture: Rgb, mpp: Mpp) -> Mask:
    """Where green, which both stains of H&E absorb most, has a standard deviation of less than :data:`PLAIN`."""
    green, across = cv2.extractChannel(picture, 1), _texture_across(mpp)
    square_of_mean = cv2.boxFilter(green, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT)
    cv2.multiply(square_of_mean, square_of_mean, dst=square_of_mean)
    mean_of_squares = cv2.sqrBoxFilter(green, cv2.CV_32F, across, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.subtract(mean_of_squares, square_of_mean, dst=mean_of_squares)) < PLAIN**2


def _to_its_border(plain: Mask, mpp: Mpp) -> Mask:
    """All of a plain area: near its border, texture looks beyond it."""
    return np.asarray(cv2.dilate(plain.astype(np.uint8), np.ones(_texture_across(mpp), np.uint8))).astype(bool)


def _texture_across(mpp: Mpp) -> tuple[int, int]:
    across = 2 * max(round(TEXTURE_ACROSS / mpp / 2), 1) + 1
    return across, across


def _glass(smooth: Rgb, plain: Mask) -> Mask:
    """Bright, without texture, and of no stain's colour, though perhaps tinted."""
    lowest, highest = _extremes(smooth)
    red, green, blue = cv2.split(smooth)
    stained = np.asarray(cv2.subtract(cv2.addWeighted(red, 0.5, blue, 0.5, 0), green)) > _STAIN
    return np.asarray((lowest >= _GLASS_DARKEST) & (highest - lowest <= _TINT) & ~stained & plain)


def _without_tint(smooth: tuple[Rgb, Rgb], glass: Mask) -> tuple[Rgb, Rgb]:
    """Two pictures with their glass made white, by its colour in the first; as they are where there is next to none.

    Pure white says nothing of the glass: it is an area that was not scanned, where there is other glass beside it.
    """
    tinted = glass & (_extremes(smooth[0])[0] < 254)
    if tinted.mean() < _GLASS_SHARE:
        return smooth
    tint = np.median(smooth[0][tinted], axis=0)
    of_channels = [np.minimum(np.arange(256) * 255 / channel + 0.5, 255).astype(np.uint8) for channel in tint]
    whiter = np.stack(of_channels, axis=1)[None]
    return np.asarray(cv2.LUT(smooth[0], whiter), np.uint8), np.asarray(cv2.LUT(smooth[1], whiter), np.uint8)


def _threshold(chroma: npt.NDArray[np.uint8], left_out: Mask, glass: Mask) -> tuple[int, Verdict]:
    in_question = chroma[~left_out]
    if glass.sum() <= _GLASS_SHARE * in_question.size:  # so it is, too, where nothing is in question
        return LOWEST, "tissue all over"
    otsu, _ = cv2.threshold(in_question, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return int(min(max(otsu, LOWEST), HIGHEST)), "tissue and glass"


def _ink(smooth: Rgb, plain: Mask, mpp: Mpp) -> Mask:
    """Pen: hues that haematoxylin, eosin and DAB do not have, or not so pure. Where there is no texture, which tissue
    has and a stroke has not, less will do: ink that has faded, or that light shines through."""
    hue, saturation, _ = (np.asarray(part) for part in cv2.split(np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))))
    chroma = _chroma(smooth)
    # OpenCV counts a hue in steps of two degrees.
    green = (hue > 75 / 2) & (hue < 196 / 2) & (chroma > 20)
    azure = (hue >= 196 / 2) & (hue < 218 / 2) & (chroma > 50)
    blue = (hue >= 196 / 2) & (hue < 245 / 2) & ((chroma > 90) & (saturation > 128) | (chroma > 40) & plain)
    red = ((hue > 345 / 2) | (hue < 15 / 2)) & (chroma > 100) & ((saturation > 204) | (saturation > 160) & plain)
    return _grown(green | azure | blue | red, mpp)


def _black(smooth: Rgb, mpp: Mpp) -> Mask:
    """Dark without colour: marker, edges of the glass, what was not scanned."""
    lowest, highest = _extremes(smooth)
    return _grown((highest < 90) & (highest - lowest < 30), mpp)


def _grown(ink: Mask, mpp: Mpp) -> Mask:
    """Ink without its specks, and with its rim."""
    kept = _pieces(ink, _MIN_PEN, mpp, Microns(0))
    if not kept.any():
        return kept
    radius = max(round(_PEN_MARGIN / mpp), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(kept.astype(np.uint8), disc)).astype(bool)


def _followed(strong: Mask, weak: Mask, mpp: Mpp) -> Mask:
    """Strong pixels and what is weak around them, but for the rim, where tissue and glass mix."""
    across = round(_RIM / mpp)
    if across > 1:
        square = np.ones((across, across), np.uint8)
        weak = np.asarray(cv2.morphologyEx((weak & ~strong).astype(np.uint8), cv2.MORPH_OPEN, square)).astype(bool)
    count, labels = cv2.connectedComponents((weak | strong).astype(np.uint8), connectivity=4)
    keep = np.zeros(count, bool)
    keep[np.asarray(labels)[strong]] = True
    return np.asarray(keep[np.asarray(labels)])


def _without_holes(mask: Mask, left_out: Mask, mpp: Mpp) -> Mask:
    """Fill gaps up to :data:`MAX_HOLE` that are closed all around; ink stays out however small."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    left, top, wide, high, area = stats.T
    closed = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    fill = closed & (area * mpp**2 <= MAX_HOLE)
    fill[0] = False  # label 0 is the tissue
    return np.asarray(mask | (fill[np.asarray(labels)] & ~left_out))


def _pieces(mask: Mask, at_least: SquareMicrons, mpp: Mpp, width: Microns) -> Mask:
    """The connected pieces of a mask that are not smaller than so much, and somewhere so wide."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= at_least
    across = round(width / mpp)
    if across > 1:
        # Beyond the picture's edge the tissue goes on.
        core = cv2.erode(mask.astype(np.uint8), np.ones((across, across), np.uint8), borderValue=1)
        wide = np.zeros_like(keep)
        wide[np.asarray(labels)[np.asarray(core) > 0]] = True
        keep &= wide
    keep[0] = False
    return np.asarray(keep[np.asarray(labels)])


def _shrunk(unread: Mask, factor: int) -> Mask:
    """Whether anything of a ``factor`` × ``factor`` square could not be read."""
    if not unread.any():
        return np.zeros((-(-unread.shape[0] // factor), -(-unread.shape[1] // factor)), bool)
    padded = np.pad(unread, [(0, -side % factor) for side in unread.shape])
    return np.asarray(padded.reshape(padded.shape[0] // factor, factor, -1, factor).any(axis=(1, 3)))
