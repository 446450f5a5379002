"""The slides: which there are, whether they open, and which of them are already tiled."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.cohort.splits import shuffled
from ...data.cohort.table import CohortTable
from ...data.errors import SlideError, SurroundingsError, WsipipeError
from ...data.manifest import Json
from ...data.slides.finding import FoundSlide, slide_identity
from ...data.surroundings import surroundings
from ...data.wording import some
from ...stages.stage import Item, Silence
from ...stages.tile.stage import TileStage
from ..config import Config
from ..console import counted
from ..failures import FEW, bare_message, grouped
from ..given_slides import given_slides
from ..results import Failure
from ..run.decisions import Decision, History, decide, refuse_other_settings
from ..run.processes import run_in_processes
from .headers import HeaderStage
from .report import Report

_SECONDS_FOR_TWINS = 5.0
"""Least time for comparing slides of the same size."""


@dataclass
class SlidesFound:
    """The slides of a cohort.

    :param headers: slide → what its header says: ``grid_tiles``, ``slide_mpp``; of a tiled one also its ``tiles``.
    :param unusable: slide → why it cannot be used.
    :param unseen: slides that there was no time to open.
    :param twins: ids of slides that have the same bytes.
    """

    slides: Sequence[FoundSlide] = ()
    headers: dict[str, dict[str, Json]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    unseen: int = 0
    twins: list[list[str]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [slide.slide_id for slide in self.slides]

    @property
    def grid_tiles(self) -> dict[str, int]:
        """Slide that opens → tiles that there is room for."""
        return {slide: int(header["grid_tiles"]) for slide, header in self.headers.items()}


def find_cohort(config: Config, table: CohortTable | None, report: Report, seconds: float) -> SlidesFound:
    """Find the slides, and open those that are not tiled yet.

    :param seconds: time limit for opening them; those that there is no time for are counted.
    """
    found, begin = SlidesFound(), time.monotonic()
    refused: list[WsipipeError] = []
    with report.collecting("tile"):
        given = given_slides(config.cohort.slides, table, None, refused)
        found.slides = given
        for note in given.notes():
            report.look("tile", note, "give them in another form or place if they belong to the cohort")
    for error in refused[:FEW]:
        report.refused("tile", error)
    if len(refused) > FEW:
        report.stops("tile", f"{len(refused) - FEW} more slides or places are refused", refused[FEW].hint)
    with report.collecting("tile"):
        _look_at(config, table, found, report, seconds)
    if found.slides and len(found.unusable) == len(found.slides):
        report.stops("extract", f"none of the {counted(len(found.slides), 'slides')} can be used", "see above")
    _tell(found, report)
    _look_for_twins(found, max(begin + seconds, time.monotonic() + _SECONDS_FOR_TWINS))
    return found


def _look_at(config: Config, table: CohortTable | None, found: SlidesFound, report: Report, seconds: float) -> None:
    folder = config.workspace / "tiles" / config.tile.folder_name()
    stage = TileStage(config.tile, folder, config.workspace, slides=found.slides, table=table)
    plan = stage.plan()
    history = History(stage.manifest, stage.name)
    tried = [item for item in plan.items if history.last(item.id) is not None]
    decisions = [decide(stage, item, history, retry_failed=False) for item in tried]
    with report.collecting("tile"):
        refuse_other_settings(stage, decisions, history)
    failures = [Failure(slide, str(error), error.hint) for slide, error in plan.rejected.items()]
    known = {decision.item.id: decision for decision in decisions if decision.verdict != "run"}
    failures += [failure for decision in known.values() if (failure := _known(decision, found)) is not None]
    to_open: list[Item] = []
    for item in plan.items:
        path: Path = item.payload.path
        if item.id in known:
            continue
        if os.path.lexists(path) and path.exists():
            to_open.append(item)
        elif (lost := surroundings(FileNotFoundError(errno.ENOENT, "", str(path)), path)) is not None:
            failures.append(Failure(item.id, str(lost), lost.hint))
    failures += _opened(HeaderStage(config.tile, folder, config.workspace), to_open, found, seconds)
    for failure in failures:
        found.unusable[failure.item] = "slide cannot be read"
    for group in grouped(failures):
        first, names = group.failures[0], [failure.item for failure in group.failures]
        alone = len(group.failures) == 1
        what = first.message if alone else f"{len(names):,} slides ({some(names, FEW)}): {bare_message(first)}"
        report.look("tile", what, first.hint)


def _known(decision: Decision, found: SlidesFound) -> Failure | None:
    """Take what is known of a slide that has been tiled, or has failed; returns the failure."""
    record = decision.record
    assert record is not None  # only what is to be run has none
    if record.error is not None:
        return Failure(
            record.item, record.error.message, f"{record.error.hint}; then add --retry-failed if it is the same file"
        )
    found.headers[record.item] = {**record.stats, "tiles": record.stats.get("tiles", 0)}
    return None


def _opened(stage: HeaderStage, items: Sequence[Item], found: SlidesFound, seconds: float) -> list[Failure]:
    """Open slides in processes for so many seconds, in an order that has nothing to do with their names."""
    by_id = {item.id: item for item in items}
    in_order = [by_id[slide] for slide in shuffled(by_id, 0, "check")]
    failures, begin, left = [], time.monotonic(), len(in_order)
    if not in_order:
        return []
    with closing(run_in_processes(stage, in_order, Silence(), [])) as running:
        for result in running:
            left -= 1
            if result.error is not None:
                failures.append(Failure(result.item.id, result.error.message, result.error.hint))
            elif result.outcome is not None:
                found.headers[result.item.id] = dict(result.outcome.stats)
            if time.monotonic() - begin > seconds:
                break
    found.unseen = left
    return failures


def _tell(found: SlidesFound, report: Report) -> None:
    if not found.slides:
        return
    headers = found.headers.values()
    formats = Counter(str(header["format"]) for header in headers if "format" in header)
    mpps = sorted(float(header["slide_mpp"]) for header in headers if header.get("slide_mpp"))
    levels = sorted(int(header["levels"]) for header in headers if "levels" in header)
    tiled = sum("tiles" in header for header in headers)
    parts = [f"{len(found.headers):,} of {counted(len(found.slides), 'slides')} can be read"]
    if tiled:
        parts.append(f"{tiled:,} are tiled")
    if formats:
        parts.append(some([f"{number:,} {name}" for name, number in formats.most_common()], 4))
    if mpps:
        parts.append(f"{_between(mpps)} µm per pixel")
    if levels:
        parts.append(f"{_between(levels)} level{'s' if levels[-1] != 1 else ''}")
    if found.unseen:
        parts.append(f"no time to open {found.unseen:,} (--seconds)")
    report.fact(
        "slides",
        "; ".join(parts),
        **{"slides": len(found.slides), "readable": len(found.headers), "tiled": tiled, "not_opened": found.unseen},
        **{"formats": dict(formats), "mpp": [mpps[0], mpps[-1]] if mpps else None},
    )


def _between(values: Sequence[Any]) -> str:
    low, high = (f"{value:.3g}" for value in (values[0], values[-1]))
    return low if low == high else f"{low} to {high}"


def _look_for_twins(found: SlidesFound, until: float) -> None:
    """Find slides of the same bytes; only files of the same size are read.

    :param until: when to end, by the clock of :func:`time.monotonic`.
    """
    by_size: dict[int, list[FoundSlide]] = {}
    for slide in found.slides:
        if slide.slide_id not in found.unusable and slide.path.is_file():
            by_size.setdefault(slide.path.stat().st_size, []).append(slide)
    by_digest: dict[str, list[str]] = {}
    for slides in by_size.values():
        for slide in slides if len(slides) > 1 and time.monotonic() < until else ():
            try:
                by_digest.setdefault(slide_identity(slide.path)[1], []).append(slide.slide_id)
            except (SlideError, SurroundingsError):  # the tile stage says it of that slide
                continue
    found.twins = [ids for ids in by_digest.values() if len(ids) > 1]
