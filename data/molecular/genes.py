"""Which rows of a matrix are genes, what they are called, how long they are, and which of several stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..columns import names
from ..errors import ExpressionError
from ..wording import some
from .gene_aliases import read_pairs
from .reading_facts import ReadingFacts

_ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]{0,6}\d{11})\.\d+(?:_PAR_Y)?")
_DATE = re.compile(r"\d{1,2}-(?:Mar|Sep|Dec|Oct|Apr)|(?:Mar|Sep|Dec|Oct|Apr)-\d{2}", re.IGNORECASE)
_LENGTHS_FORM = "two columns: gene, and its length in base pairs; tabs or commas between them"


def gene_names(written: Sequence[str], aliases: Mapping[str, str], facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Which rows are genes, and their names: Ensembl ids without version, symbols as approved.

    :param aliases: former name → approved symbol; used where the approved symbol is in no row itself.
    """
    summaries = set(names("expression", "not_genes"))
    keep = [index for index, gene in enumerate(written) if gene and gene not in summaries]
    facts.count("unnamed_rows", unnamed := written.count(""), "rows without a gene's name left out")
    dropped = len(written) - len(keep) - unnamed
    facts.count("summary_rows", dropped, "rows of the aligner's summary left out")
    genes = [_without_version(written[index]) for index in keep]
    versions = sum(gene != written[index] for gene, index in zip(genes, keep, strict=True))
    facts.count("ensembl_versions", versions, "Ensembl versions dropped")
    dates = [gene for gene in genes if _DATE.fullmatch(gene)]
    if dates:
        facts.warnings.append(f"genes whose names a spreadsheet turned into dates: {len(dates)} ({some(dates, 3)})")
    if not keep:
        raise ExpressionError("no row has a gene's name", hint="the first column must hold gene ids or symbols")
    there = set(genes)
    renamed = {gene: aliases[gene] for gene in sorted(there & aliases.keys()) if aliases[gene] not in there}
    shown = some([f"{old} → {new}" for old, new in renamed.items()], 3)
    facts.count("aliases", len(renamed), f"former names brought to approved symbols ({shown})")
    return keep, [renamed.get(gene, gene) for gene in genes]


def _without_version(gene: str) -> str:
    return _ENSEMBL_VERSION.sub(r"\1", gene)


def read_gene_lengths(path: Path) -> Mapping[str, float]:
    """Gene → length in base pairs, of a CSV or TSV; a first line of headings is passed over.

    :raises ExpressionError: it is no such table, or a length is not above zero, or a gene has two.
    """
    found: dict[str, float] = {}
    for number, (gene, text) in enumerate(read_pairs(path, "gene lengths", _LENGTHS_FORM)):
        try:
            length = float(text)
        except ValueError:
            length = np.nan
            if number == 0:
                continue
        if not 0 < length < np.inf:
            raise ExpressionError(
                f"a gene's length must be above zero ({gene}: {text!r})", path=path, hint=_LENGTHS_FORM
            )
        if found.setdefault(_without_version(gene), length) != length:
            what = f"{gene} has two lengths, {found[_without_version(gene)]:g} and {length:g}"
            raise ExpressionError(what, path=path, hint="keep one of them")
    return found


def lengths_of(
    genes: Sequence[str], written: Sequence[str], lengths: Mapping[str, float], facts: ReadingFacts
) -> npt.NDArray[np.float64]:
    """Their lengths, by the name or as written; NaN where it is not known.

    :raises ExpressionError: fewer than half have one.
    """
    found = np.array(
        [
            lengths.get(gene, lengths.get(_without_version(old), np.nan))
            for gene, old in zip(genes, written, strict=True)
        ]
    )
    without = int(np.isnan(found).sum())
    if 2 * without > len(genes):
        what = f"only {len(genes) - without:,} of {len(genes):,} genes have a length"
        raise ExpressionError(what, hint="the gene lengths must use the matrix's own ids")
    facts.count("genes_without_length", without, "genes without a length left out")
    return found


def one_row_a_gene(
    values: npt.NDArray[np.float64], genes: Sequence[str], facts: ReadingFacts
) -> tuple[list[int], list[int]]:
    """For each gene, sorted: the column that stands for it, and how many there were."""
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(genes):
        columns.setdefault(gene, []).append(column)
    extra = len(genes) - len(columns)
    facts.count("duplicate_genes", extra, "further rows of the same genes left out, the largest mean stands")
    ordered = sorted(columns)
    return [_largest_mean(values, columns[gene]) for gene in ordered], [len(columns[gene]) for gene in ordered]


def _largest_mean(values: npt.NDArray[np.float64], columns: Sequence[int]) -> int:
    """The first of the columns with the largest mean over what is not missing."""
    if len(columns) == 1:
        return columns[0]
    own = values[:, columns]
    present = (~np.isnan(own)).sum(axis=0)
    means = np.where(present > 0, np.nansum(own, axis=0) / np.maximum(present, 1), -np.inf)
    return columns[int(np.argmax(means))]
