"""Damaged HDF5 files of TRIDENT, CLAM and STAMP: read, or refused with an error of ours, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from foreign_vectors import slide2vec_vector, stamp_vector, trident_vector, vector_of
from hdf5_damage import endless, make_absurd
from trial import Trial
from wsipipe.data.errors import InputError, SlideError, StoreError
from wsipipe.data.files import reading_process
from wsipipe.data.interop.imported_features import read_foreign_features
from wsipipe.data.interop.slide_vectors import read_hdf5_vector
from wsipipe.data.interop.tile_positions import read_foreign_tiles
from wsipipe.stages.exchange.slide2vec import metadata_of, read_vector

TRIDENT = {
    "patch_size": 224,
    "patch_size_level0": 448,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "slide",
    "level0_width": 9000,
    "level0_height": 8000,
}
CLAM = {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0, 2.0]), "name": "slide"}

READERS: dict[str, tuple[Callable[[Path], object], dict[str, object]]] = {
    "features of TRIDENT": (read_foreign_features, TRIDENT),
    "features of CLAM": (read_foreign_features, {}),
    "tiles of TRIDENT": (read_foreign_tiles, TRIDENT),
    "tiles of CLAM": (read_foreign_tiles, CLAM),
}


def write(path: Path, attributes: dict[str, object], compression: str | None = None) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["made by"] = "another program"
        coords = file.create_dataset("coords", data=rng.integers(0, 9000, (20, 2)), compression=compression)
        coords.attrs.update(attributes)
        features = file.create_dataset("features", data=rng.random((20, 16), np.float32), compression=compression)
        features.attrs["encoder"] = "uni_v1"
    return path


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files(kind: str, tmp_path: Path, survives: Callable[..., Trial]) -> None:
    read, attributes = READERS[kind]
    compression = "gzip" if "TRIDENT" in kind else None
    survives(read, write(tmp_path / "whole.h5", attributes, compression).read_bytes(), "slide.h5")


VECTORS: dict[str, Callable[[Path], Path]] = {
    "trident": lambda folder: trident_vector(folder / "slide.h5", vector_of(0, width=32)),
    "stamp": lambda folder: stamp_vector(folder / "slide.h5", vector_of(0, width=32)),
    "slide2vec": lambda folder: slide2vec_vector(folder, "slide", vector_of(0, width=32)),
}


@pytest.mark.parametrize("program", VECTORS)
def test_damaged_vectors(program: str, tmp_path: Path, survives: Callable[..., Trial]) -> None:
    path = VECTORS[program](tmp_path / "run")
    survives(read_vector, path.read_bytes(), path)


def test_damaged_metadata_of_a_vector(tmp_path: Path, survives: Callable[..., Trial]) -> None:
    path = slide2vec_vector(tmp_path, "slide", vector_of(0, width=32))
    for file in metadata_of(path):
        whole = file.read_bytes()
        survives(lambda _: read_vector(path), whole, file)
        file.write_bytes(whole)


def test_a_file_whose_reading_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "_SECONDS", 1)
    path = write(tmp_path / "slide.h5", TRIDENT)
    path.write_bytes(endless(path.read_bytes()))
    with pytest.raises(StoreError, match="damaged") as caught:
        read_foreign_features(path)
    assert caught.value.path == str(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("read", "name", "kind"),
    [
        (read_foreign_features, "features", StoreError),
        (read_foreign_features, "coords", StoreError),
        (read_foreign_tiles, "coords", SlideError),
        (read_hdf5_vector, "features", StoreError),
    ],
)
def test_an_absurd_shape_is_refused_with_the_limit(
    read: Callable[[Path], object], name: str, kind: type[InputError], tmp_path: Path
) -> None:
    path = write(tmp_path / "slide.h5", TRIDENT)
    make_absurd(path, name, (10**9, 2))
    with pytest.raises(kind, match=f"`{name}` has the shape .* may hold 268 MB"):
        read(path)


def test_attributes_that_refer_to_the_file_do_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "slide.h5", TRIDENT)
    with h5py.File(path, "r+") as file:
        file["coords"].make_scale("coords")
        file["features"].dims[0].attach_scale(file["coords"])
        file["features"].attrs["nothing"] = h5py.Empty("f")
    assert len(read_foreign_features(path).coords) == 20


@pytest.mark.parametrize("read", [read_foreign_features, read_foreign_tiles])
def test_sizes_beyond_all_numbers_are_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    for values in ({"patch_size": 1e300, "level0_magnification": 1e300}, {"target_magnification": 1e-320}):
        with pytest.raises(InputError, match="its magnifications"):
            read(write(tmp_path / "slide.h5", {**TRIDENT, **values}))
    for downsample in ((1e308, 1e308), (np.inf, np.inf), (np.nan, 1)):
        with pytest.raises(InputError, match="its downsample"):
            read(write(tmp_path / "slide.h5", {**CLAM, "downsample": np.array(downsample)}))


def test_names_that_are_no_text_are_written_out(tmp_path: Path) -> None:
    path = write(tmp_path / "slide.h5", TRIDENT)
    with h5py.File(path, "r+") as file:
        file["beside"], file["coords"].attrs["remark"] = [1], "Pr@parat"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"beside", b"b\xffside").replace(b"Pr@parat", b"Pr\xe4parat"))
    assert len(read_foreign_features(path).coords) == 20
    path.write_bytes(content.replace(b"uni_v1", b"uni_\xff1"))
    assert read_foreign_features(path).encoder == r"uni_\xff1"
    path.write_bytes(content.replace(b"coords", b"c\xffords"))
    with pytest.raises(StoreError, match=r"no dataset `coords` in it \(it holds beside, c\\xffords, features\)"):
        read_foreign_features(path)
