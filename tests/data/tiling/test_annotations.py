"""Tissue from annotations: what GeoJSON means, and which pixels it covers."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.annotation_files import find_annotations
from wsipipe.data.tiling.annotations import UNCLASSIFIED, annotated_tissue, passed_over_note, read_annotations
from wsipipe.data.tiling.contours import geojson, outlines
from wsipipe.data.tiling.overview import Overview, read_overview
from wsipipe.data.tiling.tissue import TissueMask, find_tissue
from wsipipe.data.units import Mpp

SLIDES = Path(__file__).resolve().parents[3] / "../shared/data/slides"


def overview(width: int = 100, height: int = 80, downsample: float = 16.0) -> Overview:
    pixels = np.full((height, width, 3), 240, np.uint8)
    unread = np.zeros((height, width), bool)
    return Overview(pixels=pixels, downsample=downsample, mpp=Mpp(0.5 * downsample), unread=unread)


def tissue(mask: np.ndarray, downsample: float = 16.0) -> TissueMask:
    pen = np.zeros_like(mask)
    return TissueMask(mask=mask, downsample=downsample, mpp=Mpp(8), verdict="tissue and glass", threshold=7, pen=pen)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(rings: object, name: object = None, kind: str = "Polygon", **properties: object) -> dict:
    if name is not None:
        properties["classification"] = name
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": rings}, "properties": properties}


def write(folder: Path, document: object, name: str = "a.geojson") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def collection(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def mask_of(path: Path, view: Overview | None = None, classes: list[str] | None = None) -> np.ndarray:
    return annotated_tissue(read_annotations(path, classes), view or overview()).mask


# ------------------------------------------------------------------------------------- forms of file


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
    path = write(tmp_path, document)
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
    path = write(tmp_path, collection(*(feature([square(0, 0, 100)], name) for name in names)))
    annotations = read_annotations(path, ["tumor: positive"])
    assert annotations.classes == ("Tumor: Positive",)
    assert len(annotations.tissue) == 3


def test_children_in_a_hierarchical_export_count(tmp_path):
    parent = feature([square(0, 0, 160)], childObjects=[feature([square(320, 320, 160)], "Tumor")])
    annotations = read_annotations(write(tmp_path, collection(parent)))
    assert annotations.classes == ("Tumor", UNCLASSIFIED)


def test_what_is_no_polygon_is_counted(tmp_path):
    path = write(
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
    path = write(tmp_path, collection(collected, feature([open_line, square(800, 800, 160)], kind="MultiLineString")))
    annotations = read_annotations(path)
    assert len(annotations.tissue) == 3
    assert annotations.passed_over == {"Point": 1}
    assert mask_of(path).sum() == 3 * 100
    assert passed_over_note(annotations) == "a.geojson: passed over 1 × Point, no area that counts"
    assert mask_of(write(tmp_path, {"type": "GeometryCollection", "geometries": parts})).sum() == 2 * 100
    with pytest.raises(SlideError, match=r"it holds 2 × LineString"):
        read_annotations(write(tmp_path, collection(*[feature(open_line, kind="LineString")] * 2)))


# ------------------------------------------------------------------------------------------ classes


def three_classes(folder: Path) -> Path:
    return write(
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
    found = mask_of(write(tmp_path, collection(with_name, feature([square(0, 0, 320)]))))
    assert found.sum() == 20 * 20 - 10 * 10


def test_a_class_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path):
    there = r"'Tumour' or 'Fat'; there are: Gland \(1\), Ignore\* \(1\), .*Tumor \(1\)"
    with pytest.raises(SlideError, match=there) as caught:
        read_annotations(three_classes(tmp_path), ["Tumour", "Fat"])
    assert caught.value.path.endswith("a.geojson")
    read_annotations(three_classes(tmp_path), ["Tumour", "Tumor"])  # not every slide has every class


# ------------------------------------------------------------------------------------------- pixels


def test_holes_unions_and_several_parts(tmp_path):
    path = write(
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
    path = write(tmp_path, collection(feature([square(-400, -300, 460)]), feature([square(1500, 1200, 5000)])))
    expected = np.zeros((80, 100), bool)
    expected[:10, :4] = True
    expected[75:, 94:] = True
    np.testing.assert_array_equal(mask_of(path), expected)


def test_a_ring_that_touches_or_crosses_itself(tmp_path):
    touching = [[0, 0], [160, 160], [320, 0], [320, 320], [160, 160], [0, 320], [0, 0]]
    found = mask_of(write(tmp_path, collection(feature([touching]))))
    assert found[10, 2]
    assert found[10, 17]
    assert not found[2, 10]
    assert found.sum() == pytest.approx(2 * 20 * 10 / 2, abs=20)


def test_area_is_true_below_a_pixel(tmp_path):
    """A disc of a radius and at a place that fit no pixel."""
    turn = np.linspace(0, 2 * np.pi, 721)
    disc = np.stack([700.3 + 431.7 * np.cos(turn), 600.9 + 431.7 * np.sin(turn)], axis=1)
    found = mask_of(write(tmp_path, collection(feature([disc.tolist()]))))
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
    path = write(tmp_path_factory.mktemp("star"), collection(feature([star.tolist()]), feature([square(0, 0, 0.001)])))
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
    found = mask_of(write(tmp_path, collection(*features)), overview(20, 30, 1.0))
    assert found[:11, 1:7].any()
    assert not found[:11, 8:].any()
    assert not found[:, :1].any()


def distance(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Of each point to the nearest edge."""
    start, along = ring[:-1], np.diff(ring, axis=0)
    share = ((points[:, None] - start) * along).sum(axis=2) / np.maximum((along**2).sum(axis=1), 1e-300)
    nearest = start + share.clip(0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1)


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))), st.sampled_from([1.0, 4.0001, 32.37]))
def test_our_own_contours_give_back_their_mask_exactly(tmp_path_factory, mask, downsample):
    if not mask.any():
        mask[0, 0] = True
    path = write(tmp_path_factory.mktemp("contours"), geojson(outlines(tissue(mask, downsample))))
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
    again = annotated_tissue(read_annotations(write(tmp_path, geojson(outlines(found)))), view)
    factor = round(found.downsample / view.downsample)
    before = found.mask.repeat(factor, axis=0).repeat(factor, axis=1)[: again.mask.shape[0], : again.mask.shape[1]]
    assert (before & again.mask).sum() / (before | again.mask).sum() > 0.98


# ------------------------------------------------------------------------------------------- errors


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
        read_annotations(write(tmp_path, document))
    assert caught.value.path == str(tmp_path / "a.geojson")
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        read_annotations(tmp_path / "a.geojson")
    with pytest.raises(SlideError, match="could not be read"):
        read_annotations(tmp_path)


def test_annotations_of_another_slide_or_scale(tmp_path):
    annotations = read_annotations(write(tmp_path, collection(feature([square(4000, 100, 500)]))))
    with pytest.raises(SlideError, match=r"outside the slide: .*4000, 100 to 4500, 600.*1600 × 1280 px") as caught:
        annotated_tissue(annotations, overview())
    assert "microns" in caught.value.hint
    touching = read_annotations(write(tmp_path, collection(feature([square(1600, 100, 500)]))))
    with pytest.raises(SlideError, match="outside"):
        annotated_tissue(touching, overview())


def test_annotations_smaller_than_a_pixel_are_an_empty_mask(tmp_path):
    assert not mask_of(write(tmp_path, collection(feature([square(17, 17, 3)])))).any()


# --------------------------------------------------------------------------------------------- find


@pytest.mark.parametrize(
    "place", ["S 1.2.geojson", "S 1.2.json", "contours/S 1.2.geojson", "contours_geojson/S 1.2.geojson"]
)
def test_annotations_are_found_under_the_slides_name(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("{}")
    assert find_annotations(tmp_path, "S 1.2") == tmp_path / place


@pytest.mark.parametrize(
    "name",
    ["S 1.2.svs.geojson", "S 1.2.svs.json", "S 1.2.geojson.zip", "S 1.2.zip", "S 1.2.geojson.gz", "S 1.2.svs.zip"],
)
def test_under_the_files_name_and_packed(tmp_path, name):
    text = json.dumps(feature([square(0, 0, 160)]))
    if name.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("S 1.2.geojson", text)
            archive.writestr("__MACOSX/._S 1.2.geojson", "")
    elif name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / name).write_text(text)
    path = find_annotations(tmp_path, "S 1.2", "S 1.2.svs")
    assert path == tmp_path / name
    assert len(read_annotations(path).tissue) == 1


def test_a_name_from_a_mac(tmp_path):
    (tmp_path / "Pra\u0308parat.geojson").write_text("{}")
    assert find_annotations(tmp_path, "Pr\u00e4parat").name == "Pra\u0308parat.geojson"


def test_several_annotations_of_one_slide_are_refused(tmp_path):
    for name in ("a.geojson", "a.svs.geojson"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(SlideError, match=r"several annotations of 'a': a.geojson, a.svs.geojson"):
        find_annotations(tmp_path, "a", "a.svs")


@pytest.mark.parametrize("names", [(), ("a.geojson", "b.geojson")])
def test_a_zip_file_of_none_or_several(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("readme.txt", *names):
            archive.writestr(name, "{}")
    with pytest.raises(SlideError, match=f"holds {len(names)} GeoJSON files"):
        read_annotations(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:40])
    with pytest.raises(SlideError, match="not JSON"):
        read_annotations(tmp_path / "a.zip")


def test_annotations_that_are_not_found(tmp_path):
    with pytest.raises(SlideError, match=r"'S1'; looked for S1.geojson, S1.json, contours/S1.geojson"):
        find_annotations(tmp_path, "S1")
