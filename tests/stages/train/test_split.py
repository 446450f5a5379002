"""The split: which slides and patients it takes, why it leaves others out, and that its settings are heard."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from anndata.io import read_elem
from planted_workspace import (
    FEATURES,
    TILES,
    Planted,
    digest_of_slide,
    make_patients,
    plant,
    record,
    write_rna,
    write_slide,
)
from wsipipe.data.cohort.labels import PatientLabels
from wsipipe.data.cohort.splits import make_splits, read_splits
from wsipipe.data.errors import CohortError
from wsipipe.data.manifest import InputRecord, Manifest, Status
from wsipipe.data.molecular.store import write_expression
from wsipipe.pipeline.results import Summary
from wsipipe.stages.tile.settings import TileSettings
from wsipipe.stages.train.fold import FoldCohort
from wsipipe.stages.train.split import read_patients, split_output, write_patients

PATIENTS = make_patients(24, without_rna=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("made"), PATIENTS)


@pytest.fixture
def mine(made: Planted, tmp_path: Path) -> Planted:
    return made.copied(tmp_path / "mine")


def split(planted: Planted, **settings: object) -> Summary:
    summary = planted.runner().run(planted.splitter(**settings))
    assert not summary.failures
    return summary


def dropped(planted: Planted) -> dict[str, str]:
    return {row.patient_id: row.reason for row in read_patients(planted.model / "patients.csv") if not row.used}


def tiled_again(planted: Planted, slide: str, status: Status = "done") -> None:
    """The slide has been tiled once more, with other tiles as the outcome, and its features have stayed."""
    tiles = planted.workspace / TILES / f"{slide}.h5"
    tiles.write_bytes(tiles.read_bytes() + b"more")
    made_from = {"slide": InputRecord(digest=digest_of_slide(slide))}
    record(planted, "tile", slide, TileSettings(min_tissue=0.9), made_from, {"tiles": tiles}, {}, status=status)


def rewrite_table(planted: Planted, **columns: Mapping[str, str]) -> None:
    """The cohort's table with a column more, or another one: by patient."""
    file = planted.folder / "cohort.csv"
    with file.open(newline="") as stream:
        rows = [
            {**row, **{name: values[row["patient_id"]] for name, values in columns.items()}}
            for row in csv.DictReader(stream)
        ]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# Slides


def test_features_of_earlier_tiles_are_not_used(mine: Planted) -> None:
    """Else the bundle would tell new slides to be tiled as its own never were."""
    tiled_again(mine, "S01a")
    tiled_again(mine, "S02a", "failed")
    tiled_again(mine, "S04a", "empty")
    tiled_again(mine, "S03b")  # its patient has another slide
    split(mine)
    reasons = {"P01": "features of earlier tiles", "P02": "slide failed in tile", "P04": "no tissue on the slide"}
    assert dropped(mine) == reasons
    used = {row.patient_id: row.slides for row in read_patients(mine.model / "patients.csv") if row.used}
    assert used["P03"] == ("S03a",)
    for patient in mine.patients:
        for slide in patient.slides:
            tiled_again(mine, slide)
    with pytest.raises(CohortError, match=r"no slide here has features: features of earlier tiles \(3") as caught:
        split(mine)
    assert "wsipipe extract" in caught.value.hint


def test_tiles_may_go_when_there_are_features_but_features_may_not(mine: Planted) -> None:
    for slide in ("S01a", "S02a"):
        (mine.workspace / TILES / f"{slide}.h5").unlink()
    (mine.store("S02a") / "zarr.json").unlink()
    split(mine)
    assert dropped(mine) == {"P02": "output of extract lost"}


def test_a_slide_that_two_patients_share_is_refused(mine: Planted) -> None:
    bag = next(iter(PATIENTS[5].slides.values()))
    write_slide(mine, "S05a", bag, bytes_of="S09b")
    with pytest.raises(CohortError, match="slides S05a of patient P05 and S09b of patient P09 have the same bytes"):
        split(mine)
    write_slide(mine, "S05a", bag)
    write_slide(mine, "S09a", bag, bytes_of="S09b")  # one patient's, twice: no leak
    assert split(mine).done == 1


def test_a_lost_slide_of_a_patient_with_another_is_said(mine: Planted) -> None:
    tiled_again(mine, "S03b")
    tiled_again(mine, "S06a", "empty")
    tiled_again(mine, "S02a", "failed")  # the patient's only one: counted as a patient
    notes = split(mine).notes
    assert "slides left out, whose patients have other slides, features of earlier tiles: 1 (S03b)" in notes
    assert "slides left out, whose patients have other slides, no tissue on the slide: 1 (S06a)" in notes
    assert sum(note.startswith("slides left out") for note in notes) == 2
    assert "dropped, slide failed in tile: 1" in notes


def test_a_lost_frozen_slide_is_counted_once(tmp_path: Path) -> None:
    frozen = "TCGA-A1-A0SB-01A-01-TS1"
    patients = [replace(p, slides={**p.slides, frozen: p.slides["S01a"]}) if p.id == "P01" else p for p in PATIENTS]
    planted = plant(tmp_path, patients)
    tiled_again(planted, frozen)
    assert [note for note in split(planted).notes if "left out" in note] == [
        f"frozen TCGA slides left out: 1 ({frozen})"
    ]


def test_the_patients_with_rna_are_counted_among_those_used(mine: Planted) -> None:
    """A row of nothing in a store, whoever wrote it, is no measurement."""
    [used] = [note for note in split(mine).notes if note.startswith("er: ")]
    assert used == "er: 24 of 24 patients used (12 positive, 12 negative, 32 slides); 21 of them have RNA"
    store = mine.workspace / "genomics/expression.zarr"
    expression = read_elem(zarr.open_group(store, mode="r"))
    expression.X[expression.obs_names.get_loc("P20")] = np.nan
    write_expression(store, expression)
    [used] = [note for note in split(mine).notes if note.startswith("er: ")]
    assert used.endswith("; 20 of them have RNA")
    rows = {row.patient_id: row for row in read_patients(mine.model / "patients.csv")}
    assert not rows["P20"].rna
    assert rows["P21"].rna
    shutil.rmtree(store)
    [used] = [note for note in split(mine).notes if note.startswith("er: ")]
    assert used.endswith("32 slides)")


def test_nobody_left_is_refused_with_the_reasons(mine: Planted) -> None:
    table = mine.folder / "cohort.csv"
    as_it_was = table.read_text()
    table.write_text(as_it_was.replace("\nS", "\nTCGA-"))
    with pytest.raises(
        CohortError, match=r"none of its patients \(24\) can be used .*no slide on disk \(24\)"
    ) as caught:
        split(mine)
    assert caught.value.path == str(table)
    assert str(FEATURES) in str(caught.value)
    assert "the table has TCGA-00a, TCGA-00b and 30 more; slides here are S00a, S00b and 30 more" in caught.value.hint
    table.write_text(as_it_was)
    for patient in mine.patients:
        for slide in patient.slides:
            if slide != "S00a":
                tiled_again(mine, slide, "empty")
    table.write_text("\n".join(line for line in as_it_was.split("\n") if not line.startswith("S00")))
    with pytest.raises(CohortError, match=r"none of its patients \(23\) .*: no tissue on the slide \(23\)") as caught:
        split(mine)
    assert "wsipipe status" in caught.value.hint


# Settings


def test_the_settings_of_a_split_are_heard(mine: Planted) -> None:
    labels = {p.id: int(p.label == "positive") for p in PATIENTS}
    split(mine, seed=7, folds=3, validation_fraction=0.35)
    wanted = make_splits(labels, 3, 7, 0.35)
    assert read_splits(mine.model / "splits.csv") == wanted
    for other in (make_splits(labels, 3, 0, 0.35), make_splits(labels, 3, 7, 0.2)):
        assert other != wanted


def test_sites_are_kept_apart(mine: Planted) -> None:
    site_of = {p.id: f"site {n // 2 % 6}" for n, p in enumerate(PATIENTS)}
    rewrite_table(mine, site=site_of)
    split(mine, split_by="site", folds=3)
    splits = read_splits(mine.model / "splits.csv")
    tested = {(site_of[patient], splits.test_fold(patient)) for patient in splits.labels}
    assert len(tested) == 6
    # Training gets them for its inner folds, and for nothing else.
    for fold in mine.trainer(nested=["genes=5,4"]).plan().items:
        cohort: FoldCohort = fold.payload
        assert cohort.sites == {patient: site_of[patient] for patient in {**cohort.train, **cohort.validation}}
        assert "sites" in fold.inputs
    assert all("sites" not in fold.inputs for fold in mine.trainer().plan().items)


def test_a_split_by_site_of_an_earlier_version_is_refused_for_nested_settings(mine: Planted) -> None:
    rewrite_table(mine, site={p.id: f"site {n // 2 % 6}" for n, p in enumerate(PATIENTS)})
    split(mine, split_by="site", folds=3)
    found = split_output(Manifest.of(mine.model), mine.workspace)
    with pytest.raises(CohortError, match="does not say the patients' sites"):
        _ = replace(found, site_of={}).sites
    assert replace(found, site_of={}, by_site=False).sites == {}


def test_patients_of_a_split_by_patient_have_no_column_of_sites(mine: Planted) -> None:
    split(mine)
    assert (mine.model / "patients.csv").read_text().splitlines()[0] == "patient_id,status,reason,label,slides,rna"


def test_conflicts_are_refused_or_dropped(mine: Planted) -> None:
    table = mine.folder / "cohort.csv"
    table.write_text(table.read_text() + "S00c,P00,positive\n")
    with pytest.raises(CohortError, match="P00 "):
        split(mine)
    split(mine, drop_conflicts=True)
    assert dropped(mine) == {"P00": "labels conflict"}


def test_frozen_slides_are_used_if_asked_for(tmp_path: Path) -> None:
    frozen = "TCGA-A1-A0SB-01A-01-TS1"
    patients = [replace(p, slides={frozen: p.slides["S01a"]}) if p.id == "P01" else p for p in PATIENTS]
    planted = plant(tmp_path, patients)
    split(planted)
    assert dropped(planted) == {"P01": "frozen slides only"}
    (planted.model / "manifest.jsonl").unlink()
    split(planted, tcga_slides="all")
    assert dropped(planted) == {}


# Again


def test_a_split_is_made_again_when_slides_rna_or_labels_are_others(mine: Planted) -> None:
    assert (split(mine).done, split(mine).before) == (1, 1)
    assert {row.patient_id for row in read_patients(mine.model / "patients.csv") if not row.rna} == {
        patient.id for patient in PATIENTS if patient.rna is None
    }
    write_rna(mine, [replace(patient, rna=None) if patient.id == "P20" else patient for patient in PATIENTS])
    assert split(mine).done == 1
    assert not next(row for row in read_patients(mine.model / "patients.csv") if row.patient_id == "P20").rna
    (mine.store("S02a") / "zarr.json").unlink()
    assert split(mine).done == 1
    assert dropped(mine) == {"P02": "output of extract lost"}
    rewrite_table(mine, er={p.id: "equivocal" if p.id == "P06" else p.label for p in PATIENTS})
    assert split(mine).done == 1
    assert dropped(mine)["P06"] == "label equivocal (equivocal)"


def test_ids_with_semicolons_and_quotes_keep_their_slides(tmp_path: Path) -> None:
    slides = {"P1": ("a;b", "c"), "P2": ('"quoted"', 'half"', ";"), "P3": ("plain",), "P4": ()}
    labels = PatientLabels("HER2", dict.fromkeys(slides, 1), slides, {}, ())
    write_patients(tmp_path / "patients.csv", labels)
    assert {row.patient_id: row.slides for row in read_patients(tmp_path / "patients.csv")} == slides
    lines = (tmp_path / "patients.csv").read_text().splitlines()
    assert lines[3:] == ["P3,used,,1,plain,no", "P4,used,,1,,no"]
