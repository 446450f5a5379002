"""Cells and genes whose values are unlike all others: codes for missing values, ages among logarithms, labels.

Such values would mislead the recognition of the unit. Codes for missing values are emptied and counted; all others are
named in an error, and the user decides, because they could be real.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import ExpressionError
from ..wording import some
from .expression_units import LARGEST_LOG, Unit, Values
from .naming import Naming
from .reading_facts import ReadingFacts

Matrix = npt.NDArray[np.float64]

_CODES = (9.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0, 9999999.0)
"""Numbers that are used as codes for a missing value, positive or negative."""
_BEYOND = 1e12
"""Upper bound of all measurements of RNA."""
_FEW_CELLS = 0.01
"""Largest share of cells that may hold codes."""
_ENOUGH_PATIENTS = 8
"""With fewer patients, whole numbers or an extreme median may be chance."""
_FAR_SCORE = 10.0
"""Upper bound of a gene's median z-score."""


def without_codes(
    matrix: Matrix, samples: Sequence[str], genes: Sequence[str], facts: ReadingFacts
) -> tuple[Matrix, int]:
    """Empty the cells with a code for "missing", if it cannot be a value in the unit of the other values.

    A negative code is recognised if all other values are far above it, a positive one among logarithms or z-scores,
    and anything above 10^12 always. A 9999 among counts is a count.

    :return: the matrix (the same one if it has no codes), and how many cells were emptied.
    """
    emptied = 0
    for _ in range(4):  # -99 and -999 may stand side by side
        least, largest = float(np.nanmin(matrix)), float(np.nanmax(matrix))
        code = _code_of(matrix, least, largest)
        if code is None:
            break
        cells = matrix == code if abs(code) < _BEYOND else np.abs(matrix) >= _BEYOND
        number = int(cells.sum())
        sample, gene = np.argwhere(cells)[0]
        facts.sentences.append(
            f"cells with {code:g}, a code for a missing value, emptied: {number:,} (first {genes[gene]} of "
            f"{samples[sample]})"
        )
        matrix = np.where(cells, np.nan, matrix)
        emptied += number
        if np.isnan(matrix).all():
            break
    facts.counts["missing_codes"] = emptied
    return matrix, emptied


def _code_of(matrix: Matrix, least: float, largest: float) -> float | None:
    if largest >= _BEYOND or least <= -_BEYOND:
        return largest if largest >= _BEYOND else least
    if -least in _CODES:
        others = matrix[matrix > least]
        beyond = float(others.min()) if len(others) else least
        few = len(others) > 0.5 * np.count_nonzero(~np.isnan(matrix))
        if few and (beyond > least / 9 if least <= -99 else beyond >= 0):
            return least
    if largest in _CODES and largest > 3 * LARGEST_LOG:
        others = matrix[matrix < largest]
        if len(others) and float((others > LARGEST_LOG).mean()) < _FEW_CELLS / 10:
            return largest
    return None


def refuse_odd(
    matrix: Matrix,
    seen: Values,
    given: Unit | None,
    samples: Sequence[str],
    genes: Sequence[str],
    naming: Naming,
) -> None:
    """Refuse genes and cells that are unlike all others.

    :raises ExpressionError: there are some, and the user has not listed them as genes; the message names them.
    """
    if seen.whole or seen.sums_to_a_million or given in ("counts", "tpm", "fpkm", "rsem"):
        outside = np.zeros(0, dtype=np.intp)
    elif given == "zscore" and not seen.standardised:
        outside = np.zeros(0, dtype=np.intp)  # the check of the unit gives a better message
    elif seen.standardised:
        outside = _far_scores(matrix, seen)
    else:
        outside = _beyond_logs(matrix, seen)
    labels = _whole_among_fractions(matrix, seen)
    for found, why in ((outside, _WHY_FAR), (labels, _WHY_WHOLE)):
        names = [genes[index] for index in found.tolist() if genes[index] not in naming.keep]
        if not names:
            continue
        column = matrix[:, genes.index(names[0])]
        spread = f"{names[0]} from {np.nanmin(column):g} to {np.nanmax(column):g}"
        odd = column > LARGEST_LOG
        if why is _WHY_FAR and len(names) == 1 and not seen.standardised and 0 < odd.sum() <= max(1, len(column) // 20):
            sample = samples[int(np.flatnonzero(odd)[0])]
            where = f"{names[0]} in {sample}"
            what = f"the value {column[odd][0]:g} of {where} is unlike all others, which look like logarithms"
            hint = f"correct it or leave the cell empty; --drop-columns '{names[0]}' leaves the gene out"
            raise ExpressionError(what, hint=f"{hint}; if the values are not logarithms, give --unit")
        what = f"{len(names)} columns are unlike all others: {some(names)} ({spread}); {why}"
        drop = " ".join(f"--drop-columns '{name}'" for name in names[:5])
        raise ExpressionError(
            what, hint=f"leave out what is not a gene with {drop}, keep genes with --keep-columns{_UNIT[why]}"
        )


_WHY_FAR = "these look like ages, times or labels among logarithms"
_WHY_WHOLE = "whole numbers only, where all others are fractions: these look like ages or labels"
_UNIT = {_WHY_FAR: "; if the values are not logarithms, give --unit", _WHY_WHOLE: ""}


def _beyond_logs(matrix: Matrix, seen: Values) -> npt.NDArray[np.intp]:
    """Genes with values too large for logarithms, if they are so few that all others are logarithms."""
    if seen.largest <= LARGEST_LOG:
        return np.zeros(0, dtype=np.intp)
    with np.errstate(invalid="ignore"):
        genes = np.flatnonzero((matrix > LARGEST_LOG).any(axis=0))
    return genes if len(genes) <= max(1, matrix.shape[1] // 50) and matrix.shape[1] > 2 * len(genes) else genes[:0]


def _far_scores(matrix: Matrix, seen: Values) -> npt.NDArray[np.intp]:
    """Genes whose median z-score is far from zero."""
    if seen.samples < _ENOUGH_PATIENTS or seen.largest <= _FAR_SCORE:
        return np.zeros(0, dtype=np.intp)
    with np.errstate(invalid="ignore"):
        candidates = np.flatnonzero((matrix > _FAR_SCORE).sum(axis=0) * 2 >= (~np.isnan(matrix)).sum(axis=0).clip(1))
    return np.asarray(candidates)


def _whole_among_fractions(matrix: Matrix, seen: Values) -> npt.NDArray[np.intp]:
    """Genes with only whole values, if almost no value of the other genes is whole."""
    none = np.zeros(0, dtype=np.intp)
    if seen.whole or seen.samples < _ENOUGH_PATIENTS or seen.logs_of_counts or seen.whole_share > 0.25:
        return none
    with np.errstate(invalid="ignore"):
        whole = np.flatnonzero(((matrix == np.rint(matrix)) | np.isnan(matrix)).all(axis=0))
    if not len(whole):
        return none
    candidates = matrix[:, whole]
    with np.errstate(invalid="ignore", all="ignore"):
        least, most = (
            np.nanmin(np.where(np.isnan(candidates), np.inf, candidates), axis=0),
            np.nanmax(np.where(np.isnan(candidates), -np.inf, candidates), axis=0),
        )
        above = (candidates > least).sum(axis=0)
    odd = whole[(most > least) & (above >= max(4, seen.samples // 10))]
    others = np.delete(matrix, odd, axis=1)
    values = others[~np.isnan(others) & (others != 0)]
    if not len(values) or float((values == np.rint(values)).mean()) > 0.02 or len(odd) > max(3, matrix.shape[1] // 20):
        return none
    return np.asarray(odd)
