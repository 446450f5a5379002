"""QuPath's GeoJSON: annotations read, tissue and tile scores written.

What is read of annotations, as far as QuPath's own writer and reader decide it (``qupath.lib.io``, versions 0.2 to
0.5); TRIDENT's ``contours_geojson/`` and our own ``contours/`` are read by the same rules:

- a FeatureCollection, a bare list of features (0.2), one Feature, or a bare Polygon or MultiPolygon; features within
  ``properties.childObjects`` (an export that keeps the hierarchy) count like any other;
- what an object is stands in ``properties.objectType`` (``object_type`` in 0.3, ``id`` in 0.2), and nothing known means
  an annotation. Detections, cells, tiles and TMA cores are passed over, unless their class is asked for by name;
- its class is ``properties.classification``: ``{"name": …}``, ``{"names": [parent, …, child]}`` for derived classes
  (written ``parent: child`` here as there), the same with ``colorRGB`` and ``parentClass`` before 0.4, or plain text;
- a GeometryCollection counts as its parts, and a line that ends where it began as the area within; other lines and
  points have none, and are counted;
- coordinates are pixels of level 0; QuPath never exports microns. On a slide with an unscanned border it counts from
  the corner of the scanned area, and so does what is written here; TRIDENT counts from the corner of the whole slide.

A class (or, where there is none, a name) that begins with "Ignore" or "Exclude" takes away, as QuPath's class
``Ignore*`` is meant. Other names that end with an asterisk do not: QuPath's ``Region*`` is drawn around what counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_OID

import numpy as np
import numpy.typing as npt

from ..errors import SlideError, UsageError
from ..tiling.annotations import UNCLASSIFIED, Annotations, Origin, Polygon
from ..tiling.contours import Outline, Ring
from ..tiling.tile_scores import scored_tiles
from ..wording import some
from .qupath_files import FROM_QUPATH, annotation_json

NAME: Final = "Tissue"
COLOUR: Final = (0, 130, 60)

_OIDS: Final = NAMESPACE_OID.bytes
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
_QUPATHS: Final = frozenset({"objectType", "object_type", "classification", "isLocked", "measurements", "childObjects"})
_TRIDENTS: Final = "tissue_id"
_WITH_AREA: Final = frozenset({"Polygon", "MultiPolygon", "LineString", "MultiLineString"})
_DEEPEST: Final = 100
_LARGEST: Final = 1e9  # px; no slide comes near, and arithmetic beyond it is not exact


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
    features = list(_features(annotation_json(path), path))
    for number, feature in enumerate(features, 1):
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
        raise SlideError(f"no polygon that counts as tissue (it holds {holds})", path=path, hint=FROM_QUPATH)
    return Annotations(
        path=path,
        tissue=tuple(tissue),
        taken_away=tuple(taken_away),
        classes=tuple(sorted(counted)),
        passed_over=dict(passed_over),
        counted_from=_counted_from(features),
    )


def placed(annotations: Annotations, origin: tuple[int, int], counted_from: Origin | None = None) -> Annotations:
    """Annotations in pixels from the corner of the whole slide.

    :param origin: see :attr:`~wsipipe.data.slides.slide.Slide.origin`.
    :param counted_from: in place of what the file gives away.
    :raises SlideError: the two corners are not the same, and which is meant is not known.
    """
    counted_from = counted_from or annotations.counted_from
    if origin == (0, 0) or counted_from == "slide":
        return annotations
    if counted_from is None:
        wrong = f"it does not tell what it counts from, and the scanned area begins at {origin[0]}, {origin[1]}"
        hint = "say it with --annotation-origin: scan (as QuPath counts) or slide (the corner of the whole slide)"
        raise SlideError(wrong, path=annotations.path, hint=hint)
    tissue, taken_away = (
        tuple(tuple(ring + origin for ring in polygon) for polygon in polygons)
        for polygons in (annotations.tissue, annotations.taken_away)
    )
    return replace(annotations, tissue=tissue, taken_away=taken_away)


def passed_over_note(annotations: Annotations) -> str:
    """What was passed over in the file, for the user; empty for nothing."""
    what = ", ".join(f"{count} × {kind}" for kind, count in sorted(annotations.passed_over.items()))
    return f"{annotations.path.name}: passed over {what}, no area that counts" if what else ""


def tissue_geojson(pieces: Sequence[Outline], origin: tuple[int, int] = (0, 0)) -> str:
    """The text of a FeatureCollection of QuPath annotations, a feature a piece, in pixels of level 0.

    :param origin: where QuPath counts from, see :attr:`~wsipipe.data.slides.slide.Slide.origin`.
    """
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [(ring - origin).round(1).tolist() for ring in (piece.outer, *piece.holes)],
            },
            "properties": {
                "objectType": "annotation",
                "name": f"{NAME} {number}",
                "classification": {"name": NAME, "color": list(COLOUR)},
            },
        }
        for number, piece in enumerate(pieces, 1)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))


def tile_scores_geojson(
    coords: npt.ArrayLike,
    tile_size: float,
    measurements: Mapping[str, npt.ArrayLike],
    *,
    top: int | None = None,
    origin: tuple[int, int] = (0, 0),
) -> str:
    """Tiles as a GeoJSON FeatureCollection that QuPath (0.4 and later) takes when it is dropped on the open slide.

    Every tile is a QuPath tile object whose measurements carry the scores (*Measure > Show measurement maps*), in
    falling order of the first of them. Ids are made from the tile's place: the same tile keeps its id.

    :param coords: (N, 2) x and y of upper left corners, level-0 pixels.
    :param tile_size: side of a tile, level-0 pixels.
    :param measurements: name → (N,) finite numbers; the first orders the tiles.
    :param top: only so many of the highest; None for all.
    :param origin: where QuPath counts from, see :attr:`~wsipipe.data.slides.slide.Slide.origin`.
    :raises UsageError: as :func:`~wsipipe.data.tiling.tile_scores.scored_tiles`, or no measurement.
    """
    if not measurements:
        raise UsageError("tiles without a measurement say nothing in QuPath")
    columns = {json.dumps(name): scored_tiles(coords, values)[1] for name, values in measurements.items()}
    order = np.argsort(-next(iter(columns.values())), kind="stable")[:top]
    corners = (np.asarray(coords) - origin)[order].tolist()
    shown = {name: column[order].tolist() for name, column in columns.items()}
    features = []
    for i, (x0, y0) in enumerate(corners):  # put together as text: a slide may have 100,000 tiles
        x1, y1 = x0 + tile_size, y0 + tile_size
        measured = ",".join(f"{name}:{column[i]!r}" for name, column in shown.items())
        features.append(
            f'{{"type":"Feature","id":"{_tile_id(f"wsipipe tile {x0} {y0} {tile_size}")}",'
            f'"geometry":{{"type":"Polygon","coordinates":[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},'
            f'"properties":{{"objectType":"tile","measurements":{{{measured}}}}}}}'
        )
    return f'{{"type":"FeatureCollection","features":[{",".join(features)}]}}'


def _tile_id(name: str) -> str:
    """The UUID of version 5 of a name (RFC 9562), as :func:`uuid.uuid5` makes it in four times the time."""
    digest = bytearray(hashlib.sha1(_OIDS + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _features(document: Any, path: Path, depth: int = 0) -> Iterator[dict[str, Any]]:
    _check_depth(depth, path)
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        features = document["features"]
    elif kind in ("Polygon", "MultiPolygon", "GeometryCollection"):
        features = [{"type": "Feature", "geometry": document}]
    elif isinstance(document, list):
        features = document
    else:
        features = [document]
    for feature in features:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise SlideError("JSON, but no GeoJSON features", path=path, hint=FROM_QUPATH)
        yield feature
        its = _properties(feature)
        children = its.get("childObjects", its.get("children"))
        if isinstance(children, list):
            yield from _features(children, path, depth + 1)


def _check_depth(depth: int, path: Path) -> None:
    if depth > _DEEPEST:
        wrong = f"objects within objects, more than {_DEEPEST} deep"
        raise SlideError(wrong, path=path, hint="export it from QuPath again, without its hierarchy")


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    its = _properties(feature)
    said = its.get("objectType", its.get("object_type", its.get("type", feature.get("id"))))
    return _OTHER_OBJECTS.get(str(said).lower(), _ANNOTATION)


def _counted_from(features: Sequence[dict[str, Any]]) -> Origin | None:
    """QuPath's features have fields of its own, since 0.2 an id too; TRIDENT's have one field."""
    if any(_QUPATHS & set(_properties(its)) or str(its.get("id")).startswith("Path") for its in features):
        return "scan"
    return "slide" if any(_TRIDENTS in _properties(its) for its in features) else None


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


def _polygons(geometry: Any, passed_over: Counter[str], path: Path, number: int, depth: int = 0) -> list[Polygon]:
    """The polygons of a feature; what is none is counted."""
    _check_depth(depth, path)
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    parts = geometry.get("geometries") if kind == "GeometryCollection" else None
    if parts and isinstance(parts, list):
        return [polygon for part in parts for polygon in _polygons(part, passed_over, path, number, depth + 1)]
    try:
        polygons = [tuple(_ring(points) for points in rings) for rings in _rings(kind, geometry)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        wrong = f"feature {number} is a {kind} whose coordinates cannot be read: {error}"
        raise SlideError(wrong, path=path, hint=FROM_QUPATH) from error
    if not polygons:
        passed_over[str(kind or "no geometry")] += 1
        return []
    for ring in (ring for polygon in polygons for ring in polygon):
        if not (np.abs(ring) <= _LARGEST).all():
            wrong = f"feature {number} has coordinates that cannot be pixels (NaN, infinite or beyond {_LARGEST:.0e})"
            raise SlideError(wrong, path=path, hint="remove it in QuPath and export again")
    with_area = [polygon for polygon in polygons if polygon and len(polygon[0]) >= 4]
    if not with_area:
        passed_over["no area"] += 1
    return [(polygon[0], *(ring for ring in polygon[1:] if len(ring) >= 4)) for polygon in with_area]


def _rings(kind: str | None, geometry: Any) -> list[Any]:
    """Lists of rings, a list a polygon; none for what has no area. A closed line is a ring."""
    coordinates = geometry["coordinates"] if kind in _WITH_AREA else []
    if kind == "Polygon":
        return [coordinates]
    if kind == "MultiPolygon":
        return list(coordinates)
    lines = [coordinates] if kind == "LineString" else list(coordinates)
    return [[line] for line in lines if len(line) >= 4 and list(line[0])[:2] == list(line[-1])[:2]]


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
