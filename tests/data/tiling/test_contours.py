"""Outlines of the tissue and the GeoJSON that QuPath imports."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from wsipipe.data.tiling.contours import Outline, geojson, outlines
from wsipipe.data.tiling.tissue import TissueMask
from wsipipe.data.units import Mpp


def tissue(mask: np.ndarray, downsample: float = 32.0) -> TissueMask:
    return TissueMask(
        mask=mask,
        downsample=downsample,
        mpp=Mpp(8),
        verdict="tissue and glass",
        threshold=7,
        pen=np.zeros_like(mask),
    )


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_a_square_with_a_hole_in_pixels_of_level_0():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:25] = True
    mask[8:12, 15:20] = False
    (piece,) = outlines(tissue(mask))
    assert piece.outer.min(axis=0).tolist() == [320, 160]
    assert piece.outer.max(axis=0).tolist() == [800, 480]
    (hole,) = piece.holes
    assert hole.min(axis=0).tolist() == [480, 256]
    assert hole.max(axis=0).tolist() == [640, 384]
    assert area(piece.outer) > 0 > area(hole), "RFC 7946: outer rings one way, holes the other"
    # Corners are cut by an eighth of a pixel each.
    assert area(piece.outer) == pytest.approx((10 * 15 - 4 / 8) * 32**2)
    assert area(hole) == pytest.approx(-(4 * 5 - 4 / 8) * 32**2)


def test_tissue_up_to_the_edges_is_outlined_at_the_edges():
    (piece,) = outlines(tissue(np.ones((6, 9), bool), downsample=10.0))
    assert piece.outer.min(axis=0).tolist() == [0, 0]
    assert piece.outer.max(axis=0).tolist() == [90, 60]


def test_an_island_in_a_hole_is_a_piece_of_its_own():
    mask = np.ones((30, 30), bool)
    mask[5:25, 5:25] = False
    mask[10:20, 10:20] = True
    outside, island = outlines(tissue(mask))
    assert len(outside.holes) == 1
    assert island.holes == ()
    assert island.outer.min() == 320


def test_no_tissue_is_an_empty_collection():
    assert outlines(tissue(np.zeros((5, 5), bool))) == []
    assert json.loads(geojson([])) == {"type": "FeatureCollection", "features": []}


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_hold_exactly_the_tissue(mask):
    pieces = outlines(tissue(mask, downsample=2.5))
    inside = np.zeros(mask.shape, int)
    row, column = np.indices(mask.shape)
    centres = np.stack([column.ravel() + 0.5, row.ravel() + 0.5], axis=1) * 2.5
    for piece in pieces:
        for ring in (piece.outer, *piece.holes):
            assert (ring[0] == ring[-1]).all()
            assert len(ring) >= 5
            within = Polygon(ring).contains_points(centres).reshape(mask.shape)
            inside += np.where(within, 1 if ring is piece.outer else -1, 0)
        assert area(piece.outer) > 0
        assert all(area(hole) < 0 for hole in piece.holes)
    np.testing.assert_array_equal(inside, mask.astype(int))


def test_geojson_is_what_qupath_imports():
    ring = np.array([[0, 0], [100.04, 0], [100, 50], [0, 50], [0, 0]], float)
    hole = np.array([[10, 10], [10, 20], [20, 20], [10, 10]], float)
    text = geojson([Outline(ring, (hole,)), Outline(ring, ())])
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
    assert geojson([Outline(ring, (hole,)), Outline(ring, ())]) == text


# ----------------------------------------------------------------------------------------- RFC 7946


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
            assert (area(np.array(ring)) > 0) == (number == 0), "right-hand rule"
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
    assert len(assert_valid(geojson(pieces))) == len(pieces)


def test_no_pieces_are_valid_geojson():
    assert assert_valid(geojson([])) == []


def test_the_polygons_are_simple_by_the_book_of_another():
    shapely = pytest.importorskip("shapely.geometry")
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((30, 40)) > 0.5
        for feature in assert_valid(geojson(outlines(tissue(mask, 16.0041)))):
            assert shapely.shape(feature["geometry"]).is_valid
