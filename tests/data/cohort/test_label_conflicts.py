"""Conflicting labels of one patient: an error that lists them all; when asked, patients dropped with that reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from wsipipe.data.cohort.labels import patient_labels
from wsipipe.data.cohort.slide_match import match_slides
from wsipipe.data.cohort.table import CohortTable, read_cohort
from wsipipe.data.errors import CohortError


def table(folder: Path, rows: str) -> CohortTable:
    path = folder / "cohort.csv"
    path.write_text(f"slide_id,patient_id,HER2\n{rows}")
    return read_cohort(path)


MIXED = """\
A1,A,Positive
A2,A,POSITIVE
A3,A,[Not Evaluated]
B1,B,positive
B2,B,negative
C1,C,negative
D1,D,Equivocal
E1,E,
F1,F,[Not Available]
G1,G,2+
H1,H,positive
H2,H,negative
H3,H,equivocal
I1,I,[Not Evaluated]
"""


def test_all_conflicts_are_listed_however_many(tmp_path: Path) -> None:
    rows = "".join(f"S{i}a,P{i:03d},positive\nS{i}b,P{i:03d},Negative\n" for i in range(60))
    read = table(tmp_path, rows + "T1,Q1,positive\nT2,Q2,negative\nT3,Q1,POSITIVE\n")
    with pytest.raises(CohortError, match="60 patients are both positive and negative") as caught:
        patient_labels(read, "HER2", ["positive"], ["negative"])
    for i in range(60):
        assert f"P{i:03d} (Negative and positive)" in caught.value.what
    assert "Q1" not in caught.value.what
    assert caught.value.path == str(tmp_path / "cohort.csv")
    assert "correct these rows" in caught.value.hint


def test_conflicts_can_be_dropped_and_counted(tmp_path: Path) -> None:
    read = table(tmp_path, MIXED)
    with pytest.raises(
        CohortError, match=r"2 patients .*: B \(negative and positive\), H \(equivocal and negative and"
    ):
        patient_labels(read, "HER2", ["positive"], ["negative"])
    labels = patient_labels(read, "HER2", ["positive"], ["negative"], drop_conflicts=True)
    assert labels.labels == {"A": 1, "C": 0}
    assert labels.dropped == {
        "B": "labels conflict",
        "D": "label equivocal (equivocal)",
        "E": "label missing",
        "F": "label missing",
        "G": "label is neither positive nor negative (2+)",
        "H": "labels conflict",
        "I": "label not evaluated ([not evaluated])",
    }
    assert labels.reasons["labels conflict"] == 2
    assert "dropped, labels conflict: 2" in labels.notes()


def test_several_slides_of_a_patient_are_one_patient(tmp_path: Path) -> None:
    read = table(tmp_path, MIXED)
    match = match_slides(list(read.frame["slide_id"]), read)
    labels = patient_labels(read, "HER2", ["positive"], ["negative"], match=match, drop_conflicts=True)
    assert labels.slides == {"A": ("A1", "A2", "A3"), "C": ("C1",)}
