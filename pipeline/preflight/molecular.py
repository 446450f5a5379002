"""The molecular matrices: whether they can be read, in which unit, and whether the genes asked for are there."""

from __future__ import annotations

from pathlib import Path

from ...data.errors import UsageError
from ...data.manifest import Record
from ...data.molecular.gene_aliases import shipped_aliases
from ...data.molecular.store import ExpressionTable, as_stored, read_expression, store_name
from ...data.wording import some
from ...stages.genomics.stage import GenomicsStage
from ...stages.train.molecular_data import read_gene_list
from ..biomarkers.to_train import refuse_unknown_signatures
from ..config import Config
from ..run.decisions import History, decide
from .report import Report

_MOST_WARNINGS = 2
LARGE = 200 * 2**20
"""Bytes of a matrix that is not read when a run begins."""


def read_molecular(config: Config, report: Report, *, large: bool) -> list[ExpressionTable]:
    """Read what training will be given: RNA, then further blocks; those that cannot be read are left out.

    :param large: whether large matrices are read too, which may take a minute.
    """
    stage = GenomicsStage.made(config.genomics, config.workspace, None)
    sources = config.genomics.sources()
    tables = []
    if sources:
        with report.collecting("genomics"):
            history = History(stage.manifest, stage.name)
            for item in stage.plan().items:
                with report.collecting("genomics"):
                    decision = decide(stage, item, history, retry_failed=False)
                    table = _read(stage, item.payload, decision.record, report, large=large)
                    tables += [] if table is None else [table]
    else:
        store = stage.folder / store_name("rna")
        if store.exists():
            with report.collecting("train"):
                tables.append(read_expression(store))
                _tell("rna", tables[0], "in the workspace", report)
        elif config.biomarkers and config.train.use_rna:
            report.fact("rna", "no matrix is given: models are trained on histology alone")
    for name in config.biomarkers:
        with report.collecting("train"):
            only = {name: config.biomarkers[name]} if config.biomarkers[name].signature else {}
            refuse_unknown_signatures(config.model_copy(update={"biomarkers": only}), config.workspace)
    _look_for_genes(config, tables, report)
    return tables


def _read(
    stage: GenomicsStage, block: str, record: Record | None, report: Report, *, large: bool
) -> ExpressionTable | None:
    """Read a matrix, or its store if that is made of it."""
    matrix: Path = stage.settings.sources()[block]
    if record is not None and record.error is not None:
        report.stops("genomics", record.error.message, record.error.hint)
        return None
    if record is not None:
        table = read_expression(stage.workspace / record.outputs["expression"].path)
        sentences, warnings = record.stats.get("facts", []), record.stats.get("warnings", [])
    else:
        if not large and (not matrix.exists() or _size(matrix) > LARGE):
            report.fact(block, f"{matrix.name}: not read now; wsipipe check reads it")
            return None
        measured, facts = stage.read_rna() if block == "rna" else stage.read_block(block)
        table = as_stored(measured, block)
        sentences, warnings = facts.sentences, facts.warnings
    how = [sentence for sentence in sentences if "unit is" in sentence or " rows " in f" {sentence} "]
    _tell(block, table, "; ".join(how[:2]), report)
    for warning in warnings[:_MOST_WARNINGS]:
        report.look("genomics", f"{matrix}: {warning}", "docs/genomics.md says what each warning means")
    if len(warnings) > _MOST_WARNINGS:
        report.look(
            "genomics", f"{matrix}: {len(warnings) - _MOST_WARNINGS} more warnings", "wsipipe genomics shows them all"
        )
    return table


def _size(matrix: Path) -> int:
    files = [file for file in matrix.rglob("*") if file.is_file()] if matrix.is_dir() else [matrix]
    return sum(file.stat().st_size for file in files)


def _tell(block: str, table: ExpressionTable, how: str, report: Report) -> None:
    patients, genes = len(table.patients), len(table.genes)
    report.fact(
        block,
        f"{patients:,} patients × {genes:,} genes, as {table.unit}" + (f"; {how}" if how else ""),
        **{"patients": patients, "genes": genes, "unit": table.unit, "source": table.source},
    )


def _look_for_genes(config: Config, tables: list[ExpressionTable], report: Report) -> None:
    """Look for the genes of a gene list in the matrix."""
    if config.train.gene_list is None:
        return
    with report.collecting("train"):
        listed, former = read_gene_list(config.train.gene_list), shipped_aliases()
        known = {gene for table in tables for gene in table.genes}
        lost = [gene for gene in listed if gene not in known and former.get(gene, gene) not in known]
        if tables and len(lost) == len(listed):
            what = f"none of its {len(listed)} genes is in {tables[0].source}"
            raise UsageError(what, path=config.train.gene_list, hint="name genes as the matrix does")
        if tables and lost:
            what = f"{config.train.gene_list}: {len(lost)} of {len(listed)} genes are not in the matrix: {some(lost)}"
            report.look("train", what, "check their names; training uses the others")
