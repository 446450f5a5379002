"""Resizing tiles to the size that a network sees: the pixels of Pillow's antialiased resize, on every device.

Networks are published with a transform of torchvision on pictures of Pillow. Pillow resizes rows first, then columns,
with weights in whole numbers of 2⁻²² and results rounded to whole grey values. A CPU has Pillow itself do it; other
devices do the same sums of whole numbers as products of matrices that float32 holds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, reduce
from operator import add
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.errors import BackboneError

Interpolation = Literal["bicubic", "bilinear"]

_BITS: Final = 22
"""Pillow's weights are whole multiples of 2⁻²²."""
_PART_BITS: Final = 8
_PARTS: Final = 3
"""A weight is split into three numbers of 8 bits. float32 holds the sums of each with grey values exactly, up to 2²⁴ or
tiles of over 28,000 px, and so does a GPU that multiplies with 11 bits only (TF32)."""


def resized(tiles: Tensor, side: int, interpolation: Interpolation, device: torch.device) -> Tensor:
    """Resize square tiles as Pillow does.

    :param tiles: (B, old, old, 3) uint8 RGB, on any device.
    :returns: (B, 3, side, side) float32 whole grey values from 0 to 255, on ``device``.
    :raises BackboneError: the tiles are not square; they would be distorted or cut, which no card describes.
    """
    height, width = tiles.shape[1:3]
    if height != width:
        raise BackboneError(f"tiles of {width} × {height} px are not square", hint="backbones take square tiles")
    if width == side:
        return tiles.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    if device.type == "cpu":
        return _by_pillow(tiles, side, interpolation).permute(0, 3, 1, 2).float()
    return by_whole_numbers(tiles.to(device, non_blocking=True), side, interpolation)


def _by_pillow(tiles: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    kind = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[interpolation]
    found = np.empty((len(tiles), side, side, 3), dtype=np.uint8)
    for place, tile in enumerate(tiles.cpu().numpy()):
        found[place] = np.asarray(Image.fromarray(tile).resize((side, side), kind))
    return torch.from_numpy(found)


def by_whole_numbers(tiles: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """Resize as Pillow does with sums of whole numbers, on the tiles' own device; see :func:`resized`."""
    parts = _weights_on(tiles.shape[1], side, interpolation, str(tiles.device))
    grey = tiles.permute(0, 3, 1, 2).float()
    for _ in range(2):  # along rows, then along columns
        total = torch.full((), 2 ** (_BITS - 1), dtype=torch.int32, device=tiles.device)
        for number, part in enumerate(parts):
            total = total + (grey @ part).int() * 2 ** (_PART_BITS * number)
        grey = (total >> _BITS).clamp_(0, 255).float().transpose(-1, -2)
    return grey


@cache
def _weights_on(old: int, new: int, interpolation: Interpolation, device: str) -> tuple[Tensor, ...]:
    """The weights' parts of 8 bits, from -128 to 127, the lowest first: (old, new) float32 each."""
    rest = pillow_weights(old, new, interpolation)
    parts = []
    for _ in range(_PARTS):
        higher = (rest + 2 ** (_PART_BITS - 1)) >> _PART_BITS
        parts.append(torch.from_numpy((rest - (higher << _PART_BITS)).astype(np.float32)).to(device))
        rest = higher
    return tuple(parts)


def pillow_weights(old: int, new: int, interpolation: Interpolation) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Compute the weights by which Pillow makes ``new`` pixels from ``old`` ones, in units of 2⁻²².

    :returns: (old, new); each column sums to 2²² but for rounding.
    """
    curve, reach = _CURVES[interpolation]
    scale = old / new
    wide = max(scale, 1.0)  # antialiasing: a smaller picture averages over all pixels that fall on one of its own
    weights = np.zeros((old, new), dtype=np.int64)
    for place in range(new):
        centre = (place + 0.5) * scale
        first, end = max(int(centre - reach * wide + 0.5), 0), min(int(centre + reach * wide + 0.5), old)
        values = [curve(abs((x - centre + 0.5) * (1 / wide))) for x in range(first, end)]
        total = reduce(add, values)  # sum() adds more exactly than Pillow does
        weights[first:end, place] = [_nearest(value / total * 2**_BITS) for value in values]
    return weights


def _nearest(value: float) -> int:
    """Round halves away from zero, as C's cast of ``value ± 0.5`` does."""
    return math.trunc(value + math.copysign(0.5, value))


def _triangle(distance: float) -> float:
    return max(1 - distance, 0.0)


def _cubic(distance: float) -> float:
    """Keys' cubic convolution with a = −0.5 (Keys 1981)."""
    a = -0.5
    if distance < 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return (((distance - 5) * distance + 8) * distance - 4) * a if distance < 2 else 0.0


_CURVES: Final[dict[Interpolation, tuple[Callable[[float], float], float]]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
