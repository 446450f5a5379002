"""The table of molecular blocks other than RNA: description, units, and whether features are genes.

Flags, settings, stores and checks are made from its rows. Nothing heavy is imported here: ``wsipipe --help`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class BlockUnit:
    """The values that are possible in a unit.

    :param least, most: range of the values.
    :param whole: only whole numbers (True), not only whole numbers (False), or either (None).
    :param standardised: features have means near 0 and standard deviations near 1.
    :param meaning: description of the unit, for messages.
    :param way_out: hint on what to do with values that are not in this unit.
    """

    least: float
    most: float
    meaning: str
    whole: bool | None = None
    standardised: bool = False
    way_out: str = ""


@dataclass(frozen=True, kw_only=True)
class BlockRow:
    """A molecular block, one kind of measurement.

    :param description: help text of its flag and setting, which have its name.
    :param units: its units by name; more specific units come first, since the first that fits the values is chosen.
    :param of_genes: whether its features are genes, whose names become approved symbols; other names are kept.
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
                way_out="give the unit 'log2 ratio', or use the thresholded calls",
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
                way_out="write 1 for a gene with any number of mutations",
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
                way_out="give the unit log, and take logs of raw intensities",
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
                way_out="convert M values m to beta by 2^m / (2^m + 1), percentages by dividing by 100",
            )
        },
    ),
}

BLOCKS: Final = ("rna", *TABLE)
"""Molecular measurements that can be used in training."""
