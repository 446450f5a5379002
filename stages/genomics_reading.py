"""From a matrix as labs have it to patients × genes on a log scale, with an account of everything that was done.

Nothing here looks at labels, and no value depends on other patients' values. One choice is made over all patients,
and without labels: of several rows of one gene, the one with the largest mean is kept. Imputing, selecting and
standardising are fitted inside each training fold (:mod:`wsipipe.models.gene_panel`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd

from ..data.columns import names
from ..data.errors import ExpressionError
from ..data.tcga import SAMPLE_TYPES, tcga_barcode
from ..data.wording import some
from .expression_matrix import Orientation, RawMatrix, read_matrix
from .expression_units import STORED_AS, Unit, Values, check_unit, recognise_unit, to_log2

_ENSEMBL_VERSION = re.compile(r"(ENS[A-Z]{0,6}\d{11})\.\d+(?:_PAR_Y)?")
_DATE = re.compile(r"\d{1,2}-(?:Mar|Sep|Dec|Oct|Apr)|(?:Mar|Sep|Dec|Oct|Apr)-\d{2}", re.IGNORECASE)


@dataclass
class ReadingFacts:
    """What was found and done.

    :param sentences: in the order of the work.
    :param warnings: what the user should think about.
    :param counts: the numbers behind them.
    """

    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int, what: str) -> None:
        """Keep a number, and say it where it is not zero."""
        self.counts[name] = int(number)
        if number:
            self.sentences.append(f"{what}: {number:,}")


def read_genomics(
    path: Path, unit: Unit | Literal["auto"] = "auto", orientation: Orientation = "auto"
) -> tuple[anndata.AnnData, ReadingFacts]:
    """Read, clean and bring to a log scale.

    1. Rows that aligners add below the genes are left out, Ensembl versions are dropped.
    2. TCGA barcodes become patients (12 characters): sample type 01 is kept. Of several aliquots of a patient the one
       of the first vial (A; later ones are often from paraffin), and among these the one whose barcode sorts last
       (the newest portion and plate, as Broad's GDAC does), stands.
    3. The unit is recognised, or the told one is held against the values; counts become counts per million; linear
       units become log2(x + 1); log values and z-scores stay.
    4. Of several rows of one gene the one with the largest mean stands (the first of equals).

    :param unit: what the values are; ``auto`` recognises it.
    :return: the patients × genes AnnData (X float32, NaN where missing; both axes sorted; obs: source_id,
        library_size for counts, missing_genes; var: source_id, rows; uns: unit, input_unit, source, steps), and the
        facts.
    :raises ExpressionError: the file is no expression matrix, or the unit contradicts it.
    """
    try:
        return _read(path, unit, orientation)
    except ExpressionError as error:
        if error.path is not None:
            raise
        raise ExpressionError(error.what, path=path, hint=error.hint) from error


def _read(path: Path, unit: Unit | Literal["auto"], orientation: Orientation) -> tuple[anndata.AnnData, ReadingFacts]:
    raw = read_matrix(path, orientation)
    facts = ReadingFacts(list(raw.notes))
    facts.counts.update(samples=len(raw.samples), rows=len(raw.genes))
    _refuse_no_numbers(raw)
    keep_genes, genes = _gene_ids(raw.genes, facts)
    keep_samples, patients = _patients(raw, facts)
    values = raw.values[keep_samples][:, keep_genes]
    written = np.array([raw.samples[sample] for sample in keep_samples])
    told, unit = unit != "auto", _unit(values, unit, facts)
    values, kept, library = _scaled(values, unit, patients, facts)
    patients, written = [patients[i] for i in kept], written[kept]

    chosen, rows = _one_row_a_gene(values, genes, facts)
    order = np.argsort(np.array(patients))
    matrix = np.ascontiguousarray(values[order][:, chosen], dtype=np.float32)
    missing = np.isnan(matrix).sum(axis=1)
    facts.count("missing", int(missing.sum()), "missing values, kept (they are imputed in the fold)")
    facts.counts.update(patients=len(patients), genes=len(chosen))
    facts.sentences.append(f"{len(patients)} patients × {len(chosen)} genes kept, as {STORED_AS[unit]}")

    obs = pd.DataFrame({"source_id": written[order], "missing_genes": missing}, index=[patients[i] for i in order])
    if library is not None:
        obs["library_size"] = library[order]
    source_ids = [raw.genes[keep_genes[i]] for i in chosen]
    var = pd.DataFrame({"source_id": source_ids, "rows": rows}, index=[genes[i] for i in chosen])
    uns = {
        "unit": STORED_AS[unit],
        "input_unit": unit,
        "input_unit_was": "told" if told else "recognised",
        "source": path.name,
        "steps": np.array(facts.sentences + facts.warnings, dtype=object),
    }
    return anndata.AnnData(X=matrix, obs=obs, var=var, uns=uns), facts


def _refuse_no_numbers(raw: RawMatrix) -> None:
    if np.isnan(raw.values).all():
        raise ExpressionError(
            "the matrix has no numeric values", hint="every cell is empty or NA: check how it was saved"
        )
    infinite = np.argwhere(np.isinf(raw.values))
    if len(infinite):
        sample, gene = infinite[0]
        what = f"{len(infinite)} values are infinite, first in {raw.genes[gene]} of {raw.samples[sample]}"
        raise ExpressionError(what, hint="add 1 before taking the logarithm, or leave these cells empty")


def _gene_ids(written: Sequence[str], facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Which rows are genes, and their ids."""
    summaries = set(names("expression", "not_genes"))
    keep = [index for index, gene in enumerate(written) if gene and gene not in summaries]
    facts.count("unnamed_rows", unnamed := written.count(""), "rows without a gene's name left out")
    dropped = len(written) - len(keep) - unnamed
    facts.count("summary_rows", dropped, "rows of the aligner's summary left out")
    genes = [_ENSEMBL_VERSION.sub(r"\1", written[index]) for index in keep]
    versions = sum(gene != written[index] for gene, index in zip(genes, keep, strict=True))
    facts.count("ensembl_versions", versions, "Ensembl versions dropped")
    dates = [gene for gene in genes if _DATE.fullmatch(gene)]
    if dates:
        facts.warnings.append(f"genes whose names a spreadsheet turned into dates: {len(dates)} ({some(dates, 3)})")
    if not keep:
        raise ExpressionError("no row has a gene's name", hint="the first column must hold gene ids or symbols")
    return keep, genes


def _patients(raw: RawMatrix, facts: ReadingFacts) -> tuple[list[int], list[str]]:
    """Which samples stand for which patients, one each."""
    of_patient: dict[str, list[int]] = {}
    other_types: Counter[str] = Counter()
    unnamed = cut = 0
    for sample, name in enumerate(raw.samples):
        barcode = tcga_barcode(name)
        if barcode and barcode.sample_type not in ("", "01"):
            other_types[barcode.sample_type] += 1
        elif not name:
            unnamed += 1
        else:
            patient = barcode.patient if barcode else name
            cut += patient != name
            of_patient.setdefault(patient, []).append(sample)
    facts.count("unnamed_samples", unnamed, "samples without a name left out")
    facts.count("barcodes_cut", cut, "TCGA barcodes cut to the patient (12 characters)")
    for code, number in sorted(other_types.items()):
        kind = SAMPLE_TYPES.get(code, "unknown")
        facts.count(f"sample_type_{code}", number, f"samples of type {code} ({kind}) left out, not primary tumours")
    if not of_patient:
        raise ExpressionError("no sample is a primary tumour", hint="give a matrix with samples of TCGA type 01")
    stands = {patient: _standing_aliquot(patient, samples, raw) for patient, samples in of_patient.items()}
    extra = sum(map(len, of_patient.values())) - len(stands)
    facts.count("extra_aliquots", extra, "further aliquots left out, the first vial's last portion and plate stand")
    return list(stands.values()), list(stands)


def _standing_aliquot(patient: str, samples: Sequence[int], raw: RawMatrix) -> int:
    if len(samples) == 1:
        return samples[0]
    vials = {sample: (barcode.vial if (barcode := tcga_barcode(raw.samples[sample])) else "") for sample in samples}
    first_vial = min(vials.values())
    last = max(raw.samples[sample] for sample in samples if vials[sample] == first_vial)
    equals = [sample for sample in samples if raw.samples[sample] == last]
    if any(not np.array_equal(raw.values[equals[0]], raw.values[other], equal_nan=True) for other in equals[1:]):
        what = f"{patient} is there {len(equals)} times under one name ({last}) with different values"
        raise ExpressionError(what, hint="keep one of them, or give them their full barcodes")
    return equals[0]


def _unit(values: npt.NDArray[np.float64], unit: Unit | Literal["auto"], facts: ReadingFacts) -> Unit:
    if np.isnan(values).all():
        raise ExpressionError("no primary tumour has a numeric value", hint="check how the matrix was saved")
    seen = Values.of(values)
    if unit == "auto":
        unit, evidence = recognise_unit(seen)
        facts.sentences.append(f"the unit is {unit}: {evidence}")
    else:
        check_unit(unit, seen)
        facts.sentences.append(f"the unit is {unit}, as told: {seen}")
    if unit == "zscore":
        facts.warnings.append("z-scores: somebody standardised them over the whole cohort, held-out patients included")
    if unit == "log" and seen.least < 0:
        facts.warnings.append(
            f"log values go down to {seen.least:g}: not log2(x + 1), so do not mix them with other cohorts"
        )
    if unit == "counts" and len(values[0]) < 5000:
        facts.warnings.append(f"counts per million over {len(values[0])} genes only: a few large genes move all others")
    return unit


def _scaled(
    values: npt.NDArray[np.float64], unit: Unit, patients: Sequence[str], facts: ReadingFacts
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], npt.NDArray[np.float64] | None]:
    """Log values, the patients that have any, and their library sizes."""
    nothing = np.isnan(values).all(axis=1)
    if unit in ("counts", "tpm", "fpkm"):
        nothing |= np.nansum(values, axis=1) == 0
    without = [patients[index] for index in np.flatnonzero(nothing).tolist()]
    facts.count("without_values", len(without), f"patients without any value left out ({some(without)})")
    kept = np.flatnonzero(~nothing)
    logs, library = to_log2(values[kept], unit)
    return logs, kept, library


def _one_row_a_gene(
    values: npt.NDArray[np.float64], genes: Sequence[str], facts: ReadingFacts
) -> tuple[list[int], list[int]]:
    """For each gene, sorted: the column that stands for it, and how many there were."""
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(genes):
        columns.setdefault(gene, []).append(column)
    extra = len(genes) - len(columns)
    facts.count("duplicate_genes", extra, "further rows of the same genes left out, the largest mean stands")
    ordered = sorted(columns)
    return [_largest_mean(values, columns[gene]) for gene in ordered], [len(columns[gene]) for gene in ordered]


def _largest_mean(values: npt.NDArray[np.float64], columns: Sequence[int]) -> int:
    """The first of the columns with the largest mean over what is not missing."""
    if len(columns) == 1:
        return columns[0]
    own = values[:, columns]
    present = (~np.isnan(own)).sum(axis=0)
    means = np.where(present > 0, np.nansum(own, axis=0) / np.maximum(present, 1), -np.inf)
    return columns[int(np.argmax(means))]
