"""Names of genes and of samples become genes and patients, one each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from expression_frames import GENES, PATIENTS, close, counts, cpm, in_unit, log2, read, written
from wsipipe.data.errors import ExpressionError, UsageError
from wsipipe.data.molecular.block_reading import read_block
from wsipipe.data.molecular.expression_reading import read_genomics
from wsipipe.data.molecular.gene_aliases import shipped_aliases


def test_former_names_become_approved_symbols(tmp_path: Path) -> None:
    rows = {
        "CTSL2": 1.5,
        "STK15": 2.5,
        "STK6": 2.25,
        "HER2": 3.5,
        "ERBB2": 3.25,
        "SEPT9": 4.5,
        "MKI67": 5.5,
        "MINE": 6.5,
    }
    frame = pd.DataFrame({"a": rows, "b": rows})
    result, facts = read(tmp_path, frame, "log")
    # ERBB2 is there itself: HER2 stays; of two former names of AURKA the larger stands.
    assert result.loc["a"].to_dict() == {
        "AURKA": 2.5, "CTSV": 1.5, "ERBB2": 3.25, "HER2": 3.5, "MINE": 6.5, "MKI67": 5.5, "SEPTIN9": 4.5,
    }  # fmt: skip
    assert {"aliases": 4, "duplicate_genes": 1}.items() <= facts.counts.items()
    shown = "CTSL2 → CTSV, SEPT9 → SEPTIN9, STK15 → AURKA and 1 more"
    assert f"former names replaced by approved symbols ({shown}): 4" in facts.sentences


def test_own_aliases_go_first(tmp_path: Path) -> None:
    (tmp_path / "aliases.csv").write_text("# mine\nENSG00000091831,ESR1\nSEPT9,NINE\n")
    path = written(tmp_path, pd.DataFrame({"a": [1.5, 2.5], "b": [1, 2]}, index=["ENSG00000091831.24", "SEPT9"]))
    result, _ = read_genomics(path, "log", aliases=tmp_path / "aliases.csv")
    assert result.var["source_id"].to_dict() == {"ESR1": "ENSG00000091831.24", "NINE": "SEPT9"}


def test_the_shipped_aliases() -> None:
    aliases = shipped_aliases()
    assert len(aliases) > 400
    assert not set(aliases) & set(aliases.values())  # no chains
    for gene in ("MKI67", "BIRC5", "GRB7", "ESR1", "ERBB2", "ACTB"):
        assert gene not in aliases
    assert (aliases["CTSL2"], aliases["MARCH1"], aliases["SEPT14"]) == ("CTSV", "MARCHF1", "SEPTIN14")


def test_gene_lengths_make_counts_tpm(tmp_path: Path) -> None:
    frame = counts()
    lengths = pd.Series(np.arange(500, 500 + len(GENES) * 100, 100), index=GENES)
    lengths.drop("GENE7").rename_axis("gene").rename("bp").to_csv(tmp_path / "bp.csv")
    result, facts = read_genomics(written(tmp_path, frame), gene_lengths=tmp_path / "bp.csv")
    kept = frame.drop("GENE7")
    rates = kept.div(lengths.drop("GENE7"), axis=0)
    close(result.to_df(), log2(rates / rates.sum() * 1e6).T)
    assert result.uns["unit"] == "log2(TPM + 1)"
    assert result.uns["input_unit"] == "counts"
    np.testing.assert_allclose(result.obs["library_size"], frame.sum())
    assert "genes without a length left out: 1" in facts.sentences
    _, facts = read_genomics(written(tmp_path, in_unit("tpm")), gene_lengths=tmp_path / "bp.csv")
    assert "the gene lengths are not used: the values are tpm, not counts" in facts.warnings


BAD_TABLES = {
    "lengths of nothing": ("gene_lengths", "other,500\n", "only 0 of 63 genes have a length"),
    "a length of zero": ("gene_lengths", "ACTB,0\n", "a gene's length must be above zero \\(ACTB: '0'\\)"),
    "lengths in words": ("gene_lengths", "ACTB,5\nESR1,long\n", "must be above zero \\(ESR1: 'long'\\)"),
    "two lengths": ("gene_lengths", "ACTB,5\nACTB,6\n", "ACTB has two lengths, 5 and 6"),
    "three columns": ("gene_lengths", "ACTB,5,6\nESR1,5,6\n", "not a table of two columns: line 'ACTB,5,6'"),
    "empty lengths": ("gene_lengths", "", "the gene lengths are empty"),
    "two meanings": ("aliases", "A,B\nA,C\n", "A stands for both B and C"),
    "one column of aliases": ("aliases", "A\nB\n", "not a table of two columns: line 'A'"),
    "empty aliases": ("aliases", "# nothing\n", "the aliases are empty"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_bad_tables_beside_the_matrix(tmp_path: Path, kind: str) -> None:
    option, content, message = BAD_TABLES[kind]
    table = tmp_path / "table.csv"
    table.write_text(content)
    with pytest.raises(ExpressionError, match=message) as caught:
        read_genomics(written(tmp_path, counts()), **{option: table})
    assert caught.value.path in (str(table), str(tmp_path / "matrix.csv"))
    assert caught.value.hint
    with pytest.raises(ExpressionError, match="could not be read"):
        read_genomics(written(tmp_path, counts()), **{option: tmp_path / "none.csv"})


def test_patients_by_a_pattern(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"site1_PT-07_r1": [1.5], "site1_PT-07_r2": [2.5], "PT-12": [3.5], "cell line": [4.5]}, index=["ESR1"]
    )
    path = written(tmp_path, frame)
    result, facts = read_genomics(path, "log", patient_pattern=r"PT-(\d+)")
    assert result.to_df()["ESR1"].to_dict() == {"07": 2.5, "12": 3.5}  # of two samples the name that sorts last
    assert {"pattern_not_found": 1, "extra_aliquots": 1, "names_cut": 3}.items() <= facts.counts.items()
    assert "further aliquots left out, the name that sorts last is used: 1" in facts.sentences
    assert any("left out (cell line): 1" in sentence for sentence in facts.sentences)
    whole, facts = read_genomics(path, "log", patient_pattern=r"PT-\d+")
    assert whole.obs_names.tolist() == ["PT-07", "PT-12"]
    assert facts.counts["names_cut"] == 2
    with pytest.raises(ExpressionError, match="no sample matches 'XX'") as caught:
        read_genomics(path, "log", patient_pattern="XX")
    assert "site1_PT-07_r1" in caught.value.hint
    for pattern in ("(PT", "PT-[", "*"):
        with pytest.raises(UsageError, match="is not a regular expression"):
            read_genomics(path, "log", patient_pattern=pattern)
    # A pattern that can match nothing names nobody by it.
    assert read_genomics(path, "log", patient_pattern=r"(PT-\d+)?$")[0].obs_names.tolist() == ["PT-12"]


def test_a_pattern_goes_before_barcodes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"TCGA-A1-A0SB-01A": [1.5], "TCGA-A1-A0SB-06A": [2.5]}, index=["ESR1"])
    result, _ = read_genomics(written(tmp_path, frame), "log", patient_pattern=r"(TCGA-..-....)-06")
    assert result.to_df()["ESR1"].to_dict() == {"TCGA-A1-A0SB": 2.5}


def test_ensembl_versions_and_duplicate_genes(tmp_path: Path) -> None:
    rows = {
        "ENSG00000000003.15": [1.5, 2.5],
        "ENSG00000000005.6": [3.25, np.nan],
        "ENSG00000000005.6_PAR_Y": [3.0, 3.0],
        "RP11-34P13.7": [4.0, 4.5],
        "TP53": [1.0, 9.0],
        "TP53 ": [4.0, 5.0],
        "": [7.0, 7.0],
        "__no_feature": [8.0, 8.0],
    }
    result, facts = read(tmp_path, pd.DataFrame(rows, index=["a", "b"]).T, "log")
    assert result.columns.tolist() == ["ENSG00000000003", "ENSG00000000005", "RP11-34P13.7", "TP53"]
    assert result["ENSG00000000005"].iloc[0] == 3.25  # its mean over what is there is the larger
    assert result["TP53"].tolist() == [1.0, 9.0]
    wanted = {"ensembl_versions": 3, "duplicate_genes": 2, "unnamed_rows": 1, "summary_rows": 1, "missing": 1}
    assert wanted.items() <= facts.counts.items()
    assert "missing values, kept (each training fold imputes them): 1" in facts.sentences


def test_library_sizes_leave_out_the_aligners_summary(tmp_path: Path) -> None:
    frame = counts()
    frame.loc["N_unmapped"] = 1_000_000
    close(read(tmp_path, frame)[0], log2(cpm(counts())).T)


def test_names_that_a_spreadsheet_made_dates(tmp_path: Path) -> None:
    _, facts = read(tmp_path, counts().rename(index={"GENE1": "1-Mar", "GENE2": "Sep-02"}))
    assert any("turned into dates: 2 (1-Mar, Sep-02)" in warning for warning in facts.warnings)


def test_tcga_aliquots(tmp_path: Path) -> None:
    aliquots = {
        "TCGA-A1-A0SB-01A-11R-A115-07": 1.5,
        "TCGA-A1-A0SB-01A-11R-A215-07": 2.5,  # stands: later plate
        "TCGA-A1-A0SB-01B-11R-A999-07": 3.5,  # a later vial, often from paraffin
        "TCGA-A1-A0SB-11A-11R-A115-07": 4.5,
        "TCGA-A1-A0SD-06A-11R-A115-07": 5.5,
        "tcga.a1.a0se.01a.11r": 6.5,  # R's dots
        "OTHER-1": 7.5,
    }
    frame = pd.DataFrame({name: [value, 1.25] for name, value in aliquots.items()}, index=["ESR1", "PGR"])
    result, facts = read(tmp_path, frame, "log")
    assert result["ESR1"].to_dict() == {"OTHER-1": 7.5, "TCGA-A1-A0SB": 2.5, "TCGA-A1-A0SE": 6.5}
    wanted = {
        "sample_type_11": 1,
        "sample_type_06": 1,
        "extra_aliquots": 2,
        "barcodes_cut": 4,
        "patients": 3,
        "samples": 7,
    }
    assert wanted.items() <= facts.counts.items()
    assert "samples of type 06 (metastasis) left out, not primary tumours: 1" in facts.sentences


def test_one_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    path.write_text("gene,P1,P1,P2\nESR1,1.5,1.5,2\nPGR,3,3,4.5\n")
    result, facts = read_genomics(path)
    assert result.shape == (2, 2)
    assert facts.counts["extra_aliquots"] == 1
    path.write_text("gene,P1,P1,P2\nESR1,1.5,1.6,2\nPGR,3,3,4.5\n")
    with pytest.raises(ExpressionError, match="P1 occurs 2 times under one name"):
        read_genomics(path)


def test_patients_without_values_are_counted(tmp_path: Path) -> None:
    frame = counts()
    frame["P3"] = 0
    result, facts = read(tmp_path, frame.astype(float).assign(P5=np.nan))
    assert result.index.tolist() == ["P0", "P1", "P2", "P4", "P6", "P7"]
    assert "patients without any value left out (P3, P5): 2" in facts.sentences


def test_values_in_a_row_that_is_left_out_do_not_make_a_patient_measured(tmp_path: Path) -> None:
    """P2 has a value in the weaker row of ESR1 alone."""
    path = tmp_path / "m.csv"
    path.write_text("protein,P1,P2,P3\nESR1,9,,8\nPGR,1.5,,2.5\nESR1,2,1.25,\n")
    rna, facts = read_genomics(path, "log", "genes-in-rows")
    block, block_facts = read_block(path, "protein", "auto", "genes-in-rows")
    for result in (rna, block):
        assert list(result.obs_names) == ["P1", "P3"]
        np.testing.assert_array_equal(result.X, [[9, 1.5], [8, 2.5]])
    assert "patients with values only in rows left out (P2): 1" in facts.sentences
    assert "2 patients × 2 genes kept, as log values as given" in facts.sentences
    assert facts.counts["patients"] == 2
    assert "patients without any value left out (P2): 1" in block_facts.sentences


def test_columns_that_describe_genes_are_left_out(tmp_path: Path) -> None:
    frame = counts()
    frame.insert(0, "gene_type", "protein_coding")
    frame.insert(1, "Entrez Gene ID", range(len(frame)))
    result, facts = read(tmp_path, frame)
    close(result, log2(cpm(counts())).T)
    assert "columns that describe genes left out: gene_type, Entrez Gene ID" in facts.sentences


def test_no_value_depends_on_other_patients(tmp_path: Path) -> None:
    for unit in ("counts", "tpm", "fpkm", "log"):
        frame = in_unit(unit)
        everybody, _ = read(tmp_path, frame, unit)
        some, _ = read(tmp_path, frame[PATIENTS[:3]], unit)
        assert everybody.loc[PATIENTS[:3]].equals(some)
