"""Settings of genomics: which matrices there are, and what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from ..settings import Runtime, Settings


class GenomicsSettings(Settings):
    """Read an expression matrix: patients × genes on a log scale, nothing fitted, nothing selected."""

    matrix: Path | None = Runtime(
        None,
        examples=["expression.csv"],
        description="expression matrix: CSV, TSV, Parquet (also .gz), .h5ad, or a folder of the GDC's STAR counts",
    )
    unit: Literal["auto", "counts", "tpm", "fpkm", "rsem", "log", "zscore"] = Field(
        "auto", description="unit of the values; auto recognises it and says by what"
    )
    orientation: Literal["auto", "genes-in-rows", "patients-in-rows"] = Field(
        "auto", description="which way round the matrices lie; auto tells it by the names, or asks"
    )
    name_column: str | None = Field(
        None,
        examples=["patient_id"],
        description="title of the column (or row) that holds the names, #2 for the second; default: by its title",
    )
    numbers_are_names: bool = Field(
        False, description="take row numbers (0, 1, 2 …) for names: patients or genes are really called so"
    )
    drop_columns: list[str] = Field([], description="columns or rows to leave out, by their names: what is no gene")
    keep_columns: list[str] = Field([], description="columns or rows that are genes, though they look like none")
    patient_pattern: str | None = Field(
        None,
        examples=["^(P\\d+)"],
        description="regular expression, its first group the patient in a sample's name; default: TCGA's, or all of it",
    )
    aliases: Path | None = Runtime(
        None, examples=["aliases.tsv"], description="table of gene names and the symbols that they become"
    )
    gene_lengths: Path | None = Runtime(
        None, examples=["lengths.tsv"], description="table of genes and their lengths in bp: counts then become TPM"
    )
    gene_sets: Path | None = Runtime(
        None, examples=["hallmark.gmt"], description="gene sets to score each patient by (signatures.csv)"
    )
    cnv: Path | None = Runtime(None, examples=["cnv.csv"], description="copy numbers: GISTIC calls or log2 ratios")
    cnv_unit: Literal["auto", "gistic", "log2 ratio"] = Field("auto", description="unit of the copy numbers")
    mutation: Path | None = Runtime(None, examples=["mutation.csv"], description="mutations: 1 where a gene has one")
    protein: Path | None = Runtime(None, examples=["protein.csv"], description="protein abundance: log or z-scores")
    protein_unit: Literal["auto", "log", "zscore"] = Field("auto", description="unit of the protein abundance")
    methylation: Path | None = Runtime(None, examples=["methylation.csv"], description="methylation: beta, 0 to 1")
    clinical: Path | None = Runtime(
        None, examples=["clinical.tsv"], description="table of patients with sex and batch, for the quality page alone"
    )

    def sources(self) -> dict[Any, Path]:
        """The matrices that are given, by block."""
        given = {"rna": self.matrix, **{block: getattr(self, block) for block in BLOCKS[1:]}}
        return {block: path for block, path in given.items() if path is not None}


BLOCKS: Final = ("rna", "cnv", "mutation", "protein", "methylation")
"""Molecular measurements that can teach."""
