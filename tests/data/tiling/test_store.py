"""The tile store and the pixels of a tile."""

import hashlib
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from wsipipe.data.errors import SlideError, StoreError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.grid import TileGrid
from wsipipe.data.tiling.store import TileSet, read_tile, read_tiles, write_tiles
from wsipipe.data.units import Level0Px, LevelPx, Mpp, TilePx


def grid(**changes: object) -> TileGrid:
    its = {
        "mpp": Mpp(0.5),
        "tile_px": TilePx(224),
        "overlap": TilePx(0),
        "level": 0,
        "downsample": 1.0,
        "level_mpp": Mpp(0.2525),
        "read_px": LevelPx(444),
        "columns": 10,
        "rows": 8,
    }
    return TileGrid(**(its | changes))


def tile_set(count: int = 7, **changes: object) -> TileSet:
    rng = np.random.default_rng(0)
    its = {
        "slide_id": "Präparat 7.1",
        "slide_format": "aperio",
        "slide_size": (Level0Px(5000), Level0Px(4000)),
        "slide_mpp": Mpp(0.2525),
        "grid": grid(),
        "min_tissue": 0.5,
        "coords": rng.integers(0, 4000, (count, 2)),
        "tissue_fraction": rng.random(count, np.float32),
        "sharpness": rng.random(count, np.float32) * 100,
        "sharpness_mpp": Mpp(8.08),
    }
    return TileSet(**(its | changes))


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_round_trip(tmp_path, count):
    tiles = tile_set(count)
    write_tiles(tmp_path / "a.h5", tiles)
    again = read_tiles(tmp_path / "a.h5")
    assert len(again) == count
    for field in fields(TileSet):
        value, read = getattr(tiles, field.name), getattr(again, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(read, value)
            assert read.dtype == value.dtype
        else:
            assert read == value, field.name


WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from test_store import tile_set
from wsipipe.data.tiling.store import write_tiles
from pathlib import Path
write_tiles(Path(sys.argv[2]), tile_set())
"""


def test_the_same_tiles_give_the_same_bytes_at_another_time_in_another_process(tmp_path):
    write_tiles(tmp_path / "a.h5", tile_set())
    time.sleep(1.1)  # HDF5 keeps times to the second, where it keeps them
    write_tiles(tmp_path / "b.h5", tile_set())
    command = [sys.executable, "-c", WRITE, str(Path(__file__).parent), str(tmp_path / "c.h5")]
    subprocess.run(command, check=True)
    digests = {hashlib.sha256((tmp_path / f"{name}.h5").read_bytes()).hexdigest() for name in "abc"}
    assert len(digests) == 1
    write_tiles(tmp_path / "d.h5", tile_set(sharpness_mpp=Mpp(8.09)))
    assert (tmp_path / "d.h5").read_bytes() != (tmp_path / "a.h5").read_bytes()


def test_nothing_is_left_beside_the_file(tmp_path):
    write_tiles(tmp_path / "tiles" / "a.h5", tile_set())
    assert [path.name for path in (tmp_path / "tiles").iterdir()] == ["a.h5"]


# ------------------------------------------------------------------------------------------ damage


def test_a_missing_file_is_a_store_error(tmp_path):
    with pytest.raises(StoreError, match="no such tile set") as caught:
        read_tiles(tmp_path / "a.h5")
    assert "wsipipe tile" in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_damaged(tmp_path, share):
    path = tmp_path / "a.h5"
    write_tiles(path, tile_set())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(StoreError, match="damaged") as caught:
        read_tiles(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("name", ["coords", "tissue_fraction", "sharpness"])
def test_a_flipped_bit_in_an_array_is_damage(tmp_path, name):
    path = tmp_path / "a.h5"
    write_tiles(path, tile_set(100))
    with h5py.File(path) as file:
        offset = file[name].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        read_tiles(path)


@pytest.mark.parametrize("name", ["patch_size", "mpp", "level", "tile_count"])
def test_a_missing_attribute_is_damage(tmp_path, name):
    path = tmp_path / "a.h5"
    write_tiles(path, tile_set())
    with h5py.File(path, "r+") as file:
        del file["coords"].attrs[name]
    with pytest.raises(StoreError, match="damaged"):
        read_tiles(path)


def test_arrays_that_do_not_fit_each_other_are_damage(tmp_path):
    path = tmp_path / "a.h5"
    write_tiles(path, tile_set())
    with h5py.File(path, "r+") as file:
        file["sharpness"].resize((6,))
    with pytest.raises(StoreError, match="sharpness has the shape"):
        read_tiles(path)


def test_an_unknown_encoding_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    write_tiles(path, tile_set())
    with h5py.File(path, "r+") as file:
        file.attrs["encoding-version"] = "99"
    with pytest.raises(StoreError, match="encoding version 99"):
        read_tiles(path)
    with h5py.File(path, "w") as file:
        file["coords"] = np.zeros((3, 2))
    with pytest.raises(StoreError, match="not a tile set"):
        read_tiles(path)


# ----------------------------------------------------------------------------------------- TRIDENT


@pytest.mark.parametrize(
    ("slide_mpp", "level_downsample", "read_px", "tile_px"),
    [
        (0.2525, 1.0, 444, 224),
        (0.5, 1.0, 224, 224),
        (0.5056, 1.0, 224, 224),
        (0.2499, 1.0, 448, 224),
        (0.299, 1.0, 375, 224),
        (0.263018, 4.0001, 426, 224),
        (0.25, 16.004056795131845, 224, 224),
        (0.1, 1.0, 2560, 512),
    ],
)
def test_trident_reads_the_same_field_of_view(tmp_path, slide_mpp, level_downsample, read_px, tile_px):
    tiles = tile_set(
        slide_mpp=Mpp(slide_mpp),
        grid=grid(
            level_mpp=Mpp(slide_mpp * level_downsample),
            downsample=level_downsample,
            read_px=LevelPx(read_px),
            tile_px=TilePx(tile_px),
            overlap=TilePx(32),
        ),
    )
    write_tiles(tmp_path / "a.h5", tiles)
    with h5py.File(tmp_path / "a.h5") as file:
        coords, attributes = file["coords"][:], dict(file["coords"].attrs)
    # What TRIDENT makes of it: a pixel is 10 / magnification, and the ratio of two pixels scales the tile's side.
    level0_pixel, tile_pixel = 10 / attributes["level0_magnification"], 10 / attributes["target_magnification"]
    side = round(attributes["patch_size"] * tile_pixel / level0_pixel)
    assert side == round(read_px * level_downsample) == attributes["patch_size_level0"]
    assert level0_pixel == pytest.approx(slide_mpp)
    assert attributes["patch_size"] == tile_px
    assert attributes["overlap"] == 32
    assert attributes["name"] == "Präparat 7.1"
    assert isinstance(attributes["name"], str)
    assert isinstance(attributes["savetodir"], str)
    assert (attributes["level0_width"], attributes["level0_height"]) == (5000, 4000)
    assert coords.dtype == np.int64
    np.testing.assert_array_equal(coords, tiles.coords)


# ------------------------------------------------------------------------------------------ pixels


def write_slide(path: Path, image: np.ndarray) -> Path:
    tifffile.imwrite(
        path, image, tile=(64, 64), photometric="rgb", compression="deflate", resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    return path


def test_a_native_tile_is_the_slides_own_pixels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    tiles = tile_set(grid=grid(read_px=LevelPx(224)), coords=np.array([[13, 57], [276, 176]]))
    with open_slide(write_slide(tmp_path / "a.tif", image)) as slide:
        np.testing.assert_array_equal(read_tile(slide, tiles, 0), image[57:281, 13:237])
        np.testing.assert_array_equal(read_tile(slide, tiles, 1), image[176:400, 276:500])


def test_a_pattern_finer_than_the_tiles_pixels_turns_grey(tmp_path):
    """Without antialiasing it would turn to stripes; see test_resize for the filter itself."""
    checks = (np.indices((448, 448)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    with open_slide(write_slide(tmp_path / "a.tif", checks)) as slide:
        for read_px in (448, 426, 375):
            its_grid = grid(read_px=LevelPx(read_px))
            tile = read_tile(slide, tile_set(grid=its_grid, coords=np.zeros((1, 2), np.int64)), 0)
            assert tile.shape == (224, 224, 3)
            assert (np.abs(tile.astype(int) - 127.5) < 3).all()


def test_a_resampled_tile_shows_the_whole_field_in_place(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 448), (448, 1))
    image = np.stack([ramp, ramp.T, np.full_like(ramp, 90)], axis=2).astype(np.uint8)
    with open_slide(write_slide(tmp_path / "a.tif", image)) as slide:
        for read_px in (375, 426, 444, 448):
            tile = read_tile(slide, tile_set(grid=grid(read_px=LevelPx(read_px)), coords=np.zeros((1, 2), np.int64)), 0)
            centres = (np.arange(224) + 0.5) * read_px / 224 - 0.5
            np.testing.assert_allclose(tile[100, :, 0], centres * 255 / 447, atol=1.5)
            np.testing.assert_allclose(tile[:, 100, 1], centres * 255 / 447, atol=1.5)


def test_enlarging_is_smooth(tmp_path):
    small = np.random.default_rng(0).integers(60, 200, (8, 8, 3), np.uint8)
    image = cv2.resize(small, (200, 200), interpolation=cv2.INTER_CUBIC)
    tiles = tile_set(grid=grid(read_px=LevelPx(112)), coords=np.zeros((1, 2), np.int64))
    with open_slide(write_slide(tmp_path / "a.tif", image)) as slide:
        tile = read_tile(slide, tiles, 0)
    assert tile.shape == (224, 224, 3)
    np.testing.assert_allclose(tile[::2, ::2].astype(int), image[:112, :112].astype(int), atol=12)


def test_a_tile_that_cannot_be_decoded_has_no_stand_in(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with open_slide(path) as slide, pytest.raises(SlideError):
        read_tile(slide, tile_set(coords=np.zeros((1, 2), np.int64)), 0)


def test_a_tile_set_cannot_be_changed():
    with pytest.raises(AttributeError):
        tile_set().min_tissue = 0.1
    assert replace(tile_set(), min_tissue=0.1).min_tissue == 0.1
