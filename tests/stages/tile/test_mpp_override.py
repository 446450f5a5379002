"""What the user says of a slide's resolution fills what the file does not say, and contradicts nothing in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from command import told, wsipipe
from PIL import Image
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.tiling.store import read_tiles

TILES = Path("work/tiles/1mpp-64px")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture() -> np.ndarray:
    pixels = np.full((512, 512, 3), 243, np.uint8)
    pixels[100:400, 100:400] = np.random.default_rng(0).normal((190, 110, 170), 25, (300, 300, 3)).clip(0, 255)
    return pixels


def write(name: str, mpp: tuple[float, float] | None) -> Path:
    """A TIFF or OME-TIFF that states so many µm per pixel, or a plain image, which states nothing."""
    if name.endswith(".png"):
        Image.fromarray(picture()).save(name)
        return Path(name)
    stated = {} if mpp is None else {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(name, picture(), tile=(128, 128), photometric="rgb", ome=".ome." in name, **stated)
    return Path(name)


def record(slide: str) -> Record:
    return Manifest.of(TILES).latest("tile")[slide]


def tile(*words: object, code: int = 0) -> dict[str, object]:
    return told("tile", "--mpp", 1, "--tile-px", 64, "--allow-upsample", *words, code=code)["tile"]


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_contradiction_fails_the_slide_until_it_is_asked_for_by_name(name: str) -> None:
    path = write(name, (0.5, 0.5))
    (failure,) = tile(path, "--mpp-override", 1, code=1)["failures"]
    assert "the file states 0.5 µm per pixel, and 1 is given" in failure["message"]
    assert "--overrule-mpp" in failure["hint"]
    tile(path, "--mpp-override", 1, "--overrule-mpp")
    assert read_tiles(TILES / "a.h5").slide_mpp == 1
    assert record("a").stats["mpp_override"] == 1
    tile(path)
    assert read_tiles(TILES / "a.h5").slide_mpp == 0.5
    assert "mpp_override" not in record("a").stats


@pytest.mark.parametrize(
    ("name", "stated", "counts"),
    [
        ("a.tif", None, 0.5),
        ("a.ome.tif", None, 0.5),
        ("a.png", None, 0.5),
        ("a.tif", (25400 / 72, 25400 / 72), 0.5),  # a printer's 72 dpi
        ("a.tif", (0.5, 0.25), 0.5),  # not square: which side is right, the file does not know
        ("a.tif", (0.4975, 0.4975), 0.4975),  # 20x by its label; what the file measured counts
    ],
)
def test_an_override_fills_what_is_missing(name: str, stated: tuple[float, float] | None, counts: float) -> None:
    tile(write(name, stated), "--mpp-override", 0.5)
    # An older tifffile writes the resolution as a coarser fraction.
    assert read_tiles(TILES / "a.h5").slide_mpp == pytest.approx(counts, rel=1e-5)
    assert ("mpp_override" in record("a").stats) == (counts == 0.5), "what later stages open it with"


def test_the_tables_mpp_contradicts_nothing_either() -> None:
    slides = [write("says.tif", (0.5, 0.5)), write("silent.tif", None)]
    Path("t.csv").write_text("slide_id,patient_id,mpp\nsays,P1,0.25\nsilent,P2,0.25\n")
    (failure,) = tile(*slides, "--table", "t.csv", code=1)["failures"]
    assert failure["item"] == "says"
    assert read_tiles(TILES / "silent.h5").slide_mpp == 0.25
    tile(*slides, "--table", "t.csv", "--overrule-mpp")
    assert read_tiles(TILES / "says.h5").slide_mpp == 0.25
    assert wsipipe("tile", *slides, "--mpp-override", 0).exit_code == 2


def test_a_name_from_a_mac_finds_its_row() -> None:
    write("Pra\u0308parat 7.tif", None)
    Path("t.csv").write_text("slide_id,patient_id,mpp\nPr\u00e4parat 7,P1,0.25\n", encoding="utf-8")
    tile(".", "--table", "t.csv")
    assert read_tiles(TILES / "Pr\u00e4parat 7.h5").slide_mpp == 0.25
    Path("t.csv").write_text("slide_id,patient_id,path,mpp\nx,P1,Pr\u00e4parat 7.tif,0.25\n", encoding="utf-8")
    tile("--table", "t.csv")
    assert read_tiles(TILES / "x.h5").slide_mpp == 0.25


def test_slides_without_a_row_and_rows_without_a_slide_are_named() -> None:
    write("a.png", None)
    write("lost.png", None)
    Path("t.csv").write_text("slide_id,patient_id,mpp\na,P1,1.0\ngone,P2,1.0\n")
    result = wsipipe("tile", "a.png", "lost.png", "--table", "t.csv", "--mpp", 1, "--tile-px", 64)
    text = " ".join(result.output.split())
    assert "slides on disk that no row names: 1 (lost)" in text
    assert "slides of the table not on disk: 1 (gone)" in text
