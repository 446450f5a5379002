"""The QC image: every mark is where it says, to the pixel, and looks like nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from wsipipe.data.tiling.contours import outlines
from wsipipe.data.tiling.grid import TileGrid
from wsipipe.data.tiling.overview import Overview
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.tiling.tissue import TissueMask
from wsipipe.data.units import Level0Px, LevelPx, Mpp, TilePx
from wsipipe.stages.tile.qc_picture import (
    LONG_SIDE,
    _printable,
    _rows,
    _samples,
    _scale_bar,
    _why_empty,
    draw_qc,
    qc_image,
)
from wsipipe.stages.tile.slide_tiling import NOT_SHARP, TOO_LITTLE_TISSUE, TileResult

GLASS = (240, 240, 240)
NONE = np.empty((0, 2), np.int64)


def result_of(
    kept: object = NONE,
    *,
    little: object = NONE,
    blurred: object = NONE,
    size: tuple[int, int] = (16_000, 8_000),
    tile_px: int = 1000,
    tissue: tuple[slice, slice] | None = None,
    slide_id: str = "a",
) -> TileResult:
    """A slide of 0.5 µm whose overview is a tenth of it, and whose drawing is too where it is 16,000 px long."""
    width, height = size
    shape = height // 10, width // 10
    mask = np.zeros(shape, bool)
    if tissue is not None:
        mask[tissue] = True
    found = TissueMask(
        mask=mask,
        downsample=10.0,
        mpp=Mpp(5.0),
        verdict="tissue and glass" if mask.any() else "nothing",
        threshold=7,
        pen=np.zeros(shape, bool),
    )
    grid = TileGrid(
        mpp=Mpp(0.5),
        tile_px=TilePx(tile_px),
        overlap=TilePx(0),
        level=0,
        downsample=1.0,
        level_mpp=Mpp(0.5),
        read_px=LevelPx(tile_px),
        columns=width // tile_px,
        rows=height // tile_px,
    )
    coords = np.asarray(kept, np.int64).reshape(-1, 2)
    ones = np.ones(len(coords), np.float32)
    return TileResult(
        tiles=TileSet(
            slide_id=slide_id,
            slide_format="memory",
            slide_size=(Level0Px(width), Level0Px(height)),
            slide_mpp=Mpp(0.5),
            grid=grid,
            min_tissue=0.5,
            coords=coords,
            tissue_fraction=ones,
            sharpness=ones,
            sharpness_mpp=Mpp(5.0),
        ),
        dropped={
            TOO_LITTLE_TISSUE: np.asarray(little, np.int64).reshape(-1, 2),
            NOT_SHARP: np.asarray(blurred, np.int64).reshape(-1, 2),
        },
        tissue=found,
        outlines=outlines(found),
        overview=Overview(
            pixels=np.full((*shape, 3), GLASS, np.uint8),
            downsample=10.0,
            mpp=Mpp(5.0),
            unread=np.zeros(shape, bool),
        ),
    )


def drawn(result: TileResult) -> np.ndarray:
    """The slide's part of the picture, as signed numbers."""
    width, height = result.tiles.slide_size
    return qc_image(result)[: round(LONG_SIDE * height / max(width, height))].astype(int)


def bluer(picture: np.ndarray) -> np.ndarray:
    return picture[..., 2] - picture[..., 0]


# ------------------------------------------------------------------------------------------- tiles


def test_the_frame_of_a_kept_tile_is_where_the_tile_is() -> None:
    picture = drawn(result_of([(3000, 2000)]))  # 100 px of the drawing, from (300, 200)
    blue = bluer(picture)
    strong = blue > 100
    rows, columns = np.nonzero(strong)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (300, 400, 200, 300)
    assert strong[200, 300:401].all()
    assert strong[300, 300:401].all()
    assert strong[200:301, 300].all()
    assert strong[200:301, 400].all()
    assert strong.sum() == 4 * 100, "a frame, and nothing else"
    inside = picture[210:290, 310:390]
    assert np.ptp(inside, axis=(0, 1)).max() == 0
    assert 0 < bluer(inside).max() < 20, "what is inside is barely tinted"
    assert (picture[:190] == GLASS).all()


def test_dropped_tiles_look_like_nothing_that_is_kept() -> None:
    picture = drawn(result_of([(1000, 1000)], little=[(5000, 1000)], blurred=[(9000, 1000)]))
    kept, little, blurred = (picture[95:206, x - 5 : x + 106] for x in (100, 500, 900))
    assert bluer(kept).max() > 100
    assert np.ptp(little, axis=2).max() == 0, "grey"
    assert (little[5] == GLASS).all(), "and without a frame"
    assert (little[55, 55] < 170).all(), "but a cross in its middle"
    assert bluer(blurred).min() < -100, "orange"
    frame_and_slash = bluer(blurred) < -100
    assert frame_and_slash[5, 10:100].all()
    assert [frame_and_slash[105 - i, 5 + i] for i in range(101)] == [True] * 101


def test_tiles_at_the_slides_edge_have_whole_frames() -> None:
    picture = drawn(result_of([(15_000, 7000)]))
    strong = bluer(picture) > 100
    assert strong[700:, 1599].all()
    assert strong[799, 1500:].all()


def test_where_frames_would_merge_tiles_are_tinted_and_ringed() -> None:
    x, y = np.meshgrid(np.arange(20, 60), np.arange(10, 30))
    kept = np.stack([x.ravel(), y.ravel()], axis=1) * 100  # 10 px each in the drawing
    picture = drawn(result_of(kept, tile_px=100, blurred=[(9000, 5000)], little=[(9000, 2000)]))
    blue = bluer(picture)
    inner = blue[102:298, 202:598]
    assert np.ptp(inner) == 0, "no frames within"
    assert 0 < inner[0, 0] < 40, "the tissue is still to be seen"
    assert (blue[100, 200:600] > 100).all()
    assert (blue[299, 200:600] > 100).all()
    assert (blue[:98] == 0).all()
    assert picture[505, 905, 2] < picture[505, 905, 0] - 50
    grey = picture[205, 905]
    assert np.ptp(grey) == 0
    assert 150 < grey[0] < 230


def test_overlapping_tiles_do_not_grow_darker() -> None:
    once, often = drawn(result_of([(1000, 1000)])), drawn(result_of([(1000, 1000)] * 9))
    np.testing.assert_array_equal(once, often)


# ---------------------------------------------------------------------------- tissue, ink, unread


def test_the_outline_runs_around_the_tissue() -> None:
    picture = drawn(result_of(tissue=(slice(200, 500), slice(300, 900))))
    green = (picture == (0, 130, 60)).all(axis=2)
    rows, columns = np.nonzero(green)
    assert (columns.min(), columns.max()) == pytest.approx((300, 900), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((200, 500), abs=2)
    assert not green[205:495, 305:895].any()


def test_ink_is_ringed_in_black_and_white_and_what_is_unread_is_hatched() -> None:
    result = result_of()
    result.tissue.pen[100:300, 100:300] = True
    result.overview.unread[400:600, 700:1000] = True
    picture = drawn(result)
    ring = picture[100, 110:290]
    assert {tuple(pixel) for pixel in ring.tolist()} == {(0, 0, 0), (255, 255, 255)}
    assert (picture[110:290, 110:290] == GLASS).all()
    hatched = picture[400:600, 700:1000]
    assert not (hatched == GLASS).all(axis=2).any()
    dark = (hatched == 90).all(axis=2)
    assert dark.mean() == pytest.approx(3 / 14, abs=0.01)
    assert (picture[395:400, 700:1000] == GLASS).all()
    words = [word for word, _ in _samples(result, framed=True)]
    assert words == ["ink, left out", "unreadable (4.7 %)"]


# ----------------------------------------------------------------------------------------- caption


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    # 0.5 µm a pixel of the slide, ten of them a pixel of the drawing; a fifth of 1600 px are 1600 µm.
    assert _scale_bar(Mpp(5.0), 320) == (200, 1000.0)
    caption = qc_image(result_of())[800:, 1200:]
    ink = (caption == (28, 31, 35)).all(axis=2)
    bar = ink[ink.sum(axis=1).argmax()]
    assert bar.sum() == 200
    assert np.ptp(np.flatnonzero(bar)) == 199, "in one piece"


@pytest.mark.parametrize("mpp", [0.013, 0.4, 5.0, 37.7, 1234.5])
def test_scale_bars_are_round_and_fit(mpp: float) -> None:
    pixels, length = _scale_bar(Mpp(mpp), 300)
    assert 300 / 2.5 - 1 <= pixels <= 300
    assert pixels * mpp == pytest.approx(length, abs=mpp / 2)
    assert f"{length:.0e}"[0] in "125"


def test_the_legend_names_what_occurs_with_counts() -> None:
    result = result_of([(0, 0), (1000, 0)], blurred=[(3000, 0)], tissue=(slice(0, 200), slice(0, 400)))
    assert [word for word, _ in _samples(result, framed=True)] == ["tissue", "2 tiles kept", "1 dropped: not sharp"]
    samples = dict(_samples(result_of([(0, 0)], little=[(0, 0)], blurred=[(0, 0)]), framed=True))
    assert len({sample.tobytes() for sample in samples.values()}) == 3


def test_an_empty_slide_says_why() -> None:
    empty = result_of()
    assert _why_empty(empty) == "Empty: no tissue was found."
    alarm = [(qc_image(result)[800:] == (176, 60, 0)).all(axis=2).any() for result in (empty, result_of([(0, 0)]))]
    assert alarm == [True, False]
    empty.tissue.pen[:9] = True
    assert _why_empty(empty) == "Empty: no tissue was found apart from ink."
    glowing = replace(empty, tissue=replace(empty.tissue, verdict="dark background"))
    assert "fluorescence" in _why_empty(glowing)
    piece = slice(0, 50), slice(0, 50)
    assert "no whole tile lies on it" in _why_empty(result_of(tissue=piece))
    unlucky = result_of(little=[(0, 0)], blurred=[(1000, 0), (2000, 0)], tissue=piece)
    assert _why_empty(unlucky).endswith("(1 too little tissue, 2 not sharp).")
    assert _why_empty(result_of([(0, 0)])) == ""


def test_rows_hold_all_words_in_order_and_fit() -> None:
    class Wide:
        def getlength(self, word: str) -> float:
            return 10 * len(word)

    words = ["aaa", "bb", "cccc", "d", "e" * 30]
    rows = list(_rows(words, 100, Wide(), 5))  # type: ignore[arg-type]
    assert rows == [["aaa", "bb"], ["cccc", "d"], ["e" * 30]]


def test_letters_that_the_face_lacks_are_escaped() -> None:
    assert _printable("TCGA-3C α é <&>") == "TCGA-3C α é <&>"
    assert _printable("e\u0301") == "é"
    assert _printable("玻片-1") == r"\u73bb\u7247-1"
    assert _printable("a\nb") == r"a\nb"


@pytest.mark.parametrize("size", [(16_000, 400), (400, 16_000), (500, 500), (30_000, 20_000)])
@pytest.mark.parametrize("slide_id", ["a", "玻片 \U0001f52c " * 40, "x" * 300, "\u202e'\"%"])
def test_odd_shapes_and_names_are_drawn(size: tuple[int, int], slide_id: str) -> None:
    picture = qc_image(result_of([(0, 0)], size=size, tile_px=200, slide_id=slide_id))
    assert picture.shape[1] >= 1000
    assert max(picture.shape) >= LONG_SIDE


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        result = result_of([(1000, 1000)], little=[(5000, 1000)], tissue=(slice(100, 200), slice(100, 200)))
        draw_qc(result, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes()[:2] == b"\xff\xd8"
