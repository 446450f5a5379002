"""When two ids of patients or slides are the same.

Tables pass through spreadsheets, R, pandas and several file systems, each of which writes ids in its own way.
Everywhere in wsipipe two ids are the same if they are equal after :func:`id_key`: Unicode's composed form, without
surrounding blanks, invisible characters and the ``.0`` appended to a number, and without regard to case. An id is shown
in the spelling that occurs first in the cohort table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
"""Zero-width characters and the soft hyphen, which get into tables from web pages and byte order marks."""
_NUMBER_WITH_POINT = re.compile(r"(\d+)\.0+")


def normal_id(text: str) -> str:
    """An id for display: composed (NFC), without surrounding blanks, invisible characters and the ``.0`` of a number.

    >>> normal_id(" 101.0 "), normal_id("17.2"), normal_id("007")
    ('101', '17.2', '007')
    """
    bare = unicodedata.normalize("NFC", text.translate(dict.fromkeys(map(ord, _INVISIBLE)))).strip()
    number = _NUMBER_WITH_POINT.fullmatch(bare)
    return number[1] if number else bare


def id_key(text: str) -> str:
    """The key of an id: equal for all spellings of the same id.

    >>> id_key("P05") == id_key("p05 "), id_key("101") == id_key("101.0")
    (True, True)
    """
    return normal_id(unicodedata.normalize("NFC", normal_id(text).casefold()))


def one_spelling(ids: Iterable[str]) -> dict[str, str]:
    """Id → the first id in the given order that is the same."""
    first: dict[str, str] = {}
    return {written: first.setdefault(id_key(written), written) for written in ids}


def same_ids(ids: Iterable[str]) -> list[str]:
    """Ids with several spellings, such as ``P05 (p05)``, for messages."""
    others: dict[str, list[str]] = {}
    for written, first in one_spelling(ids).items():
        if written != first:
            others.setdefault(first, []).append(written)
    return [f"{first} ({', '.join(written)})" for first, written in others.items()]


def look_alikes(ids: Iterable[str], known: Iterable[str]) -> Mapping[str, str]:
    """Unknown ids that differ from a known one only by leading zeros or punctuation.

    Such as ``P.01`` from R and ``P-01``, or ``7`` from a spreadsheet and ``007``. They may be two people, so ids are
    never joined by this rule; it is only used for messages.
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
