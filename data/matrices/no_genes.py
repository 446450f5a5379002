"""Recognising names that are not genes: properties of patients, summary rows, spike-ins, and dates from spreadsheets.

Names are judged one by one, by the lists in ``columns.toml``; :mod:`.odd_values` judges the values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from ..columns import names, plain_name, plain_names
from ..wording import some
from .naming import Naming
from .reading_facts import ReadingFacts

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_PLAIN_SYMBOL = re.compile(
    r"ENS[A-Z]{0,6}\d+(\.\d+)?(_PAR_Y)?|[A-Z0-9]{1,6}\d|[A-Z]{1,4}\d+[A-Z]{1,3}\d*|[A-Z]{1,3}\d+orf\d+"
)
_SUMMARY = re.compile(r"__\w+|N_(unmapped|multimapping|noFeature|ambiguous)|Unassigned(_\w+)?")
_SPIKE_IN = re.compile(r"ERCC-\d{5}|SIRV\d+|R[12]_\d+_\d+|phiX(174)?", re.IGNORECASE)

_MONTHS = (
    r"jan(uary|uar|vier|\.)?|feb(ruary|ruar|\.)?|f[ée]v(rier|\.)?|mar(ch|s|zo|\.)?|m[äa]rz|mrz|apr(il|\.)?|avr(il|\.)?"
    r"|ma[iyo](\.)?|jun[ei]?(\.)?|jul[iy]?(\.)?|aug(ust|\.)?|sept?(ember|\.)?|o[kc]t(ober|\.)?|nov(ember|\.)?"
    r"|de[czk](ember|\.)?|d[ée]c(embre|\.)?|dez(ember|\.)?"
)
_DATES = (
    rf"\d{{1,2}}[-./ ]{{1,2}}({_MONTHS})([-./ ]{{1,2}}\d{{2,4}})?",  # 1-Mar, 01.Mrz, 2. Sep, 1-Mar-22
    rf"({_MONTHS})[-./ ]{{1,2}}\d{{1,4}}(,? ?\d{{4}})?",  # Mar-01, March 1, Sep-2002
    r"(19|20)\d\d[-./](0?[1-9]|1[0-2])[-./]([0-3]?\d)([T ]\d{1,2}:\d\d(:\d\d(\.\d+)?)?)?",  # 2022-09-02 00:00:00
    r"([0-3]?\d)[-./]([0-3]?\d)[-./]((19|20)?\d\d)( \d{1,2}:\d\d(:\d\d)?)?",  # 3/1/2022, 01.03.22
)
_DATE = re.compile("|".join(f"(?:{form})" for form in _DATES), re.IGNORECASE)
_SCIENTIFIC = re.compile(r"\d+([.,]\d+)?E\+?\d+", re.IGNORECASE)


def is_summary(name: str) -> bool:
    """Whether a row of this name is an aligner's or a counting program's summary."""
    return name in _summaries() or _SUMMARY.fullmatch(name) is not None


def is_spike_in(name: str) -> bool:
    """Whether a row of this name counts molecules that the lab added (ERCC's, Lexogen's)."""
    return _SPIKE_IN.fullmatch(name) is not None


@cache
def _summaries() -> frozenset[str]:
    return frozenset(names("expression", "not_genes"))


@cache
def _whole() -> frozenset[str]:
    return frozenset(plain_names("expression", "no_gene"))


@cache
def _words() -> frozenset[str]:
    return frozenset(names("expression", "no_gene_words"))


def is_no_gene(name: str) -> bool:
    """Whether a name is known to be something else than a gene: a patient's age, a receptor's stain, a library's size.

    >>> [n for n in ("age_at_diagnosis", "ER.IHC", "OSTime", "PGR", "OS9", "HLA-A", "C1orf112") if is_no_gene(n)]
    ['age_at_diagnosis', 'ER.IHC', 'OSTime']
    """
    if len(name) < 25 and plain_name(name) in _whole():
        return True
    if _PLAIN_SYMBOL.fullmatch(name):
        return False
    words = [word.casefold() for word in _WORD.findall(name)]
    return any(word in _words() for word in words) and words != ["fish"]  # once the name of SH3PXD2A


def is_date(name: str) -> bool:
    """Whether a spreadsheet has changed a name to this: MARCH1 to 1-Mar, or 2310009E13 to 2.31E+13."""
    return _DATE.fullmatch(name) is not None or _SCIENTIFIC.fullmatch(name) is not None


def turned_into_dates(written: Sequence[str]) -> list[int]:
    """The indices of names that a spreadsheet turned into dates or numbers; if most names are numbers, they are ids."""
    dates = [index for index, name in enumerate(written) if name[:1].isalnum() and is_date(name)]
    numbers = [index for index, name in enumerate(written) if name.replace(".", "", 1).isdecimal()]
    if 2 * len(numbers) < len(written):
        dates += numbers
    return sorted(dates)


def features(written: Sequence[str], naming: Naming, facts: ReadingFacts) -> list[int]:
    """The indices of names that may be features; names known to be something else are counted and reported."""
    out = [index for index, name in enumerate(written) if is_no_gene(name) and name not in naming.keep]
    shown = some([written[index] for index in out], 6)
    facts.count(
        "no_genes", len(out), f"left out, because their names are not of genes ({shown}; --keep-columns keeps them)"
    )
    left = set(out)
    return [index for index in range(len(written)) if index not in left]
