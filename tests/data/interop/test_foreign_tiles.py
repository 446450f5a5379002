"""Coordinates of TRIDENT and CLAM: what their files say, and where their tiles lie on our slides."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tile_sets import tile_set as tile_set_of
from wsipipe.data.errors import SlideError
from wsipipe.data.interop.clam_tiles import write_clam_tiles
from wsipipe.data.interop.foreign_tiles import find_foreign_tiles, placed_on, read_foreign_tiles
from wsipipe.data.tiling.grid import TileGrid, plan_grid
from wsipipe.data.tiling.store import TileSet, write_tiles
from wsipipe.data.units import Mpp, TilePx

WIDTH, HEIGHT = 20_000, 16_000
PYRAMID = (1.0, 4.0, 16.0)


def dimensions(downsamples: tuple[float, ...]) -> list[tuple[int, int]]:
    return [(int(WIDTH / each), int(HEIGHT / each)) for each in downsamples]


def plan(
    slide_mpp: float, mpp: float, tile_px: int = 224, downsamples=PYRAMID, overlap: int = 0, **changes
) -> TileGrid:
    return plan_grid(
        dimensions(downsamples),
        downsamples,
        Mpp(slide_mpp),
        mpp=Mpp(mpp),
        tile_px=TilePx(tile_px),
        overlap=TilePx(overlap),
        **({"native_tolerance": 0.02, "allow_upsample": False} | changes),
    )


def tile_set(grid: TileGrid, slide_mpp: float) -> TileSet:
    return tile_set_of(grid, grid.coords()[3::7], slide_mpp, (WIDTH, HEIGHT))


TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "S1",
    "savetodir": "somewhere/20x_256px_0px_overlap",
    "level0_width": WIDTH,
    "level0_height": HEIGHT,
}
CLAM = {
    "patch_size": 256,
    "patch_level": 1,
    "downsample": (4.0, 4.0),
    "downsampled_level_dim": (5000, 4000),
    "level_dim": (5000, 4000),
    "name": "S1",
    "save_path": "somewhere/patches",
}
COORDS = np.array([[0, 0], [512, 0], [19_488, 15_488]], np.int64)


def write(folder: Path, attributes: dict, coords: object = COORDS, **datasets: object) -> Path:
    path = folder / "S1.h5"
    with h5py.File(path, "w") as file:
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes)
        for name, values in datasets.items():
            file[name] = values
    return path


def without(attributes: dict, *names: str, **changes: object) -> dict:
    return {name: value for name, value in (attributes | changes).items() if name not in names}


# ------------------------------------------------------------------------------------------ TRIDENT


def trident_reads(attributes: dict, downsamples: tuple[float, ...]) -> tuple[int, float, float]:
    """Side of a tile that TRIDENT wants, side of what it reads, both at level 0; downsample of the level it reads.

    It takes 10 / magnification for µm, rounds the side at level 0, looks for the level (equal to a tenth, or else the
    coarsest that is finer), and divides by the whole part of that level's downsample.
    """
    wanted = (10 / attributes["target_magnification"]) / (10 / attributes["level0_magnification"])
    side = round(attributes["patch_size"] * wanted)
    equal = [each for each in downsamples if abs(each - wanted) <= 0.1]
    level = equal[0] if equal else max(each for each in downsamples if each <= wanted)
    return side, round(side / int(level)) * level, level


CASES = [
    (slide_mpp, mpp, tile_px, downsamples, overlap)
    for slide_mpp in (0.2525, 0.5)
    for mpp in (0.5, 0.7, 1.0, 2.0, 4.1)
    for tile_px in (224, 256)
    for downsamples in (PYRAMID, (1.0,))
    for overlap in (0, 32)
]


@pytest.mark.parametrize(("slide_mpp", "mpp", "tile_px", "downsamples", "overlap"), CASES)
@pytest.mark.parametrize("native_tolerance", [0.0, 0.02])
def test_our_tiles_mean_the_same_in_trident(tmp_path, slide_mpp, mpp, tile_px, downsamples, overlap, native_tolerance):
    grid = plan(slide_mpp, mpp, tile_px, downsamples, overlap, native_tolerance=native_tolerance)
    tiles = tile_set(grid, slide_mpp)
    write_tiles(tmp_path / "a.h5", tiles)
    with h5py.File(tmp_path / "a.h5") as file:
        attributes, coords = dict(file["coords"].attrs), file["coords"][:]
    ours = grid.read_px * grid.downsample
    side, read, level = trident_reads(attributes, downsamples)
    assert abs(side - ours) <= 1
    assert abs(read - ours) <= max(1, level / 2), "where it reads a coarser level, that level's pixels are the limit"
    assert ours == pytest.approx(tile_px * mpp / slide_mpp, abs=max(0.02 * ours, grid.downsample))
    np.testing.assert_array_equal(coords, tiles.coords)
    foreign = read_foreign_tiles(tmp_path / "a.h5")
    assert foreign.source == "trident"
    assert foreign.size_level0 == grid.size_level0
    assert foreign.patch_px == tile_px
    assert foreign.name == "Präparat 7.1"
    assert foreign.slide_size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(foreign.coords, tiles.coords)
    assert foreign.coords.dtype == np.int64


def test_a_file_of_trident(tmp_path):
    foreign = read_foreign_tiles(write(tmp_path, TRIDENT))
    assert (foreign.source, foreign.size_level0, foreign.patch_px, foreign.name) == ("trident", 512, 256, "S1")
    assert foreign.slide_size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(foreign.coords, COORDS)


def test_its_feature_files_carry_the_same(tmp_path):
    foreign = read_foreign_tiles(write(tmp_path, TRIDENT, features=np.zeros((3, 1024), np.float32)))
    assert foreign.size_level0 == 512


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        (
            {"target_magnification": 15, "patch_size_level0": 682},
            683,
        ),  # it floors what it says, and rounds what it reads
        ({"target_magnification": 20.0, "patch_size_level0": 512.0}, 512),
        ({"level0_magnification": "None"}, 512),
        ({"level0_magnification": np.array([40]), "target_magnification": "20"}, 512),
    ],
)
def test_what_it_reads_is_the_field(tmp_path, changes, size):
    assert read_foreign_tiles(write(tmp_path, TRIDENT | changes)).size_level0 == size


def test_older_files_do_not_tell_the_slides_size(tmp_path):
    foreign = read_foreign_tiles(write(tmp_path, without(TRIDENT, "level0_width", "level0_height", "name")))
    assert foreign.slide_size is None
    assert foreign.name is None


# --------------------------------------------------------------------------------------------- CLAM


@pytest.mark.parametrize(("slide_mpp", "mpp", "tile_px", "downsamples", "overlap"), CASES)
def test_our_export_for_clam_comes_back(tmp_path, slide_mpp, mpp, tile_px, downsamples, overlap):
    grid = plan(slide_mpp, mpp, tile_px, downsamples, overlap)
    tiles = tile_set(grid, slide_mpp)
    write_clam_tiles(tmp_path / "a.h5", tiles)
    foreign = read_foreign_tiles(tmp_path / "a.h5")
    assert foreign.source == "clam"
    assert foreign.size_level0 == pytest.approx(grid.read_px * grid.downsample)
    assert foreign.name == "Präparat 7.1"
    np.testing.assert_array_equal(foreign.coords, tiles.coords)
    placed = placed_on(foreign, grid, dimensions(downsamples), native_tolerance=0, path="slide.svs")
    assert placed.grid == grid
    np.testing.assert_array_equal(placed.coords, tiles.coords)
    assert (len(placed.over_edge), placed.repeated) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 1024),
        ({"downsample": (4.0003, 4.0001)}, 256 * 4.0002),
        ({"downsample": 4.0}, 1024),
        ({"patch_level": 0, "downsample": (1.0, 1.0)}, 256),
        ({"custom_downsample": 1}, 1024),
    ],
)
def test_a_file_of_clam(tmp_path, changes, size):
    foreign = read_foreign_tiles(write(tmp_path, CLAM | changes))
    assert (foreign.source, foreign.patch_px, foreign.name) == ("clam", 256, "S1")
    assert foreign.size_level0 == pytest.approx(size)
    assert foreign.slide_size is None


def test_level_0_needs_no_downsample(tmp_path):
    foreign = read_foreign_tiles(write(tmp_path, {"patch_size": 512, "patch_level": 0}))
    assert foreign.size_level0 == 512


# ------------------------------------------------------------------------------------------- errors


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
    path = write(tmp_path, attributes)
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
        read_foreign_tiles(write(tmp_path, TRIDENT, coords))


@pytest.mark.parametrize("kind", [np.int32, np.uint64, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_coordinates(tmp_path, kind):
    foreign = read_foreign_tiles(write(tmp_path, TRIDENT, COORDS.astype(kind)))
    assert foreign.coords.dtype == np.int64
    np.testing.assert_array_equal(foreign.coords, COORDS)


@pytest.mark.parametrize("coords", [np.zeros((0, 2), int), np.zeros(0)])
def test_no_tiles_are_no_tiles(tmp_path, coords):
    foreign = read_foreign_tiles(write(tmp_path, TRIDENT, coords))
    assert foreign.coords.shape == (0, 2)
    placed = placed_on(foreign, plan(0.25, 0.5, 256), dimensions(PYRAMID), native_tolerance=0, path="slide.svs")
    assert placed.coords.shape == (0, 2)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        read_foreign_tiles(tmp_path / "S1.h5")
    with pytest.raises(SlideError, match=r"no dataset `coords` in it \(it holds features\)"):
        read_foreign_tiles(write(tmp_path, {}, None, features=np.zeros((3, 4))))
    with pytest.raises(SlideError, match="keeps pictures"):
        read_foreign_tiles(write(tmp_path, {}, imgs=np.zeros((3, 2, 2, 3), np.uint8)))
    path = write(tmp_path, TRIDENT)
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


# -------------------------------------------------------------------------------------------- place


def place(folder: Path, attributes: dict, grid: TileGrid, coords: object = COORDS, native_tolerance: float = 0.02):
    foreign = read_foreign_tiles(write(folder, attributes, coords))
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
    foreign = read_foreign_tiles(write(tmp_path, without(CLAM), np.array([[0, 0], [WIDTH - 1024, 0]])))
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


# --------------------------------------------------------------------------------------------- find


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
