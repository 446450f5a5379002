"""QuPath: what its annotations mean, and that it takes what we write."""

from pathlib import Path

import numpy as np
import pytest
from geojson_files import collection, feature, geojson_file, mask_of, overview, square, three_classes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tissue_masks import tissue
from wsipipe.data.errors import SlideError
from wsipipe.data.interop.qupath import passed_over_note, read_annotations, tissue_geojson
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.annotations import UNCLASSIFIED, annotated_tissue
from wsipipe.data.tiling.contours import outlines
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.tiling.tissue import find_tissue

SLIDES = Path(__file__).resolve().parents[3] / "../shared/data/slides"


QUPATH_05 = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": "5a7c1f06-4f49-4e0c-a0a4-7f7f3f3f9d01",
            "geometry": {"type": "Polygon", "coordinates": [square(160, 160, 320)]},
            "properties": {
                "objectType": "annotation",
                "name": "region 1",
                "classification": {"name": "Tumor", "color": [200, 0, 0]},
                "isLocked": True,
                "measurements": {"Area µm^2": 12.0},
            },
        }
    ],
}
QUPATH_02 = [
    {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": "Polygon", "coordinates": [square(160, 160, 320)]},
        "properties": {
            "classification": {"name": "Tumor", "colorRGB": -3670016},
            "isLocked": False,
            "measurements": [],
        },
    }
]


@pytest.mark.parametrize(
    ("document", "classes"),
    [
        (QUPATH_05, ("Tumor",)),
        (QUPATH_02, ("Tumor",)),
        (QUPATH_05["features"][0], ("Tumor",)),
        (QUPATH_05["features"][0]["geometry"], (UNCLASSIFIED,)),
        (collection(feature([[square(160, 160, 320)]], kind="MultiPolygon", tissue_id=0)), (UNCLASSIFIED,)),
        (collection(feature([[[*point, 0.0] for point in square(160, 160, 320)]], "Tumor")), ("Tumor",)),
        (collection(feature([square(160, 160, 320)[:-1]], "Tumor")), ("Tumor",)),
        (collection(feature([square(160, 160, 320)[::-1]], "Tumor")), ("Tumor",)),
    ],
    ids=["0.5", "0.2", "feature", "geometry", "trident", "three dimensions", "not closed", "the other way round"],
)
def test_all_forms_of_the_same_square(tmp_path, document, classes):
    path = geojson_file(tmp_path, document)
    annotations = read_annotations(path)
    assert annotations.path == path
    assert annotations.classes == classes
    assert not annotations.passed_over
    expected = np.zeros((80, 100), bool)
    expected[10:30, 10:30] = True
    found = annotated_tissue(annotations, overview())
    np.testing.assert_array_equal(found.mask, expected)
    assert (found.verdict, found.downsample, found.mpp) == ("annotated", 16.0, 8.0)
    assert not found.pen.any()


def test_derived_and_older_classes(tmp_path):
    names = [
        {"names": ["Tumor", "Positive"], "color": [1, 2, 3]},
        {"name": "Positive", "colorRGB": -1, "parentClass": {"name": "Tumor", "colorRGB": -2}},
        "Tumor: Positive",
    ]
    path = geojson_file(tmp_path, collection(*(feature([square(0, 0, 100)], name) for name in names)))
    annotations = read_annotations(path, ["tumor: positive"])
    assert annotations.classes == ("Tumor: Positive",)
    assert len(annotations.tissue) == 3


def test_children_in_a_hierarchical_export_count(tmp_path):
    parent = feature([square(0, 0, 160)], childObjects=[feature([square(320, 320, 160)], "Tumor")])
    annotations = read_annotations(geojson_file(tmp_path, collection(parent)))
    assert annotations.classes == ("Tumor", UNCLASSIFIED)


def test_what_is_no_polygon_is_counted(tmp_path):
    path = geojson_file(
        tmp_path,
        collection(
            feature([1, 2], kind="Point"),
            feature([[1, 2], [3, 4]], kind="MultiPoint"),
            feature([[1, 2], [3, 4]], kind="LineString"),
            feature([[5, 6], [7, 8]], kind="LineString"),
            {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": []}, "properties": None},
            {"type": "Feature", "geometry": None, "properties": {}},
            feature([[[1, 1], [2, 2], [1, 1]]]),
            feature([]),
            feature([square(0, 0, 160)], objectType="detection"),
            feature([square(0, 0, 160)], objectType="cell"),
            feature([square(0, 0, 160)], object_type="tma_core"),
            feature([square(0, 0, 160)], "Tumor", objectType="annotation"),
        ),
    )
    annotations = read_annotations(path)
    assert annotations.passed_over == {
        "Point": 1,
        "MultiPoint": 1,
        "LineString": 2,
        "GeometryCollection": 1,
        "no geometry": 1,
        "no area": 2,
        "detection": 1,
        "cell": 1,
        "TMA core": 1,
    }
    assert len(annotations.tissue) == 1


def test_collections_and_closed_lines_have_area(tmp_path):
    whole, half, open_line = square(0, 0, 160), square(320, 0, 160), [[0, 0], [5, 0], [5, 5], [0, 5]]
    parts = [
        {"type": "Polygon", "coordinates": [whole]},
        {"type": "GeometryCollection", "geometries": [{"type": "LineString", "coordinates": half}]},
        {"type": "Point", "coordinates": [1, 2]},
    ]
    collected = {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries": parts}, "properties": {}}
    path = geojson_file(
        tmp_path, collection(collected, feature([open_line, square(800, 800, 160)], kind="MultiLineString"))
    )
    annotations = read_annotations(path)
    assert len(annotations.tissue) == 3
    assert annotations.passed_over == {"Point": 1}
    assert mask_of(path).sum() == 3 * 100
    assert passed_over_note(annotations) == "a.geojson: passed over 1 × Point, no area that counts"
    assert mask_of(geojson_file(tmp_path, {"type": "GeometryCollection", "geometries": parts})).sum() == 2 * 100
    with pytest.raises(SlideError, match=r"it holds 2 × LineString"):
        read_annotations(geojson_file(tmp_path, collection(*[feature(open_line, kind="LineString")] * 2)))


@pytest.mark.parametrize(
    ("classes", "squares"),
    [
        (None, [0, 1, 2, 3]),
        ([], [0, 1, 2, 3]),
        (["tumor"], [0]),
        (["Stroma", "TUMOR"], [0, 1]),
        (["region*"], [2]),
        (["unclassified"], [3]),
        (["Gland"], [4]),
    ],
)
def test_classes_choose_and_ignored_areas_are_taken_away(tmp_path, classes, squares):
    expected = np.zeros((80, 100), bool)
    for number in squares:
        expected[:10, number * 10 : number * 10 + 10] = True
    expected[5:50, 5:50] = False
    np.testing.assert_array_equal(mask_of(three_classes(tmp_path), classes=classes), expected)


def test_an_ignored_class_that_is_asked_for_is_tissue(tmp_path):
    found = mask_of(three_classes(tmp_path), classes=["Ignore*"])
    assert found.sum() == 45 * 45


@pytest.mark.parametrize("name", ["Ignore*", "ignore", "Exclude", "EXCLUDE folds"])
def test_a_name_takes_away_as_a_class_does(tmp_path, name):
    with_name = feature([square(0, 0, 160)])
    with_name["properties"]["name"] = name
    found = mask_of(geojson_file(tmp_path, collection(with_name, feature([square(0, 0, 320)]))))
    assert found.sum() == 20 * 20 - 10 * 10


def test_a_class_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path):
    there = r"'Tumour' or 'Fat'; there are: Gland \(1\), Ignore\* \(1\), .*Tumor \(1\)"
    with pytest.raises(SlideError, match=there) as caught:
        read_annotations(three_classes(tmp_path), ["Tumour", "Fat"])
    assert caught.value.path.endswith("a.geojson")
    read_annotations(three_classes(tmp_path), ["Tumour", "Tumor"])  # not every slide has every class


@pytest.mark.parametrize(
    ("document", "match"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\x00\xff", "not JSON"),
        ("3", "no GeoJSON"),
        ('{"some": "thing"}', "no GeoJSON"),
        ('{"type": "FeatureCollection"}', "no GeoJSON"),
        ("[1, 2]", "no GeoJSON"),
        (collection(), "holds nothing"),
        (collection(feature([1, 2], kind="Point")), "holds 1 × Point"),
        (collection(feature([square(0, 0, 9)], "Ignore*")), "1 to leave out"),
        (collection(feature([square(0, 0, 9)], objectType="cell")), "1 × cell"),
        (collection(feature([[[0, 0], [1, float("nan")], [1, 1], [0, 0]]])), "feature 1 .*NaN"),
        (collection(feature([[[0, 0], [1, float("inf")], [1, 1], [0, 0]]])), "feature 1 .*infinite"),
        (collection(feature([[[0, 0], [1e200, 1], [1, 1], [0, 0]]])), "cannot be pixels"),
        (collection(feature([[[0, 0], ["a", 1], [1, 1], [0, 0]]])), "feature 1 .*cannot be read"),
        (collection(feature([[[0, 0], [1], [1, 1], [0, 0]]])), "feature 1 .*cannot be read"),
        (collection(feature(7)), "feature 1 .*cannot be read"),
        (collection({"type": "Feature", "geometry": {"type": "Polygon"}}), "feature 1 .*cannot be read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, document, match):
    with pytest.raises(SlideError, match=match) as caught:
        read_annotations(geojson_file(tmp_path, document))
    assert caught.value.path == str(tmp_path / "a.geojson")
    assert caught.value.hint


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))), st.sampled_from([1.0, 4.0001, 32.37]))
def test_our_own_contours_give_back_their_mask_exactly(tmp_path_factory, mask, downsample):
    if not mask.any():
        mask[0, 0] = True
    path = geojson_file(tmp_path_factory.mktemp("contours"), tissue_geojson(outlines(tissue(mask, downsample))))
    annotations = read_annotations(path, ["Tissue"])
    view = overview(mask.shape[1], mask.shape[0], downsample)
    np.testing.assert_array_equal(annotated_tissue(annotations, view).mask, mask)


@pytest.mark.parametrize("name", ["giardia_40x_region.svs", "ilc_breast_20x_region.svs"])
def test_the_tissue_of_a_slide_survives_the_way_through_geojson(tmp_path, name):
    if not (SLIDES / name).exists():
        pytest.skip("no shared slides here")
    with open_slide(SLIDES / name) as slide:
        view = read_overview(slide)
    found = find_tissue(view)
    again = annotated_tissue(read_annotations(geojson_file(tmp_path, tissue_geojson(outlines(found)))), view)
    factor = round(found.downsample / view.downsample)
    before = found.mask.repeat(factor, axis=0).repeat(factor, axis=1)[: again.mask.shape[0], : again.mask.shape[1]]
    assert (before & again.mask).sum() / (before | again.mask).sum() > 0.98
