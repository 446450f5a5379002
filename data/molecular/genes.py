"""Genes of a matrix: which rows are genes, their names and lengths, and choosing among several rows of one gene."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ExpressionError
from ..matrices.no_genes import is_spike_in, is_summary, turned_into_dates
from ..matrices.reading_facts import ReadingFacts
from ..wording import some
from .gene_aliases import read_pairs

_ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]{0,6}\d{11})\.\d+(?:_PAR_Y)?")
_BOTH_NAMES = re.compile(r"([^|]+)\|(\d+|ENS[A-Z]{0,6}G\d{11}(?:\.\d+)?)(?:\|.*)?")
_ID_FIRST = re.compile(r"(ENS[A-Z]{0,6}G\d{11}(?:\.\d+)?)[|_;:]([A-Za-z][^|;]*)(?:\|.*)?")
_LENGTHS_FORM = "two columns: gene, and its length in base pairs; tabs or commas between them"


def gene_names(written: Sequence[str], aliases: Mapping[str, str], facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Which rows are genes, and their names: Ensembl ids without version, approved symbols.

    Of ``ESR1|2099`` (TCGA's) and ``ENSG00000091831.24|ESR1`` the symbol is the name. A name that a spreadsheet turned
    into a date or a number becomes empty: the gene cannot be known (1-Mar was MARC1 or MARCH1), but its reads count
    into the library.

    :param aliases: former name → approved symbol; used only if no row has the approved symbol.
    """
    keep = [index for index, gene in enumerate(written) if gene and not is_summary(gene) and not is_spike_in(gene)]
    facts.count("unnamed_rows", unnamed := written.count(""), "rows without a gene's name left out")
    spikes = sum(map(is_spike_in, written))
    dropped = len(written) - len(keep) - unnamed - spikes
    facts.count("summary_rows", dropped, "rows of the aligner's summary left out")
    facts.count("spike_ins", spikes, "rows of spike-ins, which are not RNA of the patient, left out")
    symbols = [_symbol(written[index]) for index in keep]
    both = sum(gene != written[index] for gene, index in zip(symbols, keep, strict=True))
    facts.count("two_names", both, "names of a symbol with an id shortened to the symbol")
    genes = [_without_version(gene) for gene in symbols]
    versions = sum(gene != symbol for gene, symbol in zip(genes, symbols, strict=True))
    facts.count("ensembl_versions", versions, "Ensembl versions dropped")
    dates = turned_into_dates(genes)
    if dates:
        shown = some(list(dict.fromkeys(genes[index] for index in dates)), 3)
        facts.warnings.append(
            f"genes whose names a spreadsheet turned into dates: {len(dates)} ({shown}); left out, as 1-Mar may be "
            "MARC1 or MARCH1: use the matrix as it was before the spreadsheet"
        )
        facts.counts["date_names"] = len(dates)
        for index in dates:
            genes[index] = ""
    if not any(genes):
        raise ExpressionError("no row has a gene's name", hint="the first column must hold gene ids or symbols")
    there = set(genes)
    renamed = {gene: aliases[gene] for gene in sorted(there & aliases.keys()) if aliases[gene] not in there}
    shown = some([f"{old} → {new}" for old, new in renamed.items()], 3)
    facts.count("aliases", len(renamed), f"former names replaced by approved symbols ({shown})")
    return keep, [renamed.get(gene, gene) for gene in genes]


def _symbol(written: str) -> str:
    """The symbol of a name of symbol and id; of ``?|100130426``, which has no symbol, the whole name."""
    if found := _BOTH_NAMES.fullmatch(written):
        return written if found[1] == "?" else found[1]
    if found := _ID_FIRST.fullmatch(written):
        return written if found[2] == "PAR_Y" else found[2]
    return written


def _without_version(gene: str) -> str:
    return _ENSEMBL_VERSION.sub(r"\1", gene)


def read_gene_lengths(path: Path) -> Mapping[str, float]:
    """Read gene → length in base pairs from a CSV or TSV; a first line of headings is skipped.

    :raises ExpressionError: it is not such a table, a length is not above zero, or a gene has two.
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
    """The lengths of genes, by name or as written in the matrix; NaN if unknown.

    :raises ExpressionError: fewer than half of the genes have a length.
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
    """For each gene, sorted: the column to use, and how many columns it has. Columns without a name are left out."""
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(genes):
        if gene:
            columns.setdefault(gene, []).append(column)
    extra = sum(map(bool, genes)) - len(columns)
    facts.count(
        "duplicate_genes", extra, "further rows of the same genes left out, the row with the largest mean is kept"
    )
    ordered = sorted(columns)
    return [_largest_mean(values, columns[gene]) for gene in ordered], [len(columns[gene]) for gene in ordered]


def _largest_mean(values: npt.NDArray[np.float64], columns: Sequence[int]) -> int:
    """The column with the largest mean of its non-missing values; the first of equals."""
    if len(columns) == 1:
        return columns[0]
    candidates = values[:, columns]
    present = (~np.isnan(candidates)).sum(axis=0)
    means = np.where(present > 0, np.nansum(candidates, axis=0) / np.maximum(present, 1), -np.inf)
    return columns[int(np.argmax(means))]
