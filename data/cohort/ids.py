"""One rule for the ids of patients and slides: which writings mean the same one.

Tables come through spreadsheets, R, pandas and several file systems, each of which writes ids in its own way.
Everywhere in wsipipe two ids are one if they are equal after :func:`id_key`: Unicode's composed form, no surrounding
blanks or invisible signs, no ``.0`` that a number was given, no regard to case. An id is shown as the cohort table
writes it first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
"""Zero-width signs and the soft hyphen, which tables pick up from web pages and byte order marks."""
_NUMBER_WITH_POINT = re.compile(r"(\d+)\.0+")


def normal_id(text: str) -> str:
    """An id as it is shown: composed (NFC), without surrounding blanks, invisible signs and the ``.0`` of a number.

    >>> normal_id(" 101.0 "), normal_id("17.2"), normal_id("007")
    ('101', '17.2', '007')
    """
    bare = unicodedata.normalize("NFC", text.translate(dict.fromkeys(map(ord, _INVISIBLE)))).strip()
    number = _NUMBER_WITH_POINT.fullmatch(bare)
    return number[1] if number else bare


def id_key(text: str) -> str:
    """What two writings of one id have in common.

    >>> id_key("P05") == id_key("p05 "), id_key("101") == id_key("101.0")
    (True, True)
    """
    return normal_id(unicodedata.normalize("NFC", normal_id(text).casefold()))


def one_spelling(ids: Iterable[str]) -> dict[str, str]:
    """Id → the first of those that mean the same, in the order given."""
    first: dict[str, str] = {}
    return {written: first.setdefault(id_key(written), written) for written in ids}


def same_ids(ids: Iterable[str]) -> list[str]:
    """Ids that are written in several ways, such as ``P05 (p05)``, for messages."""
    others: dict[str, list[str]] = {}
    for written, first in one_spelling(ids).items():
        if written != first:
            others.setdefault(first, []).append(written)
    return [f"{first} ({', '.join(written)})" for first, written in others.items()]


def look_alikes(ids: Iterable[str], known: Iterable[str]) -> Mapping[str, str]:
    """Ids that are not known but differ from one that is only by leading zeros or by signs between letters.

    Such as ``P.01`` from R and ``P-01``, or ``7`` from a spreadsheet and ``007``. They may be two people, so nobody is
    joined by this: it is for telling the user.
    """
    by_letters: dict[str, str] = {}
    there: set[str] = set()
    for written in known:
        by_letters.setdefault(_letters(written), written)
        there.add(id_key(written))
    return {
        written: by_letters[_letters(written)]
        for written in ids
        if id_key(written) not in there and _letters(written) in by_letters
    }


def _letters(text: str) -> str:
    return re.sub(r"\d+", lambda number: str(int(number[0])), re.sub(r"[\W_]+", "", id_key(text)))
