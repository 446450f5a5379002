"""The size of a pixel: where a slide's microns per pixel come from, and which source takes precedence.

In this order:

1. the user's value (``--mpp-override`` or the ``mpp`` column of the cohort table), if the file states no plausible
   one, or with ``--overrule-mpp``;
2. the vendor's metadata as read by OpenSlide (``openslide.mpp-x`` and ``-y``);
3. the TIFF tags XResolution and YResolution, if their unit is the inch or the centimetre and the value lies within
   :data:`~wsipipe.data.units.SLIDE_MPP`. The print resolutions that many programs write by default (72 or 300 dpi,
   which are 353 and 85 µm) lie outside and are ignored.

Two statements of a file that do not fit one another (an Aperio description and the resolution tags; those of level 0
and of another level) are none: nothing shows which of them is right.

A nominal magnification is never converted to microns: 20x can be anything from 0.45 to 0.55.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Final

from ..errors import SlideError
from ..units import SLIDE_MPP, Mpp

SQUARE_WITHIN: Final = 0.01
"""Largest relative difference of a pixel's sides that passes as the scanner's rounding."""

WAYS_OUT: Final = "give its µm per pixel with --mpp-override, or in an `mpp` column of the cohort table"

_MICRONS: Final = {"inch": 25_400.0, "centimeter": 10_000.0}


def mpp_from_properties(properties: Mapping[str, str]) -> tuple[Mpp, Mpp] | None:
    """Read the microns per pixel along x and y from OpenSlide's properties; None if the file does not state them."""
    if "openslide.mpp-x" in properties and "openslide.mpp-y" in properties:
        return Mpp(float(properties["openslide.mpp-x"])), Mpp(float(properties["openslide.mpp-y"]))
    unit = _MICRONS.get(properties.get("tiff.ResolutionUnit", ""))
    resolution = [float(properties.get(f"tiff.{axis}Resolution", "0")) for axis in "XY"]
    if unit is None or not all(per_unit > 0 for per_unit in resolution):
        return None
    x, y = (Mpp(unit / per_unit) for per_unit in resolution)
    return (x, y) if _is_sane(x) and _is_sane(y) else None


def believed_mpp(mpp: tuple[Mpp, Mpp] | None, path: str | PathLike[str], why_none: str = "") -> Mpp:
    """Check that pixels are plausible and square, and return their mpp: the mean of both sides.

    :param why_none: see :attr:`.slide.Slide.why_no_mpp`.
    :raises SlideError: no mpp, one outside :data:`SLIDE_MPP`, or sides that differ by more than :data:`SQUARE_WITHIN`.
    """
    if mpp is None:
        if why_none:
            raise SlideError(why_none, path=path, hint=WAYS_OUT)
        raise SlideError("the file does not state the size of a pixel (no mpp)", path=path, hint=WAYS_OUT)
    x, y = mpp
    if not (_is_sane(x) and _is_sane(y)):
        wrong = f"a pixel of {x:.6g} × {y:.6g} µm is implausible (slides have {SLIDE_MPP[0]} to {SLIDE_MPP[1]} µm)"
        raise SlideError(wrong, path=path, hint=WAYS_OUT)
    mean = (x + y) / 2
    if abs(x - y) > SQUARE_WITHIN * mean:
        wrong = f"pixels of {x:.6g} × {y:.6g} µm are not square"
        raise SlideError(wrong, path=path, hint=f"resample the slide to square pixels; if they are square, {WAYS_OUT}")
    return Mpp(mean)


def filled_mpp(
    stated: tuple[Mpp, Mpp] | None, given: Mpp, path: str | PathLike[str], *, overrule: bool = False
) -> tuple[Mpp, Mpp]:
    """Combine the file's mpp with the user's: the file's if it states a plausible one, else the user's.

    :param overrule: use the user's in any case.
    :raises SlideError: the two differ by more than :data:`SQUARE_WITHIN`.
    """
    if overrule or stated is None:
        return given, given
    try:
        believed = believed_mpp(stated, path)
    except SlideError:
        return given, given
    if abs(given - believed) > SQUARE_WITHIN * believed:
        wrong = (
            f"the file states {believed:.6g} µm per pixel, and {given:g} is given with --mpp-override or in the table"
        )
        hint = "give none for this slide; if the file is wrong and you know better, add --overrule-mpp"
        raise SlideError(wrong, path=path, hint=hint)
    return stated


def _is_sane(mpp: float) -> bool:
    return math.isfinite(mpp) and SLIDE_MPP[0] <= mpp <= SLIDE_MPP[1]
