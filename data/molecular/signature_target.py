"""A signature as the target of a slide model: one number a patient, from the RNA of the cohort itself.

    singscore     mean rank of the set's genes among all genes of the patient, scaled so that 0 is the lowest possible
                  and 1 the highest (Foroutan et al., BMC Bioinformatics 19:404, 2018); equal values share a mean rank
    ssgsea        single-sample GSEA, as ``signatures.csv`` has it
    mean-z        mean over the set's genes of (value − mean) / SD, mean and SD those of a fold's training patients
    expression    of one gene, its value as it is stored
    recurrence-score, recurrence-score-unscaled
                  the 21-gene score (:mod:`.signatures`), normalised by its reference genes

All but ``mean-z`` depend on the patient's own values alone. Scores that compare genes within a patient need expression:
among z-scores a rank says how unusual a gene is for the cohort, and no level is left to normalise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from ..cohort.outcomes import Label
from ..errors import ExpressionError
from ..matrices.expression_units import STORED_AS
from ..wording import some
from .gene_aliases import shipped_aliases
from .signature_names import GENE, MEDIAN, RECURRENCE_SCORE, RECURRENCE_UNSCALED, ScoreName, SetScore

if TYPE_CHECKING:
    from .store import ExpressionTable  # loads AnnData, which reading a bundle does not need

Floats = npt.NDArray[np.float64]

LEAST_SHARE: Final = 0.5
"""A set of which a smaller share is in the matrix, or measured in a patient, is not scored."""
NO_RNA: Final = "no RNA for the signature"
TOO_FEW: Final = "too few of the signature's genes measured"
_NAMES: Final = 30
_RECURRENCE: Final = (RECURRENCE_SCORE, RECURRENCE_UNSCALED)
_OF_SETS: Final = ("singscore", "ssgsea", "mean-z")


class Signature(BaseModel):
    """A signature with its genes in a matrix and, once fitted, the statistics of a fold's training patients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    score: ScoreName
    unit: str
    """Of the expression that it was made from."""
    genes: tuple[str, ...]
    """The genes that are in the matrix, by its names, sorted."""
    absent: tuple[str, ...] = ()
    """The genes that are not."""
    mean: tuple[FiniteFloat, ...] = ()
    """Of ``mean-z``: of each gene, over the training patients."""
    scale: tuple[FiniteFloat, ...] = ()
    """Its standard deviation (divided by n); 0 for a gene that does not vary and is left out."""
    cut: str = ""
    """Of a binary question: ``median``, or a number; a patient at or above it is high."""
    cut_at: FiniteFloat | None = None
    """The cut as a number: the training patients' median, or the number that was given."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.genes or list(self.genes) != sorted(set(self.genes)):
            raise ValueError("its genes are not a sorted list")
        if {len(self.mean), len(self.scale)} - {0, len(self.genes)} or len(self.mean) != len(self.scale):
            raise ValueError("its genes have not each a mean and a standard deviation")
        return self

    @classmethod
    def of(
        cls,
        name: str,
        table: ExpressionTable,
        gene_sets: Mapping[str, Sequence[str]] | None = None,
        *,
        score: SetScore = "auto",
        cut: str = "",
    ) -> Self:
        """Find a signature's genes in a matrix.

        :param name: name of a gene set, ``gene:`` and a symbol, ``recurrence-score`` or ``recurrence-score-unscaled``.
        :param gene_sets: name → genes.
        :raises ExpressionError: no such set, too few of its genes in the matrix, or a score that the matrix's values
            do not allow.
        """
        zscores = _holds_zscores(table)
        kind: ScoreName
        asked: Sequence[str]
        if name in _RECURRENCE:
            kind, asked, least = _recurrence_kind(name), _recurrence_genes(), 1.0
        elif name.startswith(GENE):
            kind, asked, least = "expression", (name.removeprefix(GENE),), 1.0
        else:
            asked, least = _genes_of(name, gene_sets, table), LEAST_SHARE
            kind = score if score != "auto" else "mean-z" if zscores else "singscore"
        if score != "auto" and kind != score:
            what = f"a score is chosen for gene sets, and {name} is not one"
            raise ExpressionError(what, path=table.source, hint=f"leave out signature_score = {score}")
        if zscores and kind not in ("mean-z", "expression"):
            raise _needs_levels(name, kind, table)
        found = _found(asked, table.genes)
        absent = tuple(gene for gene in dict.fromkeys(asked) if gene not in found)
        if not found or len(found) < least * (len(found) + len(absent)):
            raise _too_few(name, found, absent, table, least)
        if kind in ("singscore", "ssgsea") and len(set(found.values())) == len(table.genes):
            what = f"{name}: every gene of the matrix is in the set, so there are no others to rank its genes among"
            raise ExpressionError(what, path=table.source, hint="give the whole matrix, or use signature_score mean-z")
        return cls(
            name=name,
            score=kind,
            unit=table.unit,
            genes=tuple(sorted(set(found.values()))),
            absent=absent,
            cut=cut,
            cut_at=None if cut in ("", MEDIAN) else float(cut),
        )

    def fitted(self, table: ExpressionTable, patients: Collection[str]) -> Self:
        """Take means, standard deviations and a median cut from these patients, and from no others.

        :raises ExpressionError: none of the genes varies among them.
        """
        known = sorted(patient for patient in patients if patient in table)
        fitted = self
        if self.score == "mean-z":
            mean, scale = _mean_and_scale(self._values(table, known))
            if not (scale > 0).any():
                what = f"{self.name}: none of its genes varies among {len(known)} training patients"
                raise ExpressionError(what, path=table.source, hint="use fewer folds, or more patients with RNA")
            fitted = self.model_copy(update={"mean": tuple(mean.tolist()), "scale": tuple(scale.tolist())})
        if self.cut == MEDIAN:
            scores = [one for one in fitted.scores(table, known).values() if isinstance(one, float)]
            if not scores:
                what = f"{self.name}: no training patient has a score to take the median of"
                raise ExpressionError(what, path=table.source, hint="use fewer folds, or more patients with RNA")
            fitted = fitted.model_copy(update={"cut_at": float(np.median(scores))})
        return fitted

    def scores(self, table: ExpressionTable, patients: Collection[str]) -> dict[str, float | str]:
        """Score patients: the number, or why there is none.

        :raises ValueError: the score needs statistics, and they have not been fitted.
        """
        if self.score == "mean-z" and not self.mean:
            raise ValueError(f"the means of {self.name} have not been fitted")
        known = [patient for patient in patients if patient in table]
        known = [p for p, row in zip(known, table.rows(known), strict=True) if not np.isnan(row).all()]
        values = dict(zip(known, self._scored(table, known).tolist(), strict=True)) if known else {}
        reasons: dict[str, float | str] = dict.fromkeys(patients, NO_RNA)
        return reasons | {p: TOO_FEW if np.isnan(value) else value for p, value in values.items()}

    def label(self, score: float) -> Label:
        """The label of a score: the number itself, or with a cut the class, 1 at or above it."""
        if not self.cut:
            return float(score)
        assert self.cut_at is not None  # fitted
        return int(score >= self.cut_at)

    def labels(self, table: ExpressionTable, patients: Collection[str]) -> dict[str, Label | str]:
        """The labels of patients, or why there is none."""
        scores = self.scores(table, patients)
        return {p: score if isinstance(score, str) else self.label(score) for p, score in scores.items()}

    def found_in(self, table: ExpressionTable) -> Self:
        """The same signature with the genes that another cohort's matrix has, and the statistics of these.

        :raises ExpressionError: its expression is in another unit, or lacks too many of the genes.
        """
        if table.unit != self.unit:
            what = f"{self.name} was made from {self.unit}, and this cohort has {table.unit}"
            hint = "give wsipipe genomics a matrix in the same unit: a target in another unit is another number"
            raise ExpressionError(what, path=table.source, hint=hint)
        found = _found(self.genes, table.genes)
        absent = [gene for gene in self.genes if gene not in found]
        least = LEAST_SHARE if self.score in _OF_SETS else 1.0
        if len(found) < least * len(self.genes):
            raise _too_few(self.name, found, absent, table, least)
        kept = sorted(self.genes.index(gene) for gene in found)
        return self.model_copy(
            update={
                "genes": tuple(found[self.genes[place]] for place in kept),
                "absent": (*self.absent, *absent),
                "mean": tuple(self.mean[place] for place in kept) if self.mean else (),
                "scale": tuple(self.scale[place] for place in kept) if self.scale else (),
            }
        )

    @property
    def words(self) -> str:
        """What the number is, for pages and the console."""
        total = len(self.genes) + len(self.absent)
        number = f"{len(self.genes)} genes" if not self.absent else f"{len(self.genes)} of {total} genes"
        made = {
            "singscore": f"singscore of {number}: their mean rank among a patient's genes, from 0 to 1",
            "ssgsea": f"single-sample GSEA of {number}",
            "mean-z": f"mean z of {number}, by each fold's training patients",
            "expression": f"expression of {', '.join(self.genes)}, {self.unit}",
            "recurrence-score": "21-gene recurrence score from 0 to 100, research use only",
            "recurrence-score-unscaled": "21-gene recurrence score without floors and scale, research use only",
        }[self.score]
        if not self.cut:
            return made
        at = "the median of each fold's training patients" if self.cut == MEDIAN else f"{float(self.cut):g}"
        return f"{made}; high at or above {at}"

    def _values(self, table: ExpressionTable, patients: Sequence[str]) -> Floats:
        """(patients, genes), the genes in the signature's order."""
        place = {gene: column for column, gene in enumerate(table.genes)}
        return table.rows(patients)[:, [place[gene] for gene in self.genes]].astype(np.float64)

    def _scored(self, table: ExpressionTable, patients: Sequence[str]) -> Floats:
        """(patients), NaN where too few genes are measured."""
        least = max(1, int(np.ceil(LEAST_SHARE * len(self.genes))))
        from .signatures import RECURRENCE, UNSCALED, recurrence_table, single_sample_gsea

        if self.score in _RECURRENCE:
            column = RECURRENCE if self.score == RECURRENCE_SCORE else UNSCALED
            return recurrence_table(_anndata(table, patients))[column].to_numpy(np.float64)
        if self.score == "ssgsea":
            order = np.argsort(np.array(table.genes))  # its sums then do not depend on the matrix's order
            names = [table.genes[place] for place in order.tolist()]
            scores = single_sample_gsea(table.rows(patients)[:, order], names, {"": self.genes}, min_genes=least)
            return np.asarray(scores[:, 0])
        if self.score == "singscore":
            of_set = np.isin(np.array(table.genes), np.array(self.genes))
            return singscore(table.rows(patients), of_set, least)
        values = self._values(table, patients)
        if self.score == "expression":
            return values[:, 0]
        scale = np.array(self.scale)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = ((values - np.array(self.mean)) / scale)[:, scale > 0]
        measured = np.isfinite(z)
        number = measured.sum(axis=1)
        enough = (np.isfinite(values).sum(axis=1) >= least) & (number > 0)
        # Exactly, so that a patient's score is the same whoever is scored beside them.
        total = np.array([math.fsum(row) for row in np.where(measured, z, 0.0).tolist()])
        return np.where(enough, total / np.maximum(number, 1), np.nan)


def singscore(matrix: npt.NDArray[np.float32], of_set: npt.NDArray[np.bool_], least: int = 1) -> Floats:
    """Mean rank of a set's genes within each patient, from 0 (all are the lowest) to 1 (all are the highest).

    Foroutan et al. 2018: (m − low) / (high − low), where m is the mean rank from the lowest of N measured genes and,
    for k genes of the set, low = (k + 1) / 2 and high = (2 N − k + 1) / 2.

    :param matrix: (n, g); NaN, a gene that was not measured, is left out of that patient's ranking.
    :param of_set: (g) which genes are in the set.
    :param least: a patient with fewer of them measured has none.
    :return: (n); NaN where there is none, or no other gene.
    """
    from scipy.stats import rankdata

    measured = np.isfinite(matrix)
    scores = np.full(len(matrix), np.nan)
    for row, known in enumerate(measured):
        inside = of_set[known]
        k, n = int(inside.sum()), int(known.sum())
        if least <= k < n and k:
            rank = rankdata(matrix[row, known])
            scores[row] = (rank[inside].sum() / k - (k + 1) / 2) / (n - k)
    return scores


def _holds_zscores(table: ExpressionTable) -> bool:
    return table.unit == STORED_AS["zscore"]


def _recurrence_kind(name: str) -> ScoreName:
    return "recurrence-score" if name == RECURRENCE_SCORE else "recurrence-score-unscaled"


def _recurrence_genes() -> tuple[str, ...]:
    from .signatures import recurrence_genes

    return recurrence_genes()


def _genes_of(name: str, gene_sets: Mapping[str, Sequence[str]] | None, table: ExpressionTable) -> Sequence[str]:
    """The genes of a set.

    :raises ExpressionError: there is no such set; the hint has the way out.
    """
    if gene_sets is not None and name in gene_sets:
        return gene_sets[name]
    if name in table.genes:
        what, hint = f"{name} is a gene, not a gene set", f"write signature = gene:{name}"
    elif gene_sets is None:
        what = f"the genes of {name} are not known: no gene sets are given"
        hint = "give a .gmt with --gene-sets; or use gene:SYMBOL, recurrence-score or recurrence-score-unscaled"
    else:
        near = [other for other in gene_sets if name.casefold() in other.casefold()]
        what, hint = f"no gene set is called {name}", f"there are {some(near or list(gene_sets))}"
    raise ExpressionError(what, path=table.source, hint=hint)


def _found(asked: Sequence[str], genes: Sequence[str]) -> dict[str, str]:
    """Gene as asked → its name in the matrix, under which it may have a later or a former symbol."""
    there = set(genes)
    approved = shipped_aliases()
    former = {symbol: name for name, symbol in approved.items() if name in there}
    found = {}
    for gene in dict.fromkeys(asked):
        known = next((name for name in (gene, approved.get(gene), former.get(gene)) if name in there), None)
        if known is not None:
            found[gene] = known
    return found


def _needs_levels(name: str, score: str, table: ExpressionTable) -> ExpressionError:
    if score in _RECURRENCE:
        found = _found(_recurrence_genes(), table.genes)
        missing = [gene for gene in _recurrence_genes() if gene not in found]
        lacks = f"; and it lacks {', '.join(missing)}" if missing else ""
        what = f"{name} is normalised by reference genes, and this matrix holds z-scores, which have no level{lacks}"
        return ExpressionError(what, path=table.source, hint="give wsipipe genomics expression: counts, TPM or FPKM")
    what = f"{score} ranks a patient's genes by their expression, and this matrix holds z-scores"
    hint = "use signature_score mean-z, or give wsipipe genomics expression: counts, TPM or FPKM"
    return ExpressionError(what, path=table.source, hint=hint)


def _too_few(
    name: str, found: Collection[str], absent: Sequence[str], table: ExpressionTable, least: float
) -> ExpressionError:
    total = len(found) + len(absent)
    what = f"{name}: {len(found)} of its {total} genes are in the matrix; absent: {some(absent, _NAMES)}"
    if total == 1:
        what = f"{name}: the matrix has no gene {absent[0]}"
        return ExpressionError(what, path=table.source, hint="name it as the matrix does")
    needed = "all of them are needed" if least == 1 else f"at least {least:.0%} are needed"
    return ExpressionError(what, path=table.source, hint=f"{needed}; does the matrix name genes as the signature does?")


def _mean_and_scale(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each gene over the patients that have a value; 0 and 0 where fewer than two."""
    measured = np.isfinite(values)
    number = measured.sum(axis=0)
    mean = np.where(measured, values, 0.0).sum(axis=0) / np.maximum(number, 1)
    squares = np.where(measured, np.square(values - mean), 0.0).sum(axis=0)
    scale = np.sqrt(squares / np.maximum(number, 1))
    tiny = scale <= 1e-9 * np.maximum(1.0, np.abs(mean))
    return mean, np.where(tiny | (number < 2), 0.0, scale)


def _anndata(table: ExpressionTable, patients: Sequence[str]) -> Any:
    """These patients as the genomics stage has them."""
    import anndata
    import pandas as pd

    uns = {"input_unit": "zscore" if _holds_zscores(table) else ""}
    obs, var = pd.DataFrame(index=list(patients)), pd.DataFrame(index=list(table.genes))
    return anndata.AnnData(table.rows(patients), obs=obs, var=var, uns=uns)
