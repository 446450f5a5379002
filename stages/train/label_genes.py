"""Detection of labels among the genes, such as an IHC column or an outcome that was left in the expression matrix.

A "gene" that is the label itself makes the omics-only AUC 1 and everything learned from it worthless. The genomics
stage never reads labels, so the check is made where they are known: when the patients are split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ...data.errors import ExpressionError
from ...data.molecular.store import ExpressionTable
from ...data.wording import some

ENOUGH = 12
"""With fewer patients, or less than three in a class, a gene may equal the label by chance."""
MANY = 30
"""From this number of patients, a gene that separates the classes perfectly is reported."""


def refuse_labels(tables: Sequence[ExpressionTable], labels: Mapping[str, int]) -> list[str]:
    """Refuse genes that are the label itself.

    :param labels: labels of all used patients.
    :return: a note on genes that separate the classes perfectly but vary within them.
    :raises ExpressionError: a gene has one value in each class, or separates the classes with counts of 0 and 1 only.
    """
    notes = []
    for table in tables:
        patients = [patient for patient in table.patients if patient in labels]
        classes = np.array([labels[patient] for patient in patients])
        sizes = np.unique(classes, return_counts=True)[1] if patients else np.zeros(0)
        if len(patients) < ENOUGH or len(sizes) != 2 or sizes.min() < 3:
            continue
        values = np.asarray(table.rows(patients), dtype=np.float64)
        lower, upper = values[classes == classes.min()], values[classes == classes.max()]
        equal = _constant(lower) & _constant(upper) & (lower[0] != upper[0])
        apart = _apart(lower, upper)
        equal |= apart & _zero_or_one(values)
        if equal.any():
            genes = [table.genes[index] for index in np.flatnonzero(equal).tolist()]
            drop = " ".join(f"--drop-columns '{gene}'" for gene in genes[:3])
            what = f"{some(genes)} is not a gene but the label itself, in all {len(patients)} patients"
            hint = f"leave it out: wsipipe genomics MATRIX {drop}, then train again"
            raise ExpressionError(what, path=table.source, hint=hint)
        if len(patients) >= MANY and apart.any():
            genes = [table.genes[index] for index in np.flatnonzero(apart).tolist()]
            notes.append(
                f"genes that separate the label's classes without an exception: {some(genes)}; are they really genes?"
            )
    return notes


def _constant(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.asarray((values == values[0]).all(axis=0))


def _apart(lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mark genes whose values in one class are all above those in the other; one with missing values is not marked."""
    return np.asarray((lower.max(axis=0) < upper.min(axis=0)) | (upper.max(axis=0) < lower.min(axis=0)))


def _zero_or_one(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mark genes whose values are 0 or the patient's smallest positive value, which is one read after normalisation."""
    with np.errstate(invalid="ignore"):
        least = np.where(values > 0, values, np.inf).min(axis=1, keepdims=True)
        return np.asarray(((values == 0) | np.isclose(values, least, rtol=1e-4)).all(axis=0))
