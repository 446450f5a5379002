"""Which folds may read a patient: those that trained on none of the patient's slides."""

from __future__ import annotations

from pathlib import Path

import pytest
from new_slides import Clinic, digest
from wsipipe.models.bundle import folds_of
from wsipipe.stages.predict.allowed_folds import PatientSlides, allowed_folds

OTHERS = (("T0",), ("T1",), ("T2",))


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)


def test_one_slide_that_a_fold_knows_keeps_it_from_all_slides_of_the_patient(clinic: Clinic) -> None:
    """The leak: by slide, fold 1 would read the new slide of a patient whose old slide it was trained on."""
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


def test_the_old_slide_counts_though_it_is_not_asked_for(clinic: Clinic) -> None:
    """It was predicted before, or the table alone names it: the new slide's patient is known all the same."""
    old, new = clinic.slide("old"), clinic.slide("new")
    clinic.model(seen=[["T0"], ["T1", digest(old)], ["T2"]], slides=[["scan-9"], [], []])
    table = clinic.table({"old": "P", "new": "P", "scan-9": "P"})
    assert clinic.predict(old, "--table", table).exit_code == 0
    assert clinic.predict(new, "--table", table).exit_code == 0
    assert {slide: row["folds"] for slide, row in clinic.rows().items()} == {"old": "2", "new": "2"}


def test_a_slide_found_later_makes_what_was_read_before_stale(clinic: Clinic) -> None:
    old, new = clinic.slide("old"), clinic.slide("new")
    clinic.model(seen=[["T0"], ["T1", digest(old)], ["T2"]])
    table = clinic.table({"old": "P", "new": "P"})
    assert clinic.predict(new, "--table", table).exit_code == 0
    assert clinic.rows()["new"]["folds"] == "0;1;2"
    assert clinic.predict(old, "--table", table).exit_code == 0
    rows = clinic.rows()
    assert (rows["new"]["status"], rows["old"]["status"]) == ("stale", "done")
    assert "other folds may read this patient" in rows["new"]["note"]
    assert clinic.predict(new, "--table", table).exit_code == 0
    assert {slide: (row["status"], row["folds"]) for slide, row in clinic.rows().items()} == {
        "old": ("done", "0;2"),
        "new": ("done", "0;2"),
    }


def test_the_same_bytes_under_another_name_are_the_same_slide(clinic: Clinic) -> None:
    trained, renamed = clinic.slide("trained", seed=1), clinic.slide("renamed", seed=1)
    clinic.model(seen=[["T0", digest(trained)], ["T1"], ["T2"]])
    assert digest(renamed) == digest(trained)
    assert clinic.predict(renamed).exit_code == 0
    assert clinic.rows()["renamed"]["folds"] == "1;2"


def test_a_rescan_without_a_table_is_known_by_its_name(clinic: Clinic) -> None:
    clinic.model(slides=[[], [], ["S7"]])
    assert clinic.predict(clinic.slide("S7"), clinic.slide("S8")).exit_code == 0
    rows = clinic.rows()
    assert {slide: row["folds"] for slide, row in rows.items()} == {"S7": "0;1", "S8": "0;1;2"}
    assert rows["S8"]["note"] == "no fold was trained on this slide; no table says whose it is"


def test_whom_no_fold_may_read_has_a_row_with_the_way_out(clinic: Clinic) -> None:
    clinic.model(seen=[["P1"], ["P1"], ["P1"]])
    table = clinic.table({"a": "P1", "b": "P2"})
    asked = (clinic.slide("a"), clinic.slide("b"), "--table", table)
    result = clinic.predict(*asked)
    assert result.exit_code == 1
    row = clinic.rows()["a"]
    assert row["status"] == "failed"
    assert "every fold of the model was trained on patient P1 (known by patient id)" in row["note"]
    assert "--other-patients" in row["note"]
    assert "--other-patients" in clinic.page()
    assert clinic.rows()["b"]["folds"] == "0;1;2"

    assert clinic.predict(*asked, "--other-patients").exit_code == 0
    row = clinic.rows()["a"]
    assert (row["status"], row["folds"]) == ("done", "0;1;2")
    assert "the same ids are other patients' (--other-patients)" in row["note"]
    assert clinic.predict(*asked).exit_code == 1  # who does not say so is asked again
    assert clinic.rows()["a"]["status"] == "failed"


def test_other_patients_have_other_slides(clinic: Clinic) -> None:
    """The flag speaks of ids; bytes that trained a fold are that slide, whoever says what."""
    slide = clinic.slide("a")
    clinic.model(seen=[["P1", digest(slide)], ["P1"], ["T2"]])
    assert clinic.predict(slide, "--table", clinic.table({"a": "P1"}), "--other-patients").exit_code == 0
    assert clinic.rows()["a"]["folds"] == "1;2"


def test_a_model_that_does_not_say_who_trained_it_vouches_for_nobody(clinic: Clinic) -> None:
    clinic.model(seen=[[], [], []])  # as import-checkpoint makes it
    assert clinic.predict(clinic.slide("a")).exit_code == 0
    assert clinic.rows()["a"]["note"] == "the model does not say who trained it"


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
    clinic: Clinic, patient: str, slides: dict[str, str | None], folds: tuple[int, ...], known_by: tuple[str, ...]
) -> None:
    model = clinic.model(seen=[["T0", "sha256:0"], ["T1"], ["T2"]], slides=[[], [], ["scan-2"]])
    bundles = [facts for _, facts in folds_of(model)]
    found = allowed_folds(bundles, PatientSlides(patient_id=patient, slides=slides))
    assert (found.folds, found.known_by) == (folds, known_by)
    assert found.by_id_alone == (bool(known_by) and "slide bytes" not in known_by)
