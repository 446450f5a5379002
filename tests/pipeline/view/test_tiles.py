"""Zoom tiles of a slide, and which tile of the tile set lies at each of their pixels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from viewed_workspace import SIZE, draw_slide
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.units import Level0Px, LevelPx
from wsipipe.pipeline.view import zoom_tiles
from wsipipe.pipeline.view.tile_raster import TilePlaces
from wsipipe.pipeline.view.zoom_tiles import TILE, NoSuchTileError, ZoomTiles, most_zoom


def whole(slide: object, zoom: int) -> np.ndarray:
    """All tiles of a zoom, put together."""
    tiles = ZoomTiles()
    width, height = slide.dimensions  # type: ignore[attr-defined]
    scale = 1 << (most_zoom((width, height)) - zoom)
    columns, rows = (-(-side // (scale * TILE)) for side in (width, height))
    lines = [
        np.hstack([tiles.pixels(slide, 0, zoom, column, row) for column in range(columns)])  # type: ignore[arg-type]
        for row in range(rows)
    ]
    return np.vstack(lines)


@pytest.mark.parametrize(
    ("size", "zoom"), [((1, 1), 0), ((256, 256), 0), ((257, 3), 1), ((512, 512), 1), ((513, 1), 2), ((100_000, 9), 9)]
)
def test_zoom_0_shows_the_whole_slide_in_one_tile(size: tuple[int, int], zoom: int) -> None:
    assert most_zoom(size) == zoom
    assert max(size) <= TILE << zoom
    assert zoom == 0 or max(size) > TILE << (zoom - 1)


def test_tiles_without_a_pyramid_are_the_means_of_the_slides_own_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (90, 120, 3), np.uint8), (1210, 905), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        assert (whole(slide, most_zoom(slide.dimensions)) == pixels).all()
        for zoom in range(most_zoom(slide.dimensions)):
            shown = whole(slide, zoom)
            scale = 1 << (most_zoom(slide.dimensions) - zoom)
            assert shown.shape[:2] == (-(-905 // scale), -(-1210 // scale))
            rows, columns = 905 // scale, 1210 // scale
            means = pixels[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale, 3).mean((1, 3))
            difference = np.abs(shown[:rows, :columns] - means)
            assert difference.max() <= 2
            assert difference.mean() < 0.5


def test_tiles_of_a_pyramid_are_read_from_the_coarsest_level_that_is_fine_enough(tmp_path: Path) -> None:
    with open_slide(draw_slide(tmp_path / "a.tif")) as slide:
        side = LevelPx(SIZE // 4)
        level = slide.read(1, Level0Px(0), Level0Px(0), side, side)
        assert (whole(slide, most_zoom(slide.dimensions) - 2) == level).all()
        assert whole(slide, 0).shape == (256, 256, 3)


def test_what_is_no_tile_is_refused(tmp_path: Path) -> None:
    with open_slide(draw_slide(tmp_path / "a.tif")) as slide:
        for address in ((4, 0, 0), (-1, 0, 0), (3, 8, 0), (3, 0, 8), (3, -1, 0), (0, 1, 0)):
            with pytest.raises(NoSuchTileError):
                ZoomTiles().pixels(slide, 0, *address)


def test_a_tile_of_too_many_pixels_is_refused_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((4000, 4000, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(zoom_tiles, "_MOST_BELOW", 2**21)
    with open_slide(tmp_path / "a.png") as slide:
        assert ZoomTiles().pixels(slide, 0, 2, 0, 0).shape == (256, 256, 3)
        with pytest.raises(SlideError, match="no level that is coarse enough") as error:
            ZoomTiles().pixels(slide, 0, 0, 0, 0)
        assert error.value.hint == "zoom in"


def test_what_is_kept_of_large_tiles_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (2100, 2100, 3), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(zoom_tiles, "_KEPT_BYTES", 300_000)
    tiles = ZoomTiles()
    with open_slide(tmp_path / "a.png") as slide:
        first = tiles.pixels(slide, 0, 0, 0, 0)
        assert tiles._bytes <= 300_000
        assert (tiles.pixels(slide, 0, 0, 0, 0) == first).all()


def test_many_threads_get_the_same_tiles_as_one(tmp_path: Path) -> None:
    with open_slide(draw_slide(tmp_path / "a.tif")) as slide, ThreadPoolExecutor(8) as threads:
        asked = [(zoom, x, y) for zoom in range(4) for x, y in product(range(1 << zoom), repeat=2)]
        tiles = ZoomTiles()
        alone = [tiles.jpeg(slide, 0, *address) for address in asked]
        for _ in range(2):
            assert list(threads.map(lambda address: tiles.jpeg(slide, 0, *address), asked)) == alone
        assert simplejpeg.decode_jpeg(alone[0]).shape == (256, 256, 3)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), unique=True, max_size=500),
    st.sampled_from([1, 2, 8, 64]),
    st.sampled_from([16, 32]),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_every_pixel_belongs_to_the_tile_that_covers_it(
    cells: list[tuple[int, int]], scale: int, side: int, column: int, row: int
) -> None:
    coords = np.array(cells, np.int64).reshape(-1, 2) * 16
    overlapping = side == 32
    places = TilePlaces(coords, float(side), 16.0)
    raster = places.raster(scale, column, row)
    for y, x in product(range(3, 256, 61), repeat=2):
        at = np.array([column * 256 + x + 0.5, row * 256 + y + 0.5]) * scale
        covering = ((coords <= at) & (at < coords + side)).all(axis=1) if len(coords) else np.zeros(0, bool)
        found = raster[y, x]
        if scale > 8:  # a tile is smaller than a pixel, or as large
            continue
        assert (found >= 0) == covering.any()
        if found >= 0:
            assert covering[found]
            far = np.abs(coords + side / 2 - at).max(axis=1)
            assert not overlapping or far[found] <= far[covering].min() + scale
    for x, y in ((5.0, 5.0), (100.5, 90.0)):
        number = places.at(x, y)
        inside = [n for n, (left, top) in enumerate(coords) if left < x <= left + side and top < y <= top + side]
        assert (number in inside) if inside else True


def test_100_000_tiles_lie_where_they_are_at_every_zoom() -> None:
    coords = np.stack(np.meshgrid(np.arange(320), np.arange(320)), -1).reshape(-1, 2)[:100_000] * 224
    places = TilePlaces(coords, 224.0, 224.0)
    for scale in (1, 16, 64, 128):
        raster = places.raster(scale, 1, 1)
        y, x = np.mgrid[0:256, 0:256]
        cell = (np.stack([x, y], -1) + 0.5 + 256) * scale // 224
        expected = (cell[..., 1] * 320 + cell[..., 0]).astype(int)
        near = np.abs((np.stack([x, y], -1) + 0.5 + 256) * scale / 224 % 1 - 0.5) < 0.5 - scale / 224
        assert (raster == expected)[near.all(axis=-1)].all()
        assert (raster >= 0).all()
