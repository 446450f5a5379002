"""Features of TRIDENT and CLAM: what their files say, what ours say to them, and what nobody knows is said so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
import torch
from tile_sets import tile_set as tile_set_of
from wsipipe.data.errors import SlideError, StoreError, UsageError
from wsipipe.data.features.store import Bag, FeatureFacts, read_bag, write_features
from wsipipe.data.interop.foreign_features import (
    UNKNOWN,
    imported_facts,
    read_foreign_features,
    to_anndata,
    write_anndata,
    write_clam_features,
    write_trident_features,
)
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import TileSet, write_tiles
from wsipipe.data.units import Mpp, TilePx

WIDTH, HEIGHT = 20_000, 16_000
SLIDE_MPP = 0.2527
TILES = 5000
"""More than are converted at a time."""


@pytest.fixture(scope="module")
def tiles() -> TileSet:
    grid = plan_grid(
        [(WIDTH, HEIGHT), (WIDTH // 4, HEIGHT // 4)],
        [1.0, 4.0],
        Mpp(SLIDE_MPP),
        mpp=Mpp(0.5),
        tile_px=TilePx(112),
        overlap=TilePx(16),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    return tile_set_of(grid, grid.coords()[:TILES], SLIDE_MPP, (WIDTH, HEIGHT))


@pytest.fixture(scope="module")
def bag(tiles: TileSet) -> Bag:
    features = np.random.default_rng(0).normal(size=(len(tiles), 12)).astype(np.float16)
    facts = FeatureFacts(
        slide_id=tiles.slide_id,
        slide_digest="sha256:1",
        tiles_digest="sha256:2",
        mpp=float(tiles.grid.tile_mpp),
        tile_px=int(tiles.grid.tile_px),
        tile_size_level0=float(tiles.grid.size_level0),
        backbone="uni2-h",
        architecture="vit_giant_patch14_224",
        pooling="cls",
        width=12,
        weights_digest="sha256:3",
        precision="bf16",
        transform={"resize": 224, "crop": None, "mean": [0.5, 0.25, 0.125], "interpolation": "bicubic"},
        bad_tiles=[[0, 448], [448, 448]],
        versions={"torch": "2"},
    )
    return Bag(tiles.slide_id, features, tiles.coords, facts)


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
CLAM_TILES = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": "S1"}
COORDS = np.array([[512, 0], [0, 0], [19_000, 15_000]], np.int64)
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def write(path: Path, of_features: dict[str, Any], of_coords: dict[str, Any], **datasets: Any) -> Path:
    """In chunks of a row that can grow, which is how both programs write them."""
    with h5py.File(path, "w") as file:
        for name, values in ({"features": FEATURES, "coords": COORDS} | datasets).items():
            values = np.asarray(values)
            chunks, grows = (1, *values.shape[1:]), (None, *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, maxshape=grows)
        file["features"].attrs.update(of_features)
        file["coords"].attrs.update(of_coords)
    return path


def trident(folder: Path, **datasets: Any) -> Path:
    return write(folder / "S1.h5", {"name": "S1", "savetodir": "x", "encoder": "uni_v1"}, TRIDENT, **datasets)


def clam(folder: Path, **datasets: Any) -> Path:
    return write(folder / "S1.h5", {}, {}, **({"coords": COORDS.astype(np.int32)} | datasets))


# ----- reading -----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("batch", [False, True])
def test_trident_s_features_are_read(tmp_path: Path, dtype: type, batch: bool) -> None:
    features = FEATURES.astype(dtype)
    read = read_foreign_features(trident(tmp_path, features=features[None] if batch else features))
    assert read.features.dtype == (np.float16 if dtype == np.float16 else np.float32)
    np.testing.assert_array_equal(read.features, FEATURES)
    np.testing.assert_array_equal(read.coords, COORDS)
    assert read.coords.dtype == np.int64
    assert (read.source, read.name, read.encoder) == ("trident", "S1", "uni_v1")
    assert (read.size_level0, read.patch_px) == (512, 256)


def test_trident_s_features_of_clam_s_tiles_are_read(tmp_path: Path) -> None:
    read = read_foreign_features(write(tmp_path / "a.h5", {"name": "S1", "encoder": "None"}, CLAM_TILES))
    assert (read.source, read.name, read.encoder) == ("trident", "S1", None)
    assert (read.size_level0, read.patch_px) == (1024, 256)


def test_clam_s_features_are_read(tmp_path: Path) -> None:
    read = read_foreign_features(clam(tmp_path))
    np.testing.assert_array_equal(read.features, FEATURES)
    np.testing.assert_array_equal(read.coords, COORDS)
    assert (read.source, read.name, read.encoder, read.size_level0, read.patch_px) == ("clam", None, None, None, None)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda p: p / "none.h5", "no such file"),
    "no HDF5": (lambda p: ((p / "a.h5").write_text("x"), p / "a.h5")[1], "not HDF5"),
    "numbers alone": (lambda p: p / "S1.pt", "without coordinates"),
    "a vector a slide": (lambda p: trident(p, features=FEATURES[0]), "one vector for the whole slide"),
    "words": (lambda p: trident(p, features=np.array([[b"a"]])), "not \\(N, D\\) and numbers"),
    "another count": (lambda p: clam(p, features=FEATURES[:2]), "2 feature vectors and 3 coordinates"),
    "half pixels": (lambda p: clam(p, coords=COORDS + 0.5), "not whole pixels"),
    "negative": (lambda p: clam(p, coords=COORDS - 1), "not whole pixels"),
    "no places": (lambda p: clam(p, coords=COORDS + np.nan), "not whole pixels"),
    "three axes": (lambda p: clam(p, coords=np.zeros((3, 3), int)), "not \\(N, 2\\) and numbers"),
    "sizes that contradict": (
        lambda p: write(p / "a.h5", {}, TRIDENT | {"patch_size_level0": 256}),
        "contradicts itself",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_said_with_the_way_out(tmp_path: Path, kind: str) -> None:
    make, message = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        read_foreign_features(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


def test_a_file_without_coordinates_is_named_with_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = FEATURES
    with pytest.raises(StoreError, match="no dataset `coords` in it \\(it holds features\\)"):
        read_foreign_features(tmp_path / "a.h5")


def test_a_tensor_alone_says_where_the_coordinates_are(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        read_foreign_features(tmp_path / "pt_files" / "S1.pt")
    assert "h5_files/S1.h5" in caught.value.hint


# ----- what an imported store says of itself -----


def test_imported_features_are_a_store_that_says_what_is_not_known(tmp_path: Path) -> None:
    read = read_foreign_features(trident(tmp_path))
    facts = imported_facts(read, slide_id="S1", backbone="uni", slide_mpp=Mpp(0.2527))
    write_features(tmp_path / "S1.zarr", read.features, read.coords, facts, dtype="float32")
    bag = read_bag(tmp_path / "S1.zarr")
    np.testing.assert_array_equal(bag.features, FEATURES)
    np.testing.assert_array_equal(bag.coords, COORDS)
    assert bag.facts == facts
    assert (facts.backbone, facts.width, facts.tile_px, facts.tile_size_level0) == ("uni", 4, 256, 512)
    assert facts.mpp == pytest.approx(2 * 0.2527)
    assert facts.weights_digest == "unknown: imported from trident, encoder uni_v1"
    for fact in (facts.slide_digest, facts.tiles_digest, facts.pooling, facts.architecture, facts.precision):
        assert fact.startswith(UNKNOWN)


def test_imported_slides_are_alike_in_their_weights_and_never_in_their_slide(tmp_path: Path) -> None:
    read = read_foreign_features(trident(tmp_path))
    one, two = (imported_facts(read, slide_id=name, backbone="uni", mpp=Mpp(0.5)) for name in ("S1", "S2"))
    assert one.weights_digest == two.weights_digest
    assert one.slide_digest != two.slide_digest
    other = imported_facts(read_foreign_features(write(tmp_path / "b.h5", {"encoder": "uni_v2"}, TRIDENT)),
                           slide_id="S1", backbone="uni", mpp=Mpp(0.5))  # fmt: skip
    assert other.weights_digest != one.weights_digest


def test_what_is_vouched_for_is_taken(tmp_path: Path) -> None:
    known = {"slide_digest": "sha256:a", "weights_digest": "sha256:b", "architecture": "vit", "pooling": "cls"}
    facts = imported_facts(
        read_foreign_features(trident(tmp_path)), slide_id="S1", backbone="uni", mpp=Mpp(0.5), **known
    )
    assert {name: getattr(facts, name) for name in known} == known


def test_the_resolution_must_be_known(tmp_path: Path) -> None:
    told, untold = read_foreign_features(trident(tmp_path)), read_foreign_features(clam(tmp_path))
    with pytest.raises(UsageError, match="only a nominal magnification") as caught:
        imported_facts(told, slide_id="S1", backbone="uni")
    assert "--mpp" in caught.value.hint
    with pytest.raises(UsageError, match="does not say how large the tiles are") as caught:
        imported_facts(untold, slide_id="S1", backbone="uni", mpp=Mpp(0.5), tile_px=TilePx(256))
    assert "patches/" in caught.value.hint
    facts = imported_facts(
        untold, slide_id="S1", backbone="uni", mpp=Mpp(0.5), tile_px=TilePx(256), slide_mpp=Mpp(0.25)
    )
    assert (facts.mpp, facts.tile_px, facts.tile_size_level0) == (0.5, 256, 512)


def test_what_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    read = read_foreign_features(trident(tmp_path))
    with pytest.raises(UsageError, match="have 256 px, not 224"):
        imported_facts(read, slide_id="S1", backbone="uni", mpp=Mpp(0.5), tile_px=TilePx(224))
    with pytest.raises(UsageError, match=r"have 0\.5 µm per pixel on a slide of 0\.25, not 1"):
        imported_facts(read, slide_id="S1", backbone="uni", mpp=Mpp(1), slide_mpp=Mpp(0.25))
    near = imported_facts(read, slide_id="S1", backbone="uni", mpp=Mpp(0.5), slide_mpp=Mpp(0.252))
    assert near.mpp == 0.504


# ----- writing -----


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


def test_anndata_reads_what_we_write(tmp_path: Path, bag: Bag) -> None:
    write_anndata(tmp_path / "a.h5ad", bag)
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    for table in (read, to_anndata(bag)):
        assert table.X.dtype == np.float32
        np.testing.assert_array_equal(table.X, bag.features)
        np.testing.assert_array_equal(table.obsm["spatial"], bag.coords)
        assert list(table.obs["slide_id"].unique()) == [bag.slide_id]
        assert (table.obs_names[3], table.var_names[3]) == ("Präparat 7.1:3", "uni2-h:3")
        assert table.obs_names.is_unique
        facts = table.uns["wsipipe"]
        assert (facts["mpp"], facts["weights_digest"]) == (bag.facts.mpp, "sha256:3")
        assert list(facts["transform"]["mean"]) == [0.5, 0.25, 0.125]
        assert "crop" not in facts["transform"]
        np.testing.assert_array_equal(facts["bad_tiles"], bag.facts.bad_tiles)


def test_equal_bags_give_equal_bytes(tmp_path: Path, bag: Bag, tiles: TileSet) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        time.sleep(1.1 if folder.name == "two" else 0)  # formats that write the time do so in seconds
        write_trident_features(folder / "t" / "a.h5", bag, tiles)
        write_clam_features(folder / "c", "a", bag)
        write_anndata(folder / "a.h5ad", bag)
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
