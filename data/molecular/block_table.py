"""The kinds of molecular measurement beside RNA, a row each: its flag, its units and whether its features are genes.

Flags, settings, stores and checks follow from the row. Nothing heavy is imported here: ``wsipipe --help`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class BlockUnit:
    """What values of a unit can be.

    :param least, most: the range.
    :param whole: whole numbers only (True), never all of them whole (False), or either (None).
    :param standardised: a feature has a mean near 0 and a standard deviation near 1.
    :param meaning: in words, for messages.
    :param way_out: what to do with values that are not in it.
    """

    least: float
    most: float
    meaning: str
    whole: bool | None = None
    standardised: bool = False
    way_out: str = ""


@dataclass(frozen=True, kw_only=True)
class BlockRow:
    """A kind of measurement.

    :param description: of its flag and setting, which are called after it.
    :param units: its units by name; one that only some values have stands before one that all values have.
    :param of_genes: its features are genes and get approved symbols; else they keep the names that they have.
    """

    description: str
    units: Mapping[str, BlockUnit]
    of_genes: bool = False


TABLE: Final[Mapping[str, BlockRow]] = {
    "cnv": BlockRow(
        description="copy numbers: GISTIC calls or log2 ratios",
        units={
            "gistic": BlockUnit(
                least=-2,
                most=2,
                whole=True,
                meaning="GISTIC calls from -2 (deep deletion) to 2 (amplification)",
                way_out="tell the unit 'log2 ratio', or take the thresholded calls",
            ),
            "log2 ratio": BlockUnit(
                least=-15,
                most=15,
                whole=False,
                meaning="log2 of the copies over two",
                way_out="take log2(copies / 2); whole numbers are gistic",
            ),
        },
        of_genes=True,
    ),
    "mutation": BlockRow(
        description="mutations: 1 where a gene has one",
        units={
            "0/1": BlockUnit(
                least=0,
                most=1,
                whole=True,
                meaning="1 where the gene is mutated, 0 where it is not",
                way_out="1 where the gene has a mutation, however many",
            )
        },
        of_genes=True,
    ),
    "protein": BlockRow(
        description="protein abundance: log or z-scores",
        units={
            "zscore": BlockUnit(
                least=-50,
                most=50,
                standardised=True,
                meaning="standard deviations from the protein's mean",
                way_out="tell the unit log, and take logs of raw intensities",
            ),
            "log": BlockUnit(
                least=-50, most=50, meaning="log of the abundance", way_out="take logs of raw intensities"
            ),
        },
    ),
    "methylation": BlockRow(
        description="methylation: beta, 0 to 1",
        units={
            "beta": BlockUnit(
                least=0,
                most=1,
                meaning="the methylated fraction, 0 to 1",
                way_out="M values m are betas by 2^m / (2^m + 1), percentages by dividing by 100",
            )
        },
    ),
}

BLOCKS: Final = ("rna", *TABLE)
"""Molecular measurements that can be used in training."""
