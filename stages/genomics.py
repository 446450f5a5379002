"""genomics: an expression matrix becomes patients × genes on a log scale. Nothing is fitted, no label looked at."""

from __future__ import annotations

from pathlib import Path

from ..data.errors import UsageError
from ..data.expression import write_expression
from .genomics_reading import read_genomics
from .settings import GenomicsSettings
from .stage import FileInput, Item, Outcome, Plan, Progress, Stage
from .versions import VERSIONS

ITEM = "expression"
STORE = "expression.zarr"


class GenomicsStage(Stage[GenomicsSettings]):
    """One item, ``expression``: the matrix that the settings name."""

    name = "genomics"
    version = VERSIONS["genomics"]
    items = "matrices"

    def plan(self) -> Plan:
        matrix = self.settings.matrix
        if matrix is None:
            raise UsageError("no expression matrix is given", hint="wsipipe genomics MATRIX, or matrix in [genomics]")
        matrix = Path(matrix).resolve()
        return Plan([Item(ITEM, {"matrix": FileInput(matrix)}, matrix)])

    def process(self, item: Item, progress: Progress) -> Outcome:
        progress.say(f"reading {item.payload.name}")
        expression, facts = read_genomics(item.payload, self.settings.unit)
        path = self.folder / STORE
        write_expression(path, expression)
        stats = {
            "patients": expression.n_obs,
            "genes": expression.n_vars,
            "unit": str(expression.uns["unit"]),
            **facts.counts,
            "facts": facts.sentences,
            "warnings": facts.warnings,
        }
        notes = (*facts.sentences, *(f"warning: {warning}" for warning in facts.warnings))
        return Outcome({"expression": path}, stats, notes=notes)
