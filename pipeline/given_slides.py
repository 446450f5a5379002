"""The slides that a command is given: files, folders and URLs, or those that the cohort table has paths of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.errors import UsageError, WsipipeError
from ..data.plain_files import url_of
from ..data.workspace import keep_within

if TYPE_CHECKING:
    from ..data.cohort.table import CohortTable
    from ..data.slides.finding import FoundSlides

NOT_ASKED = "a URL: its server is not asked"


def given_slides(
    given: Sequence[Path],
    table: CohortTable | None,
    workspace: Path | None,
    refused: list[WsipipeError] | None = None,
) -> FoundSlides:
    """The slides in the given places, else those that the cohort table has paths of.

    :param workspace: where slides by URL are represented; None: they are left out.
    :param refused: gets the error of each slide or place that cannot be used; None: the first one is raised.
    :raises UsageError: there are no slides.
    """
    from ..data.slides.finding import FoundSlides, find_slides

    if workspace is not None:
        keep_within(workspace)
    if given:
        remote = [place for place in given if workspace is None and url_of(place) is not None]
        here = [place for place in given if place not in remote]
        found = find_slides(here, workspace, refused) if here else FoundSlides((), {})
        return FoundSlides(found, {**found.left_out, **({NOT_ASKED: remote} if remote else {})})
    paths = table.paths() if table is not None else {}
    if table is None or not paths:
        raise UsageError(
            "no slides are given",
            hint="name files or folders on the command line, or slides in [cohort], or a table with a path column",
        )
    return _of_table(table, paths, workspace, refused)


def _of_table(
    table: CohortTable, paths: dict[str, Path], workspace: Path | None, refused: list[WsipipeError] | None
) -> FoundSlides:
    from ..data.slides.finding import FoundSlide, FoundSlides, checked_slide_id, existing
    from ..data.slides.remote_finding import find_remote

    def place(path: Path) -> Path:
        if workspace is None or (url := url_of(path)) is None:
            return existing(path) or path
        listed = find_remote(url, workspace, {})
        if len(listed) != 1:
            what = f"is a folder of {len(listed)} slides, in the table's row of one slide"
            raise UsageError(what, path=url, hint="give the URL of that slide, or name the folder instead of the table")
        return listed[0]

    remote = [path for path in paths.values() if workspace is None and url_of(path) is not None]
    named = []
    for slide, path in paths.items():
        if path in remote:
            continue
        try:
            named.append(FoundSlide(checked_slide_id(slide, table.source), place(path)))
        except WsipipeError as error:
            if refused is None:
                raise
            refused.append(error)
    left_out = {NOT_ASKED: remote} if remote else {}
    return FoundSlides(sorted(named, key=lambda slide: slide.slide_id), left_out)
