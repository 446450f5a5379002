"""One tile from the pixels that were read to the pixels that the backbone sees.

Shrinking is antialiased: each pixel is the mean of what lies under a triangle that spans ``2 × read / tile`` pixels
on either axis, as Pillow's and torchvision's antialiased ``BILINEAR`` have it, to a grey level. It is one filter for
every ratio: tiles of two scanners, 0.25 and 0.26 µm per pixel, are smoothed alike, which means over whole blocks of
pixels, where the ratio happens to be whole, would not do. torch's integer kernel for it takes a quarter of the time of
OpenCV's area filter at 426 to 224 pixels, and leaves half the alias (``docs/benchmarks.md``). It works in one thread,
and with integers: the same tile is the same in any thread, at any number of threads, with any instruction set.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..slides.slide import Rgb
from ..units import TilePx


def resize_tile(pixels: Rgb, tile_px: TilePx) -> Rgb:
    """Pixels (side, side, 3) uint8 as (tile_px, tile_px, 3) uint8: as they are where the side is ``tile_px``.

    A smaller side is enlarged by a cubic. The field of view is the whole of ``pixels``, and stays in place: the centre
    of pixel ``i`` lies at ``(i + 0.5) × side / tile_px`` from the edge.
    """
    side = pixels.shape[0]
    if side == tile_px:
        return pixels
    if side < tile_px:
        return np.asarray(cv2.resize(pixels, (tile_px, tile_px), interpolation=cv2.INTER_CUBIC), np.uint8)
    # Not at the top: it takes a second and its memory, and only tiles that are resized need it; planning them does not.
    import torch
    from torch.nn.functional import interpolate

    own = np.require(pixels, np.uint8, ["C", "W"])  # torch takes no others
    # The batch first, then the order of its axes: torch sees that channels are last in memory, and keeps them there.
    batch = torch.from_numpy(own).unsqueeze(0).permute(0, 3, 1, 2)
    shrunk = interpolate(batch, size=(tile_px, tile_px), mode="bilinear", antialias=True)
    return np.ascontiguousarray(shrunk.permute(0, 2, 3, 1).squeeze(0).numpy())
