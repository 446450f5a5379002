"""Resizing of one tile from the pixels that were read to the size that the backbone sees.

Shrinking is antialiased: each pixel is an average weighted by a triangle that spans ``2 × read / tile`` pixels on
either axis, equal to Pillow's and torchvision's antialiased ``BILINEAR`` to a grey level. The same filter serves every
ratio, so that tiles of two scanners, 0.25 and 0.26 µm per pixel, are smoothed alike; averaging blocks of pixels when
the ratio is a whole number would not do that. torch's integer kernel for it takes a quarter of the time of OpenCV's
area filter at 426 to 224 pixels, and leaves half the aliasing (``docs/benchmarks.md``). It runs in one thread and with
integers: the result is the same with any number of threads and any instruction set.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..slides.slide import Rgb
from ..units import TilePx


def resize_tile(pixels: Rgb, tile_px: TilePx) -> Rgb:
    """Resize pixels (side, side, 3) uint8 to (tile_px, tile_px, 3) uint8; unchanged if the side is ``tile_px`` already.

    Enlarging is bicubic. The field of view stays exactly that of ``pixels``: the centre of pixel ``i`` lies at
    ``(i + 0.5) × side / tile_px`` from the edge.
    """
    side = pixels.shape[0]
    if side == tile_px:
        return pixels
    if side < tile_px:
        return np.asarray(cv2.resize(pixels, (tile_px, tile_px), interpolation=cv2.INTER_CUBIC), np.uint8)
    # Imported here: torch takes a second and much memory, and only resizing needs it, not the planning of tiles.
    import torch
    from torch.nn.functional import interpolate

    writable = np.require(pixels, np.uint8, ["C", "W"])  # torch accepts no others
    # Add the batch axis before permuting: torch then recognises channels-last memory, and keeps it.
    batch = torch.from_numpy(writable).unsqueeze(0).permute(0, 3, 1, 2)
    shrunk = interpolate(batch, size=(tile_px, tile_px), mode="bilinear", antialias=True)
    return np.ascontiguousarray(shrunk.permute(0, 2, 3, 1).squeeze(0).numpy())
