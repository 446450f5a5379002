"""Quality checks of an expression matrix: outliers, near-identical patients, batches, and sex against the record.

The results are for display only: they compare patients with each other, and are neither stored nor used in training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final, Literal

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import eigh

from ...data.cohort.tcga import tcga_barcode
from ...data.columns import plain_name, plain_names

Floats = npt.NDArray[np.float64]
Sex = Literal["female", "male"]

FAR: Final = 3.5
"""Robust standard deviations (1.4826 × median absolute deviation) from the median beyond which a patient is an outlier:
B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993."""
FEWEST: Final = 8
"""With fewer patients outliers are not judged."""
SAME: Final = 0.95
"""Concordance above which two patients' profiles look like the same sample."""
MANY_MISSING: Final = 0.2
"""A larger share of genes without a value is worth a look."""
Y_GENES: Final = ("RPS4Y1", "DDX3Y", "KDM5D", "UTY")
MALE_Y, FEMALE_Y = 2.0, 1.0
"""Mean log2(x + 1) of the Y genes: above the first value the Y chromosome is expressed, below the second it is not."""
Z_LIMIT: Final = 3.0
"""z-scores are clipped here for distances and PCA, which a few genes with extreme scores would otherwise dominate."""

_PLATE = re.compile(
    r"TCGA[-._]\w{2}[-._]\w{4}[-._]\d\d[A-Z][-._]\d\d[A-Z][-._]([A-Z0-9]{4})(?![A-Z0-9])", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class PatientCheck:
    """One patient's figures; None where the matrix or the clinical table does not provide them."""

    patient: str
    batch: str | None
    library_size: float | None
    detected: int | None
    """Number of genes above 0."""
    missing: int
    distance: float
    """Root mean square distance of the genes to their cohort means, in the matrix's unit."""
    pc: tuple[float, float]
    recorded_sex: Sex | None
    y: float | None
    """Mean of the Y chromosome's genes."""
    why: tuple[str, ...]
    """Reasons to look at this patient."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """The checks of all patients, and of the cohort as a whole."""

    patients: tuple[PatientCheck, ...]
    duplicates: tuple[tuple[str, str, float], ...]
    """Pairs of near-identical patients with their concordance, the most similar first."""
    pc_share: tuple[float, float]
    """Shares of the variance of the first two components."""
    batch_kind: str | None
    """Where the batches were read from."""
    batch_share: tuple[float, float] | None
    """For each component, the share of its variance between batches (adjusted R²)."""
    sex_mismatches: int
    sexes: int
    """Number of patients whose recorded sex could be compared with their Y genes."""


def check_expression(expression: anndata.AnnData, clinical: pd.DataFrame | None) -> Checks:
    """Compare every patient with all others.

    :param expression: patients × genes, as :func:`~.expression_reading.read_genomics` makes; at least one
        patient and gene.
    :param clinical: a table with the patient's id as a column (or as its index) and, if known, sex or gender, and
        batch, plate or site.
    """
    patients = [str(patient) for patient in expression.obs_names]
    matrix = np.asarray(expression.X, dtype=np.float32)
    zscore = expression.uns.get("input_unit") == "zscore"
    gram, missing = _gram(matrix, zscore)
    squares = np.diag(gram).copy()
    distance = np.sqrt(squares / matrix.shape[1])
    components, shares = _components(gram)
    duplicates = _duplicates(gram, patients)
    batches, kind = _batches(expression, clinical, patients)
    library = expression.obs["library_size"].to_numpy(np.float64) if "library_size" in expression.obs else None
    linear_zero = not zscore and not (matrix < 0).any()
    detected = (matrix > 0).sum(axis=1) if linear_zero else None  # a NaN is not above 0
    recorded = _of_patients(clinical, plain_names("clinical", "sex"), patients)[0]
    sexes = [_sex(text) for text in recorded]
    y = y_level(expression)

    why: list[list[str]] = [[] for _ in patients]
    if library is not None:
        for row, side in _odd(np.log(np.maximum(library, 1)), at_least=log(2)):
            why[row].append(f"{side} library: {library[row]:,.0f} reads, the median is {np.median(library):,.0f}")
    if detected is not None:
        for row, side in _odd(np.log(np.maximum(detected, 1)), at_least=log(1.1)):
            why[row].append(f"{side} number of genes: {detected[row]:,}, the median is {np.median(detected):,.0f}")
    for row, side in _odd(np.log(np.maximum(distance, 1e-9)), at_least=log(1.5)):
        if side == "high":
            times = distance[row] / np.median(distance)
            why[row].append(f"unlike all others: {times:.1f} times the median distance from the cohort's mean")
    for row in np.flatnonzero(missing > MANY_MISSING * matrix.shape[1]).tolist():
        why[row].append(f"{missing[row] / matrix.shape[1]:.0%} of the genes have no value")
    place = {patient: row for row, patient in enumerate(patients)}
    for one, other, same in duplicates:
        why[place[one]].append(f"nearly the same profile as {other} (concordance {same:.3f})")
        why[place[other]].append(f"nearly the same profile as {one} (concordance {same:.3f})")
    judged = mismatches = 0
    for row, sex in enumerate(sexes):
        if sex and y is not None and not zscore and np.isfinite(y[row]):
            judged += 1
            if mismatch := _mismatch(sex, float(y[row])):
                mismatches += 1
                why[row].append(mismatch)
    checks = [
        PatientCheck(
            patient=patient,
            batch=batches[row],
            library_size=None if library is None else float(library[row]),
            detected=None if detected is None else int(detected[row]),
            missing=int(missing[row]),
            distance=float(distance[row]),
            pc=(float(components[row, 0]), float(components[row, 1])),
            recorded_sex=sexes[row],
            y=None if y is None else float(y[row]),
            why=tuple(why[row]),
        )
        for row, patient in enumerate(patients)
    ]
    return Checks(
        patients=tuple(checks),
        duplicates=duplicates,
        pc_share=shares,
        batch_kind=kind,
        batch_share=_between(components, batches) if kind else None,
        sex_mismatches=mismatches,
        sexes=judged,
    )


def gene(expression: anndata.AnnData, symbol: str) -> Floats | None:
    """A gene's values, (patients,); None if the matrix lacks it."""
    if symbol not in expression.var_names:
        return None
    return np.asarray(expression.X, dtype=np.float64)[:, expression.var_names.get_loc(symbol)]


def y_level(expression: anndata.AnnData) -> Floats | None:
    """Mean of the available Y genes, (patients,), NaN without a value; None if the matrix has none of them."""
    there = [values for symbol in Y_GENES if (values := gene(expression, symbol)) is not None]
    if not there:
        return None
    stacked = np.stack(there)
    counted = np.isfinite(stacked).sum(axis=0)
    return np.where(counted, np.nansum(stacked, axis=0) / np.maximum(counted, 1), np.nan)


def _gram(matrix: npt.NDArray[np.float32], zscore: bool) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Inner products of the centred patients, and the number of missing genes of each; missing values are the mean."""
    missing = np.isnan(matrix)
    values = np.clip(matrix, -Z_LIMIT, Z_LIMIT) if zscore else matrix
    present = np.maximum((~missing).sum(axis=0), 1)
    mean = np.where(missing, 0, values).sum(axis=0, dtype=np.float64) / present
    centred = np.where(missing, 0, values - mean.astype(np.float32))
    return (centred @ centred.T).astype(np.float64), missing.sum(axis=1)


def _components(gram: Floats) -> tuple[Floats, tuple[float, float]]:
    """Coordinates (patients, 2) on the first two principal components, and their shares of the variance."""
    n, total = len(gram), float(np.trace(gram))
    if n < 3 or total <= 0:
        return np.zeros((n, 2)), (0.0, 0.0)
    values, vectors = eigh(gram, subset_by_index=(n - 2, n - 1))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    farthest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[farthest, [0, 1]] < 0, -1, 1)  # a component's sign is arbitrary: fix it
    return vectors * signs * np.sqrt(values), (float(values[0] / total), float(values[1] / total))


def _duplicates(gram: Floats, patients: Sequence[str]) -> tuple[tuple[str, str, float], ...]:
    """Pairs with high concordance, 2 a·b / (a·a + b·b) about the cohort's mean (L. Lin, Biometrics 45, 1989)."""
    if len(gram) < 3:
        return ()
    squares = np.diag(gram)
    concordance = 2 * gram / np.maximum(squares[:, None] + squares, 1e-12)
    same = np.argwhere(np.triu(concordance > SAME, k=1)).tolist()
    pairs = [(patients[i], patients[j], min(1.0, float(concordance[i, j]))) for i, j in same]
    return tuple(sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1])))


def _odd(values: Floats, at_least: float) -> list[tuple[int, str]]:
    """Rows far from the median, and to which side; never nearer than ``at_least``, a normal difference of patients."""
    if len(values) < FEWEST:
        return []
    away = values - np.median(values)
    limit = max(FAR * 1.4826 * float(np.median(np.abs(away))), at_least)
    return [(row, "low" if away[row] < 0 else "high") for row in np.flatnonzero(np.abs(away) > limit).tolist()]


def _mismatch(sex: Sex, y: float) -> str | None:
    if sex == "female" and y > MALE_Y:
        return f"recorded female, but genes of the Y chromosome are expressed (mean {y:.1f})"
    if sex == "male" and y < FEMALE_Y:
        return f"recorded male, but genes of the Y chromosome are not expressed (mean {y:.1f}); tumours can lose the Y"
    return None


def _sex(text: str | None) -> Sex | None:
    word = (text or "").casefold()
    return "female" if word in ("female", "f", "woman") else "male" if word in ("male", "m", "man") else None


def _batches(
    expression: anndata.AnnData, clinical: pd.DataFrame | None, patients: Sequence[str]
) -> tuple[list[str | None], str | None]:
    """Each patient's batch, and where it is from: obs, the clinical table, or the TCGA barcode."""
    titles = ("batch", "plate", *plain_names("cohort", "site"))
    for column in sorted(expression.obs.columns, key=str):
        if plain_name(str(column)) in titles:
            return [_text(value) for value in expression.obs[column]], str(column)
    found, column = _of_patients(clinical, titles, patients)
    if column:
        return found, f"{column}, from the clinical table"
    sources = expression.obs.get("source_id", expression.obs_names)
    plates = [plate.group(1).upper() if (plate := _PLATE.match(str(source))) else None for source in sources]
    if all(plates):
        return list(plates), "plate, from the TCGA barcode"
    sites = [barcode.site if (barcode := tcga_barcode(patient)) else None for patient in patients]
    return (list(sites), "tissue source site, from the TCGA barcode") if any(sites) else ([None] * len(patients), None)


def _of_patients(
    clinical: pd.DataFrame | None, wanted: Sequence[str], patients: Sequence[str]
) -> tuple[list[str | None], str | None]:
    """A column of the clinical table by patient, and its name; None where a patient's rows contradict each other."""
    nothing: list[str | None] = [None] * len(patients)
    if clinical is None:
        return nothing, None
    by_name = {plain_name(str(column)): column for column in reversed(clinical.columns)}
    column = next((by_name[name] for name in wanted if name in by_name), None)
    if column is None:
        return nothing, None
    return by_patient(clinical, str(column), patients), str(column)


def by_patient(clinical: pd.DataFrame, column: str, patients: Sequence[str]) -> list[str | None]:
    """A column's text by patient; None where a patient has none, or where rows contradict each other."""
    values: dict[str, set[str]] = {}
    for patient, value in zip(_ids(clinical), clinical[column], strict=True):
        if text := _text(value):
            values.setdefault(patient, set()).add(text)
    known = {patient: next(iter(texts)) for patient, texts in values.items() if len(texts) == 1}
    return [known.get(patient) for patient in patients]


def _ids(clinical: pd.DataFrame) -> list[str]:
    """The patient of each row, from the column of patients or the index; barcodes are cut to the patient."""
    by_name = {plain_name(str(column)): column for column in reversed(clinical.columns)}
    titles = (*plain_names("cohort", "patient_id"), *plain_names("clinical", "patient_id"))
    ids = next((by_name[name] for name in titles if name in by_name), None)
    written = [str(name).strip() for name in (clinical.index if ids is None else clinical[ids])]
    return [barcode.patient if (barcode := tcga_barcode(name)) else name for name in written]


def missing_clinical(clinical: pd.DataFrame, patients: Sequence[str]) -> str:
    """Why the table gives no patient's sex; empty if it gives any."""
    if not set(_ids(clinical)) & set(patients):
        return f"none of the {len(patients)} patients is in the clinical table"
    recorded, column = _of_patients(clinical, plain_names("clinical", "sex"), patients)
    if column is None:
        return f"the clinical table has no column of sex ({', '.join(map(str, clinical.columns[:5]))} …)"
    if not any(map(_sex, recorded)):
        return f"the column {column} has no value that is female or male"
    return ""


def _text(value: object) -> str | None:
    text = "" if value is None or value is pd.NA or value != value else str(value).strip()
    return text or None


def _between(components: Floats, batches: Sequence[str | None]) -> tuple[float, float] | None:
    """Adjusted R² of each component on the batch, at least 0; None with one batch, or too few patients."""
    known = np.array([batch is not None for batch in batches])
    n, sizes = int(known.sum()), Counter(batch for batch in batches if batch is not None)
    if len(sizes) < 2 or n <= len(sizes):
        return None
    shares = []
    for component in components[known].T:
        frame = pd.Series(component).groupby([batch for batch in batches if batch is not None])
        total = float(((component - component.mean()) ** 2).sum())
        inside = float(((component - frame.transform("mean").to_numpy()) ** 2).sum())
        adjusted = 1 - inside / (n - len(sizes)) / (total / (n - 1)) if total > 0 else 0.0
        shares.append(max(0.0, adjusted))
    return shares[0], shares[1]
