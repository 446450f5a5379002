"""Which unit an expression matrix is in, told by its values, and how each unit becomes log2(x + 1).

Only the unit's name is decided here by looking over all patients. No value is changed by what other patients' values
are: counts are divided by their own patient's total, and that is all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..data.errors import ExpressionError

Unit = Literal["counts", "tpm", "fpkm", "log", "zscore"]
Matrix = npt.NDArray[np.float64]

STORED_AS: dict[Unit, str] = {
    "counts": "log2(CPM + 1)",
    "tpm": "log2(TPM + 1)",
    "fpkm": "log2(FPKM + 1)",
    "log": "log values as given",
    "zscore": "z-scores as given",
}
"""The unit after :func:`to_log2`."""

_LARGEST_LOG = 30.0
"""log2 of a thousand million: no expression value on a log scale is larger."""
_WHOLE_TRANSCRIPTOME = 5000
"""With so many genes, some gene of every sample is far above 30 in TPM and FPKM."""


@dataclass(frozen=True)
class Values:
    """What tells the units apart."""

    least: float
    largest: float
    whole: bool
    negative: float
    total: float
    """Median over samples of the sum over genes."""
    total_spread: float
    """(95th − 5th percentile) / median of these sums."""
    gene_mean: float
    """Median over genes of the mean over samples; NaN where no value is negative."""
    gene_sd: float
    """Median over genes of the standard deviation over samples; NaN where no value is negative."""
    samples: int
    genes: int

    @classmethod
    def of(cls, matrix: Matrix) -> Values:
        """Look at a (samples, genes) matrix, NaN where missing, with at least one value."""
        present = matrix[~np.isnan(matrix)]
        totals = np.nansum(matrix, axis=1)
        total = float(np.median(totals))
        low, high = np.percentile(totals, [5, 95])
        negative = float((present < 0).mean())
        # The usual gene's mean and spread matter for z-scores alone, and take the longest.
        seen = matrix[:, ~np.isnan(matrix).all(axis=0)] if negative else matrix[:0]
        return cls(
            least=float(present.min()),
            largest=float(present.max()),
            whole=bool((present == np.rint(present)).all()),
            negative=negative,
            total=total,
            total_spread=float(high - low) / abs(total) if total else float("inf"),
            gene_mean=float(np.median(np.nanmean(seen, axis=0))) if negative else float("nan"),
            gene_sd=float(np.median(np.nanstd(seen, axis=0))) if negative else float("nan"),
            samples=matrix.shape[0],
            genes=matrix.shape[1],
        )

    @property
    def sums_to_a_million(self) -> bool:
        """Whether every sample's genes sum to about 1,000,000."""
        return abs(self.total - 1e6) < 2e4 and self.total_spread < 0.02

    @property
    def standardised(self) -> bool:
        """Whether the usual gene has mean 0 and standard deviation 1."""
        return self.samples > 2 and self.negative > 0.2 and abs(self.gene_mean) < 0.3 and 0.5 < self.gene_sd < 2

    def __str__(self) -> str:
        kind = "whole numbers" if self.whole else "fractions"
        return f"{kind} from {self.least:g} to {self.largest:g}, a sample's genes sum to {self.total:,.0f}"


def recognise_unit(values: Values) -> tuple[Unit, str]:
    """The unit, and the evidence as half a sentence.

    :raises ExpressionError: the values fit no unit, or two that are treated differently.
    """
    if values.whole and values.least < 0:
        what = f"whole numbers below zero ({values}) are neither counts nor log values"
        raise ExpressionError(what, hint="give the expression matrix: these may be copy numbers")
    if values.whole and values.largest <= 10:
        what = f"whole numbers no larger than {values.largest:g} look like labels, mutations or copy numbers"
        raise ExpressionError(what, hint="give the expression matrix, or say --unit counts if these are counts")
    if values.whole:
        return "counts", str(values)
    if values.standardised:
        means = f"the usual gene has mean {values.gene_mean:.2f} and standard deviation {values.gene_sd:.2f}"
        return "zscore", f"{values.negative:.0%} of the values are negative, and {means}"
    if values.largest <= _LARGEST_LOG:
        return "log", f"{values}: no linear unit stays so low" + (" or goes below zero" if values.least < 0 else "")
    if values.least < 0:
        what = f"the unit cannot be recognised: {values}"
        raise ExpressionError(what, hint="say it with --unit: negative values can only be log or zscore")
    if values.sums_to_a_million:
        return "tpm", f"{values}, the same in every sample"
    if values.total < 5e6:
        return "fpkm", f"{values}, which differs between samples (TPM of a part of the genes is treated the same)"
    what = f"the unit cannot be recognised: {values}"
    raise ExpressionError(what, hint="say it with --unit: counts for expected counts (RSEM), fpkm for FPKM-UQ")


def check_unit(unit: Unit, values: Values) -> None:
    """Hold a unit that was told against the values.

    :raises ExpressionError: the values cannot be in this unit.
    """
    against = ""
    if unit in ("counts", "tpm", "fpkm"):
        if values.least < 0:
            against = f"values go down to {values.least:g}, and {unit} are never negative"
        elif not values.whole and values.largest <= _LARGEST_LOG and values.genes >= _WHOLE_TRANSCRIPTOME:
            against = f"no value of {values.genes:,} genes is above {values.largest:g}: these look like log values"
    if unit == "counts" and not values.whole and values.sums_to_a_million:
        against = against or f"{values}, the same in every sample: these look like TPM"
    if unit in ("tpm", "fpkm") and values.whole and values.largest > _LARGEST_LOG:
        against = against or f"all values are whole numbers up to {values.largest:g}: these look like counts"
    if unit == "tpm" and values.total > 1.05e6:
        against = against or f"a sample's genes sum to {values.total:,.0f}, and TPM never exceed 1,000,000"
    if unit == "log" and values.largest > _LARGEST_LOG:
        against = f"values go up to {values.largest:g}, and log values stay below {_LARGEST_LOG:g}"
    if unit == "log" and values.standardised:
        against = (
            f"the usual gene has mean {values.gene_mean:.2f} and sd {values.gene_sd:.2f}: these look like z-scores"
        )
    if unit == "zscore" and values.least >= 0:
        against = "no value is negative, and z-scores are on both sides of zero"
    if against:
        raise ExpressionError(
            f"the unit {unit} contradicts the values: {against}", hint="correct --unit, or leave it out"
        )


def to_log2(matrix: Matrix, unit: Unit) -> tuple[Matrix, Matrix | None]:
    """The values on a log scale, and the samples' library sizes where they are counts.

    Counts are divided by their sample's total over all genes of the matrix (counts per million; gene lengths are not
    known). Log values and z-scores are returned as they are.

    :param matrix: (samples, genes), NaN where missing.
    """
    if unit in ("log", "zscore"):
        return matrix, None
    if unit in ("tpm", "fpkm"):
        return np.log2(matrix + 1), None
    library = np.nansum(matrix, axis=1)
    return np.log2(matrix / library[:, None] * 1e6 + 1), library
