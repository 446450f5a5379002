"""Settings of genomics: which matrices there are, and what their values mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from ...data.molecular.block_table import TABLE, BlockRow
from ..settings import Runtime, Settings


class _OfRna(Settings):
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
    clinical: Path | None = Runtime(
        None, examples=["clinical.tsv"], description="table of patients with sex and batch, for the quality page alone"
    )

    def sources(self) -> dict[Any, Path]:
        """The matrices that are given, by block."""
        given = {"rna": self.matrix, **{block: getattr(self, block) for block in TABLE}}
        return {block: path for block, path in given.items() if path is not None}


def _fields(block: str, row: BlockRow) -> Iterator[tuple[str, Any]]:
    """The settings of a block: its matrix and, where it has several, its unit."""
    yield block, (Path | None, Runtime(None, examples=[f"{block}.csv"], description=row.description))
    if len(row.units) > 1:
        about = f"unit of the {row.description.partition(':')[0]}"
        yield f"{block}_unit", (Literal[("auto", *row.units)], Field("auto", description=about))


if TYPE_CHECKING:

    class GenomicsSettings(_OfRna):
        """The settings of the matrix, and of a matrix of each further block."""

else:
    GenomicsSettings = create_model(
        "GenomicsSettings",
        __base__=_OfRna,
        __doc__=_OfRna.__doc__,
        __module__=__name__,
        **{name: field for block, row in TABLE.items() for name, field in _fields(block, row)},
    )
