"""The overview page of a cohort's QC images: look through a hundred slides in a minute and find the ten that matter.

One HTML file beside the images, with a short script of its own and nothing from outside; without scripts it shows the
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
from ...data.tiling.artefacts import ARTEFACTS
from ...data.wording import figure
from ..pages.templates import page_templates
from .why_empty import no_tile_kept

MUCH_INK: Final = 0.05
"""A slide with more ink than this fraction is worth a look."""
MUCH_BLUR: Final = 0.2
"""A slide is worth a look if more than this fraction of its tiles on tissue are not sharp."""
MUCH_ARTEFACT: Final = 0.2
"""A slide is worth a look if artefacts cover more than this fraction of its tiles."""
FAR: Final = 3.5
"""A slide is worth a look if a figure is further from the cohort's median than this many robust standard deviations
(1.4826 times the median absolute deviation; B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993). The
scale is logarithmic, since areas and counts of tissue are skewed."""
TWOFOLD: Final = 2.0
"""A figure within this factor of the median is never an outlier, however similar the slides of the cohort are."""
TENFOLD: Final = 10.0
"""A figure below the median divided by this is always worth a look, however mixed the cohort is."""
FEWEST: Final = 8
"""With fewer slides, the usual range of a figure cannot be estimated."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One slide on the page. Links are relative to the page, and escaped; figures are None if unknown."""

    id: str
    status: str
    why: tuple[str, ...]
    """Why it is worth a look; empty if it is not."""
    tiles: int
    tissue: float | None
    """Area in mm²."""
    ink: float | None
    """Fraction of the slide."""
    sharpness: float | None
    """Median over the kept tiles."""
    artefacts: float | None
    """Fraction of the tiles' area, the dropped tiles included; None also where they were not looked for."""
    kinds: tuple[tuple[str, float], ...]
    """Kind of artefact → the same fraction, of those that occur."""
    dropped: int
    """Tiles dropped for artefacts."""
    picture: str | None
    contours: str | None
    file: str | None

    @property
    def figures(self) -> str:
        """Data for the page's script: whether it is worth a look, its status, and the figures to sort by."""
        numbers: list[float | None] = [self.tiles, self.tissue, self.ink, self.sharpness]
        if self.artefacts is not None:
            numbers.append(self.artefacts)
        return ",".join((str(int(bool(self.why))), self.status, *("" if n is None else f"{n:.6g}" for n in numbers)))


def render_index(records: Sequence[Record], folder: Path, workspace: Path) -> str:
    """Render the page as HTML, for ``qc/index.html`` in the tile stage's folder. Reads no files.

    :param records: the tile stage's records; the last one of each slide counts.
    :param folder: the tile stage's folder.
    :param workspace: the folder to which paths in the records are relative.
    """
    latest = {record.item: record for record in records}
    slides = sorted(latest.values(), key=lambda record: _natural(record.item))
    shown = [record for record in slides if record.status != "failed"]
    reasons_of = _reasons_to_look([record for record in shown if record.status == "done"])
    link = _links(folder / "qc", workspace)
    cards = [_card(record, reasons_of(record), link) for record in shown]
    return _TEMPLATES.get_template("tile_index.html").render(
        name=folder.name,
        cards=sorted(cards, key=lambda card: not card.why),
        failed=[record for record in slides if record.status == "failed"],
        done=sum(card.status == "done" for card in cards),
        empty=sum(card.status == "empty" for card in cards),
        tiles=sum(card.tiles for card in cards),
        tissue=sum(card.tissue or 0 for card in cards),
        worth=sum(bool(card.why) for card in cards),
        artefacts=any(card.artefacts is not None for card in cards),
        dropped=sum(card.dropped for card in cards),
    )


def _links(page: Path, workspace: Path) -> Callable[[OutputRecord | None], str | None]:
    """Build the function that links to an output from a page in the folder ``page``; None if there is no output."""
    to: dict[str, str] = {}  # the way to each folder, of which 100,000 outputs share a few

    def link(output: OutputRecord | None) -> str | None:
        if output is None:
            return None
        folder, _, name = output.path.rpartition("/")
        if folder not in to:
            way = Path(os.path.relpath(workspace / folder, page)).as_posix()
            to[folder] = "" if way == "." else f"{way}/"
        return quote(to[folder] + name)

    return link


def _card(record: Record, why: tuple[str, ...], link: Callable[[OutputRecord | None], str | None]) -> Card:
    return Card(
        id=record.item,
        status=record.status,
        why=why,
        tiles=int(record.stats.get("tiles", 0)),
        tissue=_number(record, "tissue_mm2"),
        ink=_number(record, "ink_fraction"),
        sharpness=_number(record, "sharpness_median"),
        artefacts=_number(record, "artefact_fraction"),
        kinds=tuple((kind, share) for kind in ARTEFACTS if (share := _number(record, f"artefact_{_key(kind)}"))),
        dropped=int(_number(record, "dropped_artefact") or 0),
        picture=link(record.outputs.get("qc")),
        contours=link(record.outputs.get("contours")),
        file=link(record.outputs.get("tiles")),
    )


def _reasons_to_look(tiled: Sequence[Record]) -> Callable[[Record], tuple[str, ...]]:
    """Build the function that lists why a slide is worth a look, compared with the cohort's slides that have tiles."""
    tissue, tiles, sharpness = (_Usual.of(tiled, stat) for stat in ("tissue_mm2", "tiles", "sharpness_median"))

    def reasons_of(record: Record) -> tuple[str, ...]:
        why = []
        if record.status == "empty":
            kept = no_tile_kept(record) if _number(record, "dropped_artefact") else ""
            kept = kept or "tissue, but no tile is kept"
            why.append(_EMPTY.get(str(record.stats.get("tissue_verdict")), kept))
        else:
            if amount := tissue.far(record):
                why.append(
                    f"{amount} tissue: {figure(tissue.value(record))} mm², the median is {figure(tissue.median)}"
                )
            elif amount := tiles.far(record):
                few_or_many = {"little": "few", "much": "many"}[amount]
                why.append(f"{few_or_many} tiles: {figure(tiles.value(record))}, the median is {figure(tiles.median)}")
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
        if (artefacts := _number(record, "artefact_fraction") or 0) > MUCH_ARTEFACT:
            why.append(f"artefacts on {_percent(artefacts)} of its tiles")
        if unread := _number(record, "unread_fraction"):
            why.append(f"{_percent(unread)} could not be read")
        if bad := _number(record, "bad_tiles"):
            why.append(f"{bad:,.0f} tiles cannot be decoded")
        return tuple(why)

    return reasons_of


_EMPTY: Final = {
    "nothing": "empty: no tissue was found",
    "dark background": "empty: bright colours on black, as in fluorescence",
    "not understood": "empty: tissue could not be recognised reliably; choose with --tissue",
}

_DOUBT: Final = {
    "not understood": "tissue could not be recognised reliably; choose with --tissue",
    "unlike glass": "not coloured like H&E: tissue was found by its difference from the glass",
}


@dataclass(frozen=True)
class _Usual:
    """The usual range of a figure in a cohort."""

    stat: str
    median: float
    spread: float
    """Robust standard deviation of the figure's logarithm."""

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
        """Return ``little`` or ``much`` if a slide's figure is far from the median; empty if not, or if unknown."""
        value = self.value(record)
        if not value or not self.median:
            return ""
        away = log(value / self.median)
        limit = max(FAR * self.spread, log(TWOFOLD))
        if away < -min(limit, log(TENFOLD)):
            return "little"
        return "much" if away > limit else ""


def _number(record: Record, stat: str) -> float | None:
    """Read a figure of a slide; None if unknown, as in records of older versions without it."""
    value = record.stats.get(stat)
    return None if value is None else float(value)


def _key(kind: str) -> str:
    return kind.replace(" ", "_")


def _natural(text: str) -> tuple[list[str | int], str]:
    """Build a sort key that puts ``slide 9`` before ``slide 10``.

    Words and numbers alternate, so that a word is never compared with a number.
    """
    parts = re.split(r"([0-9]+)", text.casefold())
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], text


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


_TEMPLATES: Final = page_templates(figure=figure, percent=_percent)
