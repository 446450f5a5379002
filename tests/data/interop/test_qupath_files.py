"""Files of annotations: found under the slide's name, plain or packed."""

import gzip
import json
import zipfile

import pytest
from geojson_files import feature, square
from wsipipe.data.errors import SlideError
from wsipipe.data.interop.qupath import read_annotations
from wsipipe.data.interop.qupath_files import find_annotations


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        read_annotations(tmp_path / "a.geojson")
    with pytest.raises(SlideError, match="could not be read"):
        read_annotations(tmp_path)


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
