"""HDF5 files that lead to other files are refused; those that are written leave nothing behind on a full disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from tile_sets import tile_set
from wsipipe.data.errors import WsipipeError
from wsipipe.data.files.hdf5 import read_hdf5
from wsipipe.data.files.reading_process import UnreadableError
from wsipipe.data.interop.imported_features import read_foreign_features
from wsipipe.data.interop.tile_positions import read_foreign_tiles
from wsipipe.data.matrices.matrix import read_matrix
from wsipipe.data.tiling.grid import plan_grid
from wsipipe.data.tiling.store import count_tiles, read_tiles, write_tiles
from wsipipe.data.units import Mpp, TilePx


def write_our_tiles(path: Path) -> None:
    grid = plan_grid(
        level_dimensions=((640, 640),),
        level_downsamples=(1.0,),
        slide_mpp=Mpp(0.5),
        mpp=Mpp(0.5),
        tile_px=TilePx(64),
        overlap=TilePx(0),
        native_tolerance=0.02,
        allow_upsample=False,
    )
    write_tiles(path, tile_set(grid, grid.coords()[:20], 0.5, (640, 640)))


def write_foreign(path: Path) -> None:
    attributes = {
        "patch_size": 224,
        "patch_size_level0": 224,
        "level0_magnification": 20,
        "target_magnification": 20,
        "overlap": 0,
        "level0_width": 9000,
        "level0_height": 8000,
    }
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.arange(40).reshape(20, 2) * 224).attrs.update(attributes)
        file.create_dataset("features", data=np.ones((20, 16), np.float32)).attrs["encoder"] = "uni_v1"


def write_matrix(path: Path) -> None:
    patients = pd.DataFrame(index=[f"TCGA-AA-{number:04}" for number in range(6)])
    genes = pd.DataFrame(index=["ERBB2", "ESR1", "PGR", "MKI67"])
    anndata.AnnData(np.arange(24, dtype=np.float32).reshape(6, 4), obs=patients, var=genes).write_h5ad(path)


Readers = dict[str, tuple[Callable[[Path], None], str, Callable[[Path], object]]]
READERS: Readers = {
    "tiles": (write_our_tiles, "coords", read_tiles),
    "number of tiles": (write_our_tiles, "coords", count_tiles),
    "foreign tiles": (write_foreign, "coords", read_foreign_tiles),
    "foreign features": (write_foreign, "features", read_foreign_features),
    "matrix": (write_matrix, "X", read_matrix),
}


def link_to_another_file(file: h5py.File, name: str, other: Path) -> None:
    file[name] = h5py.ExternalLink(str(other), name)


def link_by_a_folder_of_another_file(file: h5py.File, name: str, other: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(other), "/")
    file[name] = h5py.SoftLink(f"/elsewhere/{name}")


def numbers_in_another_file(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as of:
        shape, kind = of[name].shape, of[name].dtype
    file.create_dataset(name, shape=shape, dtype=kind, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def numbers_of_another_files_array(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as of:
        shape, kind = of[name].shape, of[name].dtype
    layout = h5py.VirtualLayout(shape, kind)
    layout[:] = h5py.VirtualSource(str(other), name, shape)
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize(
    "lead_away",
    [
        link_to_another_file,
        link_by_a_folder_of_another_file,
        numbers_in_another_file,
        numbers_of_another_files_array,
    ],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_leads_to_another_one_is_refused(
    kind: str, lead_away: Callable[[h5py.File, str, Path], None], tmp_path: Path
) -> None:
    """The other file is a whole one: what is refused is to look there."""
    write, name, read = READERS[kind]
    path, other = tmp_path / "slide.h5ad", tmp_path / "private.h5"
    write(path)
    read(path)
    shutil.copy(path, other)
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        lead_away(file, name, other)
        if name in file and file.get(name, getlink=True).__class__ is h5py.HardLink:
            file[name].attrs.update(attributes)
    with pytest.raises(WsipipeError, match=r"another file") as caught:
        read(path)
    assert caught.value.path == str(path)


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["deep/inside"] = np.arange(3)
        file["name"] = h5py.SoftLink("/deep/inside")
        file["circle"] = h5py.SoftLink("/circle")
        file["deep/above"] = file["/"]
        layout = h5py.VirtualLayout((3,), int)
        layout[:] = h5py.VirtualSource(file["deep/inside"])
        file.create_virtual_dataset("virtual", layout)
    content = read_hdf5(path, "name", "virtual")
    assert content.arrays["name"].tolist() == content.arrays["virtual"].tolist() == [0, 1, 2]


def test_the_shapes_are_read_without_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_our_tiles(path)
    content = read_hdf5(path, "coords", "sharpness", "missing", only_shapes=True)
    assert (content.shapes, content.arrays) == ({"coords": (20, 2), "sharpness": (20,)}, {})
    with h5py.File(path) as file:
        at, size = file["sharpness"].id.get_chunk_info(0).byte_offset, path.stat().st_size
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    assert path.stat().st_size == size
    with pytest.raises(UnreadableError):
        read_hdf5(path, "sharpness")
    assert count_tiles(path) == 20


WRITE = """
import subprocess, sys
from pathlib import Path
import numpy as np
from wsipipe.data.errors import SurroundingsError
from wsipipe.data.features.store import Bag, FeatureFacts
from wsipipe.data.interop.anndata import write_anndata
from wsipipe.data.interop.clam import write_clam_features
from wsipipe.data.interop.trident import write_trident_features

folder = Path(sys.argv[1])
facts = FeatureFacts(
    slide_id="a", slide_digest="s", tiles_digest="t", mpp=0.5, tile_px=224, tile_size_level0=224.0, backbone="b",
    architecture="x", pooling="cls", width=256, weights_digest="w", precision="fp32", transform={},
)
bag = Bag("a", np.ones((100, 256), np.float16), np.zeros((100, 2), np.int64), facts)
writers = {
    "anndata": lambda: write_anndata(folder / "a.h5ad", bag),
    "trident": lambda: write_trident_features(folder / "a.h5", bag),
    "clam": lambda: write_clam_features(folder, "a", bag),
}
for name, write in writers.items():
    for kilobytes in range(88, 200, 16):  # full in the numbers, in what describes them, and in the last bytes
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", folder], check=True)
        try:
            write()
        except SurroundingsError as error:
            assert "No space left" in str(error), error
            print(name, "refused")
        else:
            print(name, "written")
        left = [file for file in folder.rglob("*") if file.is_file()]
        assert not [file for file in left if file.name.startswith(".partial-")], left
        for file in left:
            file.unlink()
"""


def test_a_full_disk_leaves_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=1m tmpfs '{tmp_path}'"
    if shutil.which("unshare") is None or subprocess.run([*enter, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    run = f"{mount} && exec '{sys.executable}' -c \"$0\" '{tmp_path}'"
    done = subprocess.run([*enter, "sh", "-c", run, WRITE], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), "HDF5 ends the process by a signal if a file cannot be closed"
    for name in ("anndata", "trident"):
        assert {f"{name} refused", f"{name} written"} <= set(done.stdout.splitlines())
    assert "clam refused" in done.stdout
