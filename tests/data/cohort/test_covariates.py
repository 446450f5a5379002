"""Columns that may go along with a label: a value a patient, and nothing guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from wsipipe.data.cohort.covariates import Covariate, read_covariates
from wsipipe.data.cohort.table import read_cohort
from wsipipe.data.errors import CohortError


def covariates(folder: Path, text: str, *wanted: str, label: str = "her2") -> tuple[list[Covariate], list[str]]:
    path = folder / "cohort.csv"
    path.write_text(text)
    return read_covariates(read_cohort(path), wanted, label)


def test_a_value_is_the_patients_in_one_spelling(tmp_path: Path) -> None:
    text = (
        "slide_id,patient_id,her2,Grade\n"
        "a1,A,positive,G3\na2,A,positive,g3\nb1,B,negative,\nb2,B,negative,2.0\nc,C,positive,2\nd,D,positive,Unknown\n"
        "e1,E,positive,1\ne2,E,positive,3\nf,F,positive,not performed\n"
    )
    [grade], notes = covariates(tmp_path, text, "grade")
    assert grade.name == "Grade"
    assert grade.values == {"A": "G3", "B": "2.0", "C": "2.0", "D": "", "E": "", "F": ""}
    assert grade.several == {"E"}
    assert notes == []


def test_sites_are_those_of_tcga_barcodes_or_of_the_tables_own_column(tmp_path: Path) -> None:
    text = "slide_id,her2\nTCGA-A7-A0DA-01Z-00-DX1,positive\nTCGA-BH-A0B3-01Z-00-DX1,negative\n"
    [site], _ = covariates(tmp_path, text, "SITE")
    assert (site.values, site.is_code) == ({"TCGA-A7-A0DA": "A7", "TCGA-BH-A0B3": "BH"}, True)
    text = "slide_id,patient_id,her2,hospital\ns1,TCGA-A7-A0DA,positive,7\ns2,TCGA-BH-A0B3,negative,8\n"
    [site], _ = covariates(tmp_path, text, "site")
    assert (site.values, site.is_code) == ({"TCGA-A7-A0DA": "7", "TCGA-BH-A0B3": "8"}, True)
    with pytest.raises(CohortError, match=r"column site is empty for every patient.*") as raised:
        covariates(tmp_path, "slide_id,patient_id,her2\ns1,A,positive\n", "site")
    assert "only TCGA's barcodes say the site by themselves" in raised.value.hint


def test_names_are_parted_at_commas_unless_a_column_is_called_so(tmp_path: Path) -> None:
    text = 'slide_id,patient_id,her2,grade,"ER, IHC"\ns,A,positive,1,pos\n'
    found, _ = covariates(tmp_path, text, "er, ihc", "grade,", "grade")
    assert [column.name for column in found] == ["ER, IHC", "grade"]


@pytest.mark.parametrize(
    ("wanted", "message", "hint"),
    [
        ("gradde", "there is no column 'gradde'", "did you mean grade? The table has: slide_id, patient_id"),
        ("slide_id", "column slide_id names slides or patients", "grade, ER, site or scanner"),
        ("HER2", "column her2 is the label itself", "grade, ER, site"),
        ("note", "column note is empty for every patient", "leave it out"),
    ],
)
def test_what_cannot_go_along_with_a_label_is_refused(tmp_path: Path, wanted: str, message: str, hint: str) -> None:
    text = "slide_id,patient_id,her2,grade,note\ns,A,positive,1,NA\n"
    with pytest.raises(CohortError, match=message) as raised:
        covariates(tmp_path, text, wanted)
    assert hint in raised.value.hint


def test_the_label_among_other_columns_is_left_out_and_said(tmp_path: Path) -> None:
    found, notes = covariates(tmp_path, "slide_id,patient_id,her2,grade\ns,A,positive,1\n", "her2,grade")
    assert [column.name for column in found] == ["grade"]
    assert notes == ["audit: her2 is the label itself, left out"]


def test_a_field_is_found_by_the_name_that_the_header_has_for_it(tmp_path: Path) -> None:
    text = "slide_id,patient_id,her2,Hospital\ns,A,positive,north\nt,B,negative,south\n"
    [site], _ = covariates(tmp_path, text, "hospital")
    assert dict(site.values) == {"A": "north", "B": "south"}
