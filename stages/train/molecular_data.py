"""Molecular data in a fold's training: RNA and further blocks, selected and scaled on its training patients alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.cohort.outcomes import Label
from ...data.errors import CohortError, ExpressionError, about
from ...data.manifest import OutputRecord
from ...data.molecular.block_table import BLOCKS
from ...data.molecular.blocks import Block
from ...data.molecular.gene_aliases import shipped_aliases
from ...data.molecular.gene_sets import read_gmt
from ...data.molecular.store import ExpressionTable, join_blocks, read_expression, store_name
from ...data.plain_files import refuse_pipe
from ...models.tasks.binary import class_of
from ...models.tasks.multitask import MultiTask
from ...models.tasks.prediction import SoftTarget
from ...models.tasks.task import Task
from ...models.training.gene_panel import GenePanel, Selection
from ...models.training.rna_teacher import SoftTargets, measured
from ..lineage import Lineage
from ..stage import FileInput, Input, OutputInput
from .fold import FoldCohort
from .settings import TrainSettings


def molecular_stores(genomics: Path, settings: TrainSettings) -> list[Path]:
    """List the stores of the requested blocks; RNA's may be missing, those of other blocks may not.

    :param genomics: folder of the stores.
    :raises CohortError: a block has no store.
    """
    if not settings.use_rna and not settings.soft_targets:
        return []
    stores = {block: genomics / store_name(block) for block in BLOCKS if block in settings.blocks}
    missing = [block for block, store in stores.items() if block != "rna" and not store.exists()]
    if missing:
        hint = f"run wsipipe genomics --{missing[0]} FILE"
        raise CohortError(f"there is no store of {missing[0]} in this workspace", path=genomics, hint=hint)
    return [store for store in stores.values() if store.exists()]


def molecular_inputs(stores: Sequence[Path], gene_list: Path | None, workspace: Path) -> dict[str, Input]:
    """Describe the stores and the gene list as a stage's inputs."""
    lineage = Lineage(workspace)
    blocks = {store_name(block): block for block in BLOCKS}
    inputs: dict[str, Input] = {}
    for store in stores:
        block = blocks[store.name]
        inputs["expression" if block == "rna" else block] = OutputInput(record_of(store, block, lineage))
    if stores and gene_list is not None:
        inputs["gene_list"] = FileInput(gene_list.resolve(), is_setting=True)
    return inputs


def record_of(store: Path, block: Block, lineage: Lineage) -> OutputRecord:
    """Find the record of a store.

    :raises CohortError: there is none, the last attempt to make it failed, or its matrix has changed since.
    """
    record = lineage.latest(store.parent, "genomics").get("expression" if block == "rna" else block)
    if record is not None and record.error is not None:
        what = f"wsipipe genomics failed last time: {record.error.message}"
        hint = "see wsipipe status, correct the matrix, and run wsipipe genomics again"
        raise CohortError(what, path=store, hint=hint)
    if record is None or not record.outputs:
        raise CohortError("the store is not recorded", path=store, hint="run wsipipe genomics")
    if not (standing := lineage.standing(record)).counts:
        what = f"the store is {standing.state}: {standing.why}"
        raise CohortError(what, path=store, hint="run wsipipe genomics again")
    return record.outputs["expression"]


@dataclass(frozen=True)
class MolecularData:
    """Molecular features of the workspace's patients; a fold uses those of its own patients only.

    :param table: RNA, or joined blocks.
    :param gene_list: the panel's genes, instead of selected ones.
    """

    table: ExpressionTable
    gene_list: tuple[str, ...] = ()

    @classmethod
    def read(cls, stores: Sequence[Path], gene_list: Path | None) -> MolecularData | None:
        """Read the stores, RNA's first; None if there are none. Listed genes may have former names."""
        if not stores:
            return None
        table = join_blocks([read_expression(store) for store in stores])
        listed = read_gene_list(gene_list) if gene_list else ()
        known, former = set(table.genes), shipped_aliases()
        return cls(table, tuple(gene if gene in known else former.get(gene, gene) for gene in listed))

    def selection(self, settings: TrainSettings) -> Selection:
        """Return how genes are selected."""
        return "list" if self.gene_list else settings.gene_selection

    def shuffled(self, strata: Mapping[str, int], seed: int) -> MolecularData:
        """Permute rows among the training patients of a stratum (here a class), as a negative control.

        :param strata: training patient → stratum; other patients keep their rows.
        """
        order = np.arange(len(self.table.patients))
        draw = np.random.default_rng(seed)
        for stratum in sorted(set(strata.values())):
            rows = [self.table.row(p) for p in sorted(strata) if strata[p] == stratum and p in self.table]
            order[rows] = draw.permutation(rows)
        return replace(self, table=replace(self.table, matrix=self.table.matrix[order]))


@dataclass(frozen=True)
class FoldRna:
    """The training patients' expression and further blocks, after the fold's own gene panel."""

    rows: Mapping[str, torch.Tensor]
    genes: Sequence[str]
    arrays: Mapping[str, np.ndarray[Any, Any]]
    description: dict[str, Any]

    @classmethod
    def fitted(cls, cohort: FoldCohort, molecular: MolecularData, settings: TrainSettings, classes: int = 2) -> FoldRna:
        """Fit the panel on the fold's training patients with molecular data.

        A patient without measurements in a block gets the training mean there, and is counted in the description.
        """
        table = molecular.table
        patients = measured(table, cohort.train)
        if not patients:
            raise CohortError(
                f"no training patient of fold {cohort.fold} has RNA",
                path=table.source,
                hint="check that the matrix and the cohort table use the same patient ids, or train with --no-use-rna",
            )
        labels = np.array([cohort.train[p][0] for p in patients])
        matrix = table.rows(patients)
        seed = settings.seed + cohort.fold
        panel = GenePanel(settings.genes, molecular.selection(settings), molecular.gene_list, seed=seed)
        values = panel.fit(matrix, table.genes, labels, classes).transform(matrix, table.genes)
        arrays, description = panel.state()
        rows = {patient: torch.from_numpy(row.copy()) for patient, row in zip(patients, values, strict=True)}
        return cls(rows, panel.genes, arrays, {**description, "unit": table.unit})


def fold_targets(cohort: FoldCohort, molecular: MolecularData, settings: TrainSettings, task: Task) -> SoftTargets:
    """Fit the RNA teacher and return the soft targets of the fold's training and validation patients.

    Of several targets each has a teacher of its own, fitted to the patients who have its label; who misses it has no
    soft target of it either.
    """
    train = {patient: label for patient, (label, _) in cohort.train.items()}
    validation = {patient: label for patient, (label, _) in cohort.validation.items()}
    if not isinstance(task, MultiTask):
        return _taught(train, validation, molecular, settings, cohort.fold)
    of_targets = {}
    for name in task.targets:
        with about(f"biomarkers.{name}"):
            known, judged = task.known(name, train), task.known(name, validation)
            of_targets[name] = _taught(known, judged, molecular, settings, cohort.fold)
    return SoftTargets(
        {patient: tuple(_one(own.train.get(patient)) for own in of_targets.values()) for patient in train},
        {patient: tuple(_one(own.validation.get(patient)) for own in of_targets.values()) for patient in validation},
        {name: own.description for name, own in of_targets.items()},
    )


def _taught(
    train: Mapping[str, Label],
    validation: Mapping[str, Label],
    molecular: MolecularData,
    settings: TrainSettings,
    fold: int,
) -> SoftTargets:
    return SoftTargets.fitted(
        molecular.table,
        {patient: class_of(label) for patient, label in train.items()},
        validation,
        n_genes=settings.genes,
        selection=molecular.selection(settings),
        gene_list=molecular.gene_list,
        seed=settings.seed + fold,
    )


def _one(soft_target: SoftTarget | None) -> float | None:
    assert not isinstance(soft_target, tuple)  # of one target
    return soft_target


def read_gene_list(path: Path) -> tuple[str, ...]:
    """Read the genes of a file, each once: one per line (``#`` starts a comment), or all sets of a .gmt.

    :raises ExpressionError: it cannot be read, or holds no genes.
    """
    if path.name.casefold().endswith((".gmt", ".gmt.gz")):
        genes = [gene for genes in read_gmt(path).values() for gene in genes]
    else:
        refuse_pipe(path, ExpressionError)
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            what = f"the gene list cannot be read ({error})"
            raise ExpressionError(what, path=path, hint="give a text file with one gene per line, or a .gmt") from error
        genes = [gene for line in lines if (gene := line.partition("#")[0].strip())]
        wide = [gene for gene in genes if any(sign in gene for sign in "\t,; ")]
        if wide:
            what = f"{len(wide)} lines hold more than one gene, the first: {wide[0][:60]!r}"
            raise ExpressionError(what, path=path, hint="give one gene per line, or name a table of gene sets .gmt")
    if not genes:
        raise ExpressionError("holds no genes", path=path, hint="give one gene per line, or a .gmt")
    return tuple(dict.fromkeys(genes))
