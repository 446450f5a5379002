"""Detection of labels among the genes, such as an IHC column or an outcome that was left in the expression matrix.

A "gene" that is the label itself makes the omics-only AUC 1 and everything learned from it worthless. The genomics
stage never reads labels, so the check is made where they are known: when the patients are split.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...data.cohort.outcomes import Label, as_number
from ...data.errors import ExpressionError
from ...data.matrices.expression_units import STORED_AS
from ...data.molecular.store import ExpressionTable
from ...data.wording import some

ENOUGH = 12
"""With fewer patients, or less than three in a class, a gene may equal the label by chance."""
MANY = 30
"""From this number of patients, a gene that separates the classes perfectly is reported."""


def refuse_labels(
    tables: Sequence[ExpressionTable], labels: Mapping[str, Label], made_of: Collection[str] = ()
) -> list[str]:
    """Refuse genes that are the label itself.

    :param labels: of all patients that are used.
    :param made_of: genes that the label is made of on purpose; they are not looked at.
    :return: of two classes, a note on genes that separate the classes perfectly but vary within them.
    :raises ExpressionError: a gene has one value in each class, as it is stored or as the counts that it was made of;
        of more classes, of numbers and of times: it is in exactly their order.
    """
    notes = []
    for whole in tables:
        table = _without(whole, set(made_of)) if made_of and whole.block == "rna" else whole
        patients = [patient for patient in table.patients if patient in labels]
        numbers = np.array([as_number(labels[patient]) for patient in patients])
        if len(patients) >= ENOUGH and len(np.unique(numbers)) > 2:
            same = _in_the_same_order(np.asarray(table.rows(patients), dtype=np.float64), numbers)
            if same.any():
                raise _is_the_label(table, same, len(patients))
            continue
        classes = numbers
        sizes = np.unique(classes, return_counts=True)[1] if patients else np.zeros(0)
        if len(patients) < ENOUGH or len(sizes) != 2 or sizes.min() < 3:
            continue
        values = np.asarray(table.rows(patients), dtype=np.float64)
        first, second = classes == classes.min(), classes == classes.max()
        apart = _apart(values[first], values[second])
        equal = _one_value_each(values, first, second)
        equal |= apart & _zero_or_one(values)
        counts = _counts(table, patients, values)
        if counts is not None:
            equal |= _one_value_each(counts, first, second)
        if equal.any():
            raise _is_the_label(table, equal, len(patients))
        if len(patients) >= MANY and apart.any():
            genes = [table.genes[index] for index in np.flatnonzero(apart).tolist()]
            notes.append(
                f"genes that separate the label's classes without an exception: {some(genes)}; are they really genes?"
            )
    return notes


def _without(table: ExpressionTable, left_out: Collection[str]) -> ExpressionTable:
    """The table without some of its genes."""
    others = [place for place, gene in enumerate(table.genes) if gene not in left_out]
    return replace(table, genes=tuple(table.genes[place] for place in others), matrix=table.matrix[:, others])


def _is_the_label(table: ExpressionTable, equal: npt.NDArray[np.bool_], patients: int) -> ExpressionError:
    genes = [table.genes[index] for index in np.flatnonzero(equal).tolist()]
    drop = " ".join(f"--drop-columns '{gene}'" for gene in genes[:3])
    what = f"{some(genes)} is not a gene but the label itself, in all {patients} patients"
    hint = f"leave it out: wsipipe genomics MATRIX {drop}, then train again"
    return ExpressionError(what, path=table.source, hint=hint)


def _in_the_same_order(values: npt.NDArray[np.float64], numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Genes that rise, or fall, exactly where the label rises, and are equal where it is equal."""
    order = np.argsort(numbers, kind="stable")
    steps, of_label = np.sign(np.diff(values[order], axis=0)), np.sign(np.diff(numbers[order]))[:, None]
    return np.asarray((steps == of_label).all(axis=0) | (steps == -of_label).all(axis=0))


def _one_value_each(
    values: npt.NDArray[np.float64], first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Genes with one value in either class, and another in the other."""
    one, other = values[first], values[second]
    return np.asarray((one == one[0]).all(axis=0) & (other == other[0]).all(axis=0) & (one[0] != other[0]))


def _counts(
    table: ExpressionTable, patients: Sequence[str], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """The counts that log2(CPM + 1) was made of: divided by a library, a label of 1 and 3 differs in every patient.

    To the hundredth of a read; None where the values are no such, or the libraries are unknown.
    """
    if table.libraries is None or table.unit != STORED_AS["counts"]:
        return None
    libraries = table.libraries[[table.row(patient) for patient in patients], None]
    # Rounded, as float32 keeps seven digits of the logarithm; a label's numbers are small.
    return np.asarray(np.round((np.exp2(values) - 1) * libraries / 1e6, 2))


def _apart(lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mark genes whose values in one class are all above those in the other; one with missing values is not marked."""
    return np.asarray((lower.max(axis=0) < upper.min(axis=0)) | (upper.max(axis=0) < lower.min(axis=0)))


def _zero_or_one(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mark genes whose values are 0 or the patient's smallest positive value, which is one read after normalisation."""
    with np.errstate(invalid="ignore"):
        least = np.where(values > 0, values, np.inf).min(axis=1, keepdims=True)
        return np.asarray(((values == 0) | np.isclose(values, least, rtol=1e-4)).all(axis=0))
