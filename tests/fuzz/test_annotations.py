"""Damaged annotations of slides: read and drawn, or refused with an error of ours."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from geojson_files import collection, feature, overview, square
from trial import Trial
from wsipipe.data.interop.qupath import passed_over_note, placed, read_annotations
from wsipipe.data.tiling.annotations import annotated_tissue

Survives = Callable[..., Trial]

DOCUMENT = collection(
    feature([square(100, 100, 600), square(200, 200, 50)], "Tumor", objectType="annotation"),
    feature([[square(500, 0, 90)], [square(900, 500, 90)]], {"names": ["Stroma", "dense"]}, "MultiPolygon"),
    feature([square(300, 300, 40)], {"name": "Ignore*", "colorRGB": -1}, childObjects=[feature([square(0, 0, 9)])]),
    feature([[0, 0], [9, 9], [0, 9], [0, 0]], None, "LineString"),
    feature([4, 5], None, "Point"),
)


def _zipped(text: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a.geojson"), text)
    return stream.getvalue()


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "a.geojson": lambda text: text,
    "a.geojson.gz": lambda text: gzip.compress(text, mtime=0),
    "a.geojson.zip": _zipped,
}


def _drawn(path: Path) -> None:
    annotations = read_annotations(path)
    passed_over_note(annotations)
    annotated_tissue(placed(annotations, (0, 0)), overview())


@pytest.mark.parametrize("name", FORMS)
def test_annotations(survives: Survives, name: str) -> None:
    survives(_drawn, FORMS[name](json.dumps(DOCUMENT).encode()), name)
