"""Slide vectors as TRIDENT, STAMP and slide2vec write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

TITAN = 768
"""Width of TITAN's vectors."""
COORDS = np.array([[1024, 512], [0, 1024], [512, 1024]], np.int64)
PATCHES = {
    "patch_size": 512,
    "patch_size_level0": 1024,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "savetodir": "somewhere/20x_512px_0px_overlap",
}
"""What TRIDENT writes beside the tiles' ``coords``, without the slide's name."""


def vector_of(seed: int, positive: bool = False, width: int = TITAN) -> NDArray[np.float32]:
    """Noise; of a positive slide the first 64 numbers are high."""
    vector = np.random.default_rng(seed).normal(0, 1, width).astype(np.float32)
    vector[:64] += 2 * positive
    return vector


def trident_vector(path: Path, vector: Any, coords: Any = COORDS, **attributes: object) -> Path:
    """A slide's file in ``slide_features_<encoder>/``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = vector, coords
        file["features"].attrs.update({"name": path.stem, "savetodir": str(path.parent)})
        file["coords"].attrs.update({**PATCHES, "name": path.stem, **attributes})
    return path


def stamp_vector(path: Path, vector: Any, **attributes: object) -> Path:
    """A slide's file in ``<encoder>-slide-<hash>/``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"version": "2.4.0", "encoder": "mahmood-titan", "precision": "torch.float32", "feat_type": "slide"}
    with h5py.File(path, "w") as file:
        file["feats"] = vector
        file.attrs.update({name: value for name, value in {**about, **attributes}.items() if value is not None})
    return path


def slide2vec_vector(
    run: Path, slide: str, vector: NDArray[np.float32], *, tiles: bool = True, **about: object
) -> Path:
    """A slide's tensor in ``slide_embeddings/`` of a run, with its metadata.

    :param tiles: with the metadata of its tiles too.
    """
    path = run / "slide_embeddings" / f"{slide}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(vector), path)
    metadata = {
        "sample_id": slide,
        "artifact_type": "slide_embeddings",
        "format": "pt",
        "feature_dim": len(vector),
        "encoder_name": "titan",
        "encoder_level": "slide",
        "image_path": f"/data/{slide}.svs",
        "compatibility": {"encoder_name": "titan", "tile_encoder": "conchv15", "requested_tile_size_px": 512},
    }
    path.with_name(f"{slide}.meta.json").write_text(json.dumps(metadata | about))
    if tiles:
        (run / "tiles").mkdir(exist_ok=True)
        tiling = {"requested_tile_size_px": 512, "requested_spacing_um": 0.5, "tile_size_lv0": 1024, "n_tiles": 3}
        file = run / "tiles" / f"{slide}.coordinates.meta.json"
        file.write_text(json.dumps({"provenance": {"sample_id": slide}, "tiling": tiling}))
    return path
