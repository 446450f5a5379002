"""Recognising the unit of an expression matrix from its values, and converting each unit to log2(x + 1).

The unit is decided from the values of all patients. Otherwise no value depends on other patients: counts are divided
by the total of their own patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import ExpressionError

Unit = Literal["counts", "tpm", "fpkm", "rsem", "log", "zscore"]
"""``rsem``: RSEM's counts after normalisation (upper quartile 1000), as in older TCGA data and cBioPortal; linear."""
Matrix = npt.NDArray[np.float64]

STORED_AS: dict[Unit, str] = {
    "counts": "log2(CPM + 1)",
    "tpm": "log2(TPM + 1)",
    "fpkm": "log2(FPKM + 1)",
    "rsem": "log2(normalised count + 1)",
    "log": "log values as given",
    "zscore": "z-scores as given",
}
"""The unit after :func:`to_log2`; counts with gene lengths become log2(TPM + 1)."""

LINEAR: tuple[Unit, ...] = ("counts", "tpm", "fpkm", "rsem")

LARGEST_LOG = 30.0
"""Upper bound of expression values on a log scale: log2 of a thousand million."""
_LARGEST_FPKM = 2e6
"""Upper bound of the sum of FPKM over all genes: a million divided by a typical transcript's length in kilobases."""
_WIDEST_FPKM = 1.0
"""Upper bound of the relative spread of these sums between samples; sums of counts vary more, as library sizes do."""
_WHOLE_TRANSCRIPTOME = 5000
"""With at least so many genes, every sample has genes far above 30 in TPM and FPKM."""


@dataclass(frozen=True)
class Values:
    """Statistics of a matrix by which units are recognised."""

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
    floor: float
    """Fraction of the values equal to the smallest one, which in log values is the logarithm of zero."""
    logs_of_counts: bool
    """Whether the values are log2(count + 1), of whole counts."""
    whole_share: float
    """Fraction of the values other than 0 that are whole numbers."""
    far: float
    """Fraction of the values beyond 10 on either side of zero."""
    samples: int
    genes: int

    @classmethod
    def of(cls, matrix: Matrix) -> Values:
        """Compute them for a (samples, genes) matrix, NaN where missing, with at least one value."""
        present = matrix[~np.isnan(matrix)]
        totals = np.nansum(matrix, axis=1)
        total = float(np.median(totals))
        low, high = np.percentile(totals, [5, 95])
        negative = float((present < 0).mean())
        # Means and deviations of genes are needed only to recognise z-scores, and take the longest.
        seen = matrix[:, ~np.isnan(matrix).all(axis=0)] if negative else matrix[:0]
        least, largest = float(present.min()), float(present.max())
        is_whole = present == np.rint(present)
        zeros = int((present == 0).sum())
        return cls(
            least=least,
            largest=largest,
            whole=(whole := bool(is_whole.all())),
            negative=negative,
            total=total,
            total_spread=float(high - low) / abs(total) if total else float("inf"),
            gene_mean=float(np.median(np.nanmean(seen, axis=0))) if negative else float("nan"),
            gene_sd=float(np.median(np.nanstd(seen, axis=0))) if negative else float("nan"),
            floor=float((present == least).mean()),
            logs_of_counts=not whole and not negative and largest <= LARGEST_LOG and _logs_of_counts(present),
            whole_share=float(is_whole.sum() - zeros) / max(1, len(present) - zeros),
            far=float((np.abs(present) > 10).mean()),
            samples=matrix.shape[0],
            genes=matrix.shape[1],
        )

    @property
    def sums_to_a_million(self) -> bool:
        """Whether every sample's genes sum to about 1,000,000."""
        return abs(self.total - 1e6) < 2e4 and self.total_spread < 0.02

    @property
    def sums_to_one(self) -> bool:
        """Whether every sample's genes sum to about 1: shares of a library (TPM over a million)."""
        return self.least >= 0 and abs(self.total - 1) < 0.02 and self.total_spread < 0.02

    @property
    def counts_with_fractions(self) -> bool:
        """Whether as many values are whole as in counts of reads that may fit several transcripts (salmon, RSEM)."""
        return self.whole_share > 0.2 and self.largest > LARGEST_LOG and self.least >= 0

    @property
    def slightly_negative(self) -> bool:
        """Whether linear values look like batch-corrected ones: a few are slightly below zero."""
        small = self.least >= -1 or -self.least <= 1e-4 * self.largest
        return not self.whole and self.least < 0 and self.largest > 1000 and small and self.negative <= 0.2

    @property
    def standardised(self) -> bool:
        """Whether the median gene has mean 0 and standard deviation 1."""
        return self.samples > 2 and self.negative > 0.2 and abs(self.gene_mean) < 0.3 and 0.5 < self.gene_sd < 2

    def __str__(self) -> str:
        kind = "whole numbers" if self.whole else "fractions"
        return f"{kind} from {self.least:g} to {self.largest:g}, a sample's genes sum to {self.total:,.0f}"


def _logs_of_counts(present: Matrix) -> bool:
    """Whether 2^x − 1 is whole wherever the digits that a file has are enough to see it."""
    counts = np.exp2(present[:: max(1, len(present) // 1_000_000)]) - 1
    seen = counts[(counts > 0.5) & (counts < 500)]
    return len(seen) >= 50 and bool((np.abs(seen - np.rint(seen)) < 0.05).all())


def recognise_unit(values: Values, hinted: tuple[Unit, str] | None = None) -> tuple[Unit, str]:
    """The unit, and the evidence as half a sentence.

    :param hinted: a unit that the file's name mentions, and where; it decides only where the values leave it open.
    :raises ExpressionError: the values fit no unit, or two that are treated differently.
    """
    if values.whole and values.least < 0:
        what = f"whole numbers below zero ({values}) are neither counts nor log values"
        raise ExpressionError(what, hint="give the expression matrix: these may be copy numbers")
    if values.whole and values.largest <= 10:
        what = f"whole numbers no larger than {values.largest:g} look like labels, mutations or copy numbers"
        raise ExpressionError(what, hint="give the expression matrix, or use --unit counts if these are counts")
    if values.whole:
        return "counts", str(values)
    if values.sums_to_one:
        what = f"every sample's genes sum to 1 ({values}): these are shares of the library"
        raise ExpressionError(what, hint="multiply them by 1,000,000: they are then TPM or counts per million")
    if values.standardised:
        means = f"the median gene has mean {values.gene_mean:.2f} and standard deviation {values.gene_sd:.2f}"
        return "zscore", f"{values.negative:.0%} of the values are negative, and {means}"
    if values.logs_of_counts:
        return "counts", f"{values}, and 2^x - 1 are whole numbers: log2(count + 1), converted back"
    if values.largest <= LARGEST_LOG:
        return "log", f"{values}: no linear unit stays so low" + (" or goes below zero" if values.least < 0 else "")
    if values.least < 0:
        what = f"the unit cannot be recognised: {values}"
        raise ExpressionError(what, hint="give it with --unit: negative values can only be log or zscore")
    if values.sums_to_a_million:
        return "tpm", f"{values}, the same in every sample"
    if values.counts_with_fractions:
        share = f"{values.whole_share:.0%} of the values above 0 are whole"
        return "counts", f"{values}, and {share}: counts with fractions, as salmon and RSEM write them"
    if values.total < _LARGEST_FPKM and values.total_spread < _WIDEST_FPKM:
        return "fpkm", f"{values}, which differs between samples (TPM of a part of the genes is treated the same)"
    if hinted is not None and not contradiction(hinted[0], values):
        return hinted[0], f"{values}, which leaves it open, and {hinted[1]}"
    what = f"the unit cannot be recognised: {values}"
    raise ExpressionError(
        what,
        hint="give it with --unit: counts for expected counts (RSEM, tximport), rsem for normalised ones, or fpkm",
    )


def check_unit(unit: Unit, values: Values) -> None:
    """Check that the values can be in a given unit.

    :raises ExpressionError: the values cannot be in this unit.
    """
    if against := contradiction(unit, values):
        hint = "correct --unit, or leave it out"
        if unit == "counts" and not values.whole:
            hint += "; round the values if they are counts"
        raise ExpressionError(f"the unit {unit} contradicts the values: {against}", hint=hint)


def contradiction(unit: Unit, values: Values) -> str:
    """Why the values cannot be in this unit, as part of a sentence; empty if they can."""
    return _against_linear(unit, values) if unit in LINEAR else _against_logs(unit, values)


def _against_linear(unit: Unit, values: Values) -> str:
    """Why the values cannot be counts, TPM, FPKM or RSEM's normalised counts; empty if they can."""
    whole_transcriptome = values.genes >= _WHOLE_TRANSCRIPTOME
    if values.least < 0:
        return f"values go down to {values.least:g}, and {unit} are never negative"
    if not values.whole and values.largest <= LARGEST_LOG and (whole_transcriptome or unit == "counts"):
        return f"no value of {values.genes:,} genes is above {values.largest:g}: these look like log values"
    if unit != "counts" and values.whole and values.largest > LARGEST_LOG:
        return f"all values are whole numbers up to {values.largest:g}: these look like counts"
    if unit != "tpm" and not values.whole and values.sums_to_a_million:
        return f"{values}, the same in every sample: these look like TPM"
    if unit == "tpm" and values.total > 1.05e6:
        return f"a sample's genes sum to {values.total:,.0f}, and TPM never exceed 1,000,000"
    fractions = not values.whole and not values.counts_with_fractions
    if unit == "counts" and fractions and whole_transcriptome and values.total < 1e6:
        return f"{values}: so few reads would be whole numbers, these look like FPKM"
    if unit == "rsem" and whole_transcriptome and values.total < 5e6:
        return f"{values}: normalised counts sum to more, these look like FPKM"
    return ""


def _against_logs(unit: Unit, values: Values) -> str:
    """Why the values cannot be log values or z-scores; empty if they can."""
    if unit == "log" and values.largest > LARGEST_LOG:
        return f"values go up to {values.largest:g}, and log values stay below {LARGEST_LOG:g}"
    if unit == "zscore" and values.least >= 0:
        return "no value is negative, and z-scores are on both sides of zero"
    if values.whole:
        return f"all values are whole numbers ({values}): these look like calls, not expression"
    if unit == "log" and values.standardised:
        return f"the median gene has mean {values.gene_mean:.2f} and sd {values.gene_sd:.2f}: these look like z-scores"
    if unit == "zscore" and values.floor > 0.01 and not values.standardised:
        return (
            f"{values.floor:.0%} of the values are {values.least:g}: these look like logarithms, including that of zero"
        )
    if unit == "zscore" and values.far > 0.02:
        return f"{values.far:.0%} of the values are beyond 10 ({values}), as z-scores rarely are"
    return ""


def unit_warnings(unit: Unit, values: Values, *, given: bool) -> list[str]:
    """Warnings about values that are unusual for the unit, though the unit may be right."""
    warnings = []
    if unit == "zscore":
        warnings.append("z-scores: they were standardised over the whole cohort, including held-out patients")
        if not values.standardised:
            warnings.append("the median gene has not mean 0 and standard deviation 1: z-scores of other samples")
    if unit == "log" and values.least < 0:
        warnings.append(f"log values go down to {values.least:g}: not log2(x + 1), do not mix them with other cohorts")
    if unit == "log" and values.logs_of_counts:
        warnings.append("log2(count + 1) kept as given, not divided by library sizes; --unit auto does that")
    if unit == "tpm" and given and not values.sums_to_a_million:
        warnings.append(f"not all TPM, or FPKM: a sample's genes sum to {values.total:,.0f} and not to 1,000,000")
    if unit == "counts" and values.genes < _WHOLE_TRANSCRIPTOME:
        warnings.append(f"counts per million over {values.genes} genes only: a few large genes move all others")
    return warnings


def to_log2(matrix: Matrix, unit: Unit, lengths: Matrix | None = None) -> tuple[Matrix, Matrix | None]:
    """The values on a log scale, and the samples' library sizes if they are counts.

    Counts are divided by their sample's total over all genes of the matrix (counts per million), or where gene lengths
    are given first by the length, and then by the sample's total of that (TPM: Wagner, Kin and Lynch, Theory in
    Biosciences 2012, 131:281). Log values and z-scores are returned as they are.

    :param matrix: (samples, genes), NaN where missing.
    :param lengths: (genes,) in base pairs; NaN where it is not known, and the gene's values become NaN.
    """
    if unit not in LINEAR:
        return matrix, None
    if unit != "counts":
        return _log2_of_one_more(matrix), None
    library = np.nansum(matrix, axis=1)
    if lengths is None:
        return _log2_of_one_more(matrix / library[:, None], 1e6), library
    rates = matrix / lengths
    return _log2_of_one_more(rates / np.nansum(rates, axis=1, keepdims=True), 1e6), library


def _log2_of_one_more(matrix: Matrix, factor: float = 1.0) -> Matrix:
    """log2(factor · x + 1), with only one copy of the matrix, which may be a gigabyte."""
    result = matrix * factor
    result += 1
    np.log2(result, out=result)
    return result
