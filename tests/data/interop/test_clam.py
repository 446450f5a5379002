"""CLAM: what its files say of tiles and features, and what we write, read as CLAM reads it."""

from __future__ import annotations

import csv
import hashlib
import io
import time
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import torch
from foreign_files import (
    CASES,
    CLAM,
    COORDS,
    FEATURES,
    bag_of,
    clam_features,
    dimensions,
    plan,
    tile_file,
    tile_set,
    tiles_of_bag,
)
from tile_sets import tile_set as tile_set_of
from wsipipe.data.errors import SlideError
from wsipipe.data.features.store import Bag
from wsipipe.data.interop.clam import clam_process_list, write_clam_features, write_clam_tiles
from wsipipe.data.interop.imported_features import read_foreign_features
from wsipipe.data.interop.tile_positions import placed_on, read_foreign_tiles
from wsipipe.data.interop.trident import write_trident_features
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import on_white
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Mpp, TilePx

SLIDES = Path(__file__).resolve().parents[3] / "../shared/data/slides"


@pytest.fixture(scope="module")
def bag() -> Bag:
    return bag_of(tiles_of_bag())


# ----- tiles -----


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
    foreign = read_foreign_tiles(tile_file(tmp_path, CLAM | changes))
    assert (foreign.source, foreign.patch_px, foreign.name) == ("clam", 256, "S1")
    assert foreign.size_level0 == pytest.approx(size)
    assert foreign.slide_size is None


def test_level_0_needs_no_downsample(tmp_path):
    foreign = read_foreign_tiles(tile_file(tmp_path, {"patch_size": 512, "patch_level": 0}))
    assert foreign.size_level0 == 512


def tiles_on(
    slide_mpp: float,
    mpp: float,
    downsamples: tuple[float, ...] = (1.0, 4.0, 16.0),
    size: tuple[int, int] = (20_000, 16_000),
    count: int | None = None,
) -> TileSet:
    grid = plan_grid(
        [(int(size[0] / each), int(size[1] / each)) for each in downsamples],
        downsamples,
        Mpp(slide_mpp),
        mpp=Mpp(mpp),
        tile_px=TilePx(224),
        overlap=TilePx(0),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    return tile_set_of(grid, grid.coords()[:count], slide_mpp, size)


def as_clam(path: Path) -> tuple[np.ndarray, dict]:
    with h5py.File(path) as file:
        assert list(file) == ["coords"]
        return file["coords"][:], dict(file["coords"].attrs)


@pytest.mark.parametrize("slide_mpp", [0.2525, 0.5])
@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.01, 2.0])
@pytest.mark.parametrize("downsamples", [(1.0, 4.0, 16.0), (1.0, 4.0001, 16.0041), (1.0,)])
def test_clam_reads_the_same_squares(tmp_path, slide_mpp, mpp, downsamples):
    """CLAM calls read_region(coordinates, patch_level, (patch_size, patch_size)): so do we."""
    tiles = tiles_on(slide_mpp, mpp, downsamples)
    write_clam_tiles(tmp_path / "a.h5", tiles)
    coords, attributes = as_clam(tmp_path / "a.h5")
    np.testing.assert_array_equal(coords, tiles.coords)
    assert coords.dtype == np.int64
    assert attributes["patch_level"] == tiles.grid.level
    assert attributes["patch_size"] == tiles.grid.read_px
    field = attributes["patch_size"] * downsamples[attributes["patch_level"]]
    assert field == pytest.approx(224 * mpp / slide_mpp, abs=max(0.02 * field, tiles.grid.downsample))
    assert abs(field - tiles.grid.size_level0) <= 1
    assert isinstance(attributes["patch_size"], np.integer)
    assert isinstance(attributes["patch_level"], np.integer)
    assert attributes["downsample"].tolist() == [downsamples[tiles.grid.level]] * 2
    width, height = attributes["level_dim"]
    assert abs(width - 20_000 / tiles.grid.downsample) <= 1
    assert abs(height - 16_000 / tiles.grid.downsample) <= 1
    assert attributes["downsampled_level_dim"].tolist() == [width, height]
    assert attributes["name"] == "Präparat 7.1"
    assert attributes["save_path"] == "."


@pytest.mark.parametrize(
    ("name", "mpp"),
    [("giardia_40x_region.svs", 0.5), ("ilc_breast_20x_region.svs", 0.5), ("ilc_breast_20x_region.svs", 2.0)],
)
def test_the_pixels_are_the_same_on_a_real_slide(tmp_path, name, mpp):
    if not (SLIDES / name).exists():
        pytest.skip("no shared slides here")
    with open_slide(SLIDES / name) as slide, openslide.open_slide(SLIDES / name) as theirs:
        tiles = tiles_on(slide.believed_mpp(), mpp, slide.level_downsamples, slide.dimensions)
        write_clam_tiles(tmp_path / "a.h5", tiles)
        coords, attributes = as_clam(tmp_path / "a.h5")
        side = attributes["patch_size"]
        for index in np.linspace(0, len(coords) - 1, 5).astype(int):
            x, y = tiles.coords[index]
            ours = slide.read(tiles.grid.level, x, y, tiles.grid.read_px, tiles.grid.read_px)
            read = np.asarray(theirs.read_region(coords[index], attributes["patch_level"], (side, side)))
            np.testing.assert_array_equal(ours, on_white(read))


def test_the_same_tiles_give_the_same_bytes(tmp_path):
    write_clam_tiles(tmp_path / "a.h5", tiles_on(0.25, 0.5))
    time.sleep(1.1)  # HDF5 keeps times to the second, where it keeps them
    write_clam_tiles(tmp_path / "b.h5", tiles_on(0.25, 0.5))
    assert len({hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.h5", "b.h5")}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_slide_without_tiles_has_no_file(tmp_path):
    with pytest.raises(SlideError, match="no tiles"):
        write_clam_tiles(tmp_path / "a.h5", tiles_on(0.25, 0.5, count=0))
    assert not list(tmp_path.iterdir())


def test_the_process_list_leads_clam_to_the_files():
    names = ["TCGA-A1-A0SK-01Z-00-DX1.a-b.svs", 'a "b", c.svs', "Präparat 7.1.svs"]
    text = clam_process_list(names)
    rows = list(csv.DictReader(io.StringIO(text)))
    # CLAM takes what is before the extension, and puts .h5 and the extension behind it.
    found = [row["slide_id"].split(".svs")[0] for row in rows]
    assert [name + ".svs" for name in found] == names
    assert {row["process"] for row in rows} == {"0"}
    assert text == clam_process_list(names)
    assert clam_process_list([]) == "slide_id,process,status\n"


@pytest.mark.parametrize("name", ["dicom_folder", "a.svs.b.svs", "folder/a.svs", ""])
def test_names_that_clam_would_not_find_again(name):
    with pytest.raises(SlideError, match="CLAM finds slides by a file name"):
        clam_process_list(["good.svs", name])


# ----- features -----


def test_clam_s_features_are_read(tmp_path: Path) -> None:
    read = read_foreign_features(clam_features(tmp_path))
    np.testing.assert_array_equal(read.features, FEATURES)
    np.testing.assert_array_equal(read.coords, COORDS)
    assert (read.source, read.name, read.encoder, read.size_level0, read.patch_px) == ("clam", None, None, None, None)


def test_what_clam_reads_comes_back(tmp_path: Path, bag: Bag) -> None:
    write_clam_features(tmp_path, bag.slide_id, bag)
    tensor = torch.load(tmp_path / "pt_files" / f"{bag.slide_id}.pt", weights_only=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), bag.features)
    with h5py.File(tmp_path / "h5_files" / f"{bag.slide_id}.h5") as file:
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int32)
        assert not len(file["coords"].attrs)
    read = read_foreign_features(tmp_path / "h5_files" / f"{bag.slide_id}.h5")
    np.testing.assert_array_equal(read.features, bag.features)
    np.testing.assert_array_equal(read.coords, bag.coords)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["h5_files", "pt_files"]


def test_clam_gets_no_empty_bag(tmp_path: Path, bag: Bag) -> None:
    empty = Bag(bag.slide_id, bag.features[:0], bag.coords[:0], bag.facts)
    with pytest.raises(SlideError, match="no tiles"):
        write_clam_features(tmp_path, "a", empty)
    write_trident_features(tmp_path / "a.h5", empty)  # TRIDENT has such files itself
    assert read_foreign_features(tmp_path / "a.h5").features.shape == (0, 12)


def test_equal_bags_give_equal_bytes(tmp_path: Path, bag: Bag) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        time.sleep(1.1 if folder.name == "two" else 0)  # formats that write the time do so in seconds
        write_clam_features(folder, "a", bag)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
