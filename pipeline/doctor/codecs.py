"""Whether every codec that slides and stores use gives the right pixels, each on a tiny image."""

from __future__ import annotations

import io
import zlib
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import h5py
import imagecodecs
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from ...data.slides.codecs import decoder_of, library_of
from ...data.slides.tiff_layout import JPEG, JPEG_2000, TiledJpeg, TiledLevel
from .finding import Finding, Subject, failed, ok
from .scratch import scratch_folder, temporary

_SIDE: Final = 16
_LOSS: Final = 3  # grey levels
_PNG: Final = "PNG"


def _image() -> NDArray[np.uint8]:
    """The image that all streams hold: a dark half and a pale one, (16, 16, 3) RGB."""
    image = np.empty((_SIDE, _SIDE, 3), np.uint8)
    image[:, : _SIDE // 2], image[:, _SIDE // 2 :] = (200, 60, 120), (230, 225, 235)
    return image


_ROW: Final = _image()[0].tobytes()
STREAMS: Final[Mapping[str, bytes]] = {
    JPEG: b64decode(
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8X"
        "GBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wAAR"
        "CAAQABADAREAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAACQb/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFgEBAQEAAAAAAAAAAAAAAAAA"
        "CAMF/8QAFBEBAAAAAAAAAAAAAAAAAAAAAP/aAAwDAQACEQMRAD8AjGgVpPkhXGCqVBPkhXf/2Q=="
    ),
    JPEG_2000: b64decode(
        "/0//UQAvAAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAADBwEBBwEBBwEB/1IADAAAAAEBAQQEAAH/XAAHQEBISFD/ZAAlAAFD"
        "cmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAACiAAH/k8+0oCc1Dv2sc3JJ1A8opqtmuCuZ/2uFoDAgp7Ske0qBC0oe"
        "VMGUuP9CgV3PtJQiGd7csgm7lsoR/kXY+AA8nUXXcUeQG25qBFEcQNZTrAThagl/34DwFABKeEf41MLSZHs2B1osCHAGBBCrpRqjxA1lOsBP"
        "w+oHACFuB/EO+J/B84YAIhoJq1qTx9oOACIaDyOOpL//2Q=="
    ),
    "LZW": b64decode(
        "gDIHh4gUEgcFhEHhR4czhdcNh8OiETiUVdcJg0ZjEYikRj0djsbhcijMgi0mj0klULlEti0rjUjgcuj8nh0wmE0mk4mUlm01oEQnkxn1Bn8h"
        "ntDnVHm9Jp1FpdAockqMoqc9qs/q9ErNSp85plGlNfp9dpFEpVhmkBA="
    ),
    "deflate": zlib.compress(_SIDE * _ROW),
    "zstd": b64decode(
        "KLUv/WAAAv0CAGDIPHjm4evm4evm4es9IPCFNR4G8DCAhwE8DOBhgB4G8DCAhwE8DOBhAA8H8DCAhwE8DOBhAA8D9DCAhwE8DOBhAA8DeDiA"
        "hwE8DOBhAA8DeBighwE8kAGaB9g3/OQQ"
    ),
    "PackBits": _SIDE * (bytes([len(_ROW) - 1]) + _ROW),  # a row each, as it is
    _PNG: b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAIElEQVQokWM8YVPBgA3ILS3GKs6EVRQPGNUwqmHoaAAAUy8C0vrjVE0AAAAA"
        "SUVORK5CYII="
    ),
}
"""Codec → the image in it. JPEG alone is not exact."""


def codecs(subject: Subject) -> Finding:
    """Decode the image from each codec, and write and read it in the formats of wsipipe's own stores."""
    wrong = faults(STREAMS)
    with scratch_folder(temporary(), subject) as folder:
        wrong |= _store_faults(folder)
    if wrong:
        which = "; ".join(f"{codec}: {fault}" for codec, fault in wrong.items())
        return failed(which, "slides of that kind cannot be read: install the packages again", wrong=list(wrong))
    libraries = f"{library_of(JPEG)}, imagecodecs {imagecodecs.__version__}"
    return ok(f"{', '.join(STREAMS)}; HDF5, zarr ({libraries}, tifffile {tifffile.__version__})", codecs=list(STREAMS))


def faults(streams: Mapping[str, bytes]) -> dict[str, str]:
    """Codecs that do not give the image → what they give.

    :param streams: codec → the image in it.
    """
    wrong: dict[str, str] = {}
    for codec, stream in streams.items():
        try:
            pixels = _decoded(codec, stream)
        except Exception as error:  # noqa: BLE001  whatever a library raises is why this codec does not work
            wrong[codec] = f"{type(error).__name__}: {error}"
            continue
        if pixels is None or pixels.shape != _image().shape:
            wrong[codec] = "cannot be decoded"
        elif np.abs(pixels.astype(int) - _image()).max() > (_LOSS if codec == JPEG else 0):
            wrong[codec] = "gives other colours"
    return wrong


def _decoded(codec: str, stream: bytes) -> NDArray[np.uint8] | None:
    """The pixels, by the decoder that slides are read with; None if it finds the stream damaged."""
    if codec == _PNG:
        with Image.open(io.BytesIO(stream)) as image:
            return np.asarray(image.convert("RGB"))
    place: dict[str, Any] = {
        **{"width": _SIDE, "height": _SIDE, "tile_width": _SIDE, "tile_height": _SIDE},
        **{"offsets": [0], "byte_counts": [len(stream)], "compression": codec},
    }
    layout = TiledJpeg(**place, tables=None, colour_space="YCBCR") if codec == JPEG else TiledLevel(**place)
    return decoder_of(layout)([stream], _SIDE)


def _store_faults(folder: Path) -> dict[str, str]:
    """Stores that do not give back what was written → why."""
    wrong: dict[str, str] = {}
    values = np.arange(64, dtype=np.float16).reshape(8, 8)
    try:
        with h5py.File(folder / "a.h5", "w") as file:
            file.create_dataset("values", data=values)
        with h5py.File(folder / "a.h5", "r") as file:
            if not np.array_equal(file["values"][:], values):
                wrong["HDF5"] = "gives other numbers"
    except Exception as error:  # noqa: BLE001  as above
        wrong["HDF5"] = f"{type(error).__name__}: {error}"
    try:
        zarr.create_array(store=folder / "a.zarr", data=values)
        if not np.array_equal(np.asarray(zarr.open_array(folder / "a.zarr", mode="r")[:]), values):
            wrong["zarr"] = "gives other numbers"
    except Exception as error:  # noqa: BLE001  as above
        wrong["zarr"] = f"{type(error).__name__}: {error}"
    return wrong
