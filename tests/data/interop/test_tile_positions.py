"""Tile positions of other programs: what is refused, and where they lie on our slides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_files import CLAM, COORDS, HEIGHT, PYRAMID, TRIDENT, WIDTH, dimensions, plan, tile_file, without
from hypothesis import given, settings
from hypothesis import strategies as st
from wsipipe.data.errors import SlideError
from wsipipe.data.interop.tile_positions import find_foreign_tiles, placed_on, read_foreign_tiles
from wsipipe.data.tiling.grid import TileGrid


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({}, r"does not say how large the tiles are \(attributes of `coords`: none\)"),
        ({"patch_size": 256}, "does not say how large"),
        (without(TRIDENT, "patch_size"), "no patch_size"),
        (without(TRIDENT, "patch_size_level0", "level0_magnification"), "no patch_size_level0"),
        (TRIDENT | {"patch_size": 0}, "no patch_size"),
        (TRIDENT | {"patch_size": -256}, "patch_size is .*-256"),
        (TRIDENT | {"target_magnification": "twenty"}, "target_magnification is 'twenty'"),
        (TRIDENT | {"target_magnification": np.nan}, "target_magnification is .*nan"),
        (TRIDENT | {"patch_size_level0": 1024}, "contradicts itself: tiles of 512 .* of 1024"),
        (without(CLAM, "patch_size"), "no patch_size"),
        (without(CLAM, "downsample"), "its downsample is None"),
        (CLAM | {"downsample": (4.0, 8.0)}, "its downsample is"),
        (CLAM | {"downsample": (np.nan, 4.0)}, "its downsample is"),
        (CLAM | {"downsample": (1.0, 2.0, 3.0)}, "its downsample is"),
        (CLAM | {"custom_downsample": 2}, "custom_downsample"),
    ],
)
def test_attributes_that_do_not_tell(tmp_path, attributes, match):
    path = tile_file(tmp_path, attributes)
    with pytest.raises(SlideError, match=match) as caught:
        read_foreign_tiles(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("coords", "match"),
    [
        (np.zeros((4, 3), int), r"shape \(4, 3\)"),
        (np.arange(6), r"shape \(6,\)"),
        (np.array(7), r"shape \(\)"),
        (np.array([[b"1", b"2"]]), "type"),
        (np.array([[1, 2], [-1, 5], [3, -4]]), "2 tiles have negative"),
        (np.array([[1.5, 2]]), "not whole pixels"),
        (np.array([[np.nan, 2]]), "not whole pixels"),
        (np.array([[1e300, 2]]), "not whole pixels"),
    ],
)
def test_coordinates_that_are_none(tmp_path, coords, match):
    with pytest.raises(SlideError, match=match):
        read_foreign_tiles(tile_file(tmp_path, TRIDENT, coords))


@pytest.mark.parametrize("kind", [np.int32, np.uint64, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_coordinates(tmp_path, kind):
    foreign = read_foreign_tiles(tile_file(tmp_path, TRIDENT, COORDS.astype(kind)))
    assert foreign.coords.dtype == np.int64
    np.testing.assert_array_equal(foreign.coords, COORDS)


@pytest.mark.parametrize("coords", [np.zeros((0, 2), int), np.zeros(0)])
def test_no_tiles_are_no_tiles(tmp_path, coords):
    foreign = read_foreign_tiles(tile_file(tmp_path, TRIDENT, coords))
    assert foreign.coords.shape == (0, 2)
    placed = placed_on(foreign, plan(0.25, 0.5, 256), dimensions(PYRAMID), native_tolerance=0, path="slide.svs")
    assert placed.coords.shape == (0, 2)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        read_foreign_tiles(tmp_path / "S1.h5")
    with pytest.raises(SlideError, match=r"no dataset `coords` in it \(it holds features\)"):
        read_foreign_tiles(tile_file(tmp_path, {}, None, features=np.zeros((3, 4))))
    with pytest.raises(SlideError, match="keeps pictures"):
        read_foreign_tiles(tile_file(tmp_path, {}, imgs=np.zeros((3, 2, 2, 3), np.uint8)))
    path = tile_file(tmp_path, TRIDENT)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(SlideError, match="not HDF5, or damaged"):
        read_foreign_tiles(path)
    for text in ("", "x,y\n1,2\n"):
        path.write_text(text)
        with pytest.raises(SlideError, match="not HDF5, or damaged") as caught:
            read_foreign_tiles(path)
        assert caught.value.path == str(path)
    with pytest.raises(SlideError, match="not HDF5, or damaged"):
        read_foreign_tiles(tmp_path)


def place(folder: Path, attributes: dict, grid: TileGrid, coords: object = COORDS, native_tolerance: float = 0.02):
    foreign = read_foreign_tiles(tile_file(folder, attributes, coords))
    return placed_on(foreign, grid, dimensions(PYRAMID), native_tolerance=native_tolerance, path="slide.svs")


def test_order_is_kept_and_repetitions_and_the_edge_are_counted(tmp_path):
    coords = [[512, 512], [0, 512], [512, 512], [19_488, 15_488], [19_489, 0], [0, 15_489], [0, 512], [3, 2]]
    placed = place(tmp_path, TRIDENT, plan(0.25, 0.5, 256), np.array(coords))
    assert placed.coords.tolist() == [[512, 512], [0, 512], [19_488, 15_488], [3, 2]]
    assert placed.over_edge.tolist() == [[19_489, 0], [0, 15_489]]
    assert placed.repeated == 2


def test_a_level_that_is_cut_short_counts_as_the_edge(tmp_path):
    grid = plan(0.25, 1.0, 256)
    assert (grid.level, grid.read_px) == (1, 256)
    foreign = read_foreign_tiles(tile_file(tmp_path, without(CLAM), np.array([[0, 0], [WIDTH - 1024, 0]])))
    short = [(WIDTH, HEIGHT), (4999, 4000), (1250, 1000)]
    placed = placed_on(foreign, grid, short, native_tolerance=0, path="slide.svs")
    assert placed.coords.tolist() == [[0, 0]]
    assert placed.over_edge.tolist() == [[WIDTH - 1024, 0]]


@pytest.mark.parametrize("slide_mpp", [0.2499, 0.25, 0.2525])
def test_a_nominal_20x_is_taken_over_on_every_slide_within_the_tolerance(tmp_path, slide_mpp):
    grid = plan(slide_mpp, 0.5, 256)
    placed = place(tmp_path, TRIDENT, grid)
    assert placed.grid.read_px == 512
    assert placed.grid.tile_mpp == pytest.approx(2 * slide_mpp)
    assert replace(placed.grid, read_px=grid.read_px) == grid


def test_another_field_of_view_is_refused_and_the_right_mpp_named(tmp_path):
    with pytest.raises(SlideError, match=r"512 px of level 0 and so 0\.505 µm per pixel at 256 px") as caught:
        place(tmp_path, TRIDENT, plan(0.2525, 0.5, 256), native_tolerance=0)
    assert "--mpp 0.505 --tile-px 256" in caught.value.hint
    with pytest.raises(SlideError) as caught:
        place(tmp_path, TRIDENT, plan(0.2525, 0.5, 224))
    assert "--mpp 0.577143 --tile-px 224" in caught.value.hint
    grid = plan(0.2525, 0.577143, 224, native_tolerance=0)
    assert place(tmp_path, TRIDENT, grid, native_tolerance=0).grid == grid


@settings(max_examples=100, deadline=None)
@given(
    slide_mpp=st.floats(0.1, 1.2),
    size=st.integers(100, 8000),
    tile_px=st.sampled_from([224, 256, 512]),
)
def test_the_mpp_that_is_named_is_one_that_fits(tmp_path_factory, slide_mpp, size, tile_px):
    folder = tmp_path_factory.mktemp("foreign")
    attributes = without(TRIDENT, "target_magnification", patch_size_level0=size)
    coarse = plan(slide_mpp, 3 * slide_mpp * size / tile_px, tile_px, allow_upsample=True)
    with pytest.raises(SlideError) as caught:
        place(folder, attributes, coarse, np.array([[8, 16]]))
    mpp = float(caught.value.hint.split("--mpp ")[1].split()[0])
    grid = plan(slide_mpp, mpp, tile_px, native_tolerance=0, allow_upsample=True)
    placed = place(folder, attributes, grid, np.array([[8, 16]]), native_tolerance=0)
    assert placed.grid == grid
    assert abs(grid.read_px * grid.downsample - size) <= max(1, grid.downsample / 2)


@pytest.mark.parametrize(("planned", "placed"), [(510, 512), (511, 511), (512, 512), (513, 513), (514, 512)])
def test_a_pixel_of_level_0_is_a_rounding_and_more_is_not(tmp_path, planned, placed):
    grid = replace(plan(0.25, 0.5, 256), read_px=planned)
    assert place(tmp_path, TRIDENT, grid).grid.read_px == placed


def test_tiles_of_another_slide(tmp_path):
    grid = plan(0.25, 0.5, 256)
    with pytest.raises(SlideError, match=r"made for a slide of 4000 × 16000 px, and slide.svs has 20000 × 16000"):
        place(tmp_path, TRIDENT | {"level0_width": 4000}, grid)
    attributes = without(TRIDENT, "level0_width", "level0_height")
    with pytest.raises(SlideError, match=r"2 of 3 tiles lie outside slide\.svs .*at 20000, 5"):
        place(tmp_path, attributes, grid, np.array([[5, 5], [WIDTH, 5], [5, 99_999]]))


@pytest.mark.parametrize("name", ["S 1.2.h5", "S 1.2_patches.h5", "patches/S 1.2.h5", "patches/S 1.2_patches.h5"])
def test_the_file_of_a_slide_is_found(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert find_foreign_tiles(tmp_path, "S 1.2") == tmp_path / name


def test_a_missing_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        SlideError, match=r"'S1'; looked for S1_patches.h5, S1.h5, patches/S1_patches.h5, patches/S1.h5"
    ):
        find_foreign_tiles(tmp_path, "S1")
