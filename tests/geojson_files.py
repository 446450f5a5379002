"""GeoJSON as QuPath writes it, and overviews to lay it over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from wsipipe.data.interop.qupath import read_annotations
from wsipipe.data.tiling.annotations import annotated_tissue
from wsipipe.data.tiling.overview import Overview
from wsipipe.data.units import Mpp


def overview(width: int = 100, height: int = 80, downsample: float = 16.0) -> Overview:
    pixels = np.full((height, width, 3), 240, np.uint8)
    unread = np.zeros((height, width), bool)
    return Overview(pixels=pixels, downsample=downsample, mpp=Mpp(0.5 * downsample), unread=unread)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(rings: object, name: object = None, kind: str = "Polygon", **properties: object) -> dict:
    if name is not None:
        properties["classification"] = name
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, "properties": properties}


def geojson_file(folder: Path, document: object, name: str = "a.geojson") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def collection(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def mask_of(path: Path, view: Overview | None = None, classes: list[str] | None = None) -> np.ndarray:
    return annotated_tissue(read_annotations(path, classes), view or overview()).mask


def three_classes(folder: Path) -> Path:
    return geojson_file(
        folder,
        collection(
            feature([square(0, 0, 160)], {"name": "Tumor"}, objectType="annotation"),
            feature([square(160, 0, 160)], {"name": "Stroma"}, objectType="annotation"),
            feature([square(320, 0, 160)], {"name": "Region*"}, objectType="annotation"),
            feature([square(480, 0, 160)], objectType="annotation"),
            feature([square(640, 0, 160)], {"name": "Gland"}, objectType="detection"),
            feature([square(80, 80, 720)], {"name": "Ignore*"}, objectType="annotation"),
        ),
    )
