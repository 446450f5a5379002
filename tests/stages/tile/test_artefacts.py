"""`wsipipe tile --artefact-weights` as a lab uses it: counted, shown, dropped if asked, and part of the lineage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from artefact_weights import FOLD, PEN, save_colours
from command import told, wsipipe
from PIL import Image
from wsipipe.data.errors import BundleError, StoreError, UsageError
from wsipipe.data.manifest import Manifest, Record
from wsipipe.data.tiling.artefacts import ARTEFACTS, DroppedTiles, TileArtefacts
from wsipipe.data.tiling.store import read_tiles, write_tiles
from wsipipe.stages.tile.networks import given_networks, networks_in, recipe_of_tiles, refuse_other_networks
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.tile.why_empty import no_tile_kept
from wsipipe.stages.train.usable_slides import _why_unusable

WEIGHTS = "GrandQC_MPP1_state_dict.safetensors"
FOLDER = "tiles/0.5mpp-64px-artefacts"
WORDS = ("--mpp-override", 0.5, "--tile-px", 64, "--tissue", "all", "--device", "cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colours(tmp_path_factory.mktemp("weights") / WEIGHTS)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights, WEIGHTS)


def slide(path: str, *, spoiled: bool = False) -> str:
    """8 × 4 tiles of tissue: a fold on one of them, pen on half of another; or a fold all over."""
    pixels = np.clip(np.random.default_rng(0).normal((190, 110, 170), 12, (256, 512, 3)), 0, 255).astype(np.uint8)
    pixels[64:128, 128:192] = FOLD
    pixels[128:192, 320:352] = PEN
    if spoiled:
        pixels[:] = FOLD
    Image.fromarray(pixels).save(path)
    return path


def latest(folder: str = FOLDER, stage: str = "tile") -> dict[str, Record]:
    return Manifest.of(Path("work") / folder).latest(stage)


def test_artefacts_are_counted_shown_and_dropped_if_asked() -> None:
    words = ("tile", slide("a.png"), *WORDS)
    told(*words)
    plain = read_tiles(Path("work/tiles/0.5mpp-64px-all/a.h5"))
    assert plain.artefacts is None
    record = latest("tiles/0.5mpp-64px-all")["a"]
    assert not [name for name in record.stats if "artefact" in name]
    assert "artefact" not in Path("work/tiles/0.5mpp-64px-all/qc/index.html").read_text()

    words = (*words, "--artefact-weights", WEIGHTS)
    assert told(*words)["tile"]["stats"]["tiles"] == 32
    folder = Path("work/tiles/0.5mpp-64px-artefacts-all")
    tiles = read_tiles(folder / "a.h5")
    assert tiles.artefacts is not None
    shares = {tuple(at): share for at, share in zip(tiles.coords.tolist(), tiles.artefacts.shares, strict=True)}
    np.testing.assert_allclose(shares[128, 64], [1, 0, 0, 0, 0], atol=0.02)
    np.testing.assert_allclose(shares[320, 128], [0, 0, 0.5, 0, 0], atol=0.03)
    others = [share for at, share in shares.items() if at not in ((128, 64), (320, 128))]
    assert np.max(others) < 0.06, "the rim of a mark, at most"
    record = latest("tiles/0.5mpp-64px-artefacts-all")["a"]
    assert record.stats["artefact_fold"] == pytest.approx(1 / 32, abs=0.003)
    assert record.stats["artefact_pen"] == pytest.approx(0.5 / 32, abs=0.003)
    assert record.stats["artefact_fraction"] == pytest.approx(1.5 / 32, abs=0.005)
    assert (record.stats["dropped_artefact"], record.stats["artefact_out_of_focus"]) == (0, 0)
    assert record.settings["resolved"] == {"artefact_mpp": 1.0}
    page = (folder / "qc/index.html").read_text()
    assert "artefacts 4.7 % (fold 3.1 %, pen 1.6 %)" in page

    # The same mpp by flag or by name is the same; a limit is another setting.
    assert told(*words, "--artefact-mpp", 1)["tile"]["before"] == 1
    refused = wsipipe(*words, "--max-artefact", 0.6)
    assert refused.exit_code == 2
    assert "max_artefact" in refused.stderr
    stage = told(*words, "--max-artefact", 0.6, "--replace")["tile"]
    assert (stage["stats"]["tiles"], stage["stats"]["dropped_artefact"]) == (31, 1)
    fewer = read_tiles(folder / "a.h5")
    assert (128, 64) not in map(tuple, fewer.coords.tolist())
    assert (tiles.dropped, fewer.dropped and fewer.dropped.coords.tolist()) == (None, [[128, 64]])
    np.testing.assert_array_equal(fewer.dropped.artefacts.shares[0], shares[128, 64])
    counted = latest("tiles/0.5mpp-64px-artefacts-all")["a"].stats
    assert counted["artefact_fraction"] == record.stats["artefact_fraction"]
    page = (folder / "qc/index.html").read_text()
    assert "1 dropped for artefacts" in page


def test_a_slide_of_which_no_tile_is_left_is_empty_and_says_why() -> None:
    words = ("tile", slide("a.png", spoiled=True), *WORDS, "--artefact-weights", WEIGHTS, "--max-artefact", 0.5)
    assert told(*words)["tile"]["empty"] == 1
    record = latest(f"{FOLDER}-all")["a"]
    assert record.stats["dropped_artefact"] == 32
    tiles = read_tiles(Path(f"work/{FOLDER}-all/a.h5"))
    assert (len(tiles), tiles.dropped and len(tiles.dropped.coords)) == (0, 32)
    assert no_tile_kept(record) == "no tile kept: artefacts"
    assert _why_unusable(record, None, lineage=None) == "no tile kept: artefacts"  # type: ignore[arg-type]
    page = Path(f"work/{FOLDER}-all/qc/index.html").read_text()
    assert "no tile kept: artefacts" in page


def test_what_says_the_resolution_and_what_is_refused() -> None:
    slide("a.png")
    for name, mpp, wanted in (
        ("GrandQC_MPP1.pth", None, 1.0),
        ("GrandQC_MPP15_state_dict.pth", None, 1.5),
        ("grandqc_mpp2.safetensors", 2.0, 2.0),
        ("own.pth", 0.75, 0.75),
    ):
        assert TileSettings(artefact_weights=Path(name), artefact_mpp=mpp).mpp_of_artefacts() == wanted, name
    for name, mpp, words in (
        ("own.pth", None, "nothing says at how many µm"),
        ("GrandQC_MPP10.pth", None, "nothing says"),
        ("GrandQC_MPP15.pth", 1.0, "by its name GrandQC_MPP15.pth was trained at 1.5"),
    ):
        with pytest.raises(UsageError, match=words):
            TileSettings(artefact_weights=Path(name), artefact_mpp=mpp).mpp_of_artefacts()
    for words in (("--max-artefact", 0.5), ("--artefact-mpp", 1)):
        result = wsipipe("tile", "a.png", *WORDS, *words)
        assert result.exit_code == 2
        assert "no artefact weights" in result.stderr
    Path("own.safetensors").write_bytes(Path(WEIGHTS).read_bytes())
    result = wsipipe("tile", "a.png", *WORDS, "--artefact-weights", "own.safetensors")
    assert result.exit_code == 2
    assert "--artefact-mpp" in result.stderr


def test_other_weights_are_another_setting() -> None:
    words = ("tile", slide("a.png"), *WORDS, "--artefact-weights", WEIGHTS)
    told(*words)
    bytes_of = bytearray(Path(WEIGHTS).read_bytes())
    bytes_of[-1] ^= 1
    Path(WEIGHTS).write_bytes(bytes_of)
    result = wsipipe(*words)
    assert result.exit_code == 2
    assert "other artefact_weights" in result.stderr


# ----- the tile set -----


def test_a_tile_set_keeps_them_and_refuses_what_they_are_not(tmp_path: Path) -> None:
    told("tile", slide("a.png"), *WORDS, "--artefact-weights", WEIGHTS)
    tiles = read_tiles(Path(f"work/{FOLDER}-all/a.h5"))
    write_tiles(tmp_path / "again.h5", tiles)
    assert (tmp_path / "again.h5").read_bytes() == Path(f"work/{FOLDER}-all/a.h5").read_bytes()
    three = TileArtefacts(np.zeros((3, len(ARTEFACTS)), np.float32))
    whole = replace(tiles, dropped=DroppedTiles(tiles.coords[:3], three))
    write_tiles(tmp_path / "dropped.h5", whole)
    write_tiles(tmp_path / "dropped again.h5", read_tiles(tmp_path / "dropped.h5"))
    assert (tmp_path / "dropped.h5").read_bytes() == (tmp_path / "dropped again.h5").read_bytes()
    for wrong, words in (
        (replace(tiles, artefacts=three), "artefacts has the shape"),
        (replace(tiles, dropped=DroppedTiles(tiles.coords[:2], three)), "dropped_artefacts has the shape"),
        (replace(tiles, dropped=DroppedTiles(tiles.coords[:3, :1], three)), "dropped_coords has the shape"),
    ):
        write_tiles(tmp_path / "wrong.h5", wrong)
        with pytest.raises(StoreError, match=words):
            read_tiles(tmp_path / "wrong.h5")


# ----- models -----

ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.mark.parametrize(
    ("recipe", "here", "words"),
    [
        ({}, {}, ""),
        ({}, {"tissue_weights": ONE}, ""),  # a recipe of before does not say
        ({"tissue_weights": ONE, "artefact_weights": ONE}, {"tissue_weights": ONE, "artefact_weights": ONE}, ""),
        ({"tissue_weights": ONE}, {}, "tiled without the model's tissue weights"),
        ({"tissue_weights": ONE}, {"tissue_weights": OTHER}, "tiled with other tissue weights than the model's"),
        ({"artefact_weights": ONE}, {}, "tiled without the model's artefact weights"),
        ({"artefact_weights": ONE}, {"artefact_weights": OTHER}, "with other artefact weights"),
        ({}, {"artefact_weights": ONE}, "tiled with artefact weights, and the slides that the model was trained on"),
    ],
)
def test_tiles_of_other_networks_than_the_model_s_are_refused(recipe, here, words) -> None:
    if not words:
        refuse_other_networks(recipe, here, Path("tiles"))
        return
    with pytest.raises(BundleError, match=words) as refused:
        refuse_other_networks(recipe, here, Path("tiles"))
    assert "-weights" in refused.value.hint


def test_new_slides_are_tiled_with_the_model_s_networks_or_not_at_all() -> None:
    told("tile", slide("a.png"), *WORDS, "--artefact-weights", WEIGHTS)
    record = latest(f"{FOLDER}-all")["a"]
    recipe = recipe_of_tiles(record)
    assert networks_in(record) == {"artefact_weights": recipe["artefact_weights"]}
    assert recipe["artefact_mpp"] == 1.0
    assert "resolved" not in recipe
    given, notes = given_networks(recipe, TileSettings(artefact_weights=Path(WEIGHTS)), Path("model"))
    assert (given, notes) == ({"artefact_weights": Path(WEIGHTS)}, [])
    with pytest.raises(BundleError, match="tiled with artefact weights, and none are given"):
        given_networks(recipe, TileSettings(), Path("model"))
    Path("other.pth").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"other artefact weights than other\.pth"):
        given_networks(recipe, TileSettings(artefact_weights=Path("other.pth")), Path("model"))
    given, notes = given_networks({}, TileSettings(artefact_weights=Path("other.pth")), Path("model"))
    assert not given
    assert "other.pth is not used" in notes[0]
