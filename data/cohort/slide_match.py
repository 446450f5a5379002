"""Matching slides on disk to rows of the cohort table.

Slide ids in tables may have parts that file names lack, such as TCGA's UUID after the first dot, and the other way
round. The rules are tried in order, then once more without regard to case; rows that are matched by one rule are not
considered by later ones. Accented letters are compared in Unicode's composed form (NFC).

A UUID is removed only if it is one: what follows the first dot of a TCGA barcode, or a string of the form of a UUID
after the first dot of any other id. ``17.2_rescan`` is not the slide ``17``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CohortError
from ..slide_names import slide_name
from ..units import Mpp
from ..wording import some
from .ids import normal_id
from .tcga import tcga_barcode

if TYPE_CHECKING:
    from .table import CohortTable


@dataclass(frozen=True)
class SlideMatch:
    """The slides on disk, matched to the rows of a table.

    :param rows: slide id on disk → slide id in the table, sorted by the former.
    :param by_rule: rule → how many slides it matched, in the order tried; rules without matches are left out.
    :param only_on_disk: slides on disk without a row, sorted.
    :param only_in_table: slide ids of rows without a slide on disk, sorted.
    """

    rows: Mapping[str, str]
    by_rule: Mapping[str, int]
    only_on_disk: tuple[str, ...]
    only_in_table: tuple[str, ...]

    def notes(self) -> list[str]:
        """The numbers of matched and unmatched slides, as sentences."""
        notes = [f"slides matched by {rule}: {count}" for rule, count in self.by_rule.items()]
        if self.only_on_disk:
            notes.append(f"slides on disk that no row names: {len(self.only_on_disk)} ({some(self.only_on_disk, 3)})")
        if self.only_in_table:
            notes.append(f"slides of the table not on disk: {len(self.only_in_table)} ({some(self.only_in_table, 3)})")
        return notes

    def mpps(self, table: CohortTable) -> dict[str, Mpp]:
        """Slide id on disk → microns per pixel, for slides whose row gives it; used by the tile stage."""
        mpps = table.mpps()
        return {slide: mpps[row] for slide, row in self.rows.items() if row in mpps}


@dataclass(frozen=True)
class _Rule:
    name: str
    of_disk: Callable[[str], str]
    of_table: Callable[[str, str], str]
    """From a row's slide id and path."""


def _itself(slide_id: str) -> str:
    return slide_id


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def _without_uuid(slide_id: str) -> str:
    """A slide's id without the UUID that the GDC appends after a dot."""
    name, _, rest = slide_id.partition(".")
    return name if tcga_barcode(slide_id) is not None or _UUID.fullmatch(rest) else slide_id


_RULES = (
    _Rule("the exact id", _itself, lambda slide, _path: slide),
    _Rule("the file name in the path column", _itself, lambda _slide, path: slide_name(path)),
    _Rule("the table's id cut at its first dot (TCGA's UUID)", _itself, lambda slide, _path: _without_uuid(slide)),
    _Rule("the file's id cut at its first dot (TCGA's UUID)", _without_uuid, lambda slide, _path: slide),
)


def match_slides(slide_ids: Iterable[str], table: CohortTable) -> SlideMatch:
    """Match the slides on disk to the table's rows.

    :param slide_ids: ids on disk, the file names without extension.
    :raises CohortError: by one rule a slide matches several rows, or a row several slides; all are listed.
    """
    on_disk = sorted(set(slide_ids))
    open_disk = dict.fromkeys(on_disk)
    open_rows = {s: p for s, p in zip(table.frame["slide_id"], table.frame["path"], strict=True) if s}
    rows: dict[str, str] = {}
    by_rule: dict[str, int] = {}
    for folded in (False, True):
        for rule in _RULES:
            pairs = _pairs(rule, open_disk, open_rows, folded=folded)
            name = rule.name + (", in another case" if folded else "")
            _refuse_ambiguous(pairs, name, table)
            if pairs:
                by_rule[name] = len(pairs)
            for slide, row in pairs:
                rows[slide] = row
                del open_disk[slide], open_rows[row]
    return SlideMatch(dict(sorted(rows.items())), by_rule, tuple(open_disk), tuple(sorted(open_rows)))


def _pairs(
    rule: _Rule, open_disk: Iterable[str], open_rows: Mapping[str, str], *, folded: bool
) -> list[tuple[str, str]]:
    def key(text: str) -> str:
        return normal_id(text).casefold() if folded else normal_id(text)

    by_key: dict[str, list[str]] = {}
    for row, path in open_rows.items():
        by_key.setdefault(key(rule.of_table(row, path)), []).append(row)
    return [(slide, row) for slide in open_disk for row in by_key.get(key(rule.of_disk(slide)), ())]


def _refuse_ambiguous(pairs: list[tuple[str, str]], rule: str, table: CohortTable) -> None:
    times = Counter([("slide", slide) for slide, _ in pairs] + [("row", row) for _, row in pairs])
    doubtful = [f"{s} with {r}" for s, r in pairs if times["slide", s] > 1 or times["row", r] > 1]
    if doubtful:
        raise CohortError(
            f"by {rule}, slides and rows do not match one to one: {some(doubtful)}",
            path=table.source,
            hint="write the slides' full file names into the table, or remove the extra files or rows",
        )
