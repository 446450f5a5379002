"""Reading matrices of other blocks than RNA (copy number, mutation, protein, methylation) into patients × features.

Samples, patients and duplicates are handled as for RNA (:mod:`.expression_reading`). Values are not changed; they must
be in a unit of the block (:mod:`wsipipe.data.molecular.blocks`). Labels are not used.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from ..errors import ExpressionError, UsageError
from ..matrices.matrix import read_matrix
from ..matrices.naming import AS_WRITTEN, Naming, Orientation
from ..matrices.no_genes import features as known_features
from ..matrices.reading_facts import ReadingFacts
from ..wording import some
from .block_table import TABLE
from .blocks import UNITS, Block, check_block_unit, recognise_block_unit
from .gene_aliases import read_aliases, shipped_aliases
from .genes import gene_names, one_row_a_gene
from .patients import standing_samples


def read_block(
    path: Path,
    block: Block,
    unit: str = "auto",
    orientation: Orientation = "auto",
    *,
    patient_pattern: str | None = None,
    aliases: Path | None = None,
    naming: Naming = AS_WRITTEN,
) -> tuple[anndata.AnnData, ReadingFacts]:
    """Read and clean one block.

    :param unit: one of ``UNITS[block]``; ``auto`` recognises it from the values.
    :param naming: what the user says about names (which column has them, which are not features).
    :return: the patients × features AnnData (X float32, NaN where missing; both axes sorted; obs: source_id,
        missing_genes; var: source_id, rows; uns: block, unit, source, steps), ready for
        :func:`~.store.write_expression`, and the facts.
    :raises ExpressionError: the file is not such a matrix, or the values contradict the unit.
    :raises UsageError: RNA, or a unit that the block does not have.
    """
    if block not in UNITS:
        raise UsageError(f"{block} is not read as a block", hint=f"choose among {', '.join(UNITS)}")
    try:
        return _read(path, block, unit, orientation, patient_pattern, aliases, naming)
    except ExpressionError as error:
        if error.path is not None:
            raise
        raise ExpressionError(error.what, path=path, hint=error.hint) from error


def _read(
    path: Path,
    block: Block,
    unit: str,
    orientation: Orientation,
    pattern: str | None,
    aliases: Path | None,
    naming: Naming,
) -> tuple[anndata.AnnData, ReadingFacts]:
    raw = read_matrix(path, orientation, naming)
    facts = raw.facts
    facts.counts.update(samples=len(raw.samples), rows=len(raw.genes))
    known = known_features(raw.genes, naming, facts)
    written = [raw.genes[index] for index in known]
    if TABLE[block].of_genes:
        symbols = {**shipped_aliases(), **(read_aliases(aliases) if aliases else {})}
        named, features = gene_names(written, symbols, facts)
        keep = [known[index] for index in named]
    else:
        keep, features = known, written
    keep_samples, patients = standing_samples(raw, pattern, facts)
    values = raw.values[np.ix_(np.array(keep_samples), np.array(keep))]

    chosen, rows = one_row_a_gene(values, features, facts)
    measured = ~np.isnan(values[:, chosen]).all(axis=1)
    without = [patients[index] for index in np.flatnonzero(~measured).tolist()]
    facts.count("without_values", len(without), f"patients without any value left out ({some(without)})")
    kept = [index for index in np.argsort(np.array(patients)).tolist() if measured[index]]
    matrix = np.ascontiguousarray(values[np.ix_(np.array(kept, dtype=np.intp), np.array(chosen))], dtype=np.float32)
    if unit == "auto":
        unit, evidence = recognise_block_unit(block, matrix)
        facts.sentences.append(f"the unit of {block} is {unit} ({UNITS[block][unit].meaning}): {evidence}")
    else:
        check_block_unit(block, unit, matrix)
        facts.sentences.append(f"the unit of {block} is {unit}, as given")
    if unit == "zscore":
        facts.warnings.append("z-scores: they were standardised over the whole cohort, including held-out patients")
    missing = np.isnan(matrix).sum(axis=1)
    facts.count("missing", int(missing.sum()), "missing values, kept (each training fold imputes them)")
    facts.counts.update(patients=len(kept), genes=len(chosen))
    facts.sentences.append(f"{len(kept)} patients × {len(chosen)} features of {block} kept")

    source_ids = [raw.samples[keep_samples[index]] for index in kept]
    obs = pd.DataFrame({"source_id": source_ids, "missing_genes": missing}, index=[patients[i] for i in kept])
    sources = [(raw.gene_sources or raw.genes)[keep[index]] for index in chosen]
    var = pd.DataFrame({"source_id": sources, "rows": rows}, index=[features[i] for i in chosen])
    steps = np.array(facts.sentences + facts.warnings, dtype=object)
    uns = {"block": block, "unit": unit, "source": path.name, "steps": steps}
    return anndata.AnnData(X=matrix, obs=obs, var=var, uns=uns), facts
