"""The gallery of a model's memory: the nearest tiles of each slot, with its use, attention and weight."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from .numbers import TEMPLATES
from .sheet import Rgb

_SHOWN_PX: Final = 160
_QUALITY: Final = 85


@dataclass(frozen=True)
class ShownTile:
    """A tile near to a slot.

    :param nearness: as the network measures it; more is nearer.
    """

    slide: str
    nearness: float
    pixels: Rgb = field(repr=False)

    @property
    def address(self) -> str:
        """Its pixels as an address that a page can hold."""
        side = max(self.pixels.shape[:2])
        shown = self.pixels
        if side > _SHOWN_PX:
            zoom = _SHOWN_PX / side
            shown = np.asarray(cv2.resize(shown, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


@dataclass(frozen=True, kw_only=True)
class ShownSlot:
    """One slot.

    :param use: share of the test tiles that are nearer to it than to any other slot.
    :param attention: share of a slide's attention on these tiles, a mean over the slides.
    :param weight: what the slot counts for, above zero for positive; None where slots have no weight.
    """

    name: str
    use: float
    attention: float
    weight: float | None
    tiles: Sequence[ShownTile]


@dataclass(frozen=True, kw_only=True)
class FoldSlots:
    """The slots of one fold, and how many test slides and tiles they were compared with."""

    fold: int
    slides: int
    tiles: int
    slots: Sequence[ShownSlot]

    @property
    def used(self) -> Sequence[ShownSlot]:
        """The slots that are nearest to a tile, those with most attention first."""
        return sorted((slot for slot in self.slots if slot.use), key=lambda slot: -slot.attention)

    @property
    def unused(self) -> Sequence[str]:
        """Names of the others."""
        return [slot.name for slot in self.slots if not slot.use]


def slots_page(run: str, folds: Sequence[FoldSlots]) -> str:
    """The page as HTML, with all its pictures: one file that needs no other."""
    return TEMPLATES.get_template("slots.html").render(run=run, folds=folds)
