"""The gene panel: what is fitted to expression inside each training fold, and travels in the bundle.

Filter, choose genes, impute, standardise. All four look at the training patients alone, so that a test patient's
values and labels change nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.feature_selection import f_classif

from ..data.errors import BundleError, ExpressionError, UsageError
from ..data.wording import some

Selection = Literal["anova", "variance", "list"]


class GenePanel:
    """Chosen genes with the mean and scale of each, in the manner of a scikit-learn transformer.

    :param n_genes: how many genes to keep at most (768 in the authors' code); a given list is kept whole.
    :param selection: ``anova``, the largest F statistic between the classes; ``variance``, the largest variance;
        ``list``, the given ones.
    :param gene_list: the genes of ``list``.
    :param max_missing: a gene with a larger fraction of missing values among the training patients is filtered out.
    """

    def __init__(
        self,
        n_genes: int = 768,
        selection: Selection = "anova",
        gene_list: Sequence[str] = (),
        max_missing: float = 0.2,
    ) -> None:
        if n_genes < 1 or not 0 <= max_missing < 1:
            raise UsageError(f"a panel of {n_genes} genes with up to {max_missing:.0%} missing cannot be meant")
        if (selection == "list") != bool(gene_list):
            raise UsageError("a gene list goes with the selection 'list', and the other way round")
        self.n_genes = n_genes
        self.selection = selection
        self.gene_list = tuple(dict.fromkeys(gene_list))
        self.max_missing = max_missing
        self.genes: tuple[str, ...] = ()
        """The chosen genes: the best first, or in the given list's order. Empty before :meth:`fit`."""
        self.mean: npt.NDArray[np.float64] = np.zeros(0)
        """Of each chosen gene over the training patients that have a value."""
        self.scale: npt.NDArray[np.float64] = np.zeros(0)
        """Standard deviation (divided by n) likewise; above 0."""
        self.counts: dict[str, int] = {}
        """Genes offered, filtered for missing values, filtered as constant, chosen; for a list, those not to be had."""

    def fit(self, matrix: npt.NDArray[np.float32], genes: Sequence[str], labels: npt.ArrayLike) -> Self:
        """Choose genes and learn their mean and scale from training patients.

        The order of genes makes no difference; equal scores are settled by the gene's name.

        :param matrix: (n, g), NaN where missing.
        :param genes: g names, each once.
        :param labels: (n,) 0 or 1; only ``anova`` asks for both classes.
        :raises ExpressionError: shapes or names do not fit, or no gene is left.
        """
        _check(matrix, genes)
        classes = np.asarray(labels)
        if classes.shape != (len(matrix),):
            raise ExpressionError(f"{len(matrix)} patients of expression cannot have labels of shape {classes.shape}")
        if not np.isin(classes, (0, 1)).all() or (self.selection == "anova" and len(np.unique(classes)) < 2):
            raise ExpressionError("genes are chosen between two classes, 0 and 1: both must be there")
        values = matrix.astype(np.float64)
        missing = np.isnan(values)
        present = len(values) - missing.sum(axis=0)
        enough = (present > 0) & (missing.mean(axis=0) <= self.max_missing)
        mean = np.where(missing, 0.0, values).sum(axis=0) / np.maximum(present, 1)
        centred = np.where(missing, 0.0, values - mean)  # imputed with the mean, that is
        scale = np.sqrt((centred**2).sum(axis=0) / np.maximum(present, 1))
        # A constant's rounding noise is not variance.
        varies = scale > 1e-6 * np.maximum(np.abs(mean), 1.0)
        usable = np.flatnonzero(enough & varies)
        if not len(usable):
            raise ExpressionError(f"none of {len(genes)} genes varies among the training patients")
        names = [genes[index] for index in usable.tolist()]
        if self.selection == "list":
            order = self._listed(names)
        else:
            score = f_classif(centred[:, usable], classes)[0] if self.selection == "anova" else scale[usable]
            order = np.lexsort((np.array(names), -score))[: self.n_genes]
        picked = usable[order]
        self.genes = tuple(genes[index] for index in picked.tolist())
        self.mean, self.scale = mean[picked], scale[picked]
        self.counts = {
            "offered": len(genes),
            "too_many_missing": int((~enough).sum()),
            "constant": int((enough & ~varies).sum()),
            "chosen": len(self.genes),
        }
        if self.selection == "list":
            self.counts["not_to_be_had"] = len(self.gene_list) - len(self.genes)
        return self

    def _listed(self, names: Sequence[str]) -> npt.NDArray[np.intp]:
        place = {name: index for index, name in enumerate(names)}
        listed = [place[gene] for gene in self.gene_list if gene in place]
        if not listed:
            raise ExpressionError(
                f"none of the {len(self.gene_list)} listed genes can be used: {some(self.gene_list)}",
                hint="name genes as the matrix does (symbols or Ensembl ids)",
            )
        return np.array(listed, dtype=np.intp)

    def transform(self, matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> npt.NDArray[np.float32]:
        """Standardised values of the chosen genes, (n, len(self.genes)) float32 without NaN.

        Missing values, and genes that this matrix lacks (see :meth:`missing`), are the training mean: 0.

        :param matrix: (n, g), in the unit that the panel was fitted in.
        :param genes: g names, each once, in any order.
        :raises ExpressionError: none of the panel's genes is there.
        """
        _check(matrix, genes)
        if not self.genes:
            raise UsageError("the panel is not fitted")
        if len(self.missing(genes)) == len(self.genes):
            what = f"none of the panel's {len(self.genes)} genes is in the matrix (panel: {some(self.genes, 3)})"
            raise ExpressionError(what, hint=f"name genes as in training; this matrix has {some(list(genes), 3)}")
        place = {gene: index for index, gene in enumerate(genes)}
        here = [index for index, gene in enumerate(self.genes) if gene in place]
        columns = [place[self.genes[index]] for index in here]
        standard = np.zeros((len(matrix), len(self.genes)))
        standard[:, here] = (matrix[:, columns] - self.mean[here]) / self.scale[here]
        return np.nan_to_num(standard, nan=0.0).astype(np.float32)

    def missing(self, genes: Sequence[str]) -> tuple[str, ...]:
        """The chosen genes that another matrix lacks."""
        there = set(genes)
        return tuple(gene for gene in self.genes if gene not in there)

    def state(self) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, Any]]:
        """The panel as arrays (for safetensors) and JSON: numbers and names, nothing that can run."""
        arrays = {"mean": self.mean, "scale": self.scale}
        return arrays, {
            "n_genes": self.n_genes,
            "selection": self.selection,
            "gene_list": list(self.gene_list),
            "max_missing": self.max_missing,
            "genes": list(self.genes),
            "counts": dict(self.counts),
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[np.float64]], info: Mapping[str, Any]) -> Self:
        """The panel that :meth:`state` was taken from, to the bit.

        :raises BundleError: the parts do not fit together.
        """
        try:
            panel = cls(info["n_genes"], info["selection"], info["gene_list"], info["max_missing"])
            panel.genes = tuple(info["genes"])
            panel.counts = dict(info["counts"])
            panel.mean = np.array(arrays["mean"], dtype=np.float64)
            panel.scale = np.array(arrays["scale"], dtype=np.float64)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise BundleError(f"the gene panel is damaged ({error})", hint="copy the bundle again") from error
        shape = (len(panel.genes),)
        if panel.mean.shape != shape or panel.scale.shape != shape or not (panel.scale > 0).all():
            raise BundleError("the gene panel's numbers do not fit its genes", hint="copy the bundle again")
        return panel


def _check(matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != len(genes):
        raise ExpressionError(f"a matrix of shape {matrix.shape} does not fit {len(genes)} genes")
    if len(set(genes)) < len(genes):
        raise ExpressionError("a gene is there twice", hint="`wsipipe genomics` collapses duplicates")
