"""Types of samples (primary tumour, other tumour, normal), from a TCGA barcode, a sample sheet, or the sample's name.

Recognised are the words of the GDC ("Primary Tumor", "Solid Tissue Normal"), of cBioPortal ("Primary", "Metastasis")
and the endings in CPTAC's tables, ``_NAT`` or ``.N`` for normal tissue adjacent to the tumour.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from .tcga import PRIMARY_TYPES, tcga_barcode

SampleType = Literal["primary", "tumour", "normal", "other", "unknown"]

_NORMAL_END = re.compile(r"[-._ ](?:NAT|normal|norm|adjacent|adj|healthy|NT|blood|PBMC)[-._ ]?\d*$", re.IGNORECASE)
_N_END = re.compile(r"[-._ ]N\d?$", re.IGNORECASE)
_T_END = re.compile(r"(?:[-._ ](?:T\d?|tumou?r|primary|cancer|TP))?$", re.IGNORECASE)


def type_of_words(words: str) -> SampleType:
    """The type of a sample by the words of a sheet; several words ("Primary Tumor, Primary Tumor") must agree.

    >>> [type_of_words(w) for w in ("Primary Tumor, Primary Tumor", "Blood Normal", "Metastatic", "Primary, Normal")]
    ['primary', 'normal', 'tumour', 'other']
    """
    found = {_type_of_word(word) for word in re.split(r"[,;|]", words) if word.strip()}
    return found.pop() if len(found) == 1 else ("other" if found else "unknown")


def _type_of_word(word: str) -> SampleType:
    text = word.casefold()
    if re.search(r"normal|adjacent|healthy|\bnat\b|non-?tumou?r|benign", text):
        return "normal"
    if re.search(r"control|cell ?line|xenograft|organoid", text):
        return "other"
    if re.search(r"metasta|recurr|relaps|additional|progress", text):
        return "tumour"
    if "primary" in text:
        return "primary"
    return "tumour" if re.search(r"tumou?r|cancer|carcinoma", text) else "unknown"


def type_of_code(code: str) -> SampleType:
    """The type of a sample by the two digits in its TCGA barcode; unknown without them."""
    if not code:
        return "unknown"
    if code in PRIMARY_TYPES:
        return "primary"
    number = int(code)
    return "tumour" if number < 10 or number == 40 else "normal" if number < 20 else "other"


def sample_types(samples: Sequence[str], words: Sequence[str] | None) -> list[SampleType]:
    """The type of each sample: by a sheet's words, else by its barcode, else by the end of its name.

    A name that ends in N is a normal sample only if the patient's other sample exists too.
    """
    found: list[SampleType] = []
    there = {name.casefold() for name in samples}
    stems = {_T_END.sub("", name) for name in there}
    for index, name in enumerate(samples):
        stated = type_of_words(words[index]) if words is not None else "unknown"
        barcode = tcga_barcode(name)
        if stated != "unknown":
            found.append(stated)
        elif barcode is not None:
            found.append(type_of_code(barcode.sample_type))
        elif _NORMAL_END.search(name) or ((end := _N_END.search(name)) and name[: end.start()].casefold() in stems):
            found.append("normal")
        else:
            found.append("unknown")
    return found
