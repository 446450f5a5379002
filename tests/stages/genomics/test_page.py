"""The genomics QC page: planted faults are found and nothing else, for ten patients and for a thousand."""

from __future__ import annotations

import gzip
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import anndata
import numpy as np
import pandas as pd
import pytest
from html_page import HOSTILE, assert_alone
from sklearn.decomposition import PCA
from wsipipe.stages.genomics.checks import Checks, check_expression
from wsipipe.stages.genomics.page import render_genomics_qc

DATA = Path(__file__).resolve().parents[3] / "../shared/data"
MARKERS: Final = ("ESR1", "PGR", "ERBB2", "MKI67")
Y: Final = ("RPS4Y1", "DDX3Y", "KDM5D", "UTY")


def cohort(n: int = 40, genes: int = 300, seed: int = 0, names: list[str] | None = None, **obs: Any) -> anndata.AnnData:
    """Women's log2(CPM + 1) of one kind, with library sizes."""
    rng = np.random.default_rng(seed)
    symbols = [*MARKERS, "XIST", *Y, *(f"G{i}" for i in range(genes))]
    level = rng.uniform(1, 9, len(symbols))
    matrix = np.maximum(level + rng.normal(0, 1, (n, len(symbols))), 0.01).astype(np.float32)
    matrix[:, 5:9] = rng.uniform(0, 0.3, (n, 4))
    index = names or [f"P{i:03d}" for i in range(n)]
    frame = pd.DataFrame({"library_size": rng.uniform(4e7, 6e7, n), **obs}, index=index)
    uns = {"unit": "log2(CPM + 1)", "input_unit": "counts", "source": "counts.csv"}
    return anndata.AnnData(matrix, obs=frame, var=pd.DataFrame(index=symbols), uns=uns)


def why(checks: Checks) -> dict[str, str]:
    return {patient.patient: "; ".join(patient.why) for patient in checks.patients if patient.why}


class Page(HTMLParser):
    """Tags that close, and what a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "br", "link", "img", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_an_even_cohort_has_nothing_to_look_at() -> None:
    for seed in range(10):
        assert why(check_expression(cohort(seed=seed), None)) == {}


def test_planted_faults_are_found_and_nothing_else() -> None:
    expression = cohort()
    matrix = np.asarray(expression.X)
    rng = np.random.default_rng(9)
    expression.obs.loc["P003", "library_size"] = 4e6
    matrix[7, 9:] = rng.permutation(matrix[7, 9:])  # another tissue
    matrix[12] = np.abs(matrix[11] + rng.normal(0, 0.1, matrix.shape[1]))  # the same sample again
    matrix[15, 9:109] = 0  # genes that this library does not see
    matrix[20, 9:89] = np.nan
    matrix[25, 5:9] = 6.0
    clinical = pd.DataFrame({"Patient ID": expression.obs_names, "Gender": "FEMALE"})
    clinical.loc[30, "Gender"] = "male"
    checks = check_expression(expression, clinical)
    found = why(checks)
    assert sorted(found) == ["P003", "P007", "P011", "P012", "P015", "P020", "P025", "P030"]
    assert found["P003"].startswith("low library: 4,000,000 reads")
    assert "unlike all others" in found["P007"]
    assert "nearly the same profile as P012" in found["P011"]
    assert "nearly the same profile as P011" in found["P012"]
    assert "low number of genes: 209" in found["P015"]
    assert "26% of the genes have no value" in found["P020"]
    assert found["P025"].startswith("recorded female, but genes of the Y chromosome are expressed (mean 6.0)")
    assert found["P030"].startswith("recorded male, but genes of the Y chromosome are not expressed")
    assert [pair[:2] for pair in checks.duplicates] == [("P011", "P012")]
    assert (checks.sex_mismatches, checks.sexes) == (2, 40)


def test_the_components_are_those_of_scikit_learn() -> None:
    expression = cohort()
    fitted = PCA(2, svd_solver="full").fit(np.asarray(expression.X, dtype=np.float64))
    expected = fitted.transform(np.asarray(expression.X, dtype=np.float64))
    checks = check_expression(expression, None)
    points = np.array([patient.pc for patient in checks.patients])
    for component in (0, 1):
        sign = np.sign(points[:, component] @ expected[:, component])
        np.testing.assert_allclose(points[:, component], sign * expected[:, component], atol=1e-3)
    np.testing.assert_allclose(checks.pc_share, fitted.explained_variance_ratio_, rtol=1e-4)


def test_a_batch_shows_and_chance_does_not() -> None:
    plates = ["one"] * 20 + ["two"] * 20
    shifted = cohort(batch=plates)
    np.asarray(shifted.X)[20:, 9:200] += 3
    checks = check_expression(shifted, None)
    assert checks.batch_kind == "batch"
    assert checks.batch_share is not None
    assert checks.batch_share[0] > 0.95
    chance = [check_expression(cohort(seed=seed, Batch=plates), None).batch_share for seed in range(10)]
    assert np.mean([share for shares in chance if shares for share in shares]) < 0.1


def test_batches_come_from_the_clinical_table_or_the_barcode() -> None:
    names = [f"TCGA-{'A1' if i % 2 else 'BH'}-{i:04d}" for i in range(10)]
    sites = check_expression(cohort(10, names=names), None)
    assert sites.batch_kind == "tissue source site, from the TCGA barcode"
    assert [patient.batch for patient in sites.patients][:2] == ["BH", "A1"]
    barcodes = [f"{name}-01A-11R-A{i % 3:03d}-07" for i, name in enumerate(names)]
    plates = check_expression(cohort(10, names=names, source_id=barcodes), None)
    assert plates.batch_kind == "plate, from the TCGA barcode"
    assert plates.patients[1].batch == "A001"
    clinical = pd.DataFrame({"case_id": barcodes, "hospital": ["north", *["south"] * 9]})
    told = check_expression(cohort(10, names=names), clinical)
    assert told.batch_kind == "hospital, from the clinical table"
    assert [patient.batch for patient in told.patients][:2] == ["north", "south"]
    assert check_expression(cohort(10), None).batch_kind is None


def test_sex_that_rows_contradict_or_that_is_unknown_is_not_judged() -> None:
    clinical = pd.DataFrame(
        {"patient": ["P000", "P000", "P001", "P002", "P003"], "sex": ["male", "female", None, "[Unknown]", " F "]}
    )
    checks = check_expression(cohort(10), clinical)
    assert [patient.recorded_sex for patient in checks.patients][:4] == [None, None, None, "female"]
    assert checks.sexes == 1
    by_index = check_expression(cohort(10), pd.DataFrame({"sex": ["m"]}, index=["P004"]))
    assert by_index.patients[4].recorded_sex == "male"


def test_z_scores_have_no_reads_and_nobody_is_judged_by_their_y() -> None:
    expression = cohort()
    matrix = np.asarray(expression.X)
    matrix[:] = (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)
    matrix[4, 20] = matrix[5, 20] = 400  # one giant score does not make twins
    del expression.obs["library_size"]
    expression.uns["input_unit"] = "zscore"
    clinical = pd.DataFrame({"patient_id": expression.obs_names, "sex": "male"})
    checks = check_expression(expression, clinical)
    assert why(checks) == {}
    assert checks.sexes == 0
    assert {patient.detected for patient in checks.patients} == {None}
    page = render_genomics_qc(expression, [], [], clinical)
    assert "Detected genes</figcaption>" not in page
    assert "no library size" in page


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_any_number_of_patients(n: int) -> None:
    expression = cohort(n)
    clinical = pd.DataFrame({"patient_id": expression.obs_names, "sex": "female"})
    page = render_genomics_qc(expression, ["read"], [], clinical)
    assert page == render_genomics_qc(expression, ["read"], [], clinical)
    parsed = Page(page)
    assert all(patient in parsed.text for patient in expression.obs_names)
    assert not parsed.fetched
    assert_alone(page)
    assert len(page.encode()) < 1_000_000
    assert "nan" not in page
    assert {*MARKERS} <= set(parsed.text.split())


def test_names_are_escaped_and_sentences_are_there() -> None:
    expression = cohort(10, names=[HOSTILE, *(f"P{i}" for i in range(9))], batch=[HOSTILE] * 5 + ["b"] * 5)
    expression.uns["source"] = HOSTILE
    expression.obs.loc[HOSTILE, "library_size"] = 1e5
    page = render_genomics_qc(expression, ["a sentence", HOSTILE], ["a warning", HOSTILE], None)
    parsed = Page(page)
    assert_alone(page)
    assert "a sentence" in parsed.text
    assert "a warning" in parsed.text
    assert parsed.text.count(HOSTILE) >= 5


def test_values_and_genes_that_are_not_there() -> None:
    expression = cohort(20)
    np.asarray(expression.X)[:, 0] = np.nan  # ESR1 of nobody
    np.asarray(expression.X)[3, 5:9] = np.nan
    np.asarray(expression.X)[6] = np.nan
    page = render_genomics_qc(expression[:, expression.var_names != "PGR"].copy(), [], [], None)
    parsed = Page(page)
    assert "Not in the matrix under this name: ESR1, PGR." in parsed.text
    without = cohort(20)
    bare = without[:, [gene not in Y for gene in without.var_names]].copy()
    assert "no gene of the Y chromosome" in Page(render_genomics_qc(bare, [], [], None)).text


def test_real_counts() -> None:
    path = DATA / "rnaseq/tcga_brca_counts.csv.gz"
    if not path.is_file():
        pytest.skip("no shared data")
    with gzip.open(path, "rt") as file:
        counts = pd.read_csv(file, index_col=0).T
    library = counts.sum(axis=1)
    logs = np.log2(counts.div(library, axis=0) * 1e6 + 1).astype(np.float32)
    expression = anndata.AnnData(
        logs.to_numpy(),
        obs=pd.DataFrame({"library_size": library.to_numpy(np.float64)}, index=logs.index),
        var=pd.DataFrame(index=logs.columns),
        uns={"unit": "log2(CPM + 1)", "input_unit": "counts", "source": path.name},
    )
    clinical = pd.read_csv(DATA / "brca/clinical.csv")
    checks = check_expression(expression, clinical)
    assert sorted(why(checks)) == ["TCGA-AC-A2QH", "TCGA-AC-A3QQ"]
    assert (checks.sex_mismatches, checks.sexes) == (0, 105)
    assert not checks.duplicates
    man = next(patient for patient in checks.patients if patient.recorded_sex == "male")
    assert man.y is not None
    assert man.y > 5
    clinical["gender"] = clinical["gender"].map({"FEMALE": "MALE", "MALE": "FEMALE"})
    assert check_expression(expression, clinical).sex_mismatches == 105
