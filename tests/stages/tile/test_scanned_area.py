"""Slides of which a part was scanned: where QuPath counts from, and no tissue where there is no picture."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from command import told, wsipipe
from PIL import Image
from wsipipe.data.interop.qupath import tile_scores_geojson
from wsipipe.data.slides.openslide_reader import _origin
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.overview import read_overview

GLASS, SCAN, CORNER = (4000, 3000), (2048, 1536), (1500, 1000)
"""Width and height of the glass and of the part of it that was scanned, and where that begins, in pixels of 0.5 µm."""
TISSUE = (200, 150, 1648, 618)
"""Left, top, width, height, from the corner of the scan."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    pixels = np.full((SCAN[1], SCAN[0], 3), 243, np.uint8)
    left, top, width, height = TISSUE
    pixels[top : top + height, left : left + width] = rng.normal((190, 110, 170), 25, (height, width, 3)).clip(0, 255)
    return pixels


def write_scn(path: Path) -> Path:
    """As a Leica SCN400 writes it: a macro image of the glass, and a scan of a part of it."""

    def image(name: str, size: tuple[int, int], at: tuple[int, int], lens: float, levels: str, fields: str) -> str:
        view = (
            f'<view sizeX="{size[0] * 500}" sizeY="{size[1] * 500}" offsetX="{at[0] * 500}" offsetY="{at[1] * 500}"/>'
        )
        settings = (
            f"<scanSettings><objectiveSettings><objective>{lens}</objective></objectiveSettings><illuminationSettings>"
            "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
            "</illuminationSettings></scanSettings>"
        )
        return (
            f'<image name="{name}" uuid="urn:uuid:{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
            f'<device model="Leica SCN400" version="1"/><pixels {fields}>{levels}</pixels>{view}{settings}</image>'
        )

    def dimension(width: int, height: int, number: int, directory: int) -> str:
        return f'<dimension sizeX="{width}" sizeY="{height}" r="{number}" ifd="{directory}"/>'

    levels = [picture(), picture()[::4, ::4]]
    sizes = [level.shape[1::-1] for level in levels]
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">'
        f'<collection name="c" uuid="urn:uuid:2" sizeX="{GLASS[0] * 500}" sizeY="{GLASS[1] * 500}">'
        "<barcode>MDE=</barcode>"
        + image("macro", GLASS, (0, 0), 0.6, dimension(400, 300, 0, 0), 'sizeX="400" sizeY="300"')
        + image(
            "scan",
            SCAN,
            CORNER,
            20,
            "".join(dimension(*size, number, number + 1) for number, size in enumerate(sizes)),
            f'sizeX="{SCAN[0]}" sizeY="{SCAN[1]}"',
        )
        + "</collection></scn>"
    )
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((300, 400, 3), 240, np.uint8), description=xml, **options)
        for number, level in enumerate(levels):
            per_centimetre = 2e4 / 4**number
            tiff.write(level, resolution=(per_centimetre, per_centimetre), resolutionunit="CENTIMETER", **options)
    return path


def annotations(path: Path, left: int, top: int, width: int, height: int, properties: dict[str, object]) -> Path:
    x, y = left + width, top + height
    ring = [[left, top], [x, top], [x, y], [left, y], [left, top]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": properties}))
    return path


def positions(source: str = "") -> np.ndarray:
    (path,) = Path("work/tiles").glob(f"0.5mpp-224px{source}/*.h5")
    with h5py.File(path) as file:
        return np.asarray(file["coords"])


def assert_on_the_tissue(coords: np.ndarray) -> None:
    left, top, width, height = TISSUE
    start = np.array([CORNER[0] + left, CORNER[1] + top])
    assert 10 <= len(coords) <= 28
    assert (coords >= start - 112).all()
    assert (coords + 224 <= start + (width, height) + 112).all()


def test_geojson_counts_from_the_corner_of_the_scan_both_ways() -> None:
    slide = write_scn(Path("a.scn"))
    with open_slide(slide) as opened:
        assert opened.dimensions == GLASS
        assert opened.origin == CORNER
    told("tile", slide)
    assert_on_the_tissue(positions())
    ours = Path("work/tiles/0.5mpp-224px/contours/a.geojson")
    rings = [f["geometry"]["coordinates"][0] for f in json.loads(ours.read_text())["features"]]
    points = np.concatenate([np.array(ring) for ring in rings])
    left, top, width, height = TISSUE
    np.testing.assert_allclose(points.min(axis=0), (left, top), atol=32)
    np.testing.assert_allclose(points.max(axis=0), (left + width, top + height), atol=32)
    found = positions()
    for drawn in (ours, annotations(Path("q.geojson"), *TISSUE, {"objectType": "annotation"})):
        told("tile", slide, "--annotations", drawn, "--replace")
        assert_on_the_tissue(positions("-annotated"))
        np.testing.assert_array_equal(positions("-annotated"), found)


def test_tridents_contours_count_from_the_corner_of_the_slide() -> None:
    slide = write_scn(Path("a.scn"))
    left, top, width, height = TISSUE
    drawn = annotations(Path("a.geojson"), CORNER[0] + left, CORNER[1] + top, width, height, {"tissue_id": 0})
    told("tile", slide, "--annotations", drawn)
    assert_on_the_tissue(positions("-annotated"))


def test_what_nothing_is_known_of_is_refused_until_the_corner_is_named() -> None:
    slide = write_scn(Path("a.scn"))
    drawn = annotations(Path("a.geojson"), *TISSUE, {})
    (failure,) = told("tile", slide, "--annotations", drawn, code=1)["tile"]["failures"]
    assert "does not tell what it counts from" in failure["message"]
    assert "--annotation-origin" in failure["hint"]
    told("tile", slide, "--annotations", drawn, "--annotation-origin", "scan")
    assert_on_the_tissue(positions("-annotated"))
    told("tile", slide, "--annotations", drawn, "--annotation-origin", "slide", "--replace")
    assert len(positions("-annotated")) < 10, "which is mostly glass that was never scanned"


@pytest.mark.parametrize(
    ("properties", "corner"),
    [
        ({"x": "12", "y": "34", "width": "5", "height": "6"}, (12, 34)),
        ({"x": "0", "y": "0", "width": "5", "height": "6"}, (0, 0)),
        ({"x": "12", "y": "34"}, (0, 0)),
        ({"x": "12", "y": "", "width": "5", "height": "6"}, (0, 0)),
        ({}, (0, 0)),
    ],
)
def test_the_corner_is_the_vendors_whoever_that_is(properties: dict[str, str], corner: tuple[int, int]) -> None:
    assert _origin({f"openslide.bounds-{side}": value for side, value in properties.items()}) == corner


def test_tile_scores_for_qupath_count_from_the_corner_of_the_scan() -> None:
    text = tile_scores_geojson([[1500, 1000], [1724, 1224]], 224, {"attention": [2.0, 1.0]}, origin=CORNER)
    first, second = (feature["geometry"]["coordinates"][0] for feature in json.loads(text)["features"])
    assert first[0] == [0, 0]
    assert second[2] == [448, 448]


# ------------------------------------------------------------------------------------- no picture, no tissue


def with_gaps(path: Path) -> Path:
    """A slide whose right half has no tiles."""
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as tiff:
        tiff.write(
            picture(),
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
        )
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts, offsets = (list(tiff.pages[0].tags[tag].value) for tag in ("TileByteCounts", "TileOffsets"))
        for tile in range(len(counts)):
            if tile % 8 >= 4:
                counts[tile] = offsets[tile] = 0
        tiff.pages[0].tags["TileByteCounts"].overwrite(counts)
        tiff.pages[0].tags["TileOffsets"].overwrite(offsets)
    return path


def see_through(path: Path) -> Path:
    alpha = np.full((SCAN[1], SCAN[0], 1), 255, np.uint8)
    alpha[:, 1024:] = 0
    Image.fromarray(np.concatenate([picture(), alpha], axis=2)).save(path)
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [(with_gaps, "a.tif"), (with_gaps, "a.ome.tif"), (see_through, "a.png")],
    ids=["tif", "ome", "png"],
)
def test_what_is_drawn_where_nothing_was_scanned_is_no_tissue(make, name: str) -> None:
    slide = make(Path(name))
    with open_slide(slide, 0.5) as opened:
        view = read_overview(opened)
        assert view.unscanned is not None
        half = round(1024 / view.downsample)
        assert view.unscanned[:, half + 1 :].all()
        assert not view.unscanned[:, : half - 1].any()
    drawn = annotations(Path("a.geojson"), 0, 0, *SCAN, {"objectType": "annotation"})
    assert wsipipe("tile", slide, "--annotations", drawn, "--mpp-override", 0.5).exit_code == 0
    coords = positions("-annotated")
    assert len(coords) >= 24
    assert (coords[:, 0] + 224 <= 1024 + 112).all()


def test_white_glass_that_was_scanned_is_no_gap() -> None:
    Image.fromarray(np.full((600, 800, 3), 255, np.uint8)).save("white.png")
    with open_slide("white.png", 0.5) as opened:
        assert read_overview(opened).unscanned is None
