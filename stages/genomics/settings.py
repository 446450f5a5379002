"""Settings of genomics: the molecular matrices, and how to read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from ...data.molecular.block_table import TABLE, BlockRow
from ..settings import Runtime, Settings


class _OfRna(Settings):
    """Read an expression matrix into patients × genes on a log scale; nothing is fitted or selected."""

    matrix: Path | None = Runtime(
        None,
        examples=["expression.csv"],
        description="expression matrix: CSV, TSV, Parquet (also .gz), .h5ad, or a folder of the GDC's STAR counts",
    )
    unit: Literal["auto", "counts", "tpm", "fpkm", "rsem", "log", "zscore"] = Field(
        "auto", description="unit of the values; auto recognises it and reports how"
    )
    orientation: Literal["auto", "genes-in-rows", "patients-in-rows"] = Field(
        "auto", description="whether rows are genes or patients; auto decides by the names, or stops and asks"
    )
    name_column: str | None = Field(
        None,
        examples=["patient_id"],
        description="title of the column (or row) with the names, #2 for the second; default: recognised by its title",
    )
    numbers_are_names: bool = Field(False, description="accept row numbers (0, 1, 2 …) as names of patients or genes")
    drop_columns: list[str] = Field([], description="names of columns or rows to leave out because they are no genes")
    keep_columns: list[str] = Field([], description="names of genes to keep, though they do not look like genes")
    patient_pattern: str | None = Field(
        None,
        examples=["^(P\\d+)"],
        description="regular expression whose first group is the patient in a sample's name; default: TCGA's rule, or "
        "the whole name",
    )
    aliases: Path | None = Runtime(
        None, examples=["aliases.tsv"], description="table of two columns: gene name in the matrix, approved symbol"
    )
    gene_lengths: Path | None = Runtime(
        None, examples=["lengths.tsv"], description="table of genes and their lengths in bp, to convert counts to TPM"
    )
    gene_sets: Path | None = Runtime(
        None, examples=["hallmark.gmt"], description="gene sets; each patient gets a score for each (signatures.csv)"
    )
    clinical: Path | None = Runtime(
        None,
        examples=["clinical.tsv"],
        description="table of patients with sex and batch, used only for the quality page",
    )

    def sources(self) -> dict[Any, Path]:
        """The matrices that are configured, by block."""
        matrices = {"rna": self.matrix, **{block: getattr(self, block) for block in TABLE}}
        return {block: path for block, path in matrices.items() if path is not None}


def _fields(block: str, row: BlockRow) -> Iterator[tuple[str, Any]]:
    """The settings of a block: its matrix and, if it has several units, its unit."""
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
