"""Tile scores as a pyramidal OME-TIFF: an image of the whole slide whose pixels are the scores themselves.

Each kind of score is a channel of 32-bit floats, and a tile is :data:`TILE_PX` pixels wide; pixels outside all tiles
are 0. Numbers and not colours, since both QuPath and Fiji (Bio-Formats) show float channels, each with a lookup table
and range of the user's choice, while of four colours they show the fourth as a fourth channel. The pixel size is in µm,
so that the image and the slide align; it counts from the corner of the whole slide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from ...data.tiling.tile_scores import Floats, scored_tiles
from ...data.units import Mpp
from .heatmap import rasterise

TILE_PX: Final = 4
_SMALLEST_LEVEL: Final = 256
_OPTIONS: Final[Mapping[str, Any]] = {
    "tile": (256, 256), "compression": "adobe_deflate", "compressionargs": {"level": 1}, "photometric": "minisblack",
}  # fmt: skip


def write_score_image(
    path: Path,
    size: tuple[int, int],
    coords: npt.ArrayLike,
    tile_size: float,
    scores: Mapping[str, npt.ArrayLike],
    *,
    mpp: Mpp | None,
) -> None:
    """Write the image. Equal content gives equal bytes.

    :param size: width and height of the slide, level-0 pixels.
    :param coords: (N, 2) x and y of the tiles' upper left corners, level-0 pixels.
    :param tile_size: side of a tile, level-0 pixels.
    :param scores: name of a channel → (N,) finite numbers; where tiles overlap, their mean.
    :param mpp: microns per level-0 pixel.
    """
    zoom = TILE_PX / tile_size
    shape = math.ceil(size[1] * zoom), math.ceil(size[0] * zoom)
    planes = [_plane(*scored_tiles(coords, values), zoom, shape) for values in scores.values()]
    levels = [np.stack(planes)]
    while max(levels[-1].shape[1:]) > _SMALLEST_LEVEL:
        height, width = (max(1, side // 2) for side in levels[-1].shape[1:])
        smaller = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in levels[-1]]
        levels.append(np.stack(smaller).astype(np.float32))
    metadata: dict[str, Any] = {
        "axes": "CYX",
        "Channel": {"Name": list(scores)},
        # By default one is drawn at random.
        "UUID": str(uuid5(NAMESPACE_OID, f"wsipipe scores {shape} {list(scores)} {levels[0].sum()}")),
    }
    if mpp is not None:
        unit = "µm"
        metadata |= {"PhysicalSizeX": mpp / zoom, "PhysicalSizeXUnit": unit}
        metadata |= {"PhysicalSizeY": mpp / zoom, "PhysicalSizeYUnit": unit}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(levels[0], subifds=len(levels) - 1, metadata=metadata, software="wsipipe", **_OPTIONS)
        for level in levels[1:]:
            file.write(level, subfiletype=1, metadata=None, **_OPTIONS)


def _plane(corners: Floats, values: Floats, zoom: float, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The scores as pixels, 0 outside all tiles."""
    low, span = float(values.min()), float(np.ptp(values)) or 1.0
    places = rasterise(corners * zoom, TILE_PX, (values - low) / span, shape)
    return np.where(np.isfinite(places), places * span + low, 0).astype(np.float32)
