"""Staging the slides of a run's items (``--stage-to``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...stages.stage import Item, Stage


@contextmanager
def staged(
    stage: Stage[Any], items: Sequence[Item], place: Path | None, most_bytes: int | None
) -> Iterator[Callable[[str], None]]:
    """Copy the slides of the items to a local disk ahead of their turn, if a place is given or they are remote.

    :param place: the staging folder; slides without a place on a disk have one in the workspace by default.
    :returns: what to call with the name of each finished item.
    """
    from ...data.slides.remote import is_remote
    from ...data.slides.staging import SlideCopier  # with the readers of slides, which other commands do not need

    if len(stage.devices) > 1:
        items = sorted(items, key=lambda item: -item.size)  # as the executor hands them out
    slides = {item.id: slide for item in items if (slide := stage.slide_of(item)) is not None}
    if place is None:
        slides = {item: slide for item, slide in slides.items() if is_remote(slide)}
        place = stage.workspace / "partial" / "staging"
    if not slides:
        yield lambda item: None
        return
    with SlideCopier(place, list(dict.fromkeys(slides.values())), most_bytes) as copier:
        stage.staging = copier.slides
        try:
            yield lambda item: copier.release(slides[item]) if item in slides else None
        finally:
            stage.staging = None
