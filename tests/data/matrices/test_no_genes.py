"""Names that are no gene's: dates of spreadsheets, summaries, spike-ins, and what is known of patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expression_frames import close, counts, cpm, log2, read
from wsipipe.data.matrices.no_genes import is_date, is_no_gene, turned_into_dates
from wsipipe.data.molecular.gene_aliases import shipped_aliases

DATES = [
    "1-Mar", "2-Sep", "01-Mar", "Mar-01", "Sep-02", "1-MARCH", "15-Sep", "1-Dec", "4-Oct", "2022-03-01", "2022-09-02",
    "2022-03-01 00:00:00", "2023-03-01T00:00:00", "3/1/2022", "03/01/22", "01.03.2022", "01.Mrz", "1. Mrz", "2. Sep",
    "1-mars", "1-Mar-22", "March 1", "2.31E+13", "2.31E13", "5E+05",
]  # fmt: skip
GENES = [
    "MARCH1", "MARC1", "SEPT2", "SEPTIN2", "MARCHF1", "DEC1", "DELEC1", "OCT4", "ESR1", "HLA-A", "NKX2-1", "C1orf112",
    "RP11-34P13.7", "AC004556.3", "5S_rRNA", "7SK", "Y_RNA", "37E16.5", "MT-ND1", "hsa-mir-21", "NODAL", "EFS", "OS9",
    "AGER", "STAG2", "COMMD3-BMI1", "AR", "HER2", "KI67", "T", "ER81", "ENSG00000091831.24", "Esr1", "MSI1", "RIN3",
    "SEXN",
]  # fmt: skip


def test_dates_in_every_form() -> None:
    assert [name for name in DATES if not is_date(name)] == []
    assert [name for name in GENES if is_date(name)] == []
    assert turned_into_dates(["ESR1", "PGR", "44805", "1-Mar", "MKI67"]) == [2, 3]
    assert turned_into_dates(["2099", "5241", "2064"]) == []  # Entrez ids


def test_genes_are_genes(shared: Path) -> None:
    matrix = pd.read_csv(shared / "rnaseq/tcga_brca_counts.csv.gz", usecols=[0])
    listed = [line.split("\t")[2:] for line in (shared / "rnaseq/h.all.v7.0.symbols.gmt").read_text().splitlines()]
    known = {*map(str, matrix.iloc[:, 0]), *(gene for genes in listed for gene in genes)}
    assert [gene for gene in sorted(known) if is_no_gene(gene)] == []


def test_no_gene_is_taken_for_a_patients_fact() -> None:
    assert [name for name in (*GENES, *shipped_aliases(), *shipped_aliases().values()) if is_no_gene(name)] == []
    facts = ["age", "AGE", "Age_at_diagnosis", "ER_IHC", "er status", "OS", "OS.time", "PFS_MONTHS", "Sex",
             "DaysToDeath", "vital_status", "tumor_stage", "grade", "label", "nCount_RNA", "percent.mt", "library_size",
             "HER2_IHC", "Ki67 percent", "patient_age", "pam50", "TMB", "purity", "batch"]  # fmt: skip
    assert [name for name in facts if not is_no_gene(name)] == []


def test_genes_with_dates_for_names_are_named_and_left_out(tmp_path: Path) -> None:
    """Their counts are reads of the library all the same: two genes called 1-Mar are not one."""
    frame = counts().rename(index={"GENE1": "1-Mar", "GENE2": "1-Mar", "GENE3": "2022-09-02", "GENE4": "44805"})
    result, facts = read(tmp_path, frame)
    want = log2(cpm(counts())).drop(["GENE1", "GENE2", "GENE3", "GENE4"])
    close(result, want.T)
    assert any("turned into dates: 4 (1-Mar, 2022-09-02, 44805)" in warning for warning in facts.warnings)
    assert facts.counts["duplicate_genes"] == 0


def test_patients_with_dates_for_names_are_named(tmp_path: Path) -> None:
    _, facts = read(tmp_path, counts().rename(columns={"P1": "1-Mar", "P2": "Sep-02"}))
    assert any("patients whose names a spreadsheet may have turned" in warning for warning in facts.warnings)


SUMMARIES = {
    "HTSeq": ["__no_feature", "__ambiguous", "__too_low_aQual", "__not_aligned", "__alignment_not_unique"],
    "HTSeq of old": ["no_feature", "ambiguous", "too_low_aQual", "not_aligned", "alignment_not_unique"],
    "STAR": ["N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous"],
    "featureCounts": ["Unassigned_NoFeatures", "Unassigned_Ambiguity"],
    "samtools": ["*"],
    "a total": ["Total"],
}


@pytest.mark.parametrize("program", SUMMARIES)
def test_summaries_count_into_no_library(tmp_path: Path, program: str) -> None:
    frame = counts()
    for row in SUMMARIES[program]:
        frame.loc[row] = 1_000_000
    result, facts = read(tmp_path, frame)
    close(result, log2(cpm(counts())).T)
    assert facts.counts["summary_rows"] == len(SUMMARIES[program])


def test_spike_ins_are_no_patients_rna(tmp_path: Path) -> None:
    frame = counts()
    for row in ("ERCC-00002", "ERCC-00171", "SIRV101"):
        frame.loc[row] = 50_000
    frame.loc["ERCC1"] = 10  # a gene
    result, facts = read(tmp_path, frame)
    close(result, log2(cpm(frame.drop(["ERCC-00002", "ERCC-00171", "SIRV101"]))).T)
    assert facts.counts["spike_ins"] == 3


BOTH = {
    "Firehose": ("ESR1|2099", "ESR1"),
    "symbol and Ensembl": ("ESR1|ENSG00000091831.24", "ESR1"),
    "Ensembl and symbol": ("ENSG00000091831.24|ESR1", "ESR1"),
    "with an underscore": ("ENSG00000091831_ESR1", "ESR1"),
    "no symbol": ("?|100130426", "?|100130426"),
}


@pytest.mark.parametrize("form", BOTH)
def test_symbols_with_ids(tmp_path: Path, form: str) -> None:
    written, name = BOTH[form]
    result, _ = read(tmp_path, counts().rename(index={"ESR1": written}))
    assert name in result.columns
    np.testing.assert_allclose(result[name], log2(cpm(counts())).loc["ESR1"], rtol=1e-6)
