"""The gene panel: the choice and scaling of genes, fitted inside each training fold and stored in the bundle.

It filters, chooses genes, imputes and standardises. All four steps use the training patients alone, so that a test
patient's values and labels have no influence. Joined blocks (``cnv:ERBB2`` beside ``ERBB2``; see
:mod:`wsipipe.data.molecular.blocks`) are fitted separately, each on the training patients with measurements in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ...data.errors import BundleError, ExpressionError, UsageError
from ...data.molecular.block_table import BLOCKS
from ...data.molecular.blocks import Block, block_of
from ...data.wording import some

Selection = Literal["anova", "variance", "xgboost", "list"]


class GenePanel:
    """Chosen genes with the mean and scale of each, used like a scikit-learn transformer.

    :param n_genes: maximum number of genes of each block (768 in the authors' code); a given list is kept completely.
    :param selection: ``anova``, the largest F statistic between the classes; ``variance``, the largest variance;
        ``xgboost``, the largest gain in boosted trees (needs the package xgboost), followed by the genes that no tree
        uses, ordered by F; ``list``, the given ones.
    :param gene_list: the genes of ``list``. ``ERBB2`` means this gene in every block that has it, ``cnv:ERBB2`` in one.
    :param max_missing: a gene with a larger fraction of missing values is filtered out; only training patients with
        measurements in its block count.
    :param max_absent: :meth:`transform` refuses a matrix that lacks a larger fraction of the panel.
    :param seed: the seed of ``xgboost``'s trees.
    """

    def __init__(
        self,
        n_genes: int = 768,
        selection: Selection = "anova",
        gene_list: Sequence[str] = (),
        *,
        max_missing: float = 0.2,
        max_absent: float = 0.2,
        seed: int = 0,
    ) -> None:
        if n_genes < 1 or not 0 <= max_missing < 1:
            raise UsageError(f"a panel of {n_genes} genes with up to {max_missing:.0%} missing makes no sense")
        if not 0 <= max_absent < 1:
            raise UsageError(f"a panel of which {max_absent:.0%} may be absent makes no sense")
        if (selection == "list") != bool(gene_list):
            raise UsageError("a gene list goes with the selection 'list', and the other way round")
        self.n_genes = n_genes
        self.selection = selection
        self.gene_list = tuple(dict.fromkeys(gene_list))
        self.max_missing = max_missing
        self.max_absent = max_absent
        self.seed = seed
        self.genes: tuple[str, ...] = ()
        """The chosen genes, block by block: the best first, or in the given list's order. Empty before :meth:`fit`."""
        self.mean: npt.NDArray[np.float64] = np.zeros(0)
        """Mean of each chosen gene over the training patients that have a value."""
        self.scale: npt.NDArray[np.float64] = np.zeros(0)
        """Standard deviation (divided by n) over the same patients; above 0."""
        self.counts: dict[str, int] = {}
        """Numbers of genes offered, filtered for missing values, filtered as constant, and chosen (with several blocks
        also per block); of patients without measurements in a block; for a list, of its genes that are unavailable."""

    def fit(
        self,
        matrix: npt.NDArray[np.float32],
        genes: Sequence[str],
        labels: npt.ArrayLike,
        number_of_classes: int = 2,
    ) -> Self:
        """Choose genes and learn their mean and scale from training patients.

        The order of genes makes no difference; genes with equal scores are ordered by name.

        :param matrix: (n, g), NaN where missing.
        :param genes: g names, each once.
        :param labels: (n,) places of the classes, such as 0 and 1; ``anova`` and ``xgboost`` need two of them.
        :raises ExpressionError: shapes or names do not fit, or no gene of a block is left.
        :raises UsageError: the package xgboost is needed and not installed.
        """
        _check(matrix, genes)
        classes = np.asarray(labels)
        if classes.shape != (len(matrix),):
            raise ExpressionError(f"{len(matrix)} patients of expression cannot have labels of shape {classes.shape}")
        if not np.isin(classes, range(number_of_classes)).all():
            between = "two classes, 0 and 1" if number_of_classes == 2 else f"classes 0 to {number_of_classes - 1}"
            raise ExpressionError(f"genes are chosen between {between}")
        counts: Counter[str] = Counter()
        chosen: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
        blocks = _columns_of_blocks(genes)
        for block, columns in blocks.items():
            values = matrix if len(columns) == len(genes) else matrix[:, columns]
            measured = ~np.isnan(values).all(axis=1)
            if not measured.all():
                values = values[measured]
                counts[f"patients_without_{block}"] = int((~measured).sum())
            names = [genes[index] for index in columns.tolist()]
            order, mean, scale = self._fit_block(block, values, names, classes[measured], counts)
            chosen.append((columns[order], mean, scale))
            if len(blocks) > 1:
                counts[f"chosen_{block}"] = len(order)
        picked = np.concatenate([columns for columns, _, _ in chosen])
        if not len(picked):
            raise ExpressionError(
                f"none of the {len(self.gene_list)} listed genes can be used: {some(self.gene_list)}",
                hint="name genes as the matrix does (symbols or Ensembl ids)",
            )
        self.genes = tuple(genes[index] for index in picked.tolist())
        self.mean, self.scale = (np.concatenate(part) for part in ([c[1] for c in chosen], [c[2] for c in chosen]))
        counts["chosen"] = len(self.genes)
        if self.selection == "list":
            found = {*self.genes, *(block_of(gene)[1] for gene in self.genes)}
            counts["not_to_be_had"] = len(set(self.gene_list) - found)
        self.counts = dict(counts)
        return self

    def _fit_block(
        self,
        block: Block,
        matrix: npt.NDArray[np.float32],
        names: Sequence[str],
        classes: npt.NDArray[np.generic],
        counts: Counter[str],
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Choose the genes of one block: their indices in ``names``, with the mean and scale of each."""
        if self.selection in ("anova", "xgboost") and len(np.unique(classes)) < 2:
            raise ExpressionError(
                f"{block} is chosen between two classes, 0 and 1: both must be there",
                hint=f"the training patients with {block} are all of one class; leave {block} out, or use fewer folds",
            )
        values = matrix.astype(np.float64)
        missing = np.isnan(values)
        present = len(values) - missing.sum(axis=0)
        enough = (present > 0) & (len(values) - present <= self.max_missing * len(values))
        values[missing] = 0.0
        mean = values.sum(axis=0) / np.maximum(present, 1)
        values -= mean
        values[missing] = 0.0  # values are centred: this imputes the mean
        total = np.square(values).sum(axis=0)
        scale = np.sqrt(total / np.maximum(present, 1))
        # A constant's rounding noise is not variance.
        varies = scale > 1e-6 * np.maximum(np.abs(mean), 1.0)
        counts.update(offered=len(names), too_many_missing=int((~enough).sum()), constant=int((enough & ~varies).sum()))
        usable = np.flatnonzero(enough & varies)
        if not len(usable):
            raise ExpressionError(
                f"none of {len(names)} genes varies among the training patients",
                hint=f"{block} must have values, and different ones, for at least {1 - self.max_missing:.0%} of them",
            )
        usable = usable[np.argsort(np.array(names)[usable])]  # from here on ties stay in the order of names
        if self.selection == "list":
            order = self._listed(names, usable)
            return order, mean[order], scale[order]
        score = scale if self.selection == "variance" else _explained(values, total, classes)
        keys = [-score[usable]]  # the last key decides
        if self.selection == "xgboost":
            keys.append(-_gain(values[:, usable], classes, self.seed))
        order = usable[np.lexsort(keys)[: self.n_genes]]
        return order, mean[order], scale[order]

    def _listed(self, names: Sequence[str], usable: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        rank = {gene: rank for rank, gene in enumerate(self.gene_list)}
        listed: list[tuple[int, int]] = []
        for index in usable.tolist():
            ranks = [rank[name] for name in (names[index], block_of(names[index])[1]) if name in rank]
            if ranks:
                listed.append((min(ranks), index))
        return np.array([index for _, index in sorted(listed)], dtype=np.intp)

    def transform(self, matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> npt.NDArray[np.float32]:
        """Standardise the values of the chosen genes, (n, len(self.genes)) float32 without NaN.

        Missing values, and genes that this matrix lacks (see :meth:`missing`), get the training mean, which is 0.

        :param matrix: (n, g), in the unit that the panel was fitted in.
        :param genes: g names, each once, in any order.
        :raises ExpressionError: more than ``max_absent`` of the panel's genes are absent.
        """
        _check(matrix, genes)
        if not self.genes:
            raise UsageError("the panel is not fitted")
        absent = self.missing(genes)
        if len(absent) > self.max_absent * len(self.genes):
            what = (
                f"{len(absent)} of the panel's {len(self.genes)} genes are not in the matrix ({some(absent, 3)}):"
                f" more than {self.max_absent:.0%}"
            )
            raise ExpressionError(what, hint=f"name genes as in training; this matrix has {some(list(genes), 3)}")
        place = {gene: index for index, gene in enumerate(genes)}
        here = [index for index, gene in enumerate(self.genes) if gene in place]
        columns = [place[self.genes[index]] for index in here]
        standard = np.zeros((len(matrix), len(self.genes)))
        standard[:, here] = (matrix[:, columns] - self.mean[here]) / self.scale[here]
        return np.nan_to_num(standard, nan=0.0).astype(np.float32)

    def missing(self, genes: Sequence[str]) -> tuple[str, ...]:
        """List the chosen genes that a matrix lacks."""
        there = set(genes)
        return tuple(gene for gene in self.genes if gene not in there)

    def state(self) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, Any]]:
        """Return the panel as arrays (for safetensors) and JSON: only numbers and names, no code."""
        arrays = {"mean": self.mean, "scale": self.scale}
        return arrays, {
            "n_genes": self.n_genes,
            "selection": self.selection,
            "gene_list": list(self.gene_list),
            "max_missing": self.max_missing,
            "max_absent": self.max_absent,
            "seed": self.seed,
            "genes": list(self.genes),
            "counts": dict(self.counts),
        }

    @classmethod
    def from_state(cls, arrays: Mapping[str, npt.NDArray[np.float64]], info: Mapping[str, Any]) -> Self:
        """Restore the panel from its :meth:`state`, bit by bit.

        :raises BundleError: the parts do not fit together.
        """
        try:
            panel = cls(
                info["n_genes"],
                info["selection"],
                info["gene_list"],
                max_missing=info["max_missing"],
                max_absent=info["max_absent"],
                seed=info["seed"],
            )
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


def _columns_of_blocks(genes: Sequence[str]) -> dict[Block, npt.NDArray[np.intp]]:
    """Map each block to its columns, in the order of :data:`BLOCKS`."""
    columns: dict[Block, list[int]] = {block: [] for block in BLOCKS}
    for index, gene in enumerate(genes):
        columns[block_of(gene)[0]].append(index)
    return {block: np.array(own, dtype=np.intp) for block, own in columns.items() if own}


def _explained(
    centred: npt.NDArray[np.float64], total: npt.NDArray[np.float64], classes: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    """Compute the fraction of each gene's variance that lies between the classes, R² (g).

    It orders genes as the F statistic of a one-way analysis of variance does, F = (n − C) R² / ((C − 1) (1 − R²)) of C
    classes, and stays finite if a gene separates the classes perfectly.

    :param centred: (n, g), the mean of each column 0.
    :param total: (g) sum of squares of each column.
    """
    if classes.max(initial=0) > 1:
        sums = np.zeros(centred.shape[1])
        for place in np.unique(classes):
            own = classes == place
            sums += np.square(centred[own].sum(axis=0)) / int(own.sum())
        return np.asarray(sums / np.where(total > 0, total, 1.0))
    # Summed column by column, not by a matrix product: equal columns must give equal numbers at any position.
    of_ones = centred[classes == 1].sum(axis=0)
    ones = int((classes == 1).sum())
    between = np.square(of_ones) * (1 / ones + 1 / (len(classes) - ones))
    explained: npt.NDArray[np.float64] = between / np.where(total > 0, total, 1.0)
    return explained


def _gain(centred: npt.NDArray[np.float64], classes: npt.NDArray[np.generic], seed: int) -> npt.NDArray[np.float64]:
    """Compute each gene's share in the gain of gradient-boosted trees (g), 0 for genes that no tree uses.

    Chen and Guestrin, XGBoost, KDD 2016. The gain is summed over a gene's splits: the mean, XGBoost's default, favours
    genes that were used once, deep in a tree. Shallow trees and few bins limit time and memory with many genes. One
    thread, so that equal seeds give equal trees.
    """
    try:
        from xgboost import XGBClassifier
    except ImportError as error:
        what = "choosing genes by XGBoost needs the package xgboost, which is not installed"
        raise UsageError(what, hint="pip install 'wsipipe-momkd[xgboost]', or choose genes by anova") from error
    trees = XGBClassifier(
        n_estimators=100,
        max_depth=3,
        learning_rate=0.3,
        tree_method="hist",
        max_bin=32,
        importance_type="total_gain",
        random_state=seed,
        n_jobs=1,
    )
    trees.fit(centred.astype(np.float32), classes)
    return np.asarray(trees.feature_importances_, dtype=np.float64)


def _check(matrix: npt.NDArray[np.float32], genes: Sequence[str]) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != len(genes):
        raise ExpressionError(f"a matrix of shape {matrix.shape} does not fit {len(genes)} genes")
    if len(set(genes)) < len(genes):
        raise ExpressionError("a gene occurs twice", hint="`wsipipe genomics` collapses duplicates")
