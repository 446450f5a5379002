"""Heatmaps pixel by pixel, GeoJSON as QuPath reads it, and the same bytes every time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsipipe.data.errors import UsageError
from wsipipe.data.units import Mpp
from wsipipe.stages.pages import sheet
from wsipipe.stages.pages.sheet import MARGIN, wrap
from wsipipe.stages.predict.heatmap import (
    COLOURS,
    OPACITY,
    draw_heatmap,
    overlay,
    rasterise,
    scale_scores,
)
from wsipipe.stages.predict.tile_sheet import TileRow, draw_tiles

GRID = np.array([(0, 0), (224, 0), (0, 224), (224, 224)])


def read(path: Path) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image[..., ::-1])


def draw(*about: Any, **words: Any) -> None:
    """Write a heatmap to the path, which is the last argument without a name."""
    *drawn, path = about
    path.write_bytes(draw_heatmap(*drawn, **words).png())


def row_of_pictures(image: npt.NDArray[np.uint8], colour: int) -> int:
    """The first row below the text whose pixel just inside the left panel has the overview's colour."""
    return int(np.flatnonzero((image[:, MARGIN] == colour).all(axis=1))[0])


def test_hot_tile_is_hot_where_it_lies_and_nowhere_else(tmp_path: Path) -> None:
    overview = np.full((800, 1000, 3), 200, np.uint8)  # large enough to be shown pixel for pixel
    coords = GRID * 2 + (400, 800)
    draw(overview, 4.0, coords, 448, [0.1, 0.2, 0.9, 0.3], tmp_path / "h.png", caption="four tiles")
    image = read(tmp_path / "h.png")
    top, right = row_of_pictures(image, 200), 2 * MARGIN + 1000

    plain = image[top : top + 800, MARGIN : MARGIN + 1000]
    assert (plain == 200).all()
    heat = image[top : top + 800, right : right + 1000]
    hottest = np.rint((1 - OPACITY) * 200 + OPACITY * COLOURS[255])
    coldest = np.rint((1 - OPACITY) * 200 + OPACITY * COLOURS[0])
    # Tile three: level-0 x 400–848, y 1248–1696, a quarter of that in the overview.
    assert (heat[312:424, 100:212] == hottest).all()
    assert (heat[200:312, 100:212] == coldest).all()
    hot = (heat == hottest).all(axis=2)
    assert hot.sum() == 112 * 112
    assert (heat[:200] == 200).all()
    assert (heat[424:] == 200).all()
    assert (heat[:, :100] == 200).all()
    assert (heat[:, 324:] == 200).all()


def test_small_overviews_are_enlarged_and_large_ones_reduced(tmp_path: Path) -> None:
    for side, shown in ((100, 640), (1000, 1000), (3000, 1400)):
        draw(
            np.full((side, side, 3), 180, np.uint8),
            448 / side,
            GRID,
            224,
            [1, 2, 3, 4],
            tmp_path / "h.png",
            caption="x",
        )
        image = read(tmp_path / "h.png")
        assert image.shape[1] == 2 * shown + 3 * MARGIN
        top = row_of_pictures(image, 180)
        corner = image[top + shown - 1, 2 * MARGIN + 2 * shown - 1]
        assert (corner == np.rint((1 - OPACITY) * 180 + OPACITY * COLOURS[255])).all()


def test_same_input_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    overview = rng.integers(0, 255, (300, 400, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        draw(overview, 1.2, GRID[:3], 224, rng.permutation(3) * 0, tmp_path / name, caption="π · µm", mpp=Mpp(0.5))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    chunks = (tmp_path / "a.png").read_bytes()
    assert not any(kind in chunks for kind in (b"tEXt", b"iTXt", b"tIME"))


def test_scale_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    # 1000 px at 4 × 0.25 µm: a third is 333 µm, so the bar is 200 µm and 200 px.
    overview = np.full((600, 1000, 3), 200, np.uint8)
    draw(overview, 4.0, GRID, 224, [1, 2, 3, 4], tmp_path / "h.png", caption="x", mpp=Mpp(0.25))
    image = read(tmp_path / "h.png")
    below = image[row_of_pictures(image, 200) + 600 :]
    black = (below[:, : 1000 + MARGIN] == 0).all(axis=2)
    assert black.sum(axis=1).max() == 200


def test_legend_says_which_scale(tmp_path: Path) -> None:
    overview = np.full((640, 640, 3), 200, np.uint8)
    pages = set()
    for scale in ("rank", "linear"):
        draw(overview, 1.0, GRID, 224, [1, 2, 3, 30], tmp_path / "h.png", caption="x", scale=scale)
        image = read(tmp_path / "h.png")
        legend = image[row_of_pictures(image, 200) + 640 :]
        assert (legend < 90).any(), "there is text"
        pages.add(legend.tobytes())
    assert len(pages) == 2


def test_fifty_thousand_tiles_are_quick(tmp_path: Path) -> None:
    n = 50_000
    coords = np.array([(i % 250, i // 250) for i in range(n)]) * 224
    overview = np.full((1120, 1400, 3), 230, np.uint8)
    start = time.process_time()
    draw(overview, 250 * 224 / 1400, coords, 224, np.arange(n), tmp_path / "h.png", caption="x")
    assert time.process_time() - start < 5


@given(
    st.lists(st.tuples(st.floats(-3, 25), st.floats(-3, 15), st.floats(0, 1)), min_size=1, max_size=12),
    st.floats(0.1, 9),
)
@settings(max_examples=150, deadline=None)
def test_rasterising_equals_painting_tile_by_tile(tiles: list[tuple[float, float, float]], side: float) -> None:
    corners = np.array([(x, y) for x, y, _ in tiles])
    corners = np.clip(corners, -side, None)
    places = np.array([place for *_, place in tiles])
    heat = rasterise(corners, side, places, (16, 26))

    total, count = np.zeros((16, 26)), np.zeros((16, 26))
    for (x, y), place in zip(corners, places, strict=True):
        x0, y0 = round(x), round(y)
        x1, y1 = max(round(x + side), x0 + 1), max(round(y + side), y0 + 1)
        x0, y0 = min(max(x0, 0), 25), min(max(y0, 0), 15)
        x1, y1 = min(max(x1, 1), 26), min(max(y1, 1), 16)
        total[y0:y1, x0:x1] += place
        count[y0:y1, x0:x1] += 1
    assert (np.isnan(heat) == (count == 0)).all()
    assert np.allclose(heat[count > 0], total[count > 0] / count[count > 0], atol=1e-5)


def test_tiles_of_a_grid_leave_no_gap_and_do_not_overlap() -> None:
    xy = np.array([(x, y) for y in range(30) for x in range(40)]) * 224.0
    heat = rasterise(xy * 0.0237, 224 * 0.0237, np.arange(1200) / 1199, (160, 213))
    assert np.isfinite(heat[: int(30 * 224 * 0.0237), : int(40 * 224 * 0.0237)]).all()
    assert len(np.unique(heat[np.isfinite(heat)])) == 1200, "an overlap would give means in between"


def test_rank_scale_ignores_monotone_change_and_shares_ties() -> None:
    scores = np.array([1.0, 5, 5, 100])
    assert scale_scores(scores, "rank").tolist() == [0, 0.5, 0.5, 1]
    assert (scale_scores(np.log(scores), "rank") == scale_scores(scores, "rank")).all()
    assert scale_scores(np.array([2.0, 2, 2]), "rank").tolist() == [0.5, 0.5, 0.5]
    assert scale_scores(np.array([2.0]), "linear").tolist() == [0.5]


def test_clipped_scale_is_linear_between_its_percentiles() -> None:
    scores = np.arange(101.0)
    places = scale_scores(scores, "linear")
    assert places[[0, 1, 50, 99, 100]] == pytest.approx([0, 0, 0.5, 1, 1])
    lone = np.zeros(1000)
    lone[7] = 1
    assert scale_scores(lone, "linear")[[6, 7]].tolist() == [0.5, 1], "one tile in a thousand still shows"


@given(st.text("abcW -_éµ", max_size=60), st.integers(30, 200))
@settings(max_examples=100, deadline=None)
def test_wrapped_lines_fit_and_lose_nothing(text: str, width: int) -> None:
    font = sheet.font(14)
    rows = wrap(text, width, font)
    assert all(font.getlength(row) <= width for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())


def test_overlay_keeps_tissue_structure() -> None:
    panel = np.zeros((2, 2, 3), np.uint8)
    panel[0] = 255
    heat = np.array([[1.0, np.nan], [1.0, np.nan]])
    out = overlay(panel, heat)
    assert out[0, 1].tolist() == [255] * 3
    assert out[1, 1].tolist() == [0] * 3
    assert (out[0, 0].astype(int) - out[1, 0] > 120).all(), "light tissue stays lighter than dark tissue"


@pytest.mark.parametrize(
    ("coords", "scores"),
    [
        (np.zeros((0, 2)), []),
        (GRID, [1, 2, 3]),
        (GRID, [1, 2, 3, float("nan")]),
        (GRID + 10_000, [1, 2, 3, 4]),
    ],
)
def test_what_cannot_be_drawn_is_refused(coords: npt.NDArray[np.int64], scores: list[float], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draw(np.full((112, 112, 3), 200, np.uint8), 4.0, coords, 224, scores, tmp_path / "h.png", caption="x")
    assert not (tmp_path / "h.png").exists()


def test_tiles_are_side_by_side_in_their_order(tmp_path: Path) -> None:
    shades = [120, 80, 40]
    images = [np.full((224, 224, 3), shade, np.uint8) for shade in shades]
    draw_tiles([TileRow("Most", images, [0.3, 0.2, 0.1], "attention")], tmp_path / "s.png", caption="top tiles")
    image = read(tmp_path / "s.png")
    line = image[row_of_pictures(image, 120) + 100]
    assert [line[MARGIN + 210 * i + 100].tolist() for i in range(3)] == [[120] * 3, [80] * 3, [40] * 3]
    with pytest.raises(UsageError):
        draw_tiles([TileRow("Most", [], [], "attention")], tmp_path / "none.png", caption="x")


def test_strip_wraps_after_six(tmp_path: Path) -> None:
    heights = []
    for n in (6, 7):
        tiles = TileRow("Most", [np.full((9, 9, 3), 50, np.uint8)] * n, [1.0] * n, "attention")
        draw_tiles([tiles], tmp_path / "s.png", caption="x")
        heights.append(read(tmp_path / "s.png").shape[0])
    assert heights[1] > heights[0] + 200
