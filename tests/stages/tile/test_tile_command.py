"""`wsipipe tile` and `wsipipe export` as a lab uses them: annotations, other tools' tiles, faults of all kinds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
from command import told, wsipipe
from PIL import Image
from safetensors.torch import save_file
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.tiling.store import read_tiles
from wsipipe.models.tissue_network import architecture

PIECES = ((200, 200), (1200, 1000))
"""Upper left corners of two square pieces of tissue of 700 px on a slide of 2048 × 2048 px at 0.5 µm per pixel."""
SIDE = 700


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def slide(path: Path, *, seed: int = 0, blurred: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    pixels = np.full((2048, 2048, 3), 243, np.uint8)
    for x, y in PIECES:
        pixels[y : y + SIDE, x : x + SIDE] = np.clip(rng.normal((190, 110, 170), 25, (SIDE, SIDE, 3)), 0, 255)
    if blurred:  # the second piece is out of focus
        x, y = PIECES[1]
        pixels[y : y + SIDE, x : x + SIDE] = (190, 110, 170)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((pixels, pixels[::4, ::4])):
            per_centimetre = 2e4 / 4**number
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(number > 0),
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
            )
    return path


def square(x: int, y: int, side: int, name: str) -> dict[str, Any]:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": [200, 0, 0]}},
    }


def annotate(path: Path, *features: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def records(folder: str = "tiles/0.5mpp-224px", stage: str = "tile") -> dict[str, Record]:
    return Manifest.of(Path("work") / folder).latest(stage)


# ----- where tissue comes from -----


def test_annotations_in_place_of_the_mask(tmp_path: Path) -> None:
    for name in ("a", "b"):
        slide(Path("slides") / f"{name}.tiff")
    annotate(Path("drawn/a.geojson"), square(448, 448, 448, "Tumor"), square(1344, 1120, 448, "Stroma"))
    words = ("tile", "slides", "--annotations", "drawn", "--annotation-classes", "tumor")
    stage = told(*words, code=1)["tile"]
    assert (stage["done"], [failure["item"] for failure in stage["failures"]]) == (1, ["b"])
    assert "looked for b.geojson" in stage["failures"][0]["message"]
    tiles = read_tiles(Path("work/tiles/0.5mpp-224px-annotated/a.h5"))
    assert tiles.coords.tolist() == [[448, 448], [672, 448], [448, 672], [672, 672]]
    assert (tiles.tissue_fraction > 0.99).all()
    # What is drawn anew is done anew, and only that.
    annotate(Path("drawn/b.geojson"), square(448, 448, 224, "Tumor"))
    assert (told(*words)["tile"]["done"], told(*words)["tile"]["before"]) == (1, 2)
    annotate(Path("drawn/b.geojson"), square(448, 448, 448, "Tumor"))
    stage = told(*words)["tile"]
    assert (stage["done"], stage["before"]) == (1, 1)
    assert len(read_tiles(Path("work/tiles/0.5mpp-224px-annotated/b.h5"))) == 4


def test_one_annotation_file_for_one_slide_and_a_class_that_is_not_there() -> None:
    file = annotate(Path("drawn.geojson"), square(448, 448, 448, "Tumor"))
    words = ("tile", slide(Path("a.tiff")), "--annotations", file)
    assert told(*words)["tile"]["done"] == 1
    [failure] = told(*words, "--annotation-classes", "Fat", "--replace", code=1)["tile"]["failures"]
    assert "Tumor" in failure["message"] + failure["hint"]


def test_tiles_of_trident_and_clam_come_back_as_they_were() -> None:
    slide(Path("slides/a.tiff"))
    told("tile", "slides")
    ours = read_tiles(Path("work/tiles/0.5mpp-224px/a.h5"))
    assert len(ours) > 10
    told("export", "clam")
    told("export", "trident")
    clam = Path("work/exports/clam/0.5mpp-224px")
    assert (clam / "process_list_autogen.csv").read_text().count("a.tiff") == 1
    trident = Path("work/exports/trident/0.5mpp-224px")
    assert (trident / "patches/a_patches.h5").read_bytes() == Path("work/tiles/0.5mpp-224px/a.h5").read_bytes()
    for number, folder in enumerate((clam, trident)):
        told("tile", "slides", "--coordinates", folder, "-w", f"again-{number}")
        theirs = read_tiles(Path(f"again-{number}/tiles/0.5mpp-224px-imported/a.h5"))
        np.testing.assert_array_equal(theirs.coords, ours.coords)
        assert theirs.grid == ours.grid
    [failure] = told("tile", "slides", "--coordinates", trident, "--mpp", 1, code=1)["tile"]["failures"]
    assert "--mpp 0.5" in failure["hint"]


def test_trident_believed_another_resolution_than_the_slide_has_here() -> None:
    """512 px of level 0, 20x of 40x: 0.5 µm where level 0 has 0.25, and 1 µm on this slide of 0.5."""
    path, folder = slide(Path("a.tiff")), Path("trident/patches")
    folder.mkdir(parents=True)
    with h5py.File(folder / "a_patches.h5", "w") as file:
        file["coords"] = [[512, 512]]
        sizes = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}
        file["coords"].attrs.update(sizes)
    words = ("tile", path, "--coordinates", "trident", "--tile-px", 256)
    for mpp in (0.5, 1):
        [failure] = told(*words, "--mpp", mpp, code=1)["tile"]["failures"]
        assert "its tiles are 20x" in failure["message"]
    assert told(*words, "--mpp", 1, "--mpp-override", 0.5, "--overrule-mpp", "--retry-failed")["tile"]["done"] == 1


def test_the_export_follows_the_tiles() -> None:
    slide(Path("slides/a.tiff"))
    told("tile", "slides")
    assert told("export", "clam")["export"]["done"] == 2  # the slide and the list
    assert told("export", "clam")["export"]["done"] == 0
    slide(Path("slides/b.tiff"), seed=1)
    told("tile", "slides")
    assert told("export", "clam")["export"]["done"] == 2  # the new slide and the list
    with h5py.File("work/exports/clam/0.5mpp-224px/patches/b.h5") as file:
        assert file["coords"].attrs["patch_size"] == 224


def test_a_network_in_place_of_the_mask(tmp_path: Path) -> None:
    """Weights that say "tissue" of everything: the mask would keep a part of the slide, this keeps all of it."""
    rng = np.random.default_rng(0)
    pixels = np.full((600, 600, 3), 243, np.uint8)
    pixels[:300, :300] = np.clip(rng.normal((190, 110, 170), 25, (300, 300, 3)), 0, 255)
    Image.fromarray(pixels).save("a.png")
    tensors = {name: tensor.contiguous() for name, tensor in architecture().state_dict().items()}
    tensors["classifier.4.weight"].zero_()
    tensors["classifier.4.bias"].copy_(torch.tensor([-1.0, 1.0]))
    save_file(tensors, "weights.safetensors")
    words = ("tile", "a.png", "--mpp-override", 0.5, "--tissue-weights", "weights.safetensors", "--device", "cpu")
    assert told(*words)["tile"]["done"] == 1
    assert len(read_tiles(Path("work/tiles/0.5mpp-224px-network/a.h5"))) == 4
    assert records("tiles/0.5mpp-224px-network")["a"].stats["tissue_verdict"] == "learned"
    assert told(*words)["tile"]["before"] == 1
    tensors["classifier.4.bias"].copy_(torch.tensor([1.0, -1.0]))
    save_file(tensors, "weights.safetensors")
    result = wsipipe(*words)
    assert result.exit_code == 2
    assert "other tissue_weights" in result.stderr
    assert told(*words, "--replace")["tile"]["empty"] == 1


def grey_slide(path: Path) -> Path:
    """Texture without any colour, hardly darker than the glass: dirt, or tissue that nobody has stained."""
    rng = np.random.default_rng(0)
    pixels = np.full((2048, 2048, 1), 243.0)
    grain = np.asarray(Image.fromarray(rng.normal(0, 12, (88, 88)).astype(np.float32)).resize((1400, 1400)))
    pixels[300:1700, 300:1700] = (222 + grain)[..., None]
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8).repeat(3, axis=2)).save(path)
    return path


def test_a_slide_that_is_not_understood_is_named_and_tissue_is_the_way_out() -> None:
    words = ("tile", grey_slide(Path("grey.png")), "--mpp-override", 0.5)
    result = wsipipe(*words)
    assert result.exit_code == 0
    assert "grey: tissue could not be recognised reliably" in result.stderr
    assert "--tissue" in result.stderr
    assert records()["grey"].stats["tissue_verdict"] == "not understood"
    assert told(*words, "--tissue", "all")["tile"]["stats"]["tiles"] == 81
    for way, folder in (("glass", "glass"), ("9", "darker9")):
        stage = told(*words, "--tissue", way)["tile"]
        assert 25 <= stage["stats"]["tiles"] <= 49, way
        assert records(f"tiles/0.5mpp-224px-{folder}")["grey"].status == "done"
    # Of a slide that is understood, nothing is said.
    quiet = wsipipe("tile", slide(Path("a.tiff")))
    assert "not understood" not in quiet.stderr


def test_tissue_can_come_from_one_place_only() -> None:
    slide(Path("a.tiff"))
    result = wsipipe("tile", "a.tiff", "--annotations", "x", "--tissue", "all")
    assert result.exit_code == 2
    assert "tissue and annotations both say where the tissue is" in result.stderr
    for wrong in ("some", "0", "255", "1.5", "-3"):
        assert wsipipe("tile", "a.tiff", f"--tissue={wrong}").exit_code == 2, wrong
    result = wsipipe("tile", "a.tiff", "--annotations", "x", "--coordinates", "y")
    assert result.exit_code == 2
    assert "annotations and coordinates both say where the tissue is" in result.stderr
    assert wsipipe("tile", "a.tiff", "--annotation-classes", "Tumor").exit_code == 2


def test_tiles_that_are_not_sharp_are_dropped_and_counted() -> None:
    slide(Path("slides/a.tiff"), blurred=True)
    everything = told("tile", "slides")["tile"]
    tiles = read_tiles(Path("work/tiles/0.5mpp-224px/a.h5"))
    second = tiles.coords[:, 0] > 1000
    inner = tiles.tissue_fraction == 1
    between = (tiles.sharpness[inner & second].max() + tiles.sharpness[inner & ~second].min()) / 2
    stage = told("tile", "slides", "--min-sharpness", f"{between:.6f}", "--replace")["tile"]
    kept = read_tiles(Path("work/tiles/0.5mpp-224px/a.h5"))
    assert not (inner & second)[np.isin(tiles.coords, kept.coords).all(axis=1)].any() or len(kept) < len(tiles)
    assert stage["stats"]["tiles"] + stage["stats"]["dropped_not_sharp"] == everything["stats"]["tiles"]
    assert {tuple(at) for at in tiles.coords[inner & ~second]} <= {tuple(at) for at in kept.coords}
    assert not {tuple(at) for at in tiles.coords[inner & second]} & {tuple(at) for at in kept.coords}


# ----- the page to leaf through -----


def test_the_index_page_holds_every_slide_and_follows_them() -> None:
    slide(Path("slides/a & b.tiff"))
    Path("slides/gone.tiff").write_bytes(b"")
    told("tile", "slides", code=1)
    page = Path("work/tiles/0.5mpp-224px/qc/index.html")
    text = page.read_text()
    assert "a &amp; b" in text
    assert "the file is empty (0 bytes)" in text
    assert told("tile", "slides", code=1)["index"]["done"] == 0
    Path("slides/gone.tiff").unlink()
    slide(Path("slides/gone.tiff"), seed=2)
    assert told("tile", "slides")["index"]["done"] == 1
    assert "the file is empty" not in page.read_text()


# ----- faults -----


def test_every_fault_fails_its_slide_alone_and_says_the_way_out(tmp_path: Path) -> None:
    good = slide(Path("slides/good.tiff"))
    whole = good.read_bytes()
    Path("slides/zero.tiff").write_bytes(b"")
    Path("slides/cut.tiff").write_bytes(whole[: len(whole) // 2])
    Path("slides/noise.svs").write_bytes(np.random.default_rng(0).bytes(5000))
    Path("slides/not an image.png").write_bytes(whole)
    (Path("slides") / "Ünï.cödé  (2) 试.tiff").write_bytes(whole)
    (Path("slides") / "with.dots.tiff").write_bytes(whole)
    (Path("slides") / "folder.svs").mkdir()
    stage = told("tile", "slides", code=1)["tile"]
    said = {failure["item"]: failure["message"] for failure in stage["failures"]}
    assert said.keys() == {"zero", "cut", "noise", "not an image"}
    assert "0 bytes" in said["zero"]
    assert "truncated" in said["cut"]
    assert all(failure["hint"] for failure in stage["failures"])
    assert {name for name, record in records().items() if record.status == "done"} == {
        "good",
        "Ünï.cödé  (2) 试",
        "with.dots",
    }
    for name in ("good", "Ünï.cödé  (2) 试", "with.dots"):
        assert Path(f"work/tiles/0.5mpp-224px/{name}.h5").is_file()
        assert Path(f"work/tiles/0.5mpp-224px/qc/{name}.jpg").is_file()


def test_one_stem_twice_a_folder_as_slide_and_a_pipe_are_refused_before_any_work(tmp_path: Path) -> None:
    slide(Path("slides/a.tiff"))
    slide(Path("more/a.tif"))
    result = wsipipe("tile", "slides", "more")
    assert result.exit_code == 1
    assert "two slides are called 'a'" in result.stderr
    Path("empty").mkdir()
    assert "no slides here" in wsipipe("tile", "empty").stderr
    os.mkfifo("pipe.svs")
    result = wsipipe("tile", "pipe.svs")
    assert result.exit_code == 2
    assert "neither a file nor a folder" in result.stderr
    assert not Path("work").exists()


def test_a_slide_that_vanishes_fails_until_it_is_back() -> None:
    file = slide(Path("slides/a.tiff"))
    link = Path("slides/b.tiff")
    link.symlink_to(Path("elsewhere.tiff").absolute())  # the share is not mounted
    assert told("tile", "slides")["tile"]["done"] == 1, "a link that leads nowhere is no slide"
    [failure] = told("tile", file, "--table", table("slide_id,patient_id,path\nc,C,slides/c.tiff\n"), code=0).get(
        "tile"
    )["failures"] or [None]
    assert failure is None
    stage = told("tile", "--table", "cohort.csv", code=1)["tile"]
    assert [failure["item"] for failure in stage["failures"]] == ["c"]
    slide(Path("slides/c.tiff"), seed=3)
    assert told("tile", "--table", "cohort.csv")["tile"]["done"] == 1


def table(text: str) -> Path:
    Path("cohort.csv").write_text(text)
    return Path("cohort.csv")


@pytest.mark.parametrize(("option", "said"), [("size=300k", "No space left"), ("ro", "Read-only file system")])
def test_a_disk_that_fills_or_is_read_only_is_told_and_nothing_half_written_stays(
    tmp_path: Path, option: str, said: str
) -> None:
    """In a mount namespace of its own, with a file system of 300 kB, or one that cannot be written to."""
    for number in range(4):
        slide(Path(f"slides/s{number}.tiff"), seed=number)
    Path("work").mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o {option} tmpfs '{tmp_path}/work'"
    if shutil.which("unshare") is None or subprocess.run([*enter, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    program = "from wsipipe.pipeline.cli import main; main()"
    tile = f"'{sys.executable}' -c '{program}' tile slides --workers 1; echo code $?; find work -name '.partial*'"
    done = subprocess.run([*enter, "sh", "-c", f"{mount} && {tile}"], capture_output=True, text=True)
    assert said in done.stdout + done.stderr, "under the closing table, or as what ends the command"
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("code 1"), done.stdout
