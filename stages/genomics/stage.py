"""Stage ``genomics``: reads an expression matrix into patients × genes on a log scale, without labels or fitting.

expression.zarr   patients × genes (AnnData); cnv.zarr, mutation.zarr … if further blocks are given
signatures.csv    patients × scores: the 21-gene recurrence score (research use only) and the given gene sets
qc.html           quality checks of the matrix
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anndata import AnnData

from ...data.artifact import whole
from ...data.cohort.table import read_clinical
from ...data.errors import UsageError
from ...data.matrices.naming import Naming
from ...data.matrices.reading_facts import ReadingFacts
from ...data.molecular.block_reading import read_block
from ...data.molecular.blocks import Block
from ...data.molecular.expression_reading import read_genomics
from ...data.molecular.gene_sets import read_gmt
from ...data.molecular.signatures import signature_table, write_signatures
from ...data.molecular.store import store_name, write_expression
from ..registry import VERSIONS
from ..stage import FileInput, Input, Item, Outcome, Plan, Progress, Stage
from .checks import check_expression
from .page import render_genomics_qc
from .self_check import self_check
from .settings import GenomicsSettings

ITEM = "expression"


class GenomicsStage(Stage[GenomicsSettings]):
    """One item for RNA, ``expression``, and one for each further block in the settings."""

    name = "genomics"
    version = VERSIONS["genomics"]
    items = "matrices"

    def plan(self) -> Plan:
        settings = self.settings
        sources = settings.sources()
        if not sources:
            raise UsageError("no expression matrix is given", hint="wsipipe genomics MATRIX, or matrix in [genomics]")
        common = _inputs(settings, "aliases")
        items = []
        if settings.matrix is not None:
            inputs = _inputs(settings, "matrix", "gene_lengths", "gene_sets", "clinical")
            items.append(Item(ITEM, {**inputs, **common}, "rna"))
        items += [Item(block, {**_inputs(settings, block), **common}, block) for block in sources if block != "rna"]
        return Plan(items)

    def process(self, item: Item, progress: Progress) -> Outcome:
        block: Block = item.payload
        return self._expression(progress) if block == "rna" else self._block(block, progress)

    @property
    def _naming(self) -> Naming:
        settings = self.settings
        drop, keep = tuple(settings.drop_columns), tuple(settings.keep_columns)
        only_one = len(settings.sources()) == 1
        return Naming(settings.name_column, drop, keep, settings.numbers_are_names, of_all=only_one)

    def read_rna(self) -> tuple[AnnData, ReadingFacts]:
        """Read the expression matrix as the settings say.

        :raises ExpressionError: it cannot be read, or in two ways.
        """
        settings = self.settings
        return read_genomics(
            settings.sources()["rna"].resolve(),
            settings.unit,
            settings.orientation,
            naming=self._naming,
            patient_pattern=settings.patient_pattern,
            aliases=settings.aliases,
            gene_lengths=settings.gene_lengths,
        )

    def _expression(self, progress: Progress) -> Outcome:
        settings = self.settings
        progress.say(f"reading {settings.sources()['rna'].name}")
        expression, facts = self.read_rna()
        progress.say("scoring signatures")
        signatures = signature_table(expression, read_gmt(settings.gene_sets) if settings.gene_sets else {})
        sentences, warnings = [*facts.sentences, *signatures.sentences], [*facts.warnings, *signatures.warnings]
        outputs = {name: self.folder / file for name, file in _FILES.items()}
        write_expression(outputs["expression"], expression)
        write_signatures(outputs["signatures"], signatures)
        clinical = read_clinical(settings.clinical) if settings.clinical else None
        checks = check_expression(expression, clinical)
        checked = self_check(expression, clinical, checks)
        sentences, warnings = [*sentences, *checked.sentences], [*warnings, *checked.warnings]
        with whole(outputs["qc"]) as scratch:
            scratch.write_text(render_genomics_qc(expression, sentences, warnings, clinical, checks), encoding="utf-8")
        return _outcome(outputs, expression, facts.counts, sentences, warnings)

    def read_block(self, block: Block) -> tuple[AnnData, ReadingFacts]:
        """Read the matrix of a further block as the settings say.

        :raises ExpressionError: it cannot be read, or in two ways.
        """
        settings = self.settings
        return read_block(
            settings.sources()[block].resolve(),
            block,
            getattr(settings, f"{block}_unit", "auto"),
            settings.orientation,
            naming=self._naming,
            patient_pattern=settings.patient_pattern,
            aliases=settings.aliases,
        )

    def _block(self, block: Block, progress: Progress) -> Outcome:
        progress.say(f"reading {self.settings.sources()[block].name}")
        measured, facts = self.read_block(block)
        path = self.folder / store_name(block)
        write_expression(path, measured)
        sentences = [f"{block}: {sentence}" for sentence in facts.sentences]
        return _outcome({"expression": path}, measured, facts.counts, sentences, facts.warnings)


_FILES = {"expression": store_name("rna"), "signatures": "signatures.csv", "qc": "qc.html"}


def _inputs(settings: GenomicsSettings, *names: str) -> dict[str, Input]:
    paths = {name: getattr(settings, name) for name in names}
    return {name: FileInput(path.resolve()) for name, path in paths.items() if path is not None}


def _outcome(
    outputs: Mapping[str, Path],
    measured: AnnData,
    counts: Mapping[str, int],
    sentences: Sequence[str],
    warnings: Sequence[str],
) -> Outcome:
    stats = {
        "patients": measured.n_obs,
        "genes": measured.n_vars,
        "unit": str(measured.uns["unit"]),
        **counts,
        "facts": list(sentences),
        "warnings": list(warnings),
    }
    return Outcome(outputs, stats, notes=(*sentences, *(f"warning: {warning}" for warning in warnings)))
