"""TRIDENT: what its files say of tiles and features, and that it reads what we write."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign_files import (
    CASES,
    CLAM,
    COORDS,
    FEATURES,
    HEIGHT,
    SLIDE_MPP,
    TRIDENT,
    WIDTH,
    bag_of,
    feature_file,
    plan,
    tile_file,
    tile_set,
    tiles_of_bag,
    trident_features,
    without,
)
from wsipipe.data.errors import SlideError, StoreError, UsageError
from wsipipe.data.features.store import Bag, read_bag, write_features
from wsipipe.data.interop.imported_features import imported_facts, read_foreign_features
from wsipipe.data.interop.tile_positions import read_foreign_tiles, refuse_other_magnification
from wsipipe.data.interop.trident import not_its_magnification, write_trident_features
from wsipipe.data.tiling.store import TileSet, write_tiles
from wsipipe.data.units import Mpp


@pytest.fixture(scope="module")
def tiles() -> TileSet:
    return tiles_of_bag()


@pytest.fixture(scope="module")
def bag(tiles: TileSet) -> Bag:
    return bag_of(tiles)


# ----- tiles -----


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
    foreign = read_foreign_tiles(tile_file(tmp_path, TRIDENT))
    assert (foreign.source, foreign.size_level0, foreign.patch_px, foreign.name) == ("trident", 512, 256, "S1")
    assert foreign.slide_size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(foreign.coords, COORDS)


def test_its_feature_files_carry_the_same(tmp_path):
    foreign = read_foreign_tiles(tile_file(tmp_path, TRIDENT, features=np.zeros((3, 1024), np.float32)))
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
    assert read_foreign_tiles(tile_file(tmp_path, TRIDENT | changes)).size_level0 == size


@pytest.mark.parametrize(
    ("magnification", "mpp", "can_be"),
    [
        (20, 0.5, True),
        (20, 0.35, True),  # of a scanner of 0.35 µm, which TRIDENT calls 20x
        (20, 1.0, False),
        (20, 0.25, False),
        (10, 1.0, True),
        (80, 0.12, True),
        (None, 7.0, True),
    ],
)
def test_a_magnification_rules_resolutions_out(magnification: float | None, mpp: float, can_be: bool) -> None:
    assert (not_its_magnification(magnification, mpp) == "") is can_be


def test_tiles_of_another_magnification_than_the_slides_are_refused(tmp_path: Path) -> None:
    foreign = read_foreign_tiles(tile_file(tmp_path, TRIDENT))
    refuse_other_magnification(foreign, Mpp(0.2527))
    with pytest.raises(SlideError, match=r"its tiles are 20x, .* 0.3 to 0.64 .* not 1 as on a slide of 0.5") as caught:
        refuse_other_magnification(foreign, Mpp(0.5))
    assert "--overrule-mpp" in caught.value.hint
    refuse_other_magnification(read_foreign_tiles(tile_file(tmp_path, CLAM)), Mpp(0.5))


def test_features_of_another_magnification_than_their_tiles_are_refused(tmp_path: Path) -> None:
    read = read_foreign_features(trident_features(tmp_path))
    with pytest.raises(UsageError, match="its tiles are 20x"):
        imported_facts(read, slide_id="S1", backbone="uni", slide_mpp=Mpp(0.5))
    assert imported_facts(read, slide_id="S1", backbone="uni", slide_mpp=Mpp(0.5), overruled=True).mpp == 1


def test_older_files_do_not_tell_the_slides_size(tmp_path):
    foreign = read_foreign_tiles(tile_file(tmp_path, without(TRIDENT, "level0_width", "level0_height", "name")))
    assert foreign.slide_size is None
    assert foreign.name is None


# ----- features -----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("batch", [False, True])
def test_trident_s_features_are_read(tmp_path: Path, dtype: type, batch: bool) -> None:
    features = FEATURES.astype(dtype)
    read = read_foreign_features(trident_features(tmp_path, features=features[None] if batch else features))
    assert read.features.dtype == (np.float16 if dtype == np.float16 else np.float32)
    np.testing.assert_array_equal(read.features, FEATURES)
    np.testing.assert_array_equal(read.coords, COORDS)
    assert read.coords.dtype == np.int64
    assert (read.source, read.name, read.encoder) == ("trident", "S1", "uni_v1")
    assert (read.size_level0, read.patch_px) == (512, 256)


def test_trident_s_features_of_clam_s_tiles_are_read(tmp_path: Path) -> None:
    read = read_foreign_features(feature_file(tmp_path / "a.h5", {"name": "S1", "encoder": "None"}, CLAM))
    assert (read.source, read.name, read.encoder) == ("trident", "S1", None)
    assert (read.size_level0, read.patch_px) == (1024, 256)


def test_trident_reads_what_we_write(tmp_path: Path, bag: Bag, tiles: TileSet) -> None:
    write_trident_features(tmp_path / "a.h5", bag, tiles)
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"features", "coords"}
        assert file["features"].dtype == np.float32
        np.testing.assert_array_equal(file["features"][:], bag.features)
        np.testing.assert_array_equal(file["coords"][:], bag.coords)
        assert file["features"].attrs["encoder"] == "uni2-h"
        assert file["features"].attrs["name"] == "Präparat 7.1"
        of_features = dict(file["coords"].attrs)
    write_tiles(tmp_path / "tiles.h5", tiles)
    with h5py.File(tmp_path / "tiles.h5") as file:
        of_tiles = dict(file["coords"].attrs)
    assert of_features["patch_size_level0"] == of_tiles["patch_size_level0"]
    for name in of_features:  # what TRIDENT hands on from the tiles, by its names
        assert of_features[name] == (pytest.approx(of_tiles[name], rel=1e-12) if "mag" in name else of_tiles[name])


def test_what_trident_reads_comes_back(tmp_path: Path, bag: Bag, tiles: TileSet) -> None:
    for its_tiles in (tiles, None):
        write_trident_features(tmp_path / "a.h5", bag, its_tiles)
        read = read_foreign_features(tmp_path / "a.h5")
        assert (read.source, read.name, read.encoder) == ("trident", bag.slide_id, "uni2-h")
        facts = imported_facts(read, slide_id=bag.slide_id, backbone="uni2-h", slide_mpp=Mpp(SLIDE_MPP))
        assert facts.mpp == pytest.approx(bag.facts.mpp, rel=1e-3)
        assert (facts.tile_px, facts.tile_size_level0) == (bag.facts.tile_px, int(bag.facts.tile_size_level0))
        write_features(tmp_path / "a.zarr", read.features, read.coords, facts)
        back = read_bag(tmp_path / "a.zarr")
        assert back.features.dtype == bag.features.dtype
        np.testing.assert_array_equal(back.features, bag.features)
        np.testing.assert_array_equal(back.coords, bag.coords)


def test_tiles_of_another_slide_are_refused(tmp_path: Path, bag: Bag, tiles: TileSet) -> None:
    other = Bag("S2", bag.features, bag.coords, bag.facts)
    with pytest.raises(StoreError, match="features of S2 with tiles of Präparat"):
        write_trident_features(tmp_path / "a.h5", other, tiles)
    assert list(tmp_path.iterdir()) == []


def test_equal_bags_give_equal_bytes(tmp_path: Path, bag: Bag, tiles: TileSet) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        time.sleep(1.1 if folder.name == "two" else 0)  # formats that write the time do so in seconds
        write_trident_features(folder / "a.h5", bag, tiles)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert len(files) == 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
