"""Ids that tables, matrices and file systems write in several ways."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.cohort.ids import id_key, look_alikes, normal_id, one_spelling, same_ids
from wsipipe.data.cohort.labels import patient_labels
from wsipipe.data.cohort.slide_match import match_slides
from wsipipe.data.cohort.table import read_cohort
from wsipipe.data.errors import CohortError, ExpressionError
from wsipipe.data.molecular.store import ExpressionTable, join_blocks, write_expression
from wsipipe.models.patient_hashes import hashes_of, patient_hash

NFC, NFD = "Müller-01", unicodedata.normalize("NFD", "Müller-01")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P05", "p05"),
        ("101", "101.0"),
        ("101", "101.00"),
        (NFC, NFD),
        ("P05", " P05\u00a0"),
        ("P05", "\u200bP05"),
        ("P05", "P\ufeff05"),
        ("STRASSE", "straße"),
    ],
)
def test_two_writings_are_one_id(one: str, other: str) -> None:
    assert id_key(one) == id_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("007", "7"), ("17", "17.2"), ("P-01", "P.01"), ("P1", "P10"), ("1.0.0", "1.0"), ("A 1", "A1")]
)
def test_what_may_be_two_people_stays_two(one: str, other: str) -> None:
    assert id_key(one) != id_key(other)


@given(st.text())
def test_the_rule_is_stable(text: str) -> None:
    assert normal_id(normal_id(text)) == normal_id(text)
    assert id_key(normal_id(text)) == id_key(text)
    assert id_key(id_key(text)) == id_key(text)


def test_the_first_writing_stands_and_the_others_are_named() -> None:
    ids = ["P05", "p05", "101", "101.0", "Q"]
    assert one_spelling(ids) == {"P05": "P05", "p05": "P05", "101": "101", "101.0": "101", "Q": "Q"}
    assert same_ids(ids) == ["P05 (p05)", "101 (101.0)"]


def test_what_looks_alike_is_told_and_not_joined() -> None:
    assert look_alikes(["P.01", "7", "X", "p-02"], ["P-01", "007", "P-02"]) == {"P.01": "P-01", "7": "007"}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cohort.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_knows_one_person_in_two_writings_and_says_so(tmp_path: Path) -> None:
    rows = "slide_id,patient_id,er\na,P05,positive\nb,p05,positive\nc,101,negative\nd,101.0,negative\n"
    cohort = read_cohort(table(tmp_path, rows))
    assert cohort.patients == ("101", "P05")
    assert any("P05 (p05)" in note for note in cohort.notes)
    match = match_slides(["a", "b", "c", "d"], cohort)
    assert patient_labels(cohort, "er", ["positive"], ["negative"], match=match).slides == {
        "101": ("c", "d"),
        "P05": ("a", "b"),
    }


def test_two_writings_with_two_labels_are_a_conflict(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, "slide_id,patient_id,er\na,P05,positive\nb,p05,negative\nc,Q,negative\n"))
    with pytest.raises(CohortError, match="P05"):
        patient_labels(cohort, "er", ["positive"], ["negative"])


@pytest.mark.parametrize(("on_disk", "in_table"), [(NFD, NFC), (NFC, NFD)])
def test_a_mac_file_name_finds_its_row(tmp_path: Path, on_disk: str, in_table: str) -> None:
    cohort = read_cohort(table(tmp_path, f"slide_id,patient_id,mpp\n{in_table},P,0.25\n"))
    assert match_slides([on_disk], cohort).mpps(cohort) == {on_disk: 0.25}


@pytest.mark.parametrize(
    "slide", ["17.2_rescan", "17.HE", "17.1", "17.4e6eb156", "17.svs.old", "A.17"], ids=lambda slide: slide
)
def test_a_dot_is_no_uuid(tmp_path: Path, slide: str) -> None:
    cohort = read_cohort(table(tmp_path, "slide_id,patient_id\n17,P\nA,Q\n"))
    assert match_slides([slide], cohort).rows == {}


@pytest.mark.parametrize(
    ("on_disk", "in_table"),
    [
        ("TCGA-A7-A0DA-01Z-00-DX1.4E6EB156", "TCGA-A7-A0DA-01Z-00-DX1"),
        ("TCGA-A7-A0DA-01Z-00-DX1", "TCGA-A7-A0DA-01Z-00-DX1.4E6EB156-BB19-410F-878F-FC0EA7BD0B53"),
        ("S17.4e6eb156-bb19-410f-878f-fc0ea7bd0b53", "S17"),
    ],
)
def test_a_uuid_is_one(tmp_path: Path, on_disk: str, in_table: str) -> None:
    cohort = read_cohort(table(tmp_path, f"slide_id,patient_id\n{in_table},P\n"))
    assert match_slides([on_disk], cohort).rows == {on_disk: in_table}


@pytest.mark.parametrize(
    "nothing", ["'--", "not reported", "Not Reported", "Unspecified", "[Not Reported]", "#N/A", "<NA>", "unk", "–"]
)
def test_words_for_nothing_leave_the_patient_its_clear_label(tmp_path: Path, nothing: str) -> None:
    rows = f"slide_id,patient_id,er,site\na,P,positive,{nothing}\nb,P,{nothing},\nc,Q,negative,S\n"
    cohort = read_cohort(table(tmp_path, rows))
    labels = patient_labels(cohort, "er", ["positive"], ["negative"], match=match_slides("abc", cohort))
    assert labels.labels == {"P": 1, "Q": 0}
    assert set(cohort.frame["site"]) == {"", "S"}


def test_a_number_written_by_pandas_is_the_number(tmp_path: Path) -> None:
    cohort = read_cohort(table(tmp_path, "slide_id,patient_id,er\na,P,1.0\nb,Q,0.0\nc,R,\nd,S,1\n"))
    assert patient_labels(cohort, "er", ["1"], ["0"]).labels == {"P": 1, "Q": 0, "S": 1}


def expression(*patients: str) -> ExpressionTable:
    return ExpressionTable(patients, ("A",), np.arange(len(patients), dtype=np.float32)[:, None], "log", "m.csv")


def test_rna_is_found_by_any_writing() -> None:
    rna = expression("p05", "101.0")
    assert "P05" in rna
    assert rna.rows(["101", "P05"]).tolist() == [[1.0], [0.0]]
    cnv = ExpressionTable(("P05",), ("B",), np.ones((1, 1), np.float32), "gistic", "c.csv", "cnv")
    both = join_blocks([rna, cnv])
    assert both.patients == ("101.0", "p05")
    assert both.rows(["p05"]).tolist() == [[0.0, 1.0]]


def test_a_matrix_with_a_patient_twice_is_refused(tmp_path: Path) -> None:
    import anndata
    import pandas as pd

    stored = anndata.AnnData(
        X=np.zeros((2, 1), np.float32), obs=pd.DataFrame(index=["P05", "p05"]), var=pd.DataFrame(index=["A"])
    )
    stored.uns.update(unit="log", source="m.csv")
    with pytest.raises(ExpressionError, match=r"P05 \(p05\)"):
        write_expression(tmp_path / "e.zarr", stored)


def test_bundles_know_a_patient_by_any_writing() -> None:
    hashes = hashes_of(["P05"], [], [], "salt")
    assert [patient_hash("p05 ", "salt")] == hashes
