"""Tissue from annotations: which pixels polygons cover."""

import numpy as np
import pytest
from geojson_files import collection, feature, geojson_file, mask_of, overview, square
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from wsipipe.data.errors import SlideError
from wsipipe.data.interop.qupath import read_annotations
from wsipipe.data.tiling.annotations import annotated_tissue


def test_holes_unions_and_several_parts(tmp_path):
    path = geojson_file(
        tmp_path,
        collection(
            feature([square(0, 0, 320), square(80, 80, 80)]),
            feature([square(160, 160, 320)]),
            feature([[square(800, 0, 160)], [square(1120, 0, 160), square(1152, 32, 32)]], kind="MultiPolygon"),
        ),
    )
    expected = np.zeros((80, 100), bool)
    expected[:20, :20] = True
    expected[5:10, 5:10] = False
    expected[10:30, 10:30] = True
    expected[:10, 50:60] = True
    expected[:10, 70:80] = True
    expected[2:4, 72:74] = False
    np.testing.assert_array_equal(mask_of(path), expected)


def test_what_reaches_over_the_edge_is_cut_off(tmp_path):
    path = geojson_file(tmp_path, collection(feature([square(-400, -300, 460)]), feature([square(1500, 1200, 5000)])))
    expected = np.zeros((80, 100), bool)
    expected[:10, :4] = True
    expected[75:, 94:] = True
    np.testing.assert_array_equal(mask_of(path), expected)


def test_a_ring_that_touches_or_crosses_itself(tmp_path):
    touching = [[0, 0], [160, 160], [320, 0], [320, 320], [160, 160], [0, 320], [0, 0]]
    found = mask_of(geojson_file(tmp_path, collection(feature([touching]))))
    assert found[10, 2]
    assert found[10, 17]
    assert not found[2, 10]
    assert found.sum() == pytest.approx(2 * 20 * 10 / 2, abs=20)


def test_area_is_true_below_a_pixel(tmp_path):
    """A disc of a radius and at a place that fit no pixel."""
    turn = np.linspace(0, 2 * np.pi, 721)
    disc = np.stack([700.3 + 431.7 * np.cos(turn), 600.9 + 431.7 * np.sin(turn)], axis=1)
    found = mask_of(geojson_file(tmp_path, collection(feature([disc.tolist()]))))
    assert found.sum() * 16**2 == pytest.approx(np.pi * 431.7**2, rel=0.002)
    row, column = np.nonzero(found)
    assert ((column.mean() + 0.5) * 16, (row.mean() + 0.5) * 16) == pytest.approx((700.3, 600.9), abs=1)


PLACES = st.floats(-5, 25) | st.integers(-5, 25).map(lambda pixel: pixel + 0.5)
"""Anywhere, and at the centres of pixels, where rounding decides on which side of a vertex a row lies."""


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(PLACES, PLACES), min_size=3, max_size=12),
    st.sampled_from([1.0, 2.5, 16.004]),
)
def test_a_star_around_a_point_covers_the_centres_within_it(tmp_path_factory, points, downsample):
    around = np.array(points) - np.mean(points, axis=0)
    star = np.array(points)[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]
    star = np.concatenate([star, star[:1]]) * downsample
    path = geojson_file(
        tmp_path_factory.mktemp("star"), collection(feature([star.tolist()]), feature([square(0, 0, 0.001)]))
    )
    found = mask_of(path, overview(20, 18, downsample))
    row, column = np.indices((18, 20))
    centres = np.stack([column.ravel() + 0.5, row.ravel() + 0.5], axis=1)
    clear = distance(centres, star / downsample) > 1e-6
    inside = Outline(star / downsample).contains_points(centres)
    np.testing.assert_array_equal(found.ravel()[clear], inside[clear])


def test_no_rounding_at_a_vertex_leaks_into_the_row(tmp_path):
    """A vertex at the height of a row's centre belongs to one of its two edges, however long the other one is."""
    rng = np.random.default_rng(0)
    features = []
    for y, below in zip(rng.uniform(-9, 9, 300), rng.uniform(11, 20, 300), strict=True):
        ring = [[2, y], [8, 10.5], [2, below], [19, 22], [19, 25], [1, 25], [1, y], [2, y]]
        features.append(feature([ring]))
    found = mask_of(geojson_file(tmp_path, collection(*features)), overview(20, 30, 1.0))
    assert found[:11, 1:7].any()
    assert not found[:11, 8:].any()
    assert not found[:, :1].any()


def distance(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Of each point to the nearest edge."""
    start, along = ring[:-1], np.diff(ring, axis=0)
    share = ((points[:, None] - start) * along).sum(axis=2) / np.maximum((along**2).sum(axis=1), 1e-300)
    nearest = start + share.clip(0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1)


def test_annotations_of_another_slide_or_scale(tmp_path):
    annotations = read_annotations(geojson_file(tmp_path, collection(feature([square(4000, 100, 500)]))))
    with pytest.raises(SlideError, match=r"outside the slide: .*4000, 100 to 4500, 600.*1600 × 1280 px") as caught:
        annotated_tissue(annotations, overview())
    assert "microns" in caught.value.hint
    touching = read_annotations(geojson_file(tmp_path, collection(feature([square(1600, 100, 500)]))))
    with pytest.raises(SlideError, match="outside"):
        annotated_tissue(touching, overview())


def test_annotations_smaller_than_a_pixel_are_an_empty_mask(tmp_path):
    assert not mask_of(geojson_file(tmp_path, collection(feature([square(17, 17, 3)])))).any()
