"""What a stranger would notice of a matrix that was read: said on the console and the page, and stored nowhere."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from command import told
from wsipipe.data.artifact import digest_of
from wsipipe.data.cohort.table import read_clinical
from wsipipe.data.columns import names
from wsipipe.stages.genomics.checks import check_expression
from wsipipe.stages.genomics.self_check import SelfCheck, self_check

HOUSEKEEPING = names("expression", "housekeeping")
Y = ("RPS4Y1", "DDX3Y", "KDM5D", "UTY")
SYMBOLS = [*HOUSEKEEPING, *Y, *(f"G{i}" for i in range(400))]


def cohort(n: int = 20, unit: str = "counts", **columns: np.ndarray) -> anndata.AnnData:
    """Log values of tumours of women; housekeeping genes are high."""
    rng = np.random.default_rng(0)
    level = np.concatenate([rng.uniform(11, 14, len(HOUSEKEEPING)), np.full(4, 0.1), rng.uniform(0, 9, 400)])
    matrix = np.maximum(level + rng.normal(0, 0.8, (n, len(SYMBOLS))), 0)
    matrix[:, len(HOUSEKEEPING) : len(HOUSEKEEPING) + 4] = 0.1
    frame = pd.DataFrame(matrix, columns=SYMBOLS, index=[f"P{i:02d}" for i in range(n)]).assign(**columns)
    uns = {"unit": "log2(CPM + 1)", "input_unit": unit, "source": "m.csv"}
    return anndata.AnnData(
        frame.to_numpy(np.float32), frame.index.to_frame()[[]], pd.DataFrame(index=frame.columns), uns
    )


def looked(expression: anndata.AnnData, clinical: pd.DataFrame | None = None) -> SelfCheck:
    return self_check(expression, clinical, check_expression(expression, clinical))


def test_an_ordinary_matrix_gives_no_warning() -> None:
    clinical = pd.DataFrame({"patient_id": [f"P{i:02d}" for i in range(20)], "sex": "female", "age": range(40, 60)})
    found = looked(cohort(), clinical)
    assert found.warnings == []
    said = " ".join(found.sentences)
    assert f"the {len(HOUSEKEEPING)} housekeeping genes lie at the 9" in said
    assert "two patients' profiles correlate with 0.9" in said
    assert "in 20 patients: all fit" in said


def test_names_that_are_not_those_of_the_rows() -> None:
    expression = cohort()
    expression.var_names = [*SYMBOLS[24:], *SYMBOLS[:24]]  # shifted
    assert any("housekeeping genes lie at the" in warning for warning in looked(expression).warnings)


def test_patients_whose_genes_lie_in_different_orders() -> None:
    expression = cohort()
    rng = np.random.default_rng(1)
    expression.X = np.stack([rng.permutation(row) for row in np.asarray(expression.X)])
    assert any("profiles correlate with" in warning for warning in looked(expression).warnings)


@pytest.mark.parametrize(
    ("clinical", "why"),
    [
        ({"patient_id": ["Q1"], "sex": ["male"]}, "none of the 20 patients is in the clinical table"),
        ({"patient_id": ["P01"], "stage": ["II"]}, "has no column of sex (patient_id, stage"),
        ({"patient_id": ["P01"], "sex": ["'--"]}, "the column sex has no value that is female or male"),
    ],
)
def test_that_nobodys_sex_is_compared_is_said(clinical: dict[str, list[str]], why: str) -> None:
    (warning,) = looked(cohort(), pd.DataFrame(clinical)).warnings
    assert warning.startswith("self-check: recorded sex could not be checked")
    assert why in warning
    everyone = pd.DataFrame({"patient_id": ["P01"], "sex": ["male"]})
    without_y = cohort()[:, [gene not in Y for gene in SYMBOLS]].copy()
    assert "no gene of the Y chromosome" in looked(without_y, everyone).warnings[0]
    assert "z-scores have no level" in looked(cohort(unit="zscore"), everyone).warnings[0]
    assert any("no clinical table is given" in sentence for sentence in looked(cohort()).sentences)


def test_genes_that_are_columns_of_the_clinical_table_are_named() -> None:
    age = np.random.default_rng(3).integers(30, 90, 20)
    er = np.arange(20) % 2
    expression = cohort(WHAT=age * 0.1 + 2, WHICH=er * 3.5)
    patients = list(expression.obs_names)
    clinical = pd.DataFrame({"case": patients, "Age": age, "ER": np.where(er, "positive", "negative"), "sex": "female"})
    warnings = looked(expression, clinical.astype(str)).warnings
    assert [warning.split(" equals")[0] for warning in warnings] == ["self-check: WHAT", "self-check: WHICH"]
    assert "--drop-columns 'WHICH'" in warnings[1]


CBIOPORTAL = """\
#Patient Identifier\tSex
#Identifier to uniquely specify a patient.\tSex
#STRING\tSTRING
#1\t1
PATIENT_ID\tSEX
"""
CLINICAL = {
    "cBioPortal": CBIOPORTAL,
    "the GDC": "cases.submitter_id\tdemographic.gender\n",
    "the GDC of today": "cases.submitter_id\tdemographic.sex_at_birth\n",
    "UCSC Xena": "sample\tgender.demographic\n",
    "a lab": "Patient\tSex\n",
}


@pytest.mark.parametrize("portal", CLINICAL)
def test_clinical_tables_of_the_portals_are_understood(tmp_path: Path, portal: str) -> None:
    barcodes = [f"TCGA-A1-A{i:03d}" for i in range(20)]
    ending = "-01A" if portal == "UCSC Xena" else ""
    (tmp_path / "c.tsv").write_text(CLINICAL[portal] + "".join(f"{name}{ending}\tFemale\n" for name in barcodes))
    expression = cohort()
    expression.obs_names = barcodes
    assert check_expression(expression, read_clinical(tmp_path / "c.tsv")).sexes == 20


def test_the_command_says_it_and_stores_nothing_of_it(tmp_path: Path) -> None:
    frame = cohort().to_df().T
    frame.rename_axis("gene").to_csv(tmp_path / "m.csv")
    (tmp_path / "sex.csv").write_text("patient_id,sex\n" + "".join(f"P{i:02d},male\n" for i in range(20)))
    digests = []
    for number, more in enumerate(([], ["--clinical", tmp_path / "sex.csv"])):
        work = tmp_path / f"work{number}"
        notes = " ".join(told("genomics", tmp_path / "m.csv", "-w", work, *more)["genomics"]["notes"])
        assert "housekeeping genes lie at the" in notes
        assert ("recorded sex is not checked" in notes) == (not more)
        assert ("in 20 patients: 20 do not fit" in notes) == bool(more)
        page = (work / "genomics/qc.html").read_text()
        assert "housekeeping genes lie at the" in page
        digests.append(digest_of(work / "genomics/expression.zarr"))
    assert len(set(digests)) == 1


def test_the_shared_clinical_tables(shared: Path, tmp_path: Path) -> None:
    folder = shared.parent / "cases/tables/cbioportal-clinical"
    if not folder.is_dir():
        pytest.skip("the cases are not here")
    for name in ("hash.txt", "gdc.tsv"):
        work = tmp_path / name
        notes = told("genomics", folder / "rna.txt", "--clinical", folder / name, "-w", work)["genomics"]["notes"]
        assert any("recorded sex compared with genes of the Y chromosome in 1" in note for note in notes)
