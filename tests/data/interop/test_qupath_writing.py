"""GeoJSON that is written for QuPath: tissue and tile scores, by RFC 7946 and QuPath's reader."""

import json
from itertools import pairwise
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tissue_masks import ring_area, tissue
from wsipipe.data.errors import UsageError
from wsipipe.data.interop.qupath import tile_scores_geojson, tissue_geojson
from wsipipe.data.tiling.contours import Outline, outlines


def test_geojson_is_what_qupath_imports():
    ring = np.array([[0, 0], [100.04, 0], [100, 50], [0, 50], [0, 0]], float)
    hole = np.array([[10, 10], [10, 20], [20, 20], [10, 10]], float)
    text = tissue_geojson([Outline(ring, (hole,)), Outline(ring, ())])
    collection = json.loads(text)
    assert collection["type"] == "FeatureCollection"
    first, second = collection["features"]
    assert first["type"] == "Feature"
    assert first["geometry"]["type"] == "Polygon"
    assert first["geometry"]["coordinates"][0][1] == [100.0, 0.0]
    assert len(first["geometry"]["coordinates"]) == 2
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["classification"]["name"] == "Tissue"
    assert all(0 <= channel <= 255 for channel in first["properties"]["classification"]["color"])
    assert [first["properties"]["name"], second["properties"]["name"]] == ["Tissue 1", "Tissue 2"]
    assert tissue_geojson([Outline(ring, (hole,)), Outline(ring, ())]) == text


def assert_valid(text: str) -> list[dict]:
    """What RFC 7946 asks of a FeatureCollection of polygons (sections 3.1.6, 3.2, 3.3 and 7.1), and QuPath's reader."""
    document = json.loads(text, parse_constant=pytest.fail)
    assert set(document) == {"type", "features"}
    assert document["type"] == "FeatureCollection"
    for feature in document["features"]:
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert set(feature["geometry"]) == {"type", "coordinates"}
        assert feature["geometry"]["type"] == "Polygon"
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert all(len(point) == 2 for point in ring)
            assert len({tuple(point) for point in ring}) == len(ring) - 1, "a ring does not touch itself"
            assert (ring_area(np.array(ring)) > 0) == (number == 0), "right-hand rule"
        properties = feature["properties"]
        assert properties["objectType"] == "annotation"
        assert isinstance(properties["name"], str)
        assert isinstance(properties["classification"]["name"], str)
        colour = properties["classification"]["color"]
        assert len(colour) == 3
        assert all(isinstance(channel, int) and 0 <= channel <= 255 for channel in colour)
    return document["features"]


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.sampled_from([1.0, 4.0001, 16.0041, 32.37]),
)
def test_any_mask_gives_valid_geojson(mask, downsample):
    pieces = outlines(tissue(mask, downsample))
    assert len(assert_valid(tissue_geojson(pieces))) == len(pieces)


def test_no_pieces_are_valid_geojson():
    assert assert_valid(tissue_geojson([])) == []
    assert json.loads(tissue_geojson([])) == {"type": "FeatureCollection", "features": []}


def test_the_polygons_are_simple_by_the_book_of_another():
    shapely = pytest.importorskip("shapely.geometry")
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((30, 40)) > 0.5
        for feature in assert_valid(tissue_geojson(outlines(tissue(mask, 16.0041)))):
            assert shapely.shape(feature["geometry"]).is_valid


GRID = np.array([(0, 0), (224, 0), (0, 224), (224, 224)])


def test_geojson_is_what_qupath_reads() -> None:
    measurements = {"attention": np.array([0.1, 0.4, 0.2, 0.3], np.float32), "score": [1.0, -2, 3, 4]}
    text = tile_scores_geojson(GRID, 224, measurements, top=2)
    collection = json.loads(text)
    assert collection["type"] == "FeatureCollection"
    first, second = collection["features"]
    assert first["type"] == "Feature"
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[224, 0], [448, 0], [448, 224], [224, 224], [224, 0]]],
    }
    assert first["properties"]["objectType"] == "tile"
    assert first["properties"]["measurements"] == {"attention": pytest.approx(0.4), "score": -2}
    assert second["properties"]["measurements"]["attention"] == pytest.approx(0.3)
    assert UUID(first["id"]) != UUID(second["id"])
    assert tile_scores_geojson(GRID, 224, measurements, top=2) == text


def test_geojson_holds_every_tile_as_a_closed_ring() -> None:
    features = json.loads(tile_scores_geojson(GRID, 223.5, {"attention": [1, 2, 3, 4]}))["features"]
    assert len(features) == 4
    for feature in features:
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        # Shoelace: the rectangle's area, whichever way round.
        area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2
        assert abs(area) == pytest.approx(223.5**2)
    assert len({feature["id"] for feature in features}) == 4


def test_geojson_refuses_what_json_cannot_say() -> None:
    with pytest.raises(UsageError):
        tile_scores_geojson(GRID, 224, {"attention": [1, 2, 3, float("inf")]})
    with pytest.raises(UsageError):
        tile_scores_geojson(GRID, 224, {})
