"""Molecular blocks other than RNA: names of their features, and recognising and checking their units.

A block is one kind of measurement of the patients, with its own store (:mod:`.store`), unit and missing values. When
blocks are joined, names of features of all blocks but RNA begin with the block's name: ``cnv:ERBB2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import ExpressionError, UsageError
from .block_table import BLOCKS, TABLE, BlockUnit

Block = str
"""One of :data:`BLOCKS`."""

UNITS: Final[Mapping[Block, Mapping[str, BlockUnit]]] = {name: row.units for name, row in TABLE.items()}
"""The units of each block; those of RNA are in :mod:`wsipipe.data.matrices.expression_units`."""


def feature_name(block: Block, name: str) -> str:
    """The name of a feature in joined blocks."""
    return name if block == "rna" else f"{block}:{name}"


def block_of(feature: str) -> tuple[Block, str]:
    """The block of a feature of joined blocks, and its name without the block."""
    for block in BLOCKS[1:]:
        if feature.startswith(f"{block}:"):
            return block, feature.removeprefix(f"{block}:")
    return "rna", feature


def recognise_block_unit(block: Block, matrix: npt.NDArray[np.float32]) -> tuple[str, str]:
    """Recognise the unit from the values; returns it with a description of the values.

    :param matrix: (n, g), NaN where missing.
    :raises ExpressionError: no unit of the block has such values.
    """
    spread = _spread(matrix)
    for unit in UNITS[block]:
        try:
            check_block_unit(block, unit, matrix)
        except ExpressionError:
            continue
        return unit, spread
    units = "; ".join(f"{unit}: {facts.meaning}" for unit, facts in UNITS[block].items())
    raise ExpressionError(f"no unit of {block} has such values ({spread})", hint=f"bring them to one of: {units}")


def check_block_unit(block: Block, unit: str, matrix: npt.NDArray[np.float32]) -> None:
    """Check that the values can be in a given unit.

    :param matrix: (n, g), NaN where missing.
    :raises UsageError: the block has no such unit.
    :raises ExpressionError: the values contradict it.
    """
    if unit not in UNITS.get(block, {}):
        raise UsageError(
            f"{block} has no unit {unit!r}", hint=f"choose {' or '.join(UNITS.get(block, {})) or 'a block'}"
        )
    rule = UNITS[block][unit]
    values = matrix[~np.isnan(matrix)]
    if not len(values):
        raise ExpressionError(f"no patient has a value of {block}", hint="check how the matrix was saved")
    hint = rule.way_out
    if values.min() < rule.least or values.max() > rule.most:
        what = f"{block} in {unit} lies between {rule.least:g} and {rule.most:g}, but {_spread(matrix)}"
        raise ExpressionError(what, hint=hint)
    whole = bool((values == np.round(values)).all())
    if rule.whole and not whole:
        raise ExpressionError(f"{block} in {unit} is whole numbers, but {_spread(matrix)}", hint=hint)
    if rule.whole is False and whole:
        raise ExpressionError(f"{block} in {unit} is not whole numbers, but {_spread(matrix)}", hint=hint)
    if rule.standardised and not _standardised(matrix):
        what = f"{block} in {unit} has a mean near 0 and a deviation near 1, but {_spread(matrix)}"
        raise ExpressionError(what, hint=hint)


def _standardised(matrix: npt.NDArray[np.float32]) -> bool:
    """Whether the median feature has a mean near 0 and a standard deviation near 1."""
    missing = np.isnan(matrix)
    present = (~missing).sum(axis=0)
    measured = present > 1
    values = np.where(missing, 0.0, matrix)[:, measured]
    mean = values.sum(axis=0) / present[measured]
    deviation = np.sqrt((np.where(missing[:, measured], 0.0, values - mean) ** 2).sum(axis=0) / present[measured])
    return bool(measured.any()) and bool(np.median(np.abs(mean)) < 0.5 and 0.4 < np.median(deviation) < 2.5)


def _spread(matrix: npt.NDArray[np.float32]) -> str:
    values = matrix[~np.isnan(matrix)]
    if not len(values):
        return "there are no values"
    kind = "whole numbers" if (values == np.round(values)).all() else "values"
    return f"these are {kind} from {values.min():g} to {values.max():g}"
