"""A white page of images and text, saved as PNG or JPEG; the same content gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Rgb = npt.NDArray[np.uint8]
Align = Literal["left", "centre", "right"]

MARGIN: Final = 24
LINE: Final = 22
"""Height of a line of ordinary text, in pixels."""
FAINT: Final = (100, 106, 114)

_INK: Final = (28, 31, 35)
_SIZE: Final = 14
_TITLE_SIZE: Final = 18
FACES: Final = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # the same face on every machine


@dataclass
class Sheet:
    """A page that grows downwards: content is placed at the current height ``y``, which :meth:`gap` increases.

    :param width: width of the page in pixels, including margins.
    """

    width: int
    y: int = MARGIN
    _pictures: list[tuple[int, int, Rgb]] = field(default_factory=list)
    _texts: list[tuple[int, int, str, tuple[int, int, int], ImageFont.FreeTypeFont]] = field(default_factory=list)

    def gap(self, height: int) -> None:
        """Move the current height down by so many pixels."""
        self.y += height

    def title(self, text: str) -> None:
        """Add large text over the whole width, wrapped into lines."""
        for row in wrap(text, self.width - 2 * MARGIN, font(_TITLE_SIZE, bold=True)):
            self._texts.append((MARGIN, self.y, row, _INK, font(_TITLE_SIZE, bold=True)))
            self.gap(_TITLE_SIZE + 8)

    def paragraph(self, x: int, text: str, width: int) -> None:
        """Add ordinary text, wrapped into lines."""
        for row in wrap(text, width, font(_SIZE)):
            self.text(x, row)
            self.gap(LINE)

    def text(
        self, x: int, text: str, *, below: int = 0, ink: tuple[int, int, int] = _INK, align: Align = "left"
    ) -> None:
        """Add one line of text that begins at ``x``, is centred on it or ends there, ``below`` the current height."""
        before = {"left": 0.0, "centre": 0.5, "right": 1.0}[align] * font(_SIZE).getlength(text)
        self._texts.append((x - round(before), self.y + below, text, ink, font(_SIZE)))

    def picture(self, x: int, image: Rgb, *, below: int = 0) -> None:
        """Add an image (H, W, 3) with its upper left corner ``below`` pixels below the current height."""
        self._pictures.append((x, self.y + below, image))

    def png(self) -> bytes:
        """The page as PNG, cut a margin below the lowest content. The file has no date and no text fields."""
        return self._encoded(".png", [])

    def jpeg(self, quality: int) -> bytes:
        """The same as JPEG, a fraction of the size, for pages that hold their pictures.

        :param quality: 1 to 100.
        """
        return self._encoded(".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])

    def _encoded(self, kind: str, how: list[int]) -> bytes:
        bottoms = [y + image.shape[0] for _, y, image in self._pictures] + [y + LINE for _, y, *_ in self._texts]
        canvas = np.full((max(bottoms) + MARGIN, self.width, 3), 255, np.uint8)
        for x, y, image in self._pictures:
            canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
        page = Image.fromarray(canvas)
        draw = ImageDraw.Draw(page)
        for x, y, text, ink, font in self._texts:
            draw.text((x, y), text, fill=ink, font=font)
        _, data = cv2.imencode(kind, cv2.cvtColor(np.asarray(page), cv2.COLOR_RGB2BGR), how)
        return data.tobytes()


def wrap(text: str, width: float, font: ImageFont.FreeTypeFont) -> list[str]:
    """Wrap text into lines of at most ``width`` pixels; a wider word (a long slide id) is broken."""
    rows = [""]
    for word in text.split():
        joined = f"{rows[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            rows[-1] = joined
            continue
        if rows[-1]:
            rows.append("")
        for letter in word:
            if rows[-1] and font.getlength(rows[-1] + letter) > width:
                rows.append("")
            rows[-1] += letter
    return rows


@lru_cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all text on images, ``size`` pixels high."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    # The basic layout engine is always available; the other one depends on a system library.
    return ImageFont.truetype(FACES / name, size, layout_engine=ImageFont.Layout.BASIC)
