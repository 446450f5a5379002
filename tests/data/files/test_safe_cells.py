"""Tables of ours open safely in a spreadsheet, and are read back as they were."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.cohort.labels import PatientLabels
from wsipipe.data.cohort.splits import Splits, read_splits, write_splits
from wsipipe.data.files.safe_cells import SafeWriter, plain_cell, safe_cell
from wsipipe.data.molecular.signatures import Signatures, write_signatures
from wsipipe.models.tasks.prediction import PatientPrediction
from wsipipe.stages.train.cross_validate import read_oof, write_oof
from wsipipe.stages.train.split import read_patients, write_patients

FORMULAS = [
    "=1+1",
    "+A1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "=cmd|'/c calc'!A1",
    "＝1+1",
    "'=1",
    "--1",
    "-2;=3",
]
PLAIN = ["P-01", "-0.5", "+3", "1e-5", "-1.5E+3", "-inf", "", "-", "'quoted'", "a=b", "a@b", "'-3", "TCGA-A1;TCGA-A2"]


def dangerous(cell: str) -> bool:
    """Whether any part of a cell, after blanks, begins as a formula does and is no number."""
    parts = (part.strip(" ") for part in cell.split(";"))
    return any(part[:1] in ("=", "+", "-", "@", "\t", "\r", "＝") and not number(part) for part in parts)


def number(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return part in ("+", "-")
    return True


@pytest.mark.parametrize("text", FORMULAS)
def test_what_would_be_a_formula_is_text(text: str) -> None:
    assert not dangerous(safe_cell(text))
    assert plain_cell(safe_cell(text)) == text


@pytest.mark.parametrize("text", [text for text in PLAIN if text != "'-3"])
def test_all_else_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text == plain_cell(text)


def test_numbers_stay_numbers() -> None:
    stream = io.StringIO()
    SafeWriter(stream).writerows([[-0.5, -1, float("-inf"), None, True, "-0.5"]])
    assert stream.getvalue() == "-0.5,-1,-inf,,True,-0.5\n"


@given(st.lists(st.text(st.sampled_from("=+-@'\t\r\n ;\",a1.e＝")), min_size=1))
def test_any_row_is_read_back(row: list[str]) -> None:
    stream = io.StringIO(newline="")
    SafeWriter(stream).writerow(row)
    [written] = csv.reader(io.StringIO(stream.getvalue(), newline="")) if row != [""] else [[""]]
    assert [plain_cell(cell) for cell in written] == row
    assert not any(dangerous(cell) for cell in written)


def cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [cell for row in csv.reader(stream) for cell in row]


def test_every_table_that_is_read_again(tmp_path: Path) -> None:
    ids = ["=HYPERLINK(1)", "+1-1", "-a", "@b", "plain"]
    path = tmp_path / "table.csv"

    splits = Splits({i: n % 2 for n, i in enumerate(ids)}, dict.fromkeys(ids, ("test", "train")))
    splits = Splits(dict(sorted(splits.labels.items())), dict(sorted(splits.roles.items())))
    write_splits(path, splits)
    assert not any(map(dangerous, cells(path)))
    assert read_splits(path) == splits

    oof = [
        PatientPrediction(
            patient_id=i, label=1, probability=0.5, logit=-0.25, threshold=0.5, call=1, slides=1, folds=(0,)
        )
        for i in ids
    ]
    write_oof(path, oof)
    assert not any(map(dangerous, cells(path)))
    assert read_oof(path) == oof

    slides = {ids[0]: ("=s1", "@s2", "s3")}
    labels = PatientLabels("er", labels={ids[0]: 1}, slides=slides, dropped={ids[1]: "=why"}, frozen_slides=())
    write_patients(path, labels)
    assert not any(map(dangerous, cells(path)))
    read = {row.patient_id: row for row in read_patients(path)}
    assert read.keys() == {ids[0], ids[1]}
    assert (read[ids[0]].slides, read[ids[1]].reason) == (("=s1", "@s2", "s3"), "=why")

    table = pd.DataFrame({"=score": [-1.5, np.nan]}, index=pd.Index(ids[:2], name="patient_id"))
    write_signatures(path, Signatures(table, (), ()))
    assert not any(map(dangerous, cells(path)))
    assert cells(path)[:4] == ["patient_id", "'=score", "'=HYPERLINK(1)", "-1.5"]
