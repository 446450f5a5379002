"""OME-TIFFs as Bio-Formats and tifffile write them, whole and damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import tifffile
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.tiff_reader import TiffReader

HALF_MICRON = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def picture(width: int, height: int) -> np.ndarray:
    """Smooth strong colours with a little noise, different everywhere."""
    rng = np.random.default_rng(width)
    coarse = cv2.resize(rng.integers(0, 220, (height // 40 + 2, width // 40 + 2, 3), np.uint8), (width, height))
    return cv2.add(coarse, rng.integers(0, 20, (height, width, 3), np.uint8))


def levels_of(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Every second, fourth … pixel: what is read is told apart from what lies beside it."""
    return [np.ascontiguousarray(image[:: 2**level, :: 2**level]) for level in range(levels)]


def write_ome(
    path: Path,
    image: np.ndarray,
    *,
    levels: int = 3,
    compression: str | None = "deflate",
    planar: bool = False,
    metadata: dict[str, object] | None = None,
    label: np.ndarray | None = None,
    **options: object,
) -> Path:
    """A pyramid in SubIFDs, as Bio-Formats and tifffile write it; ``options`` as tifffile takes them."""
    options = {"tile": (64, 64), "photometric": "rgb", "compression": compression} | options
    if planar:
        options["planarconfig"] = "separate"
    with tifffile.TiffWriter(path, ome=True) as writer:
        if label is not None:
            writer.write(label, photometric="rgb", metadata={"Name": "label image"})
        for level, pixels in enumerate(levels_of(image, levels)):
            if level == 0:
                options["metadata"] = {"axes": "SYX" if planar else "YXS"} | (metadata or HALF_MICRON)
            else:
                options["metadata"] = None
            writer.write(
                np.moveaxis(pixels, 2, 0) if planar else pixels,
                subifds=levels - 1 if level == 0 else None,
                subfiletype=int(level > 0),
                **options,
            )
    return path


def rewrite_xml(path: Path, old: str, new: str) -> None:
    """Another word of the same length in the OME-XML."""
    assert len(old.encode()) == len(new.encode())
    content = path.read_bytes()
    assert content.count(old.encode()) == 1
    path.write_bytes(content.replace(old.encode(), new.encode()))


def page_of(tiff: tifffile.TiffFile, level: int) -> tifffile.TiffPage:
    return tiff.pages[0] if level == 0 else tiff.pages[0].pages[level - 1]


def damage(path: Path, tile: int, *, level: int = 0, keep: float = 0.0) -> None:
    """Nothing but zeros in the rest of a tile."""
    with tifffile.TiffFile(path) as tiff:
        page = page_of(tiff, level)
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
    kept = int(keep * count)
    with path.open("r+b") as file:
        file.seek(offset + kept)
        file.write(bytes(count - kept))


@contextmanager
def opened(path: Path, mpp: float | None = None) -> Iterator[TiffReader]:
    with open_slide(path, mpp) as slide:
        assert isinstance(slide, TiffReader), slide.reader
        yield slide
