"""Damaged tile files: read, or refused with an error of ours, in seconds; the rest of the program goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_damage import endless, make_absurd
from tile_sets import tile_set
from trial import Trial
from wsipipe.data.artifact import digest_of
from wsipipe.data.errors import StoreError
from wsipipe.data.files import reading_process
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import read_tiles, write_tiles
from wsipipe.data.units import Mpp, TilePx


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    grid = plan_grid(
        level_dimensions=((6400, 6400),),
        level_downsamples=(1.0,),
        slide_mpp=Mpp(0.5),
        mpp=Mpp(0.5),
        tile_px=TilePx(64),
        overlap=TilePx(0),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    path = tmp_path / "slide.h5"
    write_tiles(path, tile_set(grid, grid.coords()[:20], 0.5, (6400, 6400)))
    return path


def test_damaged_tiles(tiles: Path, survives: Callable[..., Trial]) -> None:
    survives(read_tiles, tiles.read_bytes(), "a.h5")


def test_a_file_whose_reading_does_not_end(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "_SECONDS", 1)
    whole = tiles.read_bytes()
    tiles.write_bytes(endless(whole))
    with pytest.raises(StoreError, match="damaged") as caught:
        read_tiles(tiles)
    assert caught.value.path == str(tiles)
    assert "wsipipe tile" in caught.value.hint
    tiles.write_bytes(whole)
    assert len(read_tiles(tiles)) == 20


@pytest.mark.parametrize("shape", [(10**9, 2), (2**62, 2), (33_554_432 // 2 + 1, 2)])
def test_an_absurd_shape_is_refused_with_the_limit(tiles: Path, shape: tuple[int, int]) -> None:
    make_absurd(tiles, "coords", shape)
    with pytest.raises(StoreError, match=r"`coords` has the shape .* may hold 268 MB"):
        read_tiles(tiles)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patch_size", 2**30),
        ("patch_size", 0),
        ("slide_mpp", np.nan),
        ("mpp", np.inf),
        ("read_px", -1),
        ("level", 1e999),
    ],
)
def test_sizes_that_no_tile_has_are_damage(name: str, value: float, tiles: Path) -> None:
    with h5py.File(tiles, "r+") as file:
        file["coords"].attrs[name] = value
    with pytest.raises(StoreError, match="damaged"):
        read_tiles(tiles)


def test_bytes_that_are_not_those_recorded_are_refused(tiles: Path) -> None:
    digest = digest_of(tiles)
    assert len(read_tiles(tiles, digest=digest)) == 20
    content = bytearray(tiles.read_bytes())
    at = content.index(np.float64(0.5).tobytes())  # a resolution: it can be read, and the features would be others
    content[at : at + 8] = np.float64(0.25).tobytes()
    tiles.write_bytes(content)
    assert len(read_tiles(tiles)) == 20
    with pytest.raises(StoreError, match="not those that `wsipipe tile` has recorded"):
        read_tiles(tiles, digest=digest)
