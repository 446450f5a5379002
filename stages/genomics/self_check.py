"""Plausibility checks of a matrix that was read: does it look like RNA of these patients?

Housekeeping genes must be highly expressed, patients' profiles must be similar, recorded sex must fit the Y genes, and
no gene may equal a column of the clinical table. The results are printed and shown on the page, and not stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd

from ...data.columns import names
from ...data.wording import some
from .checks import Checks, by_patient, missing_clinical

Floats = npt.NDArray[np.float64]

ENOUGH_GENES: Final = 200
"""With fewer genes (a panel) housekeeping genes and profiles are not checked: the genes are no random sample."""
ENOUGH_PATIENTS: Final = 10
"""A clinical column is compared with genes if at least so many patients have a value."""
HOUSEKEEPING: Final = 0.6
"""Smallest plausible rank of housekeeping genes, as a share: in every tissue they lie above the 90th percentile."""
ALIKE: Final = 0.5
"""Smallest plausible median correlation of two patients' profiles: those of two tumours correlate with 0.8 or more."""
SAME: Final = 0.999
"""Correlation above which a gene and a clinical column are the same."""


@dataclass
class SelfCheck:
    """Results of the checks as sentences, and warnings about what is suspicious."""

    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def self_check(expression: anndata.AnnData, clinical: pd.DataFrame | None, checks: Checks) -> SelfCheck:
    """Check whether a matrix looks like RNA of these patients.

    :param expression: patients × genes, as :func:`~.expression_reading.read_genomics` makes.
    :param clinical: a table by patient, or None.
    :param checks: result of :func:`~.checks.check_expression`.
    """
    found = SelfCheck()
    zscore = expression.uns.get("input_unit") == "zscore"
    matrix = np.asarray(expression.X, dtype=np.float64)
    if zscore:
        found.sentences.append("self-check: z-scores have no level, so housekeeping genes and profiles are not checked")
    elif expression.n_vars < ENOUGH_GENES:
        what = f"self-check: {expression.n_vars} genes are too few to check housekeeping genes and profiles"
        found.sentences.append(what)
    else:
        _housekeeping(matrix, list(map(str, expression.var_names)), found)
        _profiles(matrix, found)
    _sexes(expression, clinical, checks, zscore, found)
    if clinical is not None:
        _clinical_columns(expression, matrix, clinical, found)
    return found


def _housekeeping(matrix: Floats, genes: list[str], found: SelfCheck) -> None:
    place = {gene: index for index, gene in enumerate(genes)}
    there = [gene for gene in names("expression", "housekeeping") if gene in place]
    if len(there) < 3:
        found.sentences.append("self-check: fewer than 3 housekeeping genes are found by symbol, so none is checked")
        return
    present = (~np.isnan(matrix)).sum(axis=0)
    means = np.where(present > 0, np.nansum(matrix, axis=0) / np.maximum(present, 1), np.nan)
    known = np.sort(means[~np.isnan(means)])
    ranks = np.searchsorted(known, means[[place[gene] for gene in there]]) / max(1, len(known))
    middle = float(np.nanmedian(ranks))
    what = f"the {len(there)} housekeeping genes lie at the {100 * middle:.0f}th percentile of all genes (their median)"
    if middle < HOUSEKEEPING:
        found.warnings.append(f"self-check: {what}, but should be among the highest: do the names match the rows?")
    else:
        found.sentences.append(f"self-check: {what}")


def _profiles(matrix: Floats, found: SelfCheck) -> None:
    """Check the median correlation of two patients' profiles, over at most 200 patients."""
    if len(matrix) < 3:
        return
    rows = matrix[np.unique(np.linspace(0, len(matrix) - 1, min(len(matrix), 200)).astype(int))]
    rows = rows[:, ~np.isnan(rows).any(axis=0)]
    rows = rows[rows.std(axis=1) > 0] if rows.shape[1] else rows[:0]
    if len(rows) < 3 or rows.shape[1] < ENOUGH_GENES:
        return
    correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    middle = float(np.median(correlations))
    what = f"two patients' profiles correlate with {middle:.2f} (median)"
    if middle < ALIKE:
        found.warnings.append(
            f"self-check: {what}, those of tumours with 0.8 or more: are the genes in the same order for all patients?"
        )
    else:
        found.sentences.append(f"self-check: {what}")


def _sexes(
    expression: anndata.AnnData, clinical: pd.DataFrame | None, checks: Checks, zscore: bool, found: SelfCheck
) -> None:
    if checks.sexes:
        what = f"self-check: recorded sex compared with genes of the Y chromosome in {checks.sexes} patients"
        if checks.sex_mismatches:
            found.warnings.append(f"{what}: {checks.sex_mismatches} do not fit, see the quality page")
        else:
            found.sentences.append(f"{what}: all fit")
        return
    if clinical is None:
        found.sentences.append("self-check: recorded sex is not checked: no clinical table is given (--clinical)")
        return
    why = missing_clinical(clinical, list(map(str, expression.obs_names)))
    if not why and all(patient.y is None for patient in checks.patients):
        why = "the matrix holds no gene of the Y chromosome"
    elif not why and zscore:
        why = "z-scores have no level"
    found.warnings.append(f"self-check: recorded sex could not be checked: {why or 'no patient has both'}")


def _clinical_columns(expression: anndata.AnnData, matrix: Floats, clinical: pd.DataFrame, found: SelfCheck) -> None:
    """Warn about genes that equal a clinical column: correlated with it, or constant in each of its classes."""
    patients = list(map(str, expression.obs_names))
    genes = list(map(str, expression.var_names))
    for column in clinical.columns:
        values = by_patient(clinical, str(column), patients)
        known = np.array([value is not None for value in values], dtype=bool)
        if known.sum() < ENOUGH_PATIENTS:
            continue
        measured = matrix[known]
        texts = [value for value in values if value is not None]
        numbers = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(dtype=np.float64)
        same: list[str] = []
        if not np.isnan(numbers).any() and len(set(numbers)) > 2:
            same = [genes[index] for index in _correlated(measured, numbers)]
        elif 1 < len(set(texts)) <= 5:
            same = [genes[index] for index in _constant_in_classes(measured, texts)]
        if same:
            found.warnings.append(
                f"self-check: {some(same)} equals the column {column} of the clinical table, as no gene does "
                f"(--drop-columns '{same[0]}' leaves it out)"
            )


def _correlated(matrix: Floats, numbers: Floats) -> list[int]:
    filled = matrix - np.nan_to_num(matrix).mean(axis=0)
    centred = np.nan_to_num(filled - np.nan_to_num(filled).mean(axis=0))
    target = numbers - numbers.mean()
    norms = np.sqrt((centred**2).sum(axis=0) * (target**2).sum())
    r = np.divide(target @ centred, norms, out=np.zeros(len(norms)), where=norms > 0)
    return np.flatnonzero(np.abs(r) > SAME).tolist()


def _constant_in_classes(matrix: Floats, classes: list[str]) -> list[int]:
    groups = [matrix[[text == one for text in classes]] for one in sorted(set(classes))]
    if min(len(group) for group in groups) < 2:
        return []
    constant = np.all([(group == group[0]).all(axis=0) for group in groups], axis=0)
    levels = np.stack([group[0] for group in groups])
    return np.flatnonzero(constant & (levels.max(axis=0) > levels.min(axis=0))).tolist()
