"""The export for CLAM, read as CLAM reads it."""

import csv
import hashlib
import io
import time
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
from tile_sets import tile_set as tile_set_of
from wsipipe.data.errors import SlideError
from wsipipe.data.interop.clam_tiles import clam_process_list, write_clam_tiles
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import on_white
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import TileSet
from wsipipe.data.units import Mpp, TilePx

SLIDES = Path(__file__).resolve().parents[3] / "../shared/data/slides"


def tile_set(
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
    tiles = tile_set(slide_mpp, mpp, downsamples)
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
        tiles = tile_set(slide.believed_mpp(), mpp, slide.level_downsamples, slide.dimensions)
        write_clam_tiles(tmp_path / "a.h5", tiles)
        coords, attributes = as_clam(tmp_path / "a.h5")
        side = attributes["patch_size"]
        for index in np.linspace(0, len(coords) - 1, 5).astype(int):
            x, y = tiles.coords[index]
            ours = slide.read(tiles.grid.level, x, y, tiles.grid.read_px, tiles.grid.read_px)
            read = np.asarray(theirs.read_region(coords[index], attributes["patch_level"], (side, side)))
            np.testing.assert_array_equal(ours, on_white(read))


def test_the_same_tiles_give_the_same_bytes(tmp_path):
    write_clam_tiles(tmp_path / "a.h5", tile_set(0.25, 0.5))
    time.sleep(1.1)  # HDF5 keeps times to the second, where it keeps them
    write_clam_tiles(tmp_path / "b.h5", tile_set(0.25, 0.5))
    assert len({hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.h5", "b.h5")}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_slide_without_tiles_has_no_file(tmp_path):
    with pytest.raises(SlideError, match="no tiles"):
        write_clam_tiles(tmp_path / "a.h5", tile_set(0.25, 0.5, count=0))
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
