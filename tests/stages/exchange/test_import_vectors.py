"""`wsipipe import` of slide vectors: what other programs have made trains, is compared and predicts here."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from command import told, wsipipe
from foreign_vectors import COORDS, TITAN, slide2vec_vector, stamp_vector, trident_vector, vector_of
from html_page import Page
from trained_workspace import bundle_facts
from wsipipe.data.errors import StoreError
from wsipipe.data.features.store import read_bag
from wsipipe.data.interop.slide_vectors import find_vectors, read_hdf5_vector
from wsipipe.models.backbones.backbone import backbone_called
from wsipipe.models.slide_encoders.registry import encoder_called, registry
from wsipipe.stages.exchange.slide2vec import read_vector

NAME = "0.5mpp-512px/titan-imported-of-conch-v1.5"
PATIENTS = 24


def cohort(folder: Path, first: int = 0, patients: int = PATIENTS) -> Path:
    """TRIDENT's vectors of patients with a slide each, and their table beside it; half of them positive."""
    rows = [("slide_id", "patient_id", "er")]
    for n in range(first, first + patients):
        trident_vector(folder / "slide_features_titan" / f"S{n}.h5", vector_of(n, n % 2 == 1))
        rows.append((f"S{n}", f"P{n}", "positive" if n % 2 else "negative"))
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def said(result: object) -> str:
    """The output as running text."""
    return " ".join(str(result.output).replace("│", " ").split())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with TRIDENT's vectors, a workspace that they were imported into, and a model of them."""
    folder = cohort(tmp_path_factory.mktemp("vectors"))
    done = told("import", folder / "slide_features_titan", "--mpp", 0.5, "-w", folder / "work")["encode"]
    assert done["done"] == PATIENTS
    told(*_train(folder), "--features", NAME)
    return folder


def _train(folder: Path) -> list[object]:
    table = ["--table", folder / "cohort.csv", "--name", "er", "--label-column", "er"]
    how = ["--method", "linear", "--folds", 2, "--no-figures", "--device", "cpu"]
    return ["train", "-w", folder / "work", *table, *how]


def test_a_store_says_what_is_known_and_what_is_not(imported: Path) -> None:
    bag = read_bag(imported / "work/slide_features" / NAME / "S1.zarr")
    np.testing.assert_array_equal(bag.features, vector_of(1, positive=True)[None])
    assert bag.coords.tolist() == [[0, 512]]
    facts = bag.facts
    assert (facts.backbone, facts.mpp, facts.tile_px, facts.tile_size_level0) == ("conch-v1.5", 0.5, 512, 1024)
    assert facts.slide_encoder == "titan unknown: imported from trident"
    assert facts.encoding is not None
    assert (facts.encoding.tiles, facts.encoding.tile_width) == (3, None)
    assert facts.weights_digest == "unknown: imported from trident"


def test_what_is_done_is_skipped_and_a_changed_file_is_not(imported: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(imported, tmp_path / "mine", ignore=shutil.ignore_patterns("models")))
    call = ["import", mine / "slide_features_titan", "--mpp", 0.5, "-w", mine / "work"]
    told(*call)  # the files lie elsewhere now
    assert told(*call)["encode"]["done"] == 0
    trident_vector(mine / "slide_features_titan/S1.h5", vector_of(99))
    assert told(*call)["encode"]["done"] == 1
    verified = wsipipe("verify", "-w", mine / "work", "--deep")
    assert verified.exit_code == 0, verified.output
    items = json.loads(wsipipe("status", "-w", mine / "work", "--json").stdout)["items"]
    assert {item["state"] for item in items if item["stage"] == "encode"} == {"done"}


def test_a_probe_learns_from_them(imported: Path) -> None:
    metrics = json.loads((imported / "work/models/er/metrics.json").read_text())
    assert metrics["pooled"]["auc"]["value"] > 0.9
    recipe = bundle_facts(imported / "work/models/er")["recipe"]
    assert recipe["tile"] == {"mpp": 0.5, "tile_px": 512}
    assert recipe["extract"] == {"backbone": "conch-v1.5"}
    assert recipe["encode"] == {"encoder": "titan"}


def test_the_report_says_how_it_is_made_again(imported: Path) -> None:
    """By their import: no tiles were made and no features of tiles extracted here."""
    page = Page((imported / "work/models/er/report.html").read_text()).text
    flags = "--encoder titan --backbone conch-v1.5 --mpp 0.5 --tile-px 512"
    assert f"wsipipe import VECTORS {flags} -c settings.toml" in page
    assert f"wsipipe train -c settings.toml --name er --features {NAME}" in page
    assert "wsipipe tile -c" not in page
    settings = tomllib.loads((imported / "work/models/er/tables/settings.toml").read_text())
    assert settings["train"]["method"] == "linear"
    assert not settings.keys() & {"tile", "extract", "encode"}


def test_a_comparison_reads_them(imported: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(imported, tmp_path / "mine"))
    for n in range(PATIENTS):
        path = mine / "slide_features_madeleine" / f"S{n}.h5"
        trident_vector(path, vector_of(n + 500, n % 2 == 1, 512), patch_size=512)
    told("import", mine / "slide_features_madeleine", "--mpp", 0.5, "-w", mine / "work")
    other = "linear@madeleine-imported-of-conch"
    table = ["--table", mine / "cohort.csv", "--name", "er", "--label-column", "er", "--folds", 2, "--device", "cpu"]
    told("compare", "-w", mine / "work", *table, "--features", NAME, "--methods", f"linear,{other}")
    with (mine / "work/comparisons/er/comparison.csv").open() as stream:
        rows = {row["method"]: float(row["auc"]) for row in csv.DictReader(stream)}
    assert rows.keys() == {"linear", other}
    assert min(rows.values()) > 0.9


def test_new_slides_are_predicted_from_their_vectors_and_from_nothing_else(imported: Path, tmp_path: Path) -> None:
    new = cohort(tmp_path, first=1000, patients=4)
    told("import", new / "slide_features_titan", "--mpp", 0.5, "-w", new / "work")
    model = imported / "work/models/er"
    told("predict", "--model", model, "--features", NAME, "-w", new / "work")
    output = json.loads((new / "work/predictions/er/slides/S1001.json").read_text())
    assert output["tiles"] == 3
    told("evaluate", "--model", model, "--table", new / "cohort.csv", "--features", NAME, "-w", new / "work")
    metrics = json.loads((new / "work/evaluations/er/metrics.json").read_text())
    assert metrics["pooled"]["auc"]["value"] == 1.0

    refused = wsipipe("predict", new, "--model", model, "-w", new / "work")
    assert refused.exit_code == 2
    assert "slide vectors of titan that trident has made" in said(refused)
    assert f"--features {NAME}" in said(refused)

    for n in range(1000, 1004):  # of another program: nobody knows whether by the same weights
        stamp_vector(new / "mahmood-titan-slide-1a2b3c4d" / f"S{n}.h5", vector_of(n, n % 2 == 1))
    stamp = ["import", new / "mahmood-titan-slide-1a2b3c4d", "--mpp", 0.5, "--tile-px", 512, "-w", tmp_path / "stamp"]
    told(*stamp)
    refused = wsipipe("predict", "--model", model, "--features", NAME, "-w", tmp_path / "stamp")
    assert refused.exit_code == 1
    assert "slide encoder is titan unknown: imported from stamp, not titan unknown: imported from trident" in said(
        refused
    )


def test_vectors_of_training_patients_are_not_read_by_the_folds_that_trained_on_them(imported: Path) -> None:
    work = imported / "work"
    told("predict", "--model", work / "models/er", "--features", NAME, "-w", work, "--name", "own")
    output = json.loads((work / "predictions/own/slides/S1.json").read_text())
    assert len(output["logits"]) == 1


def test_the_three_programs_say_the_same_of_a_slide(tmp_path: Path) -> None:
    vector = vector_of(1)
    trident = read_vector(trident_vector(tmp_path / "S1.h5", vector))
    stamp = read_vector(stamp_vector(tmp_path / "stamp/S1.h5", vector))
    slide2vec = read_vector(slide2vec_vector(tmp_path, "S1", vector))
    for read in (trident, stamp, slide2vec):
        np.testing.assert_array_equal(read.vector, vector)
    assert (trident.tiles, trident.tile_px, trident.size_level0, trident.mpp) == (3, 512, 1024, None)
    assert (stamp.tiles, stamp.tile_px, stamp.mpp, stamp.encoder) == (None, None, None, "mahmood-titan")
    assert (slide2vec.tiles, slide2vec.tile_px, slide2vec.size_level0, slide2vec.mpp) == (3, 512, 1024, 0.5)
    assert (slide2vec.encoder, slide2vec.backbone, slide2vec.name) == ("titan", "conchv15", "S1")
    for half in (vector.astype(np.float16), vector[None]):
        np.testing.assert_allclose(read_vector(trident_vector(tmp_path / "S1.h5", half)).vector, vector, atol=2e-3)
    one = read_vector(trident_vector(tmp_path / "S1.h5", vector, COORDS[0]))  # TRIDENT squeezes the only tile's
    assert (one.tiles, one.corner) == (1, (1024, 512))


def test_slide2vec_needs_no_flag_and_stamp_needs_those_of_its_tiles(tmp_path: Path) -> None:
    slide2vec_vector(tmp_path, "S1", vector_of(1))
    told("import", tmp_path / "slide_embeddings", "-w", tmp_path / "work")
    assert read_bag(tmp_path / "work/slide_features" / NAME / "S1.zarr").facts.mpp == 0.5
    folder = stamp_vector(tmp_path / "mahmood-titan-slide/S1.h5", vector_of(1)).parent
    call = ["import", folder, "-w", tmp_path / "stamp"]
    for flags, missing in (([], "--mpp"), (["--mpp", 0.5], "--tile-px")):
        refused = wsipipe(*call, *flags)
        assert refused.exit_code == 2
        assert f"give {missing}" in said(refused)
    told(*call, "--mpp", 0.5, "--tile-px", 512)
    facts = read_bag(tmp_path / "stamp/slide_features" / NAME / "S1.zarr").facts
    assert facts.encoding is not None
    assert facts.encoding.tiles is None


@pytest.mark.parametrize(
    ("folder", "flags", "message"),
    [
        ("slide_features_titan", [], "neither the folder nor the files tell the tiles' µm per pixel"),
        (
            "slide_features_titan",
            ["--mpp", 0.5, "--encoder", "prism"],
            "the slide encoder is said to be titan and prism",
        ),
        ("slide_features_titan", ["--mpp", 0.5, "--backbone", "uni"], "is said to be uni and conch-v1.5"),
        ("slide_features_titan", ["--mpp", 0.5, "--tile-px", 256], "the side of a tile is said to be 256 and 512"),
        ("slide_features_titan", ["--mpp", 0], "--mpp 0 is no size"),
        ("slide_features_titan", ["--mpp", "nan"], "--mpp nan is no size"),
        ("slide_features_titan", ["--mpp", 0.5, "--tile-px", -5], "--tile-px -5 is no size"),
        ("slide_features_titan", ["--mpp", 0.5, "--tiles", "none"], "no tiles are called so"),
        ("slide_features_titan", ["--mpp", 0.5, "--pooling", "cls"], "go with features of tiles"),
        ("slide_features_cobra", ["--mpp", 0.5], "give --backbone"),
        ("slide_features_cobra", ["--mpp", 0.5, "--backbone", "phikon"], "cobra reads features of virchow2 or uni"),
        ("slide_features_care", ["--mpp", 0.5], "give --backbone"),
        ("vectors", ["--mpp", 0.5], "--mpp and --tile-px go with slide vectors"),
        ("vectors", [], "nobody says which backbone made these features"),
    ],
)
def test_what_can_be_read_two_ways_is_asked_for(folder: str, flags: list[object], message: str, tmp_path: Path) -> None:
    trident_vector(tmp_path / folder / "S1.h5", vector_of(1))
    refused = wsipipe("import", tmp_path / folder, *flags, "-w", tmp_path / "work")
    assert refused.exit_code == 2
    assert message in said(refused)
    assert not (tmp_path / "work/slide_features").exists()


@pytest.mark.parametrize(
    ("encoder", "flags", "name"),
    [
        ("mean-uni_v1", [], "mean-imported-of-uni"),
        ("gigapath", [], "gigapath-imported-of-prov-gigapath"),
        ("feather_uni_v2", [], "feather-uni2-h-imported-of-uni2-h"),
        ("care", ["--backbone", "conch_v15"], "care-imported-of-conch_v15"),
        ("cobra", ["--backbone", "uni"], "cobra-imported-of-uni"),
    ],
)
def test_names_of_trident_are_names_here(encoder: str, flags: list[object], name: str, tmp_path: Path) -> None:
    card = encoder_called(encoder)
    width = (card.width if card else None) or 64
    trident_vector(tmp_path / f"slide_features_{encoder}" / "S1.h5", vector_of(1, width=width))
    call = ["import", tmp_path / f"slide_features_{encoder}", "--mpp", 0.5, *flags, "-w", tmp_path / "work"]
    known = [backbone_called(str(flag)) for flag in flags[1:]]
    told(*call)
    name = name.replace(str(flags[1]), known[0].name) if flags and known[0] else name
    assert [folder.name for folder in (tmp_path / "work/slide_features/0.5mpp-512px").iterdir()] == [name]


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: trident_vector(f / "S1.h5", np.zeros((3, TITAN), np.float32)), "holds 3 vectors, as features of tiles"),
    (lambda f: trident_vector(f / "S1.h5", np.zeros((1, TITAN), np.float32), COORDS[:1]), "may be the features of its"),
    (lambda f: trident_vector(f / "S1.h5", np.full(TITAN, np.nan, np.float32)), "NaN or infinity"),
    (lambda f: trident_vector(f / "S1.h5", np.full(TITAN, 1e300)), "NaN or infinity"),
    (lambda f: trident_vector(f / "S1.h5", np.zeros(0, np.float32)), "has the shape (0,)"),
    (lambda f: trident_vector(f / "S1.h5", np.zeros(TITAN, np.int32)), "the type int32"),
    (lambda f: trident_vector(f / "S1.h5", np.float32(1)), "has the shape ()"),
    (lambda f: stamp_vector(f / "S1.h5", vector_of(1), feat_type="patient"), "the vector of a patient"),
    (lambda f: stamp_vector(f / "S1.h5", vector_of(1), feat_type=None, encoder=None), "does not say that it holds"),
    (lambda f: (f / "S1.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "not HDF5, or damaged"),
    (lambda f: torch.save({"a": torch.zeros(3)}, f / "S1.pt"), "does not hold one plain tensor"),
    (lambda f: torch.save(torch.zeros(1).expand(10**12), f / "S1.pt"), "claim to hold"),
    (lambda f: (f / "S1.pt").write_bytes(b"PK\x03\x04" + bytes(50)), "no tensor, or damaged"),
    (lambda f: torch.save(torch.zeros(3), f / "S1.pt"), "there is no such file"),  # its metadata
    (
        lambda f: slide2vec_vector(f.parent, "S1", vector_of(1), artifact_type="tile_embeddings").rename(f / "S1.pt"),
        "by its metadata, not of slide_embeddings",
    ),
]


@pytest.mark.parametrize(("write", "message"), WRONG)
def test_a_file_that_holds_no_slides_vector_is_refused_by_name(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "slide_embeddings"
    folder.mkdir()
    write(folder)
    with pytest.raises(StoreError) as caught:
        read_vector(next(path for path in folder.iterdir() if path.suffix in (".h5", ".pt")))
    assert message in caught.value.what
    assert caught.value.path is not None
    assert caught.value.hint


def test_a_file_that_contradicts_the_others_fails_alone(tmp_path: Path) -> None:
    folder = tmp_path / "slide_features_titan"
    trident_vector(folder / "S1.h5", vector_of(1))
    trident_vector(folder / "S2.h5", vector_of(2, width=512))
    trident_vector(folder / "S3.h5", vector_of(3), patch_size=256, patch_size_level0=512)
    trident_vector(folder / "S4.h5", vector_of(4))
    with h5py.File(folder / "S4.h5", "a") as file:
        file["features"].attrs["name"] = "S9"
    stamp_vector(folder / "S5.h5", vector_of(5), encoder="paigeai-prism")
    (folder / "S6.h5").write_bytes(b"")
    trident_vector(folder / "S7.h5", vector_of(7), level0_magnification=20, target_magnification=10)
    (folder / "S1.h5.lock").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    done = told("import", folder, "--mpp", 0.5, "-w", tmp_path / "work", code=1)["encode"]
    assert done["done"] == 1
    failures = {failure["item"]: failure["message"] for failure in done["failures"]}
    assert "has 512 numbers, and those of titan have 768" in failures["S2"]
    assert "its tiles have 256 px, not 512" in failures["S3"]
    assert "of the slide S9" in failures["S4"]
    assert "of the encoder paigeai-prism, not of titan" in failures["S5"]
    assert "S6" in failures
    assert "its tiles are 10x, which is 0.6 to 1.28 µm per pixel, and not 0.5" in failures["S7"]
    assert find_vectors(folder).others == ["notes.txt"]


def test_no_file_is_dropped_in_silence(tmp_path: Path) -> None:
    """Links to nothing, folders, names that differ in case or in how an accent is written, another case of .h5."""
    folder = tmp_path / "slide_features_titan"
    for name in ("S1", "S2", "s2", "S3", "\u00c4", "A\u0308"):
        trident_vector(folder / f"{name}.h5", vector_of(1))
    (folder / "S3.h5").rename(folder / "S3.H5")
    (folder / "S4.h5").symlink_to(tmp_path / "gone.h5")
    (folder / "S5.h5").mkdir()
    (folder / "S6.pt.lock").symlink_to(tmp_path / "gone.lock")
    found = find_vectors(folder)
    assert {slide: file.name for slide, file in found.of_slides.items()} == {"S1": "S1.h5", "S3": "S3.H5"}
    assert {slide: error.what for slide, error in found.wrong.items()} == {
        "S2": "there are two files of s2, the other is S2.h5",
        "S4": "is a link to a file that is not there",
        "\u00c4": "there are two files of \u00c4, the other is A\u0308.h5",
    }
    assert found.others == ["S5.h5"]
    assert read_vector(found.of_slides["S3"]).name == "S3"


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a" * 210])
def test_a_name_that_can_be_no_id_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "slide_features_titan"
    trident_vector(folder / "S1.h5", vector_of(1))
    trident_vector(folder / f"{name}.h5", vector_of(2))
    with pytest.raises(StoreError, match="the slide id") as caught:
        find_vectors(folder)
    assert caught.value.hint == "rename the file"


def test_an_accent_is_written_in_one_way(tmp_path: Path) -> None:
    """A Mac writes it as two characters, also into the file."""
    folder = tmp_path / "slide_features_titan"
    trident_vector(folder / "A\u0308.h5", vector_of(1))
    done = told("import", folder, "--mpp", 0.5, "-w", tmp_path / "work")["encode"]
    assert done["done"] == 1
    assert (tmp_path / "work/slide_features" / NAME / "\u00c4.zarr").is_dir()


def test_ids_of_other_people_are_told_apart_where_the_user_says_so(imported: Path, tmp_path: Path) -> None:
    """Equal vectors are of one slide in any case, as equal bytes are; equal ids need not be."""
    mine = tmp_path / "mine"
    for n in range(4):
        trident_vector(mine / "slide_features_titan" / f"S{n}.h5", vector_of(900 + n, n % 2 == 1))
    trident_vector(mine / "slide_features_titan/renamed.h5", vector_of(1, positive=True))
    told("import", mine / "slide_features_titan", "--mpp", 0.5, "-w", mine / "work")
    call = ["predict", "--model", imported / "work/models/er", "--features", NAME, "-w", mine / "work"]
    told(*call)
    output = json.loads((mine / "work/predictions/er/slides/S1.json").read_text())
    assert len(output["logits"]) == 1
    assert "known by slide id" in output["why"]
    told(*call, "--other-patients")
    output = json.loads((mine / "work/predictions/er/slides/S1.json").read_text())
    assert len(output["logits"]) == 2
    assert "the same ids are other patients'" in output["why"]
    output = json.loads((mine / "work/predictions/er/slides/renamed.json").read_text())
    assert len(output["logits"]) == 1
    assert "known by slide bytes" in output["why"]
    rows = [("slide_id", "patient_id", "er"), *((f"S{n}", f"P{n}", ("negative", "positive")[n % 2]) for n in range(4))]
    with (mine / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    evaluate = ["evaluate", "--model", imported / "work/models/er", "--table", mine / "cohort.csv", "--features", NAME]
    refused = wsipipe(*evaluate, "-w", mine / "work")
    assert "4 of 4 patients trained this model" in said(refused)
    assert "--other-patients" in said(refused)
    told(*evaluate, "-w", mine / "work", "--other-patients")


def test_a_vector_of_two_patients_is_refused(tmp_path: Path) -> None:
    """One fold could be trained and tested on it."""
    mine = cohort(tmp_path, patients=12)
    trident_vector(mine / "slide_features_titan/S4.h5", vector_of(1, positive=True))
    told("import", mine / "slide_features_titan", "--mpp", 0.5, "-w", mine / "work")
    refused = wsipipe(*_train(mine), "--features", NAME)
    assert refused.exit_code == 1
    assert "slides S1 of patient P1 and S4 of patient P4 have the same vector" in said(refused)


def test_folders_that_hold_no_vectors(tmp_path: Path) -> None:
    (tmp_path / "slide_embeddings/tumor").mkdir(parents=True)
    with pytest.raises(StoreError) as caught:
        find_vectors(tmp_path / "slide_embeddings")
    assert caught.value.hint == "give one of its folders: tumor"
    old = tmp_path / "titan-slide-.h5"
    with h5py.File(old, "w") as file:  # an earlier STAMP: all in one file, of slides or of patients
        file["S1"] = vector_of(1)
    with pytest.raises(StoreError, match="no dataset `features`"):
        read_hdf5_vector(old)


def test_an_encoder_has_one_name_in_each_program() -> None:
    names = [name for card in registry().values() for name in (card.name, *card.also)]
    assert [encoder_called(name) for name in names] == [
        card for card in registry().values() for _ in (card.name, *card.also)
    ]
    for card in registry().values():
        assert all(backbone_called(name) for name in card.other_backbones)
