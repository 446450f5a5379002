"""Whether a sample is of a primary tumour, of another one, or normal: by a barcode, a sheet's words, or its name.

Words are those of the GDC ("Primary Tumor", "Solid Tissue Normal"), of cBioPortal ("Primary", "Metastasis") and of
CPTAC's tables, which call normal tissue adjacent to the tumour ``_NAT`` or ``.N``.
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
    """What a sheet's sample type says. Several pieces ("Primary Tumor, Primary Tumor") are one where all agree.

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
    """What the two digits in a TCGA barcode say; unknown where it has none."""
    if not code:
        return "unknown"
    if code in PRIMARY_TYPES:
        return "primary"
    number = int(code)
    return "tumour" if number < 10 or number == 40 else "normal" if number < 20 else "other"


def sample_types(samples: Sequence[str], words: Sequence[str] | None) -> list[SampleType]:
    """The type of each sample. A sheet's words go before a barcode, and this before the end of a name.

    A name that ends in N is a normal sample only where the patient's other sample is there, too.
    """
    found: list[SampleType] = []
    there = {name.casefold() for name in samples}
    stems = {_T_END.sub("", name) for name in there}
    for index, name in enumerate(samples):
        told = type_of_words(words[index]) if words is not None else "unknown"
        barcode = tcga_barcode(name)
        if told != "unknown":
            found.append(told)
        elif barcode is not None:
            found.append(type_of_code(barcode.sample_type))
        elif _NORMAL_END.search(name) or ((end := _N_END.search(name)) and name[: end.start()].casefold() in stems):
            found.append("normal")
        else:
            found.append("unknown")
    return found
