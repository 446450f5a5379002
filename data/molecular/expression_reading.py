"""Reading an expression matrix into patients × genes on a log scale, with a report of everything that was done.

Labels are not used, and no value depends on other patients' values. Only one choice uses all patients: of several rows
of one gene, the one with the largest mean is kept. Imputation, selection and standardisation are fitted inside each
training fold (:mod:`wsipipe.models.training.gene_panel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd

from ..errors import ExpressionError
from ..matrices.expression_units import (
    LINEAR,
    STORED_AS,
    Unit,
    Values,
    check_unit,
    contradiction,
    recognise_unit,
    to_log2,
    unit_warnings,
)
from ..matrices.matrix import RawMatrix, read_matrix, without
from ..matrices.naming import AS_WRITTEN, Naming, Orientation
from ..matrices.no_genes import features
from ..matrices.odd_values import refuse_odd, without_codes
from ..matrices.reading_facts import ReadingFacts
from ..wording import some
from .gdc_folder import read_gdc_folder
from .gene_aliases import read_aliases, shipped_aliases
from .genes import gene_names, lengths_of, one_row_a_gene, read_gene_lengths
from .patients import standing_samples

_Array = npt.NDArray[np.float64]


def read_genomics(
    path: Path,
    unit: Unit | Literal["auto"] = "auto",
    orientation: Orientation = "auto",
    *,
    patient_pattern: str | None = None,
    aliases: Path | None = None,
    gene_lengths: Path | None = None,
    naming: Naming = AS_WRITTEN,
) -> tuple[anndata.AnnData, ReadingFacts]:
    """Read a matrix, clean it and convert it to a log scale.

    1. Summary rows of aligners and rows or columns that are not genes (an age, a receptor's stain) are left out;
       Ensembl versions are dropped, and former names become approved symbols, unless the matrix has these too.
    2. One sample is chosen for each patient: see :func:`~.patients.standing_samples`.
    3. Codes for missing values are emptied; genes and cells unlike all others are refused by name.
    4. The unit is recognised, or the given one is checked against the values; counts become TPM if gene lengths are
       given, else counts per million; linear units become log2(x + 1); log values and z-scores stay.
    5. Of several rows of one gene the one with the largest mean is kept (the first of equals).

    :param path: a matrix, or a folder of the GDC's STAR counts with its sample sheet.
    :param unit: unit of the values; ``auto`` recognises it.
    :param patient_pattern: a regular expression whose first group (or all of it) is the patient in a sample's name.
    :param aliases: a table of names and approved symbols; it takes precedence over the shipped one.
    :param gene_lengths: a table of genes and their lengths in base pairs, for counts.
    :param naming: what the user says about names (which column has them, which are not genes).
    :return: the patients × genes AnnData (X float32, NaN where missing; both axes sorted; obs: source_id,
        missing_genes, library_size where counts are known; var: source_id, rows; uns: unit, input_unit, source,
        steps), and the facts.
    :raises ExpressionError: not an expression matrix, it can be read in two ways, or the unit contradicts the values.
    :raises UsageError: the pattern is not a regular expression, or a name to be left out does not exist.
    """
    try:
        return _read(path, unit, orientation, patient_pattern, aliases, gene_lengths, naming)
    except ExpressionError as error:
        if error.path is not None:
            raise
        raise ExpressionError(error.what, path=path, hint=error.hint) from error


def _read(
    path: Path,
    unit: Unit | Literal["auto"],
    orientation: Orientation,
    pattern: str | None,
    aliases: Path | None,
    gene_lengths: Path | None,
    naming: Naming,
) -> tuple[anndata.AnnData, ReadingFacts]:
    symbols = {**shipped_aliases(), **(read_aliases(aliases) if aliases else {})}
    base_pairs = read_gene_lengths(gene_lengths) if gene_lengths else None
    primary = pattern is None
    if path.is_dir():
        raw = without(read_gdc_folder(path, unit, primary_only=primary), naming)
    else:
        raw = read_matrix(path, orientation, naming)
    facts = raw.facts
    facts.counts.update(samples=len(raw.samples), rows=len(raw.genes))
    _refuse_no_numbers(raw)
    known = features(raw.genes, naming, facts)
    keep_genes, genes = gene_names([raw.genes[index] for index in known], symbols, facts)
    keep_genes = [known[index] for index in keep_genes]
    keep_samples, patients = standing_samples(raw, pattern, facts)
    values = raw.values[np.ix_(keep_samples, keep_genes)]
    source_genes = [(raw.gene_sources or raw.genes)[index] for index in keep_genes]
    written = np.array([raw.samples[sample] for sample in keep_samples])
    library = None if raw.library is None else raw.library[keep_samples]
    stated, hinted = raw.stated, raw.hinted
    as_written = [raw.genes[index] for index in keep_genes]
    del raw  # frees its matrix, which is as large as ``values``

    if np.isnan(values).all():
        raise ExpressionError("none of the kept samples has a numeric value", hint="check how the matrix was saved")
    values, _ = without_codes(values, written.tolist(), as_written, facts)
    seen = Values.of(values)
    refuse_odd(values, seen, None if unit == "auto" else unit, written.tolist(), as_written, naming)
    input_unit, values, how = _unit(values, seen, unit, stated, hinted, facts)
    lengths, stored_as = None, STORED_AS[input_unit]
    if base_pairs is not None and input_unit == "counts":
        lengths, stored_as = lengths_of(genes, source_genes, base_pairs, facts), STORED_AS["tpm"]
    elif base_pairs is not None:
        facts.warnings.append(f"the gene lengths are not used: the values are {input_unit}, not counts")
    values, kept, totals = _scaled(values, input_unit, lengths, patients, facts)
    patients, written = [patients[i] for i in kept], written[kept]
    library = totals if library is None else library[kept]
    if lengths is not None:
        with_length = np.flatnonzero(~np.isnan(lengths)).tolist()
        values = values[:, with_length]
        genes, source_genes = [genes[i] for i in with_length], [source_genes[i] for i in with_length]

    chosen, rows = one_row_a_gene(values, genes, facts)
    lost = np.flatnonzero(np.isnan(values[:, chosen]).all(axis=1)).tolist()
    named = some([patients[index] for index in lost])
    facts.count("without_values_kept", len(lost), f"patients with values only in rows left out ({named})")
    order = [index for index in np.argsort(np.array(patients)).tolist() if index not in lost]
    matrix = np.ascontiguousarray(values[np.ix_(order, np.array(chosen))], dtype=np.float32)
    missing = np.isnan(matrix).sum(axis=1)
    facts.count("missing", int(missing.sum()), "missing values, kept (each training fold imputes them)")
    facts.counts.update(patients=len(order), genes=len(chosen))
    facts.sentences.append(f"{len(order)} patients × {len(chosen)} genes kept, as {stored_as}")

    obs = pd.DataFrame({"source_id": written[order], "missing_genes": missing}, index=[patients[i] for i in order])
    if library is not None:
        obs["library_size"] = library[order]
    source_ids = [source_genes[i] for i in chosen]
    var = pd.DataFrame({"source_id": source_ids, "rows": rows}, index=[genes[i] for i in chosen])
    uns = {
        "unit": stored_as,
        "input_unit": input_unit,
        "input_unit_was": how,
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


def _unit(
    values: _Array,
    seen: Values,
    given: Unit | Literal["auto"],
    stated: tuple[Unit, str] | None,
    hinted: tuple[Unit, str] | None,
    facts: ReadingFacts,
) -> tuple[Unit, _Array, str]:
    """The unit, the values in it, and how it is known: ``given``, ``stated`` by the file, or ``recognised``."""
    if seen.slightly_negative and given not in ("log", "zscore"):
        negative = int((values < 0).sum())
        what = f"values below zero (down to {seen.least:g}), as a batch correction leaves them, set to 0"
        facts.count("negatives", negative, what)
        values = np.where(values < 0, 0.0, values)
        seen = Values.of(values)
    unit: Unit
    if given != "auto":
        unit, how = given, "given"
        check_unit(unit, seen)
        facts.sentences.append(f"the unit is {unit}, as given: {seen}")
        if stated and stated[0] != given:
            facts.warnings.append(f"the unit was given as {given}, though {stated[1]} states {stated[0]}")
    elif stated is not None and not contradiction(stated[0], seen):
        unit, how = stated[0], "stated"
        facts.sentences.append(f"the unit is {unit}, as {stated[1]} states: {seen}")
    else:
        (unit, evidence), how = recognise_unit(seen, hinted), "recognised"
        facts.sentences.append(f"the unit is {unit}: {evidence}")
        if stated is not None:
            facts.warnings.append(f"{stated[1]} states {stated[0]}, which the values contradict")
        elif hinted is not None and hinted[0] != unit and contradiction(hinted[0], seen):
            facts.warnings.append(f"{hinted[1]} mentions {hinted[0]}, which the values contradict")
    if unit == "counts" and given == "auto" and seen.logs_of_counts:
        values = np.rint(np.exp2(values) - 1)
    facts.warnings += unit_warnings(unit, seen, given=given != "auto")
    return unit, values, how


def _scaled(
    values: _Array, unit: Unit, lengths: _Array | None, patients: Sequence[str], facts: ReadingFacts
) -> tuple[_Array, npt.NDArray[np.intp], _Array | None]:
    """Log values, the patients that have any, and their library sizes."""
    seen = values if lengths is None else values[:, ~np.isnan(lengths)]
    nothing = np.isnan(seen).all(axis=1)
    if unit in LINEAR:
        nothing |= np.nansum(seen, axis=1) == 0
    without = [patients[index] for index in np.flatnonzero(nothing).tolist()]
    facts.count("without_values", len(without), f"patients without any value left out ({some(without)})")
    kept = np.flatnonzero(~nothing)
    if not len(kept):
        raise ExpressionError("no patient has any expression: all values are zero or missing", hint="check the export")
    logs, library = to_log2(values[kept] if nothing.any() else values, unit, lengths)
    return logs, kept, library
