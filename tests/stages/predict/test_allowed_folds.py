"""Which folds may read a patient: those that trained on none of the patient's slides."""

from __future__ import annotations

from pathlib import Path

import pytest
from new_slides import Archive, Clinic, digest
from planted_workspace import digest_of_slide
from wsipipe.models.bundle import folds_of
from wsipipe.stages.predict.allowed_folds import PatientSlides, allowed_folds


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def test_one_slide_that_a_fold_knows_keeps_it_from_all_slides_of_the_patient(tmp_path: Path) -> None:
    """The leak: by slide, fold 1 would read the new slide of a patient whose old slide it was trained on."""
    clinic = Clinic(tmp_path)
    old, new, other = clinic.slide("old"), clinic.slide("new"), clinic.slide("other")
    clinic.model(seen=[["T0"], ["known-as-7", digest(old)], ["T2"]])
    table = clinic.table({"old": "P", "new": "P", "other": "Q"})
    result = clinic.predict(old, new, other, "--table", table)
    assert result.exit_code == 0, result.output
    rows = clinic.rows()
    assert {slide: row["folds"] for slide, row in rows.items()} == {"old": "0;2", "new": "0;2", "other": "0;1;2"}
    assert "fold 1 of 3 trained or validated on this patient (known by slide bytes): left out" in rows["new"]["note"]
    assert clinic.rows("patient")["P"]["folds"] == "0;2"
    assert "known by slide bytes" in clinic.page()


def test_the_old_slide_counts_though_it_is_not_asked_for(archive: Archive) -> None:
    """It was predicted before, or the table alone names it: the new slide's patient is known all the same."""
    old, new = archive.slide("old"), archive.slide("new")
    archive.model(seen=[["T0"], ["T1", digest_of_slide("old")], ["T2"]], slides=[["scan-9"], [], []])
    patients = {"old": "P", "new": "P", "scan-9": "P"}
    archive.predict(old, patients=patients)
    archive.predict(new, patients={"new": "P"})  # scan-9 is forgotten, old is not
    assert {slide: row["folds"] for slide, row in archive.rows().items()} == {"old": "2", "new": "0;2"}
    archive.predict(new, patients=patients)
    assert archive.rows()["new"]["folds"] == "2"


def test_a_slide_found_later_makes_what_was_read_before_stale(archive: Archive) -> None:
    old, new = archive.slide("old"), archive.slide("new")
    archive.model(seen=[["T0"], ["T1"], ["T2"]], slides=[[], ["old"], []])
    archive.predict(new, patients={"new": "P"})
    assert archive.rows()["new"]["folds"] == "0;1;2"
    both = {"old": "P", "new": "P"}
    archive.predict(old, patients=both)
    rows = archive.rows()
    assert (rows["new"]["status"], rows["old"]["status"]) == ("stale", "done")
    assert "other folds may read this patient" in rows["new"]["note"]
    assert archive.rows("patient")["P"]["folds"] == "0;2"
    archive.predict(new, patients=both)
    assert {slide: (row["status"], row["folds"]) for slide, row in archive.rows().items()} == {
        "old": ("done", "0;2"),
        "new": ("done", "0;2"),
    }


def test_whose_a_slide_is_can_be_said_later_and_is_not_forgotten(archive: Archive) -> None:
    old, new = archive.slide("old"), archive.slide("new")
    archive.model(seen=[["T0"], ["T1", digest_of_slide("old")], ["T2"]])
    archive.predict(old)
    archive.predict(new)
    assert list(archive.rows("patient")) == ["new", "old"], "nobody says that they are one patient's"
    assert archive.rows()["new"]["folds"] == "0;1;2"
    archive.predict(new, patients={"old": "P", "new": "P"})
    assert {slide: (row["patient_id"], row["folds"]) for slide, row in archive.rows().items()} == {
        "old": ("P", "0;2"),
        "new": ("P", "0;2"),
    }
    archive.predict(new)  # without the table
    assert list(archive.rows("patient")) == ["P"]
    assert archive.rows()["new"]["folds"] == "0;2"


def test_the_same_bytes_under_another_name_are_the_same_slide(archive: Archive) -> None:
    renamed = archive.slide("renamed", bytes_of="trained")
    archive.model(seen=[["T0", digest_of_slide("trained")], ["T1"], ["T2"]])
    archive.predict(renamed)
    assert archive.rows()["renamed"]["folds"] == "1;2"


def test_an_id_written_in_another_way_is_the_same_patient(archive: Archive) -> None:
    """In the model, in an earlier batch, and of a slide whose patient the table now names."""
    archive.model(seen=[["P05"], ["T1", digest_of_slide("a")], ["T2"]], slides=[[], [], ["Scan-9"]])
    archive.predict(archive.slide("a"), patients={"a": "P05"})
    archive.predict(archive.slide("b"), patients={"b": "p05 "})
    rows = archive.rows()
    assert {slide: (row["patient_id"], row["folds"]) for slide, row in rows.items()} == {
        "a": ("p05 ", "2"),
        "b": ("p05 ", "2"),
    }
    [patient] = archive.rows("patient").values()
    assert patient["folds"] == "2"
    archive.predict(archive.slide("scan-9"), patients={"SCAN-9": "Q"})
    row = archive.rows()["scan-9"]
    assert (row["patient_id"], row["folds"]) == ("Q", "0;1")


def test_a_rescan_without_a_table_is_known_by_its_name(archive: Archive) -> None:
    archive.model(slides=[[], [], ["S7"]])
    archive.predict(archive.slide("S7"), archive.slide("S8"))
    rows = archive.rows()
    assert {slide: row["folds"] for slide, row in rows.items()} == {"S7": "0;1", "S8": "0;1;2"}
    assert rows["S8"]["note"] == "no fold was trained on this slide; no table says whose it is"


def test_whom_no_fold_may_read_has_a_row_with_the_way_out(archive: Archive) -> None:
    archive.model(seen=[["P1"], ["P1"], ["P1"]])
    asked, patients = (archive.slide("a"), archive.slide("b")), {"a": "P1", "b": "P2"}
    predicted, _ = archive.predict(*asked, patients=patients)
    assert [failure.item for failure in predicted.failures] == ["a"]
    row = archive.rows()["a"]
    assert row["status"] == "failed"
    assert "every fold of the model was trained on patient P1 (known by patient id)" in row["note"]
    assert "--other-patients" in row["note"]
    assert "--other-patients" in archive.page()
    assert archive.rows()["b"]["folds"] == "0;1;2"

    archive.predict(*asked, patients=patients, other_patients=True)
    row = archive.rows()["a"]
    assert (row["status"], row["folds"]) == ("done", "0;1;2")
    assert "the same ids are other patients' (--other-patients)" in row["note"]
    archive.predict("b", patients=patients)
    assert archive.rows()["a"] == row, "who was another patient stays one while others are predicted"
    archive.predict(*asked, patients=patients)
    assert archive.rows()["a"]["status"] == "failed", "who does not say so is asked again"


def test_some_folds_left_out_for_an_id_alone_are_said_with_the_way_out(archive: Archive) -> None:
    archive.model(seen=[["P1"], ["T1"], ["T2"]])
    predicted, _ = archive.predict(archive.slide("a"), patients={"a": "P1"})
    assert any("by id, but not by slide: P1. " in note and "--other-patients" in note for note in predicted.notes)


def test_other_patients_have_other_slides(archive: Archive) -> None:
    """The flag is about ids: bytes that trained a fold are that slide all the same."""
    slide = archive.slide("a")
    archive.model(seen=[["P1", digest_of_slide("a")], ["P1"], ["T2"]])
    archive.predict(slide, patients={"a": "P1"}, other_patients=True)
    assert archive.rows()["a"]["folds"] == "1;2"


def test_a_model_that_does_not_say_who_trained_it_vouches_for_nobody(archive: Archive) -> None:
    archive.model(seen=[[], [], []])  # as import-checkpoint makes it
    archive.predict(archive.slide("a"))
    assert archive.rows()["a"]["note"] == "the model does not say who trained it"


@pytest.mark.parametrize(
    ("patient", "slides", "folds", "known_by"),
    [
        ("T1", {"x": None}, (0, 2), ("patient id",)),
        ("P", {"x": None, "scan-2": None}, (0, 1), ("slide id",)),
        ("P", {"x": "sha256:0"}, (1, 2), ("slide bytes",)),
        ("T1", {"scan-2": "sha256:0"}, (), ("slide bytes", "patient id", "slide id")),
        ("scan-2", {"T1": None}, (0, 1, 2), ()),  # a patient called as a slide is, and the other way round
    ],
)
def test_each_way_to_know_a_patient(
    archive: Archive, patient: str, slides: dict[str, str | None], folds: tuple[int, ...], known_by: tuple[str, ...]
) -> None:
    model = archive.model(seen=[["T0", "sha256:0"], ["T1"], ["T2"]], slides=[[], [], ["scan-2"]])
    bundles = [facts for _, facts in folds_of(model)]
    found = allowed_folds(bundles, PatientSlides(patient_id=patient, slides=slides))
    assert (found.folds, found.known_by) == (folds, known_by)
    assert found.by_id_alone == (bool(known_by) and "slide bytes" not in known_by)
