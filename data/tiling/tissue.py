"""The tissue mask of a slide: deterministic, at about 8 µm per pixel.

Tissue is coloured and has texture; glass has neither. The colour of a pixel is its chroma (largest minus smallest
channel, after smoothing over 5 µm and removing the tint of the glass). Otsu's threshold separates the two (N. Otsu,
IEEE Trans. SMC 9, 1979), and the mask is extended into paler places as long as they have the texture of tissue
(hysteresis: J. Canny, IEEE Trans. PAMI 8, 1986). Chroma is used instead of HSV's saturation, which noise makes large in
black areas. Otsu's method assumes exactly these two classes, so other content is handled first:

- pen ink (blue, green to teal, red) and black (pen, edges of the glass, unscanned area) are found first
  (:mod:`.ink`) and excluded, and so are places that could not be read or were not scanned;
- the threshold is limited to :data:`LOWEST` to :data:`HIGHEST`, so that it neither falls into the noise of an
  empty slide nor rises to a value between pale and dense tissue;
- if hardly any glass is visible, the image is a cropped region: everything with colour is tissue;
- bright colours on black mean fluorescence: nothing there is H&E, and the mask is empty.

Colour works for H&E. A second method checks whether it works for this slide: what is unlike its glass
(:mod:`.glass`). If the colour mask misses much of that, or includes much glass, the second method gives the mask. If
neither is reliable, the mask is the better guess and the verdict is "not understood".

Specks, fibres and holes are judged by their size in µm, so that the same tissue gives the same mask on every scanner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ..slides.slide import Rgb
from ..units import Level0Px, Microns, Mpp, SquareMicrons
from .glass import (
    GLASS_SHARE,
    PLAIN,
    TEXTURE_ACROSS,
    Glass,
    UnlikeGlass,
    Variance,
    chroma,
    darkness,
    extremes,
    glass_of,
    looks_like_glass,
    smoothed,
    texture,
    tinted,
    unlike_glass,
)
from .ink import find_ink
from .overview import Overview, shrink, shrink_mask
from .pieces import MAX_HOLE as MAX_HOLE
from .pieces import MIN_PIECE, MIN_WIDTH, morphed, pieces, square, without_holes
from .pieces import Mask as Mask

Floats = npt.NDArray[np.float64]
Verdict = Literal[
    "tissue and glass",
    "tissue all over",
    "unlike glass",
    "not understood",
    "nothing",
    "dark background",
    "darker than glass",
    "all of it",
    "annotated",
    "learned",
]

MASK_MPP: Final = Mpp(8.0)
LONG_SIDE: Final = 256
"""Pixels along the longer side of the mask of a small slide, one with fewer at 8 µm, if the slide has that many."""

LOWEST: Final = 7
HIGHEST: Final = 11
"""Bounds of the threshold, in grey levels of chroma (0 to 255)."""
WEAK: Final = 5
"""Chroma, smoothed over 10 µm, above which textured surroundings of tissue are tissue too. Glass without its tint stays
below, even with the noise of strong JPEG compression."""

MISSED: Final = 0.1
"""Tolerated fraction of the area unlike glass that colour misses, and of the colour mask that is glass."""

_RIM: Final = Microns(24)  # width over which smoothing mixes tissue and glass
_MIN_EVIDENCE: Final = SquareMicrons(250_000)  # a smaller disagreement with the colour mask may be dust
_MIN_EVIDENCE_SHARE: Final = 0.05  # of a picture, if that is less
_PALER: Final = 0.25  # relative darkness of a film of protein; thin tissue is darker, or has texture
_MAX_PLAIN_SHARE: Final = 0.3  # of a picture without glass
_WHITE: Final = 250  # areas that were not scanned, in fluorescence


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueMask:
    """The tissue of a whole slide."""

    mask: Mask
    """(height, width)."""
    downsample: float
    """Pixels of level 0 along one pixel, on both axes."""
    mpp: Mpp
    verdict: Verdict
    threshold: int
    """Value above which a pixel is tissue: chroma, or grey levels below the glass."""
    pen: Mask
    """(height, width): ink and black areas, which were excluded."""

    @property
    def area(self) -> SquareMicrons:
        return SquareMicrons(float(self.mask.sum()) * self.mpp**2)


Way = Literal["auto", "colour", "glass", "all"]
"""How tissue is found: by colour or by difference from glass, chosen per slide; by one of the two; or all is tissue."""


def find_tissue(overview: Overview, way: Way | int = "auto") -> TissueMask:
    """Mask the tissue in an overview; the same pixels always give the same mask, and no picture makes it fail.

    :param way: a method, or a number of grey levels: then every pixel darker than the glass by that much is tissue,
        ink included.
    """
    factor = mask_factor(overview)
    mpp = Mpp(overview.mpp * factor)
    missing = overview.unread if overview.unscanned is None else overview.unread | overview.unscanned
    found = _Found.on(shrink(overview.pixels, factor), ~shrink_mask(~missing, factor), mpp, way)
    return TissueMask(
        mask=found.mask,
        downsample=overview.downsample * factor,
        mpp=mpp,
        verdict=found.verdict,
        threshold=found.threshold,
        pen=found.pen,
    )


def mask_factor(overview: Overview) -> int:
    """Pixels of the overview along one of the mask: so many that it has about 8 µm, or more pixels on a small slide."""
    wanted = min(MASK_MPP, overview.mpp * max(overview.pixels.shape[:2]) / LONG_SIDE)
    return max(round(float(wanted / overview.mpp)), 1)


def tissue_fractions(
    tissue: TissueMask, coords: npt.NDArray[np.int64], size_level0: Level0Px
) -> npt.NDArray[np.float32]:
    """Compute the fraction of tissue in each tile, (N,), exact to fractions of a mask pixel (integral image).

    :param coords: (N, 2) positions in pixels of level 0.
    :param size_level0: side of a tile in pixels of level 0.
    """
    return area_means(tissue.mask.astype(np.uint8), tissue.downsample, coords, size_level0)


def area_means(
    values: npt.NDArray[np.uint8],
    downsample: float,
    coords: npt.NDArray[np.int64],
    size_level0: Level0Px,
    *,
    most: int = 1,
) -> npt.NDArray[np.float32]:
    """Compute the mean of a map of the slide over each tile, (N,), as a fraction of ``most``.

    :param values: (height, width) of at most ``most``.
    :param downsample: pixels of level 0 along one pixel of the map.
    """
    table = np.asarray(cv2.integral(values, sdepth=cv2.CV_64F), np.float64)
    side = size_level0 / downsample
    start = np.asarray(coords, np.float64) / downsample
    left, top = start[:, 0], start[:, 1]
    right, bottom = left + side, top + side
    area = _at(table, right, bottom) - _at(table, left, bottom) - _at(table, right, top) + _at(table, left, top)
    # A tile beside the tissue must have exactly 0, not the rounding error of a difference of large numbers.
    noise = 64 * np.finfo(np.float64).eps * max(table[-1, -1], 1.0)
    whole = most * side**2
    area[area <= noise] = 0
    area[area >= whole - noise] = whole
    return np.asarray((area / whole).clip(0, 1), np.float32)


def _at(table: Floats, x: Floats, y: Floats) -> Floats:
    """Interpolate the integral image bilinearly, which is exact because the mask is constant within a pixel."""
    x, y = x.clip(0, table.shape[1] - 1), y.clip(0, table.shape[0] - 1)
    column = np.minimum(x.astype(np.int64), table.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), table.shape[0] - 2)
    right, below = x - column, y - row
    return np.asarray(
        (table[row, column] * (1 - right) + table[row, column + 1] * right) * (1 - below)
        + (table[row + 1, column] * (1 - right) + table[row + 1, column + 1] * right) * below
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """A mask at the resolution of a picture."""

    mask: Mask
    verdict: Verdict
    threshold: int
    pen: Mask

    @classmethod
    def on(cls, picture: Rgb, missing: Mask, mpp: Mpp, way: Way | int) -> _Found:
        """Find the tissue in a picture, outside the missing pixels."""
        nothing = np.zeros_like(missing)
        if way == "all":
            return cls(~missing, "nothing" if missing.all() else "all of it", 0, nothing)
        if way == "auto" and _is_fluorescence(picture, ~missing):
            return cls(nothing, "dark background", LOWEST, nothing)
        look = _Look.at(picture, missing, mpp, ink=not isinstance(way, int))
        if isinstance(way, int):
            dark = darkness(look.smooth, look.glass) >= way
            found = cls(look.cleaned(dark & ~look.left_out), "darker than glass", way, nothing)
        elif way == "colour" or min(missing.shape) * mpp < TEXTURE_ACROSS / 2:  # too small to model the glass
            found = look.by_colour()
        else:
            unlike = unlike_glass(look.smooth, look.variance, look.glass, look.left_out, mpp)
            found = look.by_what_is_right(unlike) if way == "auto" else look.by_glass(unlike, unlike.colourless)
        if not found.mask.any() and found.verdict != "not understood":
            found = replace(found, verdict="nothing")
        return found


@dataclass(frozen=True, eq=False)
class _Look:
    """A picture with its ink, its glass and its texture, before its tissue is found."""

    picture: Rgb
    smooth: Rgb
    variance: Variance
    mpp: Mpp
    pen: Mask
    pen_doubtful: bool
    left_out: Mask
    """Ink, black areas and missing pixels."""
    is_glass: Mask
    glass: Glass

    @classmethod
    def at(cls, picture: Rgb, missing: Mask, mpp: Mpp, *, ink: bool) -> _Look:
        smooth, variance = smoothed(picture, mpp), texture(picture, mpp)
        plain = variance < PLAIN**2
        glass = looks_like_glass(smooth, plain)
        found = find_ink(picture, smooth, plain, glass | missing, mpp)
        pen = found.mask & ~missing if ink else np.zeros_like(missing)
        left_out = pen | missing
        glass &= ~left_out
        of_slide = glass_of(smooth, variance, glass, left_out)
        return cls(picture, smooth, variance, mpp, pen, found.doubtful, left_out, glass, of_slide)

    def cleaned(self, mask: Mask) -> Mask:
        """Fill small holes; remove specks and fibres."""
        filled = without_holes(mask, self.left_out, self.mpp)
        return pieces(filled, MIN_PIECE, self.mpp, MIN_WIDTH, goes_on=True)

    def by_colour(self) -> _Found:
        """Find tissue by its chroma."""
        twice = smoothed(self.picture, self.mpp, 2)
        coloured, around = (chroma(seen) for seen in _without_tint((self.smooth, twice), self.is_glass))
        threshold, verdict = _threshold(coloured, self.left_out, self.is_glass)
        weak = (around > WEAK) & (self.variance >= PLAIN**2)
        mask = _followed((coloured > threshold) & ~self.left_out, weak & ~self.left_out, self.mpp)
        return _Found(self.cleaned(mask), verdict, threshold, self.pen)

    def by_glass(self, unlike: UnlikeGlass, colourless: Mask | None = None) -> _Found:
        """Find tissue as what is unlike glass, with the colourless parts if given."""
        mask = unlike.tissue if colourless is None else unlike.tissue | colourless
        return _Found(mask, "unlike glass", unlike.darker, self.pen)

    def by_what_is_right(self, unlike: UnlikeGlass) -> _Found:
        """Choose the mask by colour, or the one of what is unlike glass if the two differ much."""
        found, by_glass = self.by_colour(), self.by_glass(unlike)
        wide = square(MIN_WIDTH, self.mpp)
        missed = morphed(unlike.tissue & ~found.mask & unlike.solid, cv2.MORPH_OPEN, wide)
        taken = morphed(found.mask & ~unlike.tissue, cv2.MORPH_OPEN, wide)
        if self._much(missed, unlike.tissue):
            found = replace(by_glass, mask=unlike.tissue | found.mask)
        elif self._much(taken, found.mask) and self._paler(taken, unlike.tissue):
            found = by_glass
        colourless = morphed(unlike.colourless & ~found.mask & unlike.solid, cv2.MORPH_OPEN, wide)
        # Colourless tissue? A stain that looks like ink? A background that is neither glass nor tissue?
        if (
            self._much(colourless, found.mask | colourless)
            or self.pen_doubtful
            or (found.verdict == "tissue all over" and self._plain_share() > _MAX_PLAIN_SHARE)
        ):
            found = replace(found, verdict="not understood")
        return found

    def _much(self, part: Mask, of: Mask) -> bool:
        """Whether a part is a large fraction of a mask and not negligible on the slide."""
        least = min(_MIN_EVIDENCE / self.mpp**2, _MIN_EVIDENCE_SHARE * part.size)
        return bool(part.sum() >= max(least, MISSED * of.sum(), 1))

    def _paler(self, part: Mask, than: Mask) -> bool:
        """Whether a part found by colour is much paler than the tissue: perhaps glue, a stained film or a smear."""
        dark = darkness(self.smooth, self.glass)
        return bool(than.any() and np.median(dark[part]) < _PALER * np.median(dark[than]))

    def _plain_share(self) -> float:
        seen = ~self.left_out
        return float((self.variance[seen] < PLAIN**2).mean()) if seen.any() else 0.0


def _is_fluorescence(picture: Rgb, read: Mask) -> bool:
    """Whether a picture shows bright colours on black: one pure colour, or the grey of a single channel.

    Tissue that scanners or masks put on black is bright in all three channels, and so is glass. White pixels do not
    count: they were not scanned.
    """
    lowest, highest = extremes(picture)
    read = read & (lowest < _WHITE)
    lit = (highest >= 40) & read
    if lit.sum() >= 0.9 * read.sum():
        return False
    if not lit.any() or np.median(lowest[lit]) < 25:
        return True
    return bool(np.median(highest[lit] - lowest[lit]) < 8 and np.percentile(highest[lit], 75) < 140)


def _without_tint(smooth: tuple[Rgb, Rgb], glass: Mask) -> tuple[Rgb, Rgb]:
    """Scale two pictures so that the glass of the first becomes white; unchanged if hardly any glass is visible."""
    known = tinted(smooth[0], glass)
    if not known.any():
        return smooth
    tint = np.median(smooth[0][known], axis=0)
    of_channels = [np.minimum(np.arange(256) * 255 / channel + 0.5, 255).astype(np.uint8) for channel in tint]
    whiter = np.stack(of_channels, axis=1)[None]
    return np.asarray(cv2.LUT(smooth[0], whiter), np.uint8), np.asarray(cv2.LUT(smooth[1], whiter), np.uint8)


def _threshold(coloured: npt.NDArray[np.uint8], left_out: Mask, glass: Mask) -> tuple[int, Verdict]:
    candidates = coloured[~left_out]
    if glass.sum() <= GLASS_SHARE * candidates.size:  # also true if there are no candidates
        return LOWEST, "tissue all over"
    otsu, _ = cv2.threshold(candidates, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return int(min(max(otsu, LOWEST), HIGHEST)), "tissue and glass"


def _followed(strong: Mask, weak: Mask, mpp: Mpp) -> Mask:
    """Extend strong pixels into connected weak ones, except the rim where tissue and glass mix (hysteresis)."""
    across = round(_RIM / mpp)
    if across > 1:
        square = np.ones((across, across), np.uint8)
        weak = np.asarray(cv2.morphologyEx((weak & ~strong).astype(np.uint8), cv2.MORPH_OPEN, square)).astype(bool)
    count, labels = cv2.connectedComponents((weak | strong).astype(np.uint8), connectivity=4)
    keep = np.zeros(count, bool)
    keep[np.asarray(labels)[strong]] = True
    return np.asarray(keep[np.asarray(labels)])
