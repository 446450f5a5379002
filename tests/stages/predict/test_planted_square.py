"""A planted square lights up where it lies, to the tile: in the pictures, in the OME-TIFF and in the GeoJSON."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from tile_sets import tile_set
from wsipipe.data.artifact import digest_of
from wsipipe.data.features.store import Bag, FeatureFacts
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import write_tiles
from wsipipe.data.units import Mpp, TilePx
from wsipipe.models.tasks.binary import BINARY
from wsipipe.stages.pages.sheet import MARGIN
from wsipipe.stages.predict.heatmap import COLOURS, OPACITY, SIGNED_COLOURS, scale_signed
from wsipipe.stages.predict.pictures import Evidence, Pictures
from wsipipe.stages.predict.reading import Concentration, SlideAsRead, SlideOutput
from wsipipe.stages.predict.score_image import TILE_PX, write_score_image
from wsipipe.stages.slide_file import SlideFile

TILE, COLUMNS, ROWS = 224, 9, 6
PLANTED = (1344, 672)
"""x and y of the planted tile: column 6, row 3."""
GREY = 200


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, Path]:
    """A slide of one grey, in which one tile has all the attention, and is the only one for positive."""
    width, height = COLUMNS * TILE + 50, ROWS * TILE + 70  # the last tiles do not reach the edge
    Image.new("RGB", (width, height), (GREY,) * 3).save(tmp_path / "slide.png")
    grid = plan_grid(
        [(width, height)],
        [1.0],
        Mpp(0.5),
        mpp=Mpp(0.5),
        tile_px=TilePx(TILE),
        overlap=TilePx(0),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    coords = np.array([(x * TILE, y * TILE) for y in range(ROWS) for x in range(COLUMNS) if (x + y) % 4])
    write_tiles(tmp_path / "slide.h5", tile_set(grid, coords, 0.5, (width, height)))
    facts = FeatureFacts(
        slide_id="slide",
        slide_digest="sha256:s",
        tiles_digest="sha256:t",
        mpp=0.5,
        tile_px=TILE,
        tile_size_level0=float(TILE),
        backbone="b",
        architecture="b",
        pooling="cls",
        width=2,
        weights_digest="sha256:w",
        precision="fp32",
        transform={},
    )
    hot = (coords == PLANTED).all(axis=1)
    assert hot.sum() == 1
    attention = np.where(hot, 0.5, 0.5 / (len(coords) - 1))
    scores = np.where(hot, 0.8, -0.2)
    output = SlideOutput(
        slide_id="slide", patient_id="p", logits={0: 1.0}, thresholds={0: 0.5}, why="new", tiles=len(coords)
    )
    read = SlideAsRead(Bag("slide", np.zeros((len(coords), 2)), coords, facts), output, attention, scores)
    file = SlideFile(tmp_path / "slide.png", 0.5, tmp_path / "slide.h5", digest_of(tmp_path / "slide.h5"))
    evidence = Evidence.of(BINARY, scores, ["HER2 low", "HER2 high"], 1)
    assert evidence is not None
    return Pictures(folder=tmp_path, scale="linear", most=3).draw(file, read, BINARY, evidence, "a planted square")


def panel(path: Path) -> npt.NDArray[np.int64]:
    """The right-hand picture of a heatmap, a pixel a level-0 pixel of the overview."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    image = image[..., ::-1]
    top = int(np.flatnonzero((image[:, MARGIN] == GREY).all(axis=1))[0])
    width = (image.shape[1] - 3 * MARGIN) // 2
    height = int((image[top:, MARGIN] == GREY).all(axis=1).sum())
    return image[top : top + height, 2 * MARGIN + width : 2 * MARGIN + 2 * width].astype(np.int64)


@pytest.mark.parametrize(
    ("name", "colours", "opacity"), [("heatmap", COLOURS, OPACITY), ("evidence", SIGNED_COLOURS, 0.8)]
)
def test_the_square_is_hot_in_the_picture(
    drawn: dict[str, Path], name: str, colours: npt.NDArray[np.uint8], opacity: float
) -> None:
    shown = panel(drawn[name])
    hottest = np.rint((1 - opacity) * GREY + opacity * colours[255]).astype(np.int64)
    rows, columns = np.nonzero((np.abs(shown - hottest) <= 1).all(axis=2))
    zoom = shown.shape[1] / (COLUMNS * TILE + 50)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / zoom
    assert np.abs(found - [*PLANTED, PLANTED[0] + TILE, PLANTED[1] + TILE]).max() <= 1.5 / zoom
    assert len(rows) == (rows.max() + 1 - rows.min()) * (columns.max() + 1 - columns.min()), "a whole square"


def test_the_square_is_hot_in_the_image_of_scores(drawn: dict[str, Path]) -> None:
    with tifffile.TiffFile(drawn["scores"]) as file:
        assert file.is_ome
        series = file.series[0]
        assert (series.axes, series.dtype) == ("CYX", np.dtype("f4"))
        attention, score = series.asarray()
        metadata = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert attention.shape == (int(np.ceil((ROWS * TILE + 70) * TILE_PX / TILE)), COLUMNS * TILE_PX + 1)
    assert [channel["Name"] for channel in metadata["Channel"]] == ["attention", "score"]
    assert metadata["PhysicalSizeX"] == metadata["PhysicalSizeY"] == TILE / TILE_PX * 0.5
    x, y = (side * TILE_PX // TILE for side in PLANTED)
    for channel, hot in ((attention, 0.5), (score, 0.8)):
        square = channel[y : y + TILE_PX, x : x + TILE_PX]
        assert np.allclose(square, hot, atol=1e-4)
        assert (np.abs(channel - hot) < 1e-3).sum() == TILE_PX**2
    assert (attention[:, -1] == 0).all(), "no tile lies there"
    assert (score == 0).sum() == (attention == 0).sum()


def test_the_square_is_hot_in_the_geojson(drawn: dict[str, Path]) -> None:
    first, *others = json.loads(drawn["geojson"].read_text())["features"]
    assert first["geometry"]["coordinates"][0][0] == [*PLANTED]
    assert first["geometry"]["coordinates"][0][2] == [PLANTED[0] + TILE, PLANTED[1] + TILE]
    assert first["properties"]["measurements"] == {"attention": 0.5, "score": 0.8}
    assert all(other["properties"]["measurements"]["score"] == -0.2 for other in others)


def test_a_large_image_of_scores_is_a_pyramid_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    side = 160
    coords = np.array([(x * TILE, y * TILE) for y in range(side) for x in range(side)])
    scores = {"attention": np.arange(len(coords)) / len(coords), "for": np.sin(np.arange(len(coords)))}
    for name in ("a.tiff", "b.tiff"):
        size = (side * TILE, side * TILE)
        write_score_image(tmp_path / name, size, coords, TILE, scores, mpp=Mpp(0.25))
    assert (tmp_path / "a.tiff").read_bytes() == (tmp_path / "b.tiff").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [(2, 640, 640), (2, 320, 320), (2, 160, 160)]
        finest, coarsest = levels[0].asarray(), levels[-1].asarray()
        assert file.pages.first.is_tiled
    np.testing.assert_allclose(coarsest[0], scores["attention"].reshape(side, side), atol=1e-4)
    np.testing.assert_allclose(finest[1, ::4, ::4], scores["for"].reshape(side, side), atol=1e-4)


def test_signed_scales_keep_the_side_of_each_tile() -> None:
    scores = np.array([-4.0, -0.001, 0.0, 0.002, 1.0])
    for scale in ("rank", "linear"):
        places = scale_signed(scores, scale)  # type: ignore[arg-type]
        assert (np.sign(places - 0.5) == np.sign(scores)).all()
        assert places.min() == 0
    assert scale_signed(scores, "rank").tolist() == [0, 0.5 - 0.2, 0.5, 0.5 + 0.3, 0.5 + 0.4]
    assert (scale_signed(np.zeros(3), "linear") == 0.5).all()


def test_concentration_by_hand() -> None:
    even = Concentration.of(np.full(200, 1 / 200))
    assert (even.top_1, even.top_10) == pytest.approx((0.01, 0.1))
    assert even.effective == pytest.approx(200)
    one = Concentration.of(np.array([0.0, 1.0, 0.0]))
    assert (one.top_1, one.top_10, one.effective) == pytest.approx((1, 1, 1))
    half = Concentration.of(np.array([0.5, 0.5, 0.0, 0.0]))
    assert half.effective == pytest.approx(2)
