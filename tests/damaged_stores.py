"""Feature stores, and ways in which one is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from wsipipe.data.features.store import (
    FeatureFacts,
)


def facts(width: int = 8, **changes: Any) -> FeatureFacts:
    fields: dict[str, Any] = {
        "slide_id": "a slide é",
        "slide_digest": "sha256:1",
        "tiles_digest": "sha256:2",
        "mpp": 0.5,
        "tile_px": 224,
        "tile_size_level0": 448.0,
        "backbone": "uni2-h",
        "architecture": "vit",
        "pooling": "cls",
        "width": width,
        "weights_digest": "sha256:3",
        "precision": "fp32",
        "transform": {"resize": 224, "mean": [0.5, 0.5, 0.5]},
        "bad_tiles": [[0, 448]],
        "versions": {"torch": "2"},
    }
    return FeatureFacts(**fields | changes)


def numbers(tiles: int, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (float32) and coordinates of a row-major grid."""
    features = np.random.default_rng(seed).normal(size=(tiles, width)).astype(np.float32)
    coords = np.stack([np.arange(tiles) % 100, np.arange(tiles) // 100], axis=1) * 448
    return features, coords


def shard(store: Path, array: str) -> Path:
    [file] = [file for file in (store / array / "c").rglob("*") if file.is_file()]
    return file


def flip(file: Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0xFF
    file.write_bytes(bytes(content))


def rewrite(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((store / "zarr.json").read_text())
    change(content["attributes"])
    (store / "zarr.json").write_text(json.dumps(content))


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def instead(file: str, text: str) -> Callable[[Path], object]:
    return lambda store: (store / file).write_text(text)


Damage = dict[str, Callable[[Path], object]]

NO_JSON = ["{", "[]", "3", "null", '"x"', "{}", '{"zarr_format": 3, "node_type": "group", "attributes": []}']


DAMAGE: Damage = {
    "it is missing": shutil.rmtree,
    "it is a file": lambda s: (shutil.rmtree(s), s.write_text("features")),
    "it is empty": lambda s: (shutil.rmtree(s), s.mkdir()),
    "no zarr.json": lambda s: (s / "zarr.json").unlink(),
    "its JSON is no text": lambda s: (s / "zarr.json").write_bytes(b"\xff\xfe\x00"),
    "no features": lambda s: shutil.rmtree(s / "features"),
    "features are a group": lambda s: shutil.copy(s / "zarr.json", s / "features" / "zarr.json"),
    "no coords": lambda s: shutil.rmtree(s / "coords"),
    "the features' numbers are lost": lambda s: shard(s, "features").unlink(),
    "the coords' numbers are lost": lambda s: shard(s, "coords").unlink(),
    "the features' numbers are cut to nothing": lambda s: cut(shard(s, "features"), 0),
    "the features' numbers are cut short": lambda s: cut(shard(s, "features"), 99),
    "no slide": lambda s: rewrite(s, lambda a: a.pop("slide_id")),
    "a fact too many": lambda s: rewrite(s, lambda a: a.update(more=1)),
    "another width": lambda s: rewrite(s, lambda a: a.update(width=9)),
}


DAMAGE |= {f"its JSON is {text}": instead("zarr.json", text) for text in NO_JSON}

DAMAGE |= {f"the array's JSON is {text}": instead("coords/zarr.json", text) for text in NO_JSON}


DAMAGE |= {
    f"a byte flipped at {place}": lambda s, place=place: flip(shard(s, "features"), place)
    for place in np.linspace(0, 1, 9)
}
