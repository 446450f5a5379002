"""Whose download a matrix is: cBioPortal's, UCSC Xena's, a GCT file."""

from __future__ import annotations

from pathlib import Path

import pytest
from expression_frames import PATIENTS, cbioportal, close, counts, cpm, in_unit, log2
from wsipipe.data.errors import ExpressionError
from wsipipe.data.molecular.expression_reading import read_genomics


@pytest.mark.parametrize(
    ("name", "unit", "stored"),
    [
        ("data_mrna_seq_v2_rsem.txt", "rsem", "log2(normalised count + 1)"),
        ("data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt", "zscore", "z-scores as given"),
        ("data_mrna_seq_tpm.txt", "tpm", "log2(TPM + 1)"),
    ],
)
def test_cbioportals_matrices(tmp_path: Path, name: str, unit: str, stored: str) -> None:
    frame = cpm(counts()) * 20.5 if unit == "rsem" else in_unit(unit)
    cbioportal(frame.copy()).to_csv(tmp_path / name, sep="\t")
    result, facts = read_genomics(tmp_path / name)
    expected = frame if unit == "zscore" else log2(frame)
    close(result.to_df(), expected.set_axis([f"TCGA-A1-A0S{index}" for index in range(8)], axis=1).T)
    assert (result.uns["unit"], result.uns["input_unit"]) == (stored, unit)
    assert result.uns["input_unit_was"] == ("recognised" if unit == "tpm" else "stated")
    assert "a matrix of cBioPortal, by its first column" in facts.sentences
    assert "columns that describe genes left out: Entrez_Gene_Id" in facts.sentences


def test_a_file_name_that_the_values_contradict(tmp_path: Path) -> None:
    path = tmp_path / "data_mrna_seq_v2_rsem_zscores.txt"
    cbioportal(in_unit("tpm")).to_csv(path, sep="\t")
    result, facts = read_genomics(path)
    assert result.uns["input_unit"] == "tpm"
    assert "the file's name states zscore, which the values contradict" in facts.warnings
    _, facts = read_genomics(path, "tpm")
    assert "the unit was given as tpm, though the file's name states zscore" in facts.warnings


@pytest.mark.parametrize(
    ("name", "corner", "said"),
    [
        ("HiSeqV2.gz", "sample", ", by its name log2(normalised count + 1)"),
        ("TCGA-BRCA.star_tpm.tsv.gz", "Ensembl_ID", ", by its name log2(TPM + 1)"),
        ("download.tsv", "sample", ""),
    ],
)
def test_xenas_matrices(tmp_path: Path, name: str, corner: str, said: str) -> None:
    frame = log2(cpm(counts()))
    barcodes = [f"TCGA-A1-A0S{index}-01A" for index in range(8)]
    frame.set_axis(barcodes, axis=1).rename_axis(corner).to_csv(tmp_path / name, sep="\t")
    result, facts = read_genomics(tmp_path / name)
    close(result.to_df(), frame.set_axis([barcode[:12] for barcode in barcodes], axis=1).T)
    assert result.uns["input_unit"] == "log"
    assert f"a matrix of UCSC Xena, genes in rows{said}" in facts.sentences


def test_gct(tmp_path: Path) -> None:
    frame = cpm(counts())
    table = frame.rename_axis("Name").reset_index()
    table.insert(1, "Description", "a gene")
    text = f"#1.2\n{len(frame)}\t{len(PATIENTS)}\n" + table.to_csv(sep="\t", index=False)
    (tmp_path / "m.gct").write_text(text)
    result, facts = read_genomics(tmp_path / "m.gct")
    close(result.to_df(), log2(frame).T)
    assert "genes are in the rows: a GCT file" in facts.sentences
    assert "columns that describe genes left out: Description" in facts.sentences
    (tmp_path / "cut.gct").write_text("\n".join(text.splitlines()[:-2]))
    with pytest.raises(ExpressionError, match="its second line says '63\\\\t8' rows and columns, there are 61, 8"):
        read_genomics(tmp_path / "cut.gct")
