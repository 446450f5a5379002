"""Deciding whether genes are in rows or columns: by the names of both sides, the title of the names, or a flag.

That one side is longer is not evidence: without other evidence, the command stops and asks for the flag.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..cohort.tcga import tcga_barcode
from ..columns import names, plain_name, plain_names
from ..errors import ExpressionError
from .cells import NamedTable
from .naming import Orientation
from .text_table import patient_titles, sample_titles

_ENSEMBL = re.compile(r"ENS[A-Z]{0,5}[GT]\d{11}")
_PROBE = re.compile(
    r"\d+(_[a-z])?_at|AFFX-\S+|ILMN_\d{5,}|A_\d\d_P\d+|cg\d{8}|[NX][MR]_\d{6,}|TC\d{2}\d+\.hg\.\d|MIMAT\d+|hsa-\S+"
)
_SAMPLE = re.compile(
    r"GS[ME]\d{4,}|[SED]RR\d{5,}|SAM[END]A?\d{5,}|C3[LN]-\d{5}|TARGET-\d\d-\w{6}|HCM-\w{4}-\d{4}|GTEX-\w+|\w+-\d{4}-TM"
)
_KINDS = (
    (_ENSEMBL, "Ensembl ids", True),
    (_PROBE, "ids of probes or transcripts", True),
    (_SAMPLE, "ids of samples", False),
)
_ASK = "use --orientation genes-in-rows or patients-in-rows, or name the first column 'gene' or 'patient_id'"


def genes_in_rows(table: NamedTable, orientation: Orientation, path: Path, *, gct: bool) -> tuple[bool, str]:
    """Whether the rows are genes, and by which evidence.

    :raises ExpressionError: there is no evidence, or the names contradict the user's flag.
    """
    if gct:
        return True, "a GCT file"
    seen = _by_names(table)
    if orientation != "auto":
        in_rows = orientation == "genes-in-rows"
        if seen is not None and seen[0] != in_rows:
            what = f"{orientation} contradicts the names: {seen[1]}"
            raise ExpressionError(what, path=path, hint="correct --orientation, or leave it out")
        return in_rows, "as given"
    if seen is not None:
        return seen
    corner = plain_name(table.corner)
    if corner in plain_names("expression", "gene_symbol") + plain_names("expression", "gene_corner"):
        return True, f"the first column is called {table.corner!r}"
    if corner in (*patient_titles(), *sample_titles()):
        return False, f"the first column is called {table.corner!r}"
    rows, columns = len(table.rows), len(table.columns)
    what = f"it is not clear whether rows or columns are genes ({rows} rows, {columns} columns)"
    raise ExpressionError(what, path=path, hint=_ASK)


def _by_names(table: NamedTable) -> tuple[bool, str] | None:
    """Decide by the first evidence that only one side has; None if there is none."""
    sides = (table.rows, table.columns)
    of_sides = ("row names", "column names")
    barcodes = [sum(tcga_barcode(name) is not None for name in side) for side in sides]
    known = [len(set(names("expression", "well_known")) & {name.upper() for name in side}) for side in sides]
    counted = [(barcodes, "TCGA barcodes", False)]
    counted += [
        ([sum(form.match(name) is not None for name in side) for side in sides], kind, gene)
        for form, kind, gene in _KINDS
    ]
    for counts, kind, is_gene in counted:
        most = [2 * count > len(side) for count, side in zip(counts, sides, strict=True)]
        if most[0] != most[1]:
            side = most.index(True)
            return (side == 0) == is_gene, f"{counts[side]} of {len(sides[side])} {of_sides[side]} are {kind}"
    if min(known) == 0 < max(known):
        side = known.index(max(known))
        return side == 0, f"{known[side]} well-known genes are among the {of_sides[side]}"
    return None
