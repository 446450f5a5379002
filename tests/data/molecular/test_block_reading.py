"""Matrices of copy number, mutation, protein and methylation as labs have them become a block's store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wsipipe.data.errors import ExpressionError, UsageError
from wsipipe.data.molecular.block_reading import read_block
from wsipipe.data.molecular.blocks import Block
from wsipipe.data.molecular.store import read_expression, store_name, write_expression

CNV = """\
Gene Symbol\tTCGA-A1-A0SB-01A-11D\tTCGA-A1-A0SD-01A-11D\tTCGA-A1-A0SD-11A-11D\tTCGA-A1-A0SE-01A-11D
TP53\t-1\t0\t0\t-2
ERBB2\t2\t\t0\t0
ERBB2\t0\t0\t0\t0
MYC\t1\t2\t0\t
"""


def written(folder: Path, text: str, name: str = "matrix.tsv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_gistic_calls(tmp_path: Path) -> None:
    expression, facts = read_block(written(tmp_path, CNV), "cnv")
    assert expression.uns["unit"] == "gistic"
    assert any("from -2 to 2" in sentence for sentence in facts.sentences)
    write_expression(tmp_path / store_name("cnv"), expression)
    table = read_expression(tmp_path / "cnv.zarr")
    assert table.block == "cnv"
    assert table.patients == ("TCGA-A1-A0SB", "TCGA-A1-A0SD", "TCGA-A1-A0SE")
    assert table.genes == ("ERBB2", "MYC", "TP53")
    nan = np.nan
    # Of the two rows of ERBB2 the one with the larger mean stands; the normal sample (11) is no tumour.
    np.testing.assert_array_equal(table.matrix, [[2, 1, -1], [nan, 2, 0], [0, nan, -2]])
    assert facts.counts["duplicate_genes"] == 1
    assert facts.counts["missing"] == 2


def test_a_patient_that_was_not_measured_is_not_in_the_store(tmp_path: Path) -> None:
    text = "gene,P1,P2,P3\nTP53,1,,0\nPIK3CA,0,,1\n"
    expression, facts = read_block(written(tmp_path, text, "m.csv"), "mutation", orientation="genes-in-rows")
    assert list(expression.obs_names) == ["P1", "P3"]
    assert expression.uns["unit"] == "0/1"
    assert facts.counts["without_values"] == 1


def test_probes_keep_their_names_and_patients_may_be_in_rows(tmp_path: Path) -> None:
    text = "patient,cg00000029,cg00000108\nP1,0.5,0.91\nP2,0.07,0.2\n"
    path = written(tmp_path, text, "m.csv")
    expression, _ = read_block(path, "methylation", "beta", orientation="patients-in-rows")
    assert list(expression.var_names) == ["cg00000029", "cg00000108"]
    np.testing.assert_allclose(expression.X, [[0.5, 0.91], [0.07, 0.2]], rtol=1e-6)


@pytest.mark.parametrize(("block", "unit"), [("cnv", "log2 ratio"), ("mutation", "auto"), ("methylation", "beta")])
def test_another_unit_is_contradicted(tmp_path: Path, block: Block, unit: str) -> None:
    path = written(tmp_path, CNV)
    with pytest.raises(ExpressionError, match="from -2 to 2") as caught:
        read_block(path, block, unit)
    assert caught.value.path == str(path)
    assert caught.value.hint


def test_rna_and_foreign_units_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, CNV)
    with pytest.raises(UsageError, match="rna is not read as a block"):
        read_block(path, "rna")
    with pytest.raises(UsageError, match="cnv has no unit 'beta'"):
        read_block(path, "cnv", "beta")


def test_what_describes_a_gene_is_no_patient(tmp_path: Path) -> None:
    """GISTIC's own header."""
    table = CNV.replace("Gene Symbol", "Gene Symbol\tLocus ID\tCytoband", 1)
    table = "\n".join(
        line if "Locus" in line else line.replace("\t", "\t7157\t17p13.1\t", 1) for line in table.splitlines()
    )
    plain, _ = read_block(written(tmp_path, CNV, "plain.tsv"), "cnv")
    described, facts = read_block(written(tmp_path, table), "cnv")
    np.testing.assert_array_equal(described.X, plain.X)
    assert "columns that describe genes left out: Locus ID, Cytoband" in facts.sentences
