"""Recognising where a matrix was downloaded from, by its header and file name, and which unit these state."""

from __future__ import annotations

import re

from ..columns import plain_name
from .expression_units import Unit

_XENA_NAME = re.compile(
    r"(?:TCGA|CPTAC|TARGET|GDC)-\w+\.(?:htseq|star)_|HiSeqV2|EB\+\+AdjustPANCAN|TcgaTarget|tcga_RSEM|\.sampleMap",
    re.IGNORECASE,
)
_XENA_LOGS = {
    "counts": "log2(count + 1)",
    "fpkm": "log2(FPKM + 1)",
    "gene_tpm": "log2(TPM + 0.001)",
    "tpm": "log2(TPM + 1)",
    "hiseqv2": "log2(normalised count + 1)",
    "norm_count": "log2(normalised count + 1)",
}
_MEASURES: dict[str, Unit] = {
    "normalizedcount": "rsem",
    "normalisedcount": "rsem",
    "rawcount": "counts",
    "rawcounts": "counts",
    "readcount": "counts",
    "expectedcount": "counts",
    "estcounts": "counts",
    "numreads": "counts",
    "count": "counts",
    "counts": "counts",
    "rpkm": "fpkm",
    "fpkm": "fpkm",
    "tpm": "tpm",
}
"""Units by the word in a second line of headings."""
_MENTIONED: tuple[tuple[str, Unit], ...] = (
    (r"z.?scores?", "zscore"),
    (r"log(2|10|norm\w*)?|vst|rlog|rma", "log"),
    (r"normali[sz]ed.counts?|norm.counts?", "rsem"),
    (r"(expected.|est.|raw.|gene.|read.)?counts?|numreads", "counts"),
    (r"tpm", "tpm"),
    (r"fpkm|rpkm", "fpkm"),
    (r"rsem", "rsem"),
)
"""Units that a file's name may mention, the more specific first: ``rsem.log2.tsv`` are logarithms."""


def origin(
    file_name: str, corner: str, measure: str = "", *, genes_in_rows: bool
) -> tuple[str, tuple[Unit, str] | None, tuple[Unit, str] | None]:
    """Where the matrix is from (empty if unknown), the unit that is stated, and the unit that is only mentioned.

    cBioPortal's files begin with the column Hugo_Symbol or Entrez_Gene_Id, and are named ``data_mrna_…``; UCSC Xena's
    have genes in the rows below the word ``sample`` (or Ensembl_ID, in its GDC hub), and their values are logarithms.
    A second line of headings (Firehose's ``normalized_count``) states the unit; other files' names only mention it,
    which decides only if the values do not.

    :param measure: the word of the second line of headings.
    """
    first = plain_name(corner)
    name = file_name.casefold()
    mentioned = _mentioned(name)
    if unit := _MEASURES.get(plain_name(measure)):
        return f"a second line of headings states {measure}", (unit, f"the heading {measure}"), mentioned
    if measure:
        return f"a second line of headings states {measure}", None, mentioned
    if genes_in_rows and first in ("hugosymbol", "entrezgeneid"):
        sentence = "a matrix of cBioPortal, by its first column"
        if "zscore" in name:
            return sentence, ("zscore", "the file's name"), mentioned
        if "rsem" in name:
            return sentence, ("rsem", "the file's name"), mentioned
        return sentence, None, mentioned
    known_name = _XENA_NAME.search(file_name) is not None
    if genes_in_rows and (first == "sample" or (known_name and first in ("ensemblid", "geneid", ""))):
        log = next((log for part, log in _XENA_LOGS.items() if part in name), "") if known_name else ""
        return f"a matrix of UCSC Xena, genes in rows{f', by its name {log}' if log else ''}", None, mentioned
    return "", None, mentioned


def _mentioned(name: str) -> tuple[Unit, str] | None:
    for words, unit in _MENTIONED:
        if found := re.search(rf"(?<![a-z])(?:{words})(?![a-z])", name):
            return unit, f"{found[0]!r} in the file's name"
    return None
