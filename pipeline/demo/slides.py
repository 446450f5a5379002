"""Writing the demo's pixels as slide files, in the layouts that scanners use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from ...data.artifact import whole
from ...data.units import Mpp

Rgb = NDArray[np.uint8]

TILE = 256
QUALITY = 80
THUMBNAIL = 384


def write_aperio(path: Path, pixels: Rgb, *, mpp: Mpp) -> None:
    """Write a pyramidal SVS: full image, thumbnail, smaller levels, in Aperio's order and with its descriptions.

    :param pixels: (height, width, 3) RGB.
    """
    height, width = pixels.shape[:2]
    magnification = f"|AppMag = {round(10 / mpp)}|MPP = {mpp:g}"
    head = f"Aperio Image Library v12.0.16 \r\n{width}x{height} [0,0 {width}x{height}]"
    small = _shrink(pixels, THUMBNAIL, THUMBNAIL * height // width)
    with whole(path) as scratch, tifffile.TiffWriter(scratch) as tiff:
        for number, level in enumerate(_pyramid(pixels)):
            size = "" if number == 0 else f" -> {level.shape[1]}x{level.shape[0]}"
            text = f"{head} ({TILE}x{TILE}){size} JPEG/RGB Q={QUALITY}{magnification}"
            _write(tiff, level, text, tile=(TILE, TILE))
            if number == 0:
                thumbnail = f"{head} -> {small.shape[1]}x{small.shape[0]} - {magnification}"
                _write(tiff, small, thumbnail, rowsperstrip=16)


def write_generic(path: Path, pixels: Rgb, *, mpp: Mpp) -> None:
    """Write a generic pyramidal tiled TIFF; only its resolution tags give the microns per pixel.

    :param pixels: (height, width, 3) RGB.
    """
    with whole(path) as scratch, tifffile.TiffWriter(scratch) as tiff:
        for number, level in enumerate(_pyramid(pixels)):
            per_centimetre = 1e4 / mpp / (pixels.shape[1] / level.shape[1])
            _write(
                tiff,
                level,
                None,
                tile=(TILE, TILE),
                subfiletype=0 if number == 0 else 1,
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
            )


def write_broken(path: Path, pixels: Rgb, *, mpp: Mpp) -> None:
    """Write a truncated SVS, as an interrupted copy leaves it: it begins like a slide, but its directory is missing.

    :param pixels: (height, width, 3) RGB.
    """
    write_aperio(path, pixels, mpp=mpp)
    os.truncate(path, path.stat().st_size * 2 // 5)


def _write(tiff: tifffile.TiffWriter, pixels: Rgb, text: str | None, **layout: Any) -> None:
    tiff.write(
        pixels,
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": QUALITY},
        description=text,
        metadata=None,
        software=False,
        **layout,
    )


def _pyramid(pixels: Rgb) -> list[Rgb]:
    """The full image and smaller levels, each a fourth as wide, down to one tile."""
    levels = [pixels]
    while max(levels[-1].shape) > TILE:
        height, width = levels[-1].shape[:2]
        levels.append(_shrink(levels[-1], width // 4, height // 4))
    return levels


def _shrink(pixels: Rgb, width: int, height: int) -> Rgb:
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
