"""Tissue as somebody has drawn it: GeoJSON from QuPath, TRIDENT's ``contours_geojson/`` or our own ``contours/``.

What is read, as far as QuPath's own writer and reader decide it (``qupath.lib.io``, versions 0.2 to 0.5):

- a FeatureCollection, a bare list of features (0.2), one Feature, or a bare Polygon or MultiPolygon; features within
  ``properties.childObjects`` (an export that keeps the hierarchy) count like any other;
- what an object is stands in ``properties.objectType`` (``object_type`` in 0.3, ``id`` in 0.2), and nothing known means
  an annotation. Detections, cells, tiles and TMA cores are passed over, unless their class is asked for by name;
- its class is ``properties.classification``: ``{"name": …}``, ``{"names": [parent, …, child]}`` for derived classes
  (written ``parent: child`` here as there), the same with ``colorRGB`` and ``parentClass`` before 0.4, or plain text;
- coordinates are pixels of level 0; QuPath never exports microns.

A class (or, where there is none, a name) that begins with "Ignore" or "Exclude" takes away, as QuPath's class
``Ignore*`` is meant. Other names that end with an asterisk do not: QuPath's ``Region*`` is drawn around what counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import SlideError
from ..surroundings import patiently
from ..wording import some
from .contours import Ring
from .overview import Overview
from .tissue import Floats, Mask, TissueMask

Polygon = tuple[Ring, ...]
"""The outer ring, then its holes; in pixels of level 0, running either way."""

UNCLASSIFIED: Final = "unclassified"
_TAKES_AWAY: Final = ("ignore", "exclude")
_ANNOTATION: Final = "annotation"
_OTHER_OBJECTS: Final = {
    "detection": "detection",
    "pathdetectionobject": "detection",
    "cell": "cell",
    "pathcellobject": "cell",
    "tile": "tile",
    "pathtileobject": "tile",
    "tmacore": "TMA core",
    "tma_core": "TMA core",
    "tmacoreobject": "TMA core",
    "root": "root",
    "pathrootobject": "root",
}
_LARGEST: Final = 1e9  # px; no slide comes near, and arithmetic beyond it is not exact

_FROM_QUPATH: Final = "export the annotations from QuPath: File > Export objects as GeoJSON"


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """What is drawn on one slide."""

    path: Path
    tissue: tuple[Polygon, ...]
    taken_away: tuple[Polygon, ...]
    """Areas to leave out, whatever else covers them."""
    classes: tuple[str, ...]
    """Classes of the polygons that count as tissue, sorted; :data:`UNCLASSIFIED` for those without one."""
    passed_over: Mapping[str, int]
    """What else the file holds (``Point``, ``cell``, ``another class``, …) → how many."""


def find_annotations(folder: Path, slide_id: str) -> Path:
    """The annotations of a slide: ``<id>.geojson`` or ``<id>.json`` in a folder, or one level below it where our tiles
    (``contours/``) and TRIDENT (``contours_geojson/``) keep theirs.

    :raises SlideError: there are none.
    """
    below = [folder, folder / "contours", folder / "contours_geojson"]
    places = [place / f"{slide_id}{ending}" for place in below for ending in (".geojson", ".json")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked_for = ", ".join(place.relative_to(folder).as_posix() for place in places)
        hint = "put it there under the slide's name, or leave the slide out"
        raise SlideError(f"no annotations for {slide_id!r}; looked for {looked_for}", path=folder, hint=hint)
    return found


def read_annotations(path: Path, classes: Sequence[str] | None = None) -> Annotations:
    """Read the polygons of a GeoJSON file.

    :param classes: count only these as tissue, whatever their case, and whatever kind of object they are; one that
        would take away is tissue when it is named here. Without any, all annotations count.
    :raises SlideError: no such file, no GeoJSON, no polygon that counts, coordinates that are no numbers, or none of
        the classes occurs.
    """
    wanted = {name.casefold(): name for name in classes} if classes else None
    tissue: list[Polygon] = []
    taken_away: list[Polygon] = []
    counted: Counter[str] = Counter()
    of_class: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    for number, feature in enumerate(_features(_json(path), path), 1):
        kind, name = _kind(feature), _class_name(feature)
        polygons = _polygons(feature.get("geometry"), passed_over, path, number)
        if not polygons:
            continue
        of_class[name or UNCLASSIFIED] += 1
        named = wanted is not None and (name or UNCLASSIFIED).casefold() in wanted
        if named:
            counted[name or UNCLASSIFIED] += 1
            tissue += polygons
        elif kind != _ANNOTATION:
            passed_over[kind] += 1
        elif (name or _own_name(feature)).casefold().startswith(_TAKES_AWAY):
            taken_away += polygons
        elif wanted is None:
            counted[name or UNCLASSIFIED] += 1
            tissue += polygons
        else:
            passed_over["another class"] += 1
    _check_classes(wanted, of_class, path)
    if not tissue:
        holds = ", ".join(f"{count} × {what}" for what, count in sorted(passed_over.items())) or "nothing"
        if taken_away:
            holds = f"{len(taken_away)} to leave out, {holds}"
        raise SlideError(f"no polygon that counts as tissue (it holds {holds})", path=path, hint=_FROM_QUPATH)
    return Annotations(
        path=path,
        tissue=tuple(tissue),
        taken_away=tuple(taken_away),
        classes=tuple(sorted(counted)),
        passed_over=dict(passed_over),
    )


def annotated_tissue(annotations: Annotations, overview: Overview) -> TissueMask:
    """The mask of what is annotated: a pixel counts if its centre lies in a polygon and in none that takes away.

    It has the overview's resolution. Nothing is smoothed, filled or dropped for its size: what is drawn is meant. What
    reaches over the slide's edge is cut off there.

    :raises SlideError: all of it lies outside the slide.
    """
    rows, columns = overview.pixels.shape[:2]
    width, height = columns * overview.downsample, rows * overview.downsample
    lowest = np.array([polygon[0].min(axis=0) for polygon in annotations.tissue])
    highest = np.array([polygon[0].max(axis=0) for polygon in annotations.tissue])
    if not ((highest > 0) & (lowest < (width, height))).all(axis=1).any():
        left, top = lowest.min(axis=0)
        right, bottom = highest.max(axis=0)
        wrong = (
            f"all polygons ({len(lowest)}) lie outside the slide: they reach from {left:.0f}, {top:.0f} to "
            f"{right:.0f}, {bottom:.0f}, and the slide has about {width:.0f} × {height:.0f} px"
        )
        hint = "they are of another slide, or not in pixels of its full resolution (of another level, or in microns)"
        raise SlideError(wrong, path=annotations.path, hint=hint)
    mask = np.zeros((rows, columns), bool)
    for polygon in annotations.tissue:
        _paint(mask, polygon, overview.downsample, True)
    for polygon in annotations.taken_away:
        _paint(mask, polygon, overview.downsample, False)
    return TissueMask(
        mask=mask,
        downsample=overview.downsample,
        mpp=overview.mpp,
        verdict="annotated",
        threshold=0,
        pen=np.zeros_like(mask),
    )


def _paint(mask: Mask, polygon: Polygon, downsample: float, value: bool) -> None:
    """Set the pixels of a polygon, less its holes."""
    rings = [ring / downsample for ring in polygon]
    size = np.array(mask.shape[::-1])
    left, top = np.floor(rings[0].min(axis=0)).clip(0, size).astype(int)
    right, bottom = np.ceil(rings[0].max(axis=0)).clip(0, size).astype(int)
    if left >= right or top >= bottom:
        return
    shape = (bottom - top, right - left)
    inside = _inside(rings[0] - (left, top), shape)
    for hole in rings[1:]:
        inside &= ~_inside(hole - (left, top), shape)
    mask[top:bottom, left:right][inside] = value


def _inside(ring: Floats, shape: tuple[int, int]) -> Mask:
    """Which pixels have their centre inside a closed ring, (height, width): left of it lies an odd number of crossings.

    A line of centres is crossed by an edge that has one end above it, or on it, and the other below. What crosses
    itself is inside where it has been gone around an odd number of times.
    """
    height, width = shape
    x, y = ring[:-1].T
    x_step, y_step = np.diff(ring, axis=0).T
    ends = np.ceil(np.stack([ring[:-1, 1], ring[1:, 1]]) - 0.5).clip(0, height).astype(np.int64)
    first, count = ends.min(axis=0), np.abs(ends[1] - ends[0])
    edge = np.repeat(np.arange(len(x)), count)
    row = first[edge] + np.arange(len(edge)) - (np.cumsum(count) - count)[edge]
    crossing = x[edge] + (row + 0.5 - y[edge]) / y_step[edge] * x_step[edge]
    column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.uint8)
    np.add.at(turns, (row, column), 1)
    return np.asarray(np.bitwise_xor.accumulate(turns & 1, axis=1)[:, :width] == 1)


def _json(path: Path) -> Any:
    if not path.exists():
        raise SlideError("there is no such file", path=path, hint=_FROM_QUPATH)
    try:
        return json.loads(patiently(path.read_bytes, path))
    except OSError as error:
        raise SlideError(f"could not be read: {error.strerror}", path=path, hint=_FROM_QUPATH) from error
    except (ValueError, RecursionError) as error:
        raise SlideError(f"not JSON: {error}", path=path, hint=_FROM_QUPATH) from error


def _features(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        features = document["features"]
    elif kind in ("Polygon", "MultiPolygon"):
        features = [{"type": "Feature", "geometry": document}]
    elif isinstance(document, list):
        features = document
    else:
        features = [document]
    for feature in features:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise SlideError("JSON, but no GeoJSON features", path=path, hint=_FROM_QUPATH)
        yield feature
        its = _properties(feature)
        children = its.get("childObjects", its.get("children"))
        if isinstance(children, list):
            yield from _features(children, path)


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    its = _properties(feature)
    said = its.get("objectType", its.get("object_type", its.get("type", feature.get("id"))))
    return _OTHER_OBJECTS.get(str(said).lower(), _ANNOTATION)


def _class_name(feature: dict[str, Any]) -> str:
    """``""`` for none."""
    said = _properties(feature).get("classification")
    if isinstance(said, str):
        return said.strip()
    names: list[object] = []
    if isinstance(said, dict) and isinstance(said.get("names"), list):
        names = said["names"]
    else:
        while isinstance(said, dict):
            names.insert(0, said.get("name"))
            said = said.get("parentClass")
    return ": ".join(str(name).strip() for name in names if name is not None)


def _own_name(feature: dict[str, Any]) -> str:
    return str(_properties(feature).get("name") or "")


def _polygons(geometry: Any, passed_over: Counter[str], path: Path, number: int) -> list[Polygon]:
    """The polygons of a feature; what is none is counted."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        passed_over[str(kind or "no geometry")] += 1
        return []
    try:
        of_each = [geometry["coordinates"]] if kind == "Polygon" else list(geometry["coordinates"])
        polygons = [tuple(_ring(points) for points in rings) for rings in of_each]
    except (KeyError, TypeError, ValueError) as error:
        wrong = f"feature {number} is a {kind} whose coordinates cannot be read: {error}"
        raise SlideError(wrong, path=path, hint=_FROM_QUPATH) from error
    for ring in (ring for polygon in polygons for ring in polygon):
        if not (np.abs(ring) <= _LARGEST).all():
            wrong = f"feature {number} has coordinates that cannot be pixels (NaN, infinite or beyond {_LARGEST:.0e})"
            raise SlideError(wrong, path=path, hint="remove it in QuPath and export again")
    with_area = [polygon for polygon in polygons if polygon and len(polygon[0]) >= 4]
    if not with_area:
        passed_over["no area"] += 1
    return [(polygon[0], *(ring for ring in polygon[1:] if len(ring) >= 4)) for polygon in with_area]


def _ring(points: Any) -> Ring:
    """(n, 2), closed."""
    ring = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)
    if len(ring) and (ring[0] != ring[-1]).any():
        ring = np.concatenate([ring, ring[:1]])
    return ring


def _check_classes(wanted: Mapping[str, str] | None, of_class: Mapping[str, int], path: Path) -> None:
    there = {name.casefold() for name in of_class}
    missing = [name for folded, name in (wanted or {}).items() if folded not in there]
    if wanted and len(missing) == len(wanted):  # not every slide has every class
        known = some([f"{name} ({count})" for name, count in sorted(of_class.items())], 12) or "none at all"
        wrong = f"no polygon has the class {' or '.join(map(repr, missing))}; there are: {known}"
        raise SlideError(wrong, path=path, hint="name one of these, or classify the annotations in QuPath")
