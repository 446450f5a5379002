"""The page over the QC images of a cohort, to leaf through a hundred slides in a minute and find the ten that matter.

One file beside the images, with a few lines of script of its own and nothing from outside; without scripts it is the
same slides as a plain list. Slides worth a look come first, each with its reason. The same records give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import quote

from ...data.manifest import OutputRecord, Record
from ...data.wording import figure
from ..pages.templates import page_templates

MUCH_INK: Final = 0.05
"""More ink than this, as a share of the slide, is worth a look."""
MUCH_BLUR: Final = 0.2
"""So is a larger share of the tiles on tissue that are not sharp."""
FAR: Final = 3.5
"""And a figure that is further from the cohort's median than so many robust standard deviations (1.4826 times the
median absolute deviation; B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993), on a logarithmic scale,
for areas and counts of tissue are skewed ..."""
TWOFOLD: Final = 2.0
"""... unless it is within this factor of the median: a cohort of like slides has no outliers."""
TENFOLD: Final = 10.0
"""In a cohort as mixed as can be, a tenth of the median is still worth a look."""
FEWEST: Final = 8
"""With fewer slides, there is no telling what is usual."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One slide as the page shows it. Links are relative to the page, and escaped; figures are None where unknown."""

    id: str
    status: str
    why: tuple[str, ...]
    """What makes it worth a look."""
    tiles: int
    tissue: float | None
    """mm²."""
    ink: float | None
    """Share of the slide."""
    sharpness: float | None
    """Median over the kept tiles."""
    picture: str | None
    contours: str | None
    file: str | None

    @property
    def figures(self) -> str:
        """For the page's script: whether it is worth a look, its status, and what it can be sorted by."""
        numbers = (self.tiles, self.tissue, self.ink, self.sharpness)
        return ",".join((str(int(bool(self.why))), self.status, *("" if n is None else f"{n:.6g}" for n in numbers)))


def render_index(records: Sequence[Record], folder: Path, workspace: Path) -> str:
    """The page as HTML, to lie at ``qc/index.html`` in the tile stage's folder. Reads no files.

    :param records: the tile stage's; of several of one slide, the last counts.
    :param folder: of the tile stage.
    :param workspace: what the paths in the records are relative to.
    """
    latest = {record.item: record for record in records}
    slides = sorted(latest.values(), key=lambda record: _natural(record.item))
    shown = [record for record in slides if record.status != "failed"]
    judge = _judge([record for record in shown if record.status == "done"])
    page = folder / "qc"
    cards = [_card(record, judge(record), page, workspace) for record in shown]
    return _TEMPLATES.get_template("tile_index.html").render(
        name=folder.name,
        cards=sorted(cards, key=lambda card: not card.why),
        failed=[record for record in slides if record.status == "failed"],
        done=sum(card.status == "done" for card in cards),
        empty=sum(card.status == "empty" for card in cards),
        tiles=sum(card.tiles for card in cards),
        tissue=sum(card.tissue or 0 for card in cards),
        worth=sum(bool(card.why) for card in cards),
    )


def _card(record: Record, why: tuple[str, ...], page: Path, workspace: Path) -> Card:
    def link(output: OutputRecord | None) -> str | None:
        return None if output is None else quote(Path(os.path.relpath(workspace / output.path, page)).as_posix())

    return Card(
        id=record.item,
        status=record.status,
        why=why,
        tiles=int(record.stats.get("tiles", 0)),
        tissue=_number(record, "tissue_mm2"),
        ink=_number(record, "ink_fraction"),
        sharpness=_number(record, "sharpness_median"),
        picture=link(record.outputs.get("qc")),
        contours=link(record.outputs.get("contours")),
        file=link(record.outputs.get("tiles")),
    )


def _judge(usual: Sequence[Record]) -> Callable[[Record], tuple[str, ...]]:
    """Says of a slide what makes it worth a look, beside the slides of its cohort that have tiles."""
    tissue, tiles, sharpness = (_Usual.of(usual, stat) for stat in ("tissue_mm2", "tiles", "sharpness_median"))

    def judge(record: Record) -> tuple[str, ...]:
        why = []
        if record.status == "empty":
            why.append(_EMPTY.get(str(record.stats.get("tissue_verdict")), "tissue, but no tile is kept"))
        else:
            if said := tissue.far(record):
                why.append(f"{said} tissue: {figure(tissue.value(record))} mm², the median is {figure(tissue.median)}")
            elif said := tiles.far(record):
                few = {"little": "few", "much": "many"}[said]
                why.append(f"{few} tiles: {figure(tiles.value(record))}, the median is {figure(tiles.median)}")
            if doubt := _DOUBT.get(str(record.stats.get("tissue_verdict"))):
                why.append(doubt)
            if sharpness.far(record) == "little":
                here = figure(sharpness.value(record))
                why.append(f"little sharpness: {here}, the median is {figure(sharpness.median)}")
        blurred = _number(record, "dropped_not_sharp") or 0
        of_all = blurred + (_number(record, "tiles") or 0)
        if blurred > MUCH_BLUR * of_all:
            why.append(f"{_percent(blurred / of_all)} of the tiles on tissue are not sharp")
        if (ink := _number(record, "ink_fraction") or 0) > MUCH_INK:
            why.append(f"ink on {_percent(ink)} of it")
        if unread := _number(record, "unread_fraction"):
            why.append(f"{_percent(unread)} could not be read")
        if bad := _number(record, "bad_tiles"):
            why.append(f"{bad:,.0f} tiles cannot be decoded")
        return tuple(why)

    return judge


_EMPTY: Final = {
    "nothing": "empty: no tissue was found",
    "dark background": "empty: it glows on black, as fluorescence does",
    "not understood": "empty: what is tissue is not understood; --tissue decides",
}

_DOUBT: Final = {
    "not understood": "what is tissue is not understood; --tissue decides",
    "unlike glass": "not coloured like H&E: tissue is what differs from the glass",
}


@dataclass(frozen=True)
class _Usual:
    """What a figure usually is in a cohort."""

    stat: str
    median: float
    spread: float
    """As a logarithm."""

    @classmethod
    def of(cls, records: Sequence[Record], stat: str) -> _Usual:
        values = [value for record in records if (value := _number(record, stat))]
        if len(values) < FEWEST:
            return cls(stat, 0, inf)
        middle = median(values)
        return cls(stat, middle, 1.4826 * median(abs(log(value / middle)) for value in values))

    def value(self, record: Record) -> float:
        return _number(record, self.stat) or 0

    def far(self, record: Record) -> str:
        """``little`` or ``much`` where a slide's figure is far from the median; nothing where it is not, or unknown."""
        value = self.value(record)
        if not value or not self.median:
            return ""
        away = log(value / self.median)
        limit = max(FAR * self.spread, log(TWOFOLD))
        if away < -min(limit, log(TENFOLD)):
            return "little"
        return "much" if away > limit else ""


def _number(record: Record, stat: str) -> float | None:
    """A figure of a slide; None where it is not known, as in records of before it was taken."""
    value = record.stats.get(stat)
    return None if value is None else float(value)


def _natural(text: str) -> tuple[list[str | int], str]:
    """Orders ``slide 9`` before ``slide 10``. Words and numbers take turns, so they are never compared."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], text


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


_TEMPLATES: Final = page_templates(figure=figure, percent=_percent)
