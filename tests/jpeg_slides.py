"""TIFFs of JPEG tiles, coded in every way that scanners do."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


def picture(width: int, height: int) -> np.ndarray:
    """Edges and noise in strong colours, on which chroma upsampling shows."""
    rng = np.random.default_rng(width)
    coarse = cv2.resize(rng.integers(0, 255, (height // 9 + 1, width // 9 + 1, 3), np.uint8), (width, height))
    return cv2.add(coarse, rng.integers(0, 40, (height, width, 3), np.uint8))


def split(stream: bytes) -> tuple[bytes, bytes]:
    """A JPEG stream as its tables and the rest, as Aperio's scanners write them."""
    tables, rest, at = b"", b"", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if stream[at + 1] in (0xDB, 0xC4):
            tables += stream[at:end]
        elif stream[at + 1] != 0xEE and stream[at + 1] != 0xE0:  # nor a word about the colours
            rest += stream[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


def write_slide(
    path: Path,
    *,
    size: tuple[int, int] = (300, 260),
    tile: int = 64,
    coding: str = "YCBCR",
    subsampling: str = "420",
    shared_tables: bool = False,
    missing: frozenset[int] = frozenset(),
    levels: int = 1,
    description: str | None = None,
) -> Path:
    """A tiled JPEG TIFF.

    :param size: width and height.
    :param missing: tiles of each level without data.
    """
    image = picture(*size)
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            height, width = image.shape[:2]
            below, right = -height % tile, -width % tile
            padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
            streams, tables = [], None
            for y, x in product(range(0, height, tile), range(0, width, tile)):
                stream = imagecodecs.jpeg8_encode(
                    padded[y : y + tile, x : x + tile], 90, outcolorspace=coding, subsampling=subsampling
                )
                if shared_tables:
                    tables, stream = split(stream)
                streams.append(b"" if len(streams) in missing else stream)
            writer.write(
                iter(streams),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(tile, tile),
                photometric="rgb" if coding == "RGB" else "ycbcr",
                subsampling=None if coding == "RGB" else SUBSAMPLING[subsampling],
                compression="jpeg",
                compressionargs={"outcolorspace": coding},
                jpegtables=tables,
                subfiletype=int(level > 0),
                description=description,
                metadata=None,
            )
            image = np.ascontiguousarray(image[::2, ::2])
    return path
