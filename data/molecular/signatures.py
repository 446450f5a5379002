"""Signature scores of patients: gene sets (single-sample GSEA) and the 21-gene recurrence score, for research only.

Nothing is fitted: a patient's score depends only on that patient's values. The exception are z-scores, whose values
already depend on the whole cohort.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata

from ..artifact import whole
from ..errors import ExpressionError
from ..files.safe_cells import safe_cell
from ..wording import some
from .gene_aliases import shipped_aliases

Floats = npt.NDArray[np.float64]

ALPHA: Final = 0.25
"""Exponent of a gene's rank in its weight (Barbie et al. 2009)."""
FEWEST_GENES: Final = 10
"""A set with fewer genes in the matrix is left out."""
RECURRENCE: Final = "recurrence_score"
"""0 to 100, exactly as published, where nothing is missing."""
UNSCALED: Final = "recurrence_score_unscaled"
"""The weighted sum without floors: on RNA-seq many patients are below the floors, which would hide their ranks."""
_CHUNK: Final = 64  # patients ranked at once, for memory


@dataclass(frozen=True)
class Signatures:
    """The table of scores, with a report.

    :param table: patients × scores, NaN where a patient has none; the index is named ``patient_id``.
    :param sentences: what was done and left out.
    :param warnings: limits of the scores.
    """

    table: pd.DataFrame
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def signature_table(
    expression: anndata.AnnData, gene_sets: Mapping[str, Sequence[str]], *, min_genes: int = FEWEST_GENES
) -> Signatures:
    """Score every patient: the recurrence score first, then one ssGSEA column per gene set, in the order given.

    :param expression: patients × genes with symbols, as :func:`~.expression_reading.read_genomics` makes.
    :param gene_sets: name → genes, as :func:`~.gene_sets.read_gmt` reads; may be empty.
    :param min_genes: a set with fewer genes in the matrix is left out; a patient with fewer of a set's genes measured
        has no score for it.
    :raises ExpressionError: a set has the same name as a column of the recurrence score.
    """
    taken = sorted({RECURRENCE, UNSCALED} & set(gene_sets))
    if taken:
        raise ExpressionError(
            f"the gene set {taken[0]!r} has the name of a column of the recurrence score", hint="give it another name"
        )
    columns, sentences, warnings = _recurrence(expression)
    if gene_sets:
        genes = [str(gene) for gene in expression.var_names]
        kept, left_out = _sets_to_score(gene_sets, genes, min_genes)
        scores = single_sample_gsea(_matrix(expression), genes, kept, min_genes=min_genes)
        columns |= {name: scores[:, column] for column, name in enumerate(kept)}
        sentences += _account(gene_sets, kept, left_out, scores, min_genes)
        if not kept:
            warnings.append("no gene set could be scored: does the matrix name genes as the sets do (symbols)?")
        elif _is_zscore(expression):
            warnings.append(
                "gene set scores of z-scores rank genes by how far they are from the cohort's mean, not by expression"
            )
    index = pd.Index([str(patient) for patient in expression.obs_names], name="patient_id")
    return Signatures(pd.DataFrame(columns, index=index), tuple(sentences), tuple(warnings))


def recurrence_genes() -> tuple[str, ...]:
    """The 21 genes of the recurrence score, the five reference genes last."""
    formula = _formula()
    return (*(gene for group in formula["groups"].values() for gene in group["genes"]), *formula["reference"]["genes"])


def recurrence_table(expression: anndata.AnnData) -> pd.DataFrame:
    """Both columns of the recurrence score, patients × scores; NaN where a gene was not measured."""
    return pd.DataFrame(_recurrence(expression)[0], index=expression.obs_names)


def write_signatures(path: Path, signatures: Signatures) -> None:
    """Write the table as CSV, atomically, with six significant digits. Equal scores give equal bytes."""
    with whole(path) as scratch:
        table = signatures.table.rename(index=safe_cell, columns=safe_cell)
        table.to_csv(scratch, float_format="%.6g", lineterminator="\n", encoding="utf-8")


def single_sample_gsea(
    matrix: npt.NDArray[Any], genes: Sequence[str], gene_sets: Mapping[str, Sequence[str]], *, min_genes: int = 1
) -> Floats:
    """Single-sample GSEA: D. A. Barbie et al., Nature 462 (2009) 108–112, supplementary methods.

    A patient's N measured genes are ranked. Going down from the highest, the set's genes make one cumulative
    distribution, each weighted by rank^0.25, and all others another; the score is the sum of the differences between
    the two. As every gene adds to all places from its own to the lowest, that sum is, with r the rank from the lowest,

        Σ_set r^1.25 / Σ_set r^0.25 − mean of r over the others,

    which needs no running sum, and leaves no choice where genes tie: equal values share their mean rank, so the order
    of the genes does not matter. Divided by N it lies between −1 and 1 and matrices of other sizes compare; times N it
    is the score of GSVA (``ssgsea.norm = FALSE``) and GSEApy (``ES``). Barbie et al. finally divide by the range over
    the cohort, which is left out here because scores would then depend on other patients.

    :param matrix: (n, g); NaN, a gene that was not measured, is left out of that patient's ranking.
    :param genes: g names.
    :return: (n, number of sets); NaN where a patient has fewer than ``min_genes`` of a set, or no other gene.
    """
    place = {gene: column for column, gene in enumerate(genes)}
    members = [sorted({place[gene] for gene in chosen if gene in place}) for chosen in gene_sets.values()]
    rows = np.array([row for column in members for row in column], dtype=np.intp)
    columns = np.repeat(np.arange(len(members)), [len(column) for column in members])
    belongs = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(genes), len(members)))
    scores = np.full((len(matrix), len(members)), np.nan)
    for start in range(0, len(matrix), _CHUNK):
        values = matrix[start : start + _CHUNK]
        measured = np.isfinite(values)
        # Missing values rank last, so they do not change other ranks, and then get rank 0.
        rank = rankdata(np.where(measured, values, np.inf), axis=1) * measured
        weight = rank**ALPHA
        n = measured.sum(axis=1, keepdims=True).astype(np.float64)
        inside = measured.astype(np.float64) @ belongs
        outside = n - inside
        with np.errstate(invalid="ignore", divide="ignore"):
            of_set = (rank * weight) @ belongs / (weight @ belongs)
            of_others = (n * (n + 1) / 2 - rank @ belongs) / outside
            score = (of_set - of_others) / n
        scores[start : start + _CHUNK] = np.where((inside >= max(1, min_genes)) & (outside > 0), score, np.nan)
    return scores


def _sets_to_score(
    gene_sets: Mapping[str, Sequence[str]], genes: Sequence[str], min_genes: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[int, int]]]:
    """Sets with enough genes in the matrix, by its names; for the others, how many of how many genes it has."""
    there = set(genes)
    approved = shipped_aliases()  # read_genomics renames the matrix's genes, so older gene sets must follow
    found: dict[str, tuple[str, ...]] = {}
    for name, chosen in gene_sets.items():
        named = (gene if gene in there else approved.get(gene, gene) for gene in chosen)
        found[name] = tuple(gene for gene in dict.fromkeys(named) if gene in there)
    kept = {name: chosen for name, chosen in found.items() if min_genes <= len(chosen) < len(there)}
    return kept, {name: (len(found[name]), len(set(gene_sets[name]))) for name in found if name not in kept}


def _account(
    gene_sets: Mapping[str, Sequence[str]],
    kept: Mapping[str, Sequence[str]],
    left_out: Mapping[str, tuple[int, int]],
    scores: Floats,
    min_genes: int,
) -> list[str]:
    sentences = [f"gene sets scored (ssGSEA): {len(kept)} of {len(gene_sets)}"]
    if kept:
        share = {name: len(chosen) / len(set(gene_sets[name])) for name, chosen in kept.items()}
        least = min(share, key=lambda name: share[name])
        sentences.append(f"least complete scored gene set: {least}, {share[least]:.0%} of its genes are in the matrix")
    if left_out:
        examples = some([f"{name} {here} of {all_}" for name, (here, all_) in left_out.items()], 3)
        sentences.append(f"gene sets left out, fewer than {min_genes} genes in the matrix (or all of it): {examples}")
    if gaps := int(np.isnan(scores).any(axis=1).sum()):
        sentences.append(f"patients without the score of some gene set, too few of its genes measured: {gaps}")
    return sentences


@dataclass(frozen=True)
class _Group:
    name: str
    weight: float
    floor: float | None
    genes: Mapping[str, float]


@cache
def _formula() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("recurrence_score.toml").read_text(encoding="utf-8"))


def _recurrence(expression: anndata.AnnData) -> tuple[dict[str, Floats], list[str], list[str]]:
    """The two columns of the recurrence score, with sentences and warnings."""
    formula = _formula()
    groups = [_Group(name, one["weight"], one.get("floor"), one["genes"]) for name, one in formula["groups"].items()]
    cancer = [gene for group in groups for gene in group.genes]
    values, renamed = _columns(expression, [*cancer, *formula["reference"]["genes"]])
    absent = [gene for gene in cancer if gene not in values]
    references = [gene for gene in formula["reference"]["genes"] if gene in values]
    no_references = [gene for gene in formula["reference"]["genes"] if gene not in values]
    zscore = _is_zscore(expression)
    sentences = [f"{written} taken for {gene}" for gene, written in renamed.items()]
    nothing = np.full(expression.n_obs, np.nan)
    if len(absent) == len(cancer):
        sentences.append("recurrence score: none of its 16 genes is in the matrix, so it is not computed")
        return {RECURRENCE: nothing, UNSCALED: nothing}, sentences, []

    on_scale = not zscore and bool(references)
    if on_scale:
        reference = np.mean([values[gene] for gene in references], axis=0)
        values = {gene: column - reference + formula["reference_level"] for gene, column in values.items()}
    whole_formula = on_scale and not absent and not no_references
    below: list[str] = []
    unscaled, floored = np.zeros(expression.n_obs), np.zeros(expression.n_obs)
    for group in groups:
        here = [gene for gene in group.genes if gene in values]
        if here:
            total, present = sum(group.genes.values()), sum(group.genes[gene] for gene in here)
            of_group = total / present * np.sum([group.genes[gene] * values[gene] for gene in here], axis=0)
            unscaled += group.weight * of_group
            if group.floor is not None:
                below.append(f"{(of_group < group.floor).mean():.0%} of the patients for {group.name}")
                of_group = np.maximum(of_group, group.floor)
            floored += group.weight * of_group
    scale = formula["scale"]
    scaled = np.clip(scale["slope"] * (floored - scale["offset"]), scale["low"], scale["high"])

    sentences.append(
        f"recurrence score, 21 genes ({formula['source']}), research use only: "
        + (f"{len(cancer) - len(absent)} of 16 genes" if absent else "all 16 genes")
        + (", z-scores without reference genes" if zscore else f", {len(references)} of 5 reference genes")
    )
    if absent:
        sentences.append(f"recurrence score, genes missing: {', '.join(absent)}")
    if on_scale and no_references:
        sentences.append(f"recurrence score, reference genes missing: {', '.join(no_references)}")
    if gaps := int(np.isnan(unscaled).sum()):
        sentences.append(f"patients without a recurrence score, a gene of theirs was not measured: {gaps}")
    if whole_formula:
        warning = (
            "the recurrence score's floors and its scale of 0 to 100 were set for RT-PCR: on RNA-seq its clinical "
            f"cut-offs do not hold, and below a floor ({', '.join(below)}) differences vanish; {UNSCALED} keeps them"
        )
    else:
        why = "z-scores have no level" if zscore else "genes or reference genes are missing"
        warning = (
            f"no recurrence score from 0 to 100 ({why}): {UNSCALED} is the weighted sum of what is there, each "
            "missing gene's weight shared out within its group; it ranks patients of one cohort"
        )
    return {RECURRENCE: scaled if whole_formula else nothing, UNSCALED: unscaled}, sentences, [warning]


def _columns(expression: anndata.AnnData, genes: Sequence[str]) -> tuple[dict[str, Floats], dict[str, str]]:
    """The columns of the genes that the matrix has, and those that it has under a former symbol."""
    place = {str(gene): column for column, gene in enumerate(expression.var_names)}
    earlier = {approved: name for name, approved in shipped_aliases().items() if name in place}
    matrix = _matrix(expression)
    written = {gene: gene if gene in place else earlier[gene] for gene in genes if gene in place or gene in earlier}
    values = {gene: matrix[:, place[name]].astype(np.float64) for gene, name in written.items()}
    return values, {gene: name for gene, name in written.items() if name != gene}


def _matrix(expression: anndata.AnnData) -> npt.NDArray[np.float32]:
    return np.asarray(expression.X, dtype=np.float32)


def _is_zscore(expression: anndata.AnnData) -> bool:
    return bool(expression.uns.get("input_unit") == "zscore")
