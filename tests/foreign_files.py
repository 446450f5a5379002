"""Files as TRIDENT and CLAM write them, and grids and tile sets to hold them against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tile_sets import tile_set as tile_set_of
from wsipipe.data.features.store import Bag, FeatureFacts
from wsipipe.data.tiling.grid import TileGrid, plan_grid
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Mpp, TilePx

WIDTH, HEIGHT = 20_000, 16_000
PYRAMID = (1.0, 4.0, 16.0)

TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "S1",
    "savetodir": "somewhere/20x_256px_0px_overlap",
    "level0_width": WIDTH,
    "level0_height": HEIGHT,
}
"""What TRIDENT writes beside ``coords``."""

CLAM = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (4.0, 4.0),
    "downsampled_level_dim": (5000, 4000),
    "level_dim": (5000, 4000),
    "name": "S1",
    "save_path": "somewhere/patches",
}
"""What CLAM writes beside ``coords`` of tiles."""

COORDS = np.array([[512, 0], [0, 0], [19_488, 15_488]], np.int64)
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4) / 8

CASES = [
    (slide_mpp, mpp, tile_px, downsamples, overlap)
    for slide_mpp in (0.2525, 0.5)
    for mpp in (0.5, 0.7, 1.0, 2.0, 4.1)
    for tile_px in (224, 256)
    for downsamples in (PYRAMID, (1.0,))
    for overlap in (0, 32)
]
"""Resolutions, sizes of tiles, pyramids and overlaps to be tried with each program."""


def dimensions(downsamples: tuple[float, ...]) -> list[tuple[int, int]]:
    return [(int(WIDTH / each), int(HEIGHT / each)) for each in downsamples]


def plan(
    slide_mpp: float,
    mpp: float,
    tile_px: int = 224,
    downsamples: tuple[float, ...] = PYRAMID,
    overlap: int = 0,
    **changes: Any,
) -> TileGrid:
    return plan_grid(
        dimensions(downsamples),
        downsamples,
        Mpp(slide_mpp),
        mpp=Mpp(mpp),
        tile_px=TilePx(tile_px),
        overlap=TilePx(overlap),
        **({"native_tolerance": 0.02, "allow_upsample": False} | changes),
    )


def tile_set(grid: TileGrid, slide_mpp: float, rows: slice = slice(3, None, 7)) -> TileSet:
    return tile_set_of(grid, grid.coords()[rows], slide_mpp, (WIDTH, HEIGHT))


def without(attributes: dict[str, Any], *names: str, **changes: object) -> dict[str, Any]:
    return {name: value for name, value in (attributes | changes).items() if name not in names}


def tile_file(folder: Path, attributes: dict[str, Any], coords: object = COORDS, **datasets: object) -> Path:
    """A file of positions; None for ``coords`` leaves them out."""
    path = folder / "S1.h5"
    with h5py.File(path, "w") as file:
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes)
        for name, values in datasets.items():
            file[name] = values
    return path


def feature_file(path: Path, of_features: dict[str, Any], of_coords: dict[str, Any], **datasets: Any) -> Path:
    """In chunks of a row that can grow, which is how both programs write them."""
    with h5py.File(path, "w") as file:
        for name, values in ({"features": FEATURES, "coords": COORDS} | datasets).items():
            values = np.asarray(values)
            chunks, grows = (1, *values.shape[1:]), (None, *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, maxshape=grows)
        file["features"].attrs.update(of_features)
        file["coords"].attrs.update(of_coords)
    return path


def trident_features(folder: Path, **datasets: Any) -> Path:
    return feature_file(folder / "S1.h5", {"name": "S1", "savetodir": "x", "encoder": "uni_v1"}, TRIDENT, **datasets)


def clam_features(folder: Path, **datasets: Any) -> Path:
    return feature_file(folder / "S1.h5", {}, {}, **({"coords": COORDS.astype(np.int32)} | datasets))


SLIDE_MPP = 0.2527
TILES = 5000
"""More than are converted at a time."""


def tiles_of_bag() -> TileSet:
    """The tiles of :func:`bag_of`."""
    return tile_set(plan(SLIDE_MPP, 0.5, 112, (1.0, 4.0), 16), SLIDE_MPP, slice(TILES))


def bag_of(tiles: TileSet) -> Bag:
    """Features of a slide to be written for other programs."""
    features = np.random.default_rng(0).normal(size=(len(tiles), 12)).astype(np.float16)
    facts = FeatureFacts(
        slide_id=tiles.slide_id,
        slide_digest="sha256:1",
        tiles_digest="sha256:2",
        mpp=float(tiles.grid.tile_mpp),
        tile_px=int(tiles.grid.tile_px),
        tile_size_level0=float(tiles.grid.size_level0),
        backbone="uni2-h",
        architecture="vit_giant_patch14_224",
        pooling="cls",
        width=12,
        weights_digest="sha256:3",
        precision="bf16",
        transform={"resize": 224, "crop": None, "mean": [0.5, 0.25, 0.125], "interpolation": "bicubic"},
        bad_tiles=[[0, 448], [448, 448]],
        versions={"torch": "2"},
    )
    return Bag(tiles.slide_id, features, tiles.coords, facts)
