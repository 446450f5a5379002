"""Whose download a matrix is, by its header and its file name, and which unit that says."""

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


def origin(file_name: str, corner: str, *, genes_in_rows: bool) -> tuple[str, tuple[Unit, str] | None]:
    """A sentence about where the matrix is from (empty where that is not known), and the unit with its evidence.

    cBioPortal's files begin with the column Hugo_Symbol or Entrez_Gene_Id, and are called ``data_mrna_…``; UCSC Xena's
    have genes in the rows below the word ``sample`` (or Ensembl_ID, in its GDC hub), and their values are logarithms.
    """
    first = plain_name(corner)
    name = file_name.casefold()
    if genes_in_rows and first in ("hugosymbol", "entrezgeneid"):
        sentence = "a matrix of cBioPortal's, by its first column"
        if "zscore" in name:
            return sentence, ("zscore", "the file's name")
        if "rsem" in name:
            return sentence, ("rsem", "the file's name")
        return sentence, None
    known_name = _XENA_NAME.search(file_name) is not None
    if genes_in_rows and (first == "sample" or (known_name and first in ("ensemblid", "geneid", ""))):
        log = next((log for part, log in _XENA_LOGS.items() if part in name), "") if known_name else ""
        return f"a matrix of UCSC Xena's, genes in rows{f', by its name {log}' if log else ''}", None
    return "", None
