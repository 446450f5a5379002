"""The gallery of a model's memory: the nearest tiles of each slot, with its use, attention and weight."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...data.errors import StoreError
from ...data.json_text import fault, read_json
from .numbers import TEMPLATES
from .sheet import Rgb

MOST_FOLDS_SHOWN: Final = 5
SLOTS_OF_A_FOLD: Final = 4
"""A report shows so many slots of each of so many folds."""
_SHOWN_PX: Final = 160
_QUALITY: Final = 85


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShownTile(_Shown):
    """A tile near to a slot."""

    slide: str
    x: int
    y: int
    side: float
    """Where it lies on the slide, its upper left corner and its side, in pixels of level 0."""
    nearness: float
    """As the network measures it; more is nearer."""
    address: str = Field(pattern=r"^data:image/jpeg;base64,[A-Za-z0-9+/]*=*$")
    """Its pixels as an address that a page can hold."""

    @classmethod
    def of(cls, slide: str, place: tuple[int, int], side: float, nearness: float, pixels: Rgb) -> Self:
        """A tile from its pixels, which are made smaller and compressed.

        :param place: of its upper left corner, as ``side`` in pixels of level 0.
        """
        side = max(pixels.shape[:2])
        if side > _SHOWN_PX:
            zoom = _SHOWN_PX / side
            pixels = np.asarray(cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        x, y = place
        return cls(slide=slide, x=x, y=y, side=side, nearness=nearness, address=jpeg_address(data.tobytes()))


class ShownSlot(_Shown):
    """One slot."""

    name: str
    use: float
    """Share of the test tiles that are nearer to it than to any other slot."""
    attention: float
    """Share of a slide's attention on these tiles, a mean over the slides."""
    weight: float | None
    """What the slot counts for, above zero for positive; None where slots have no weight."""
    tiles: tuple[ShownTile, ...]


class FoldSlots(_Shown):
    """The slots of one fold, and how many test slides and tiles they were compared with."""

    fold: int
    tile_um: float
    """Side of a tile, in µm."""
    slides: int
    tiles: int
    slots: tuple[ShownSlot, ...]

    @property
    def used(self) -> Sequence[ShownSlot]:
        """The slots that are nearest to a tile, those with most attention first."""
        return sorted((slot for slot in self.slots if slot.use), key=lambda slot: -slot.attention)

    @property
    def unused(self) -> Sequence[str]:
        """Names of the others."""
        return [slot.name for slot in self.slots if not slot.use]


class ReportedSlots(_Shown):
    """The slots that a report shows: of each of the first folds those with most weight, or else attention."""

    folds: tuple[FoldSlots, ...]
    of_folds: int
    """How many folds there are."""
    by: str
    """What they were chosen by, ``weight`` or ``attention``."""

    @classmethod
    def of(cls, folds: Sequence[FoldSlots]) -> Self:
        """Choose among all slots that are nearest to a tile."""
        weighed = any(slot.weight is not None for fold in folds for slot in fold.slots)

        def most(slot: ShownSlot) -> float:
            return abs(slot.weight or 0.0) if weighed else slot.attention

        shown = [
            fold.model_copy(update={"slots": tuple(sorted(fold.used, key=most, reverse=True)[:SLOTS_OF_A_FOLD])})
            for fold in folds[:MOST_FOLDS_SHOWN]
        ]
        return cls(folds=tuple(shown), of_folds=len(folds), by="weight" if weighed else "attention")


def slots_page(run: str, folds: Sequence[FoldSlots]) -> str:
    """The page as HTML, with all its pictures: one file that needs no other."""
    return TEMPLATES.get_template("slots.html").render(run=run, folds=folds)


def read_reported_slots(path: Path) -> ReportedSlots:
    """Read what the gallery has left for the report.

    :raises StoreError: it is damaged, or edited into something else.
    """
    hint = "remove it and run wsipipe train again: the gallery alone is made again"
    try:
        return ReportedSlots.model_validate(read_json(path, StoreError, what="slots of a memory", hint=hint))
    except ValidationError as error:
        raise StoreError(f"holds no slots of a memory: {fault(error)}", path=path, hint=hint) from error


def jpeg_address(data: bytes) -> str:
    """A JPEG as an address that a page can hold."""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
