"""Which rows of a matrix are genes, what they are called, how long they are, and which of several stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ExpressionError
from ..wording import some
from .gene_aliases import read_pairs
from .no_genes import is_spike_in, is_summary, turned_into_dates
from .reading_facts import ReadingFacts

_ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]{0,6}\d{11})\.\d+(?:_PAR_Y)?")
_BOTH_NAMES = re.compile(r"([^|]+)\|(\d+|ENS[A-Z]{0,6}G\d{11}(?:\.\d+)?)(?:\|.*)?")
_ID_FIRST = re.compile(r"(ENS[A-Z]{0,6}G\d{11}(?:\.\d+)?)[|_;:]([A-Za-z][^|;]*)(?:\|.*)?")
_LENGTHS_FORM = "two columns: gene, and its length in base pairs; tabs or commas between them"


def gene_names(written: Sequence[str], aliases: Mapping[str, str], facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Which rows are genes, and their names: Ensembl ids without version, symbols as approved.

    Of ``ESR1|2099`` (TCGA's) and ``ENSG00000091831.24|ESR1`` the symbol is the name. A name that a spreadsheet turned
    into a date or a number is empty: which gene it was cannot be known (1-Mar was MARC1 or MARCH1), and its counts are
    still reads of the library.

    :param aliases: former name → approved symbol; used where the approved symbol is in no row itself.
    """
    keep = [index for index, gene in enumerate(written) if gene and not is_summary(gene) and not is_spike_in(gene)]
    facts.count("unnamed_rows", unnamed := written.count(""), "rows without a gene's name left out")
    spikes = sum(map(is_spike_in, written))
    dropped = len(written) - len(keep) - unnamed - spikes
    facts.count("summary_rows", dropped, "rows of the aligner's summary left out")
    facts.count("spike_ins", spikes, "rows of spike-ins, which are no patient's RNA, left out")
    symbols = [_symbol(written[index]) for index in keep]
    both = sum(gene != written[index] for gene, index in zip(symbols, keep, strict=True))
    facts.count("two_names", both, "names of a symbol with an id brought to the symbol")
    genes = [_without_version(gene) for gene in symbols]
    versions = sum(gene != symbol for gene, symbol in zip(genes, symbols, strict=True))
    facts.count("ensembl_versions", versions, "Ensembl versions dropped")
    dates = turned_into_dates(genes)
    if dates:
        shown = some(list(dict.fromkeys(genes[index] for index in dates)), 3)
        facts.warnings.append(
            f"genes whose names a spreadsheet turned into dates: {len(dates)} ({shown}); left out, as 1-Mar may be "
            "MARC1 or MARCH1: take the matrix from before the spreadsheet"
        )
        facts.counts["date_names"] = len(dates)
        for index in dates:
            genes[index] = ""
    if not any(genes):
        raise ExpressionError("no row has a gene's name", hint="the first column must hold gene ids or symbols")
    there = set(genes)
    renamed = {gene: aliases[gene] for gene in sorted(there & aliases.keys()) if aliases[gene] not in there}
    shown = some([f"{old} → {new}" for old, new in renamed.items()], 3)
    facts.count("aliases", len(renamed), f"former names brought to approved symbols ({shown})")
    return keep, [renamed.get(gene, gene) for gene in genes]


def _symbol(written: str) -> str:
    """The symbol of a name that holds symbol and id; of ``?|100130426``, which has none, the whole."""
    if found := _BOTH_NAMES.fullmatch(written):
        return written if found[1] == "?" else found[1]
    if found := _ID_FIRST.fullmatch(written):
        return written if found[2] == "PAR_Y" else found[2]
    return written


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
    """For each gene, sorted: the column that stands for it, and how many there were. Genes without a name are none."""
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(genes):
        if gene:
            columns.setdefault(gene, []).append(column)
    extra = sum(map(bool, genes)) - len(columns)
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
