"""A slide cut into windows for a segmentation network, so that the cuts do not show in the mask.

A network knows little about the rim of what it sees. It is therefore given windows of 512 px, the size that it was
trained on, and only the middle of each is used; neighbouring windows overlap by the rest. The pixels that it sees are
the same whichever window they are in: the slide is divided into squares of 64 px (steps), each is resized by itself,
and windows begin and end with them. What a network says of a pixel by its surroundings, as far as the margin reaches,
does not depend on the cuts. Networks that also weigh a window as a whole, as both published ones do, differ a little
from window to window.

The middles consist of whole pixels of the mask, so none of these mixes two windows, and rounding does not add up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from ..data.errors import SlideError
from ..data.slides.slide import Rgb, Slide
from ..data.tiling.overview import WITHIN, Overview, sufficient_levels
from ..data.units import Level0Px, LevelPx, Mpp

STEP: Final = 64
"""Pixels of the network along a step; two steps are a whole number of pixels of the mask."""
MIDDLE: Final = 6
MARGIN: Final = 1
"""Steps of a window that are used, and those around them on each side: of 512 px the middle 384."""
WINDOWS: Final = f"the middle {MIDDLE * STEP} of {(MIDDLE + 2 * MARGIN) * STEP} px"
"""How a slide is cut, for the record of what a mask was made with."""

_MULTIPLE: Final = 32  # px: encoders halve a picture five times

_Cell = tuple[int, int]
Network = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""Computes a number for each pixel: (B, height, width, 3) RGB → (B, height, width)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The middle of a window: where it lies in the mask."""

    row: int
    column: int
    """Its number among the middles, from above and from the left."""
    rows: slice
    columns: slice
    """In pixels of the mask."""

    @property
    def at(self) -> tuple[slice, slice]:
        return self.rows, self.columns

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the mask."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows over one slide. All have the same size, unless the slide is smaller."""

    shape: tuple[int, int]
    """Height and width of the mask."""
    factor: int
    """Pixels of the overview along one of the mask."""
    downsample: float
    """Pixels of level 0 along one of the mask."""
    cells: int
    """Pixels of the mask along two steps."""
    most: Mpp
    """Most microns per pixel of the level that is read, if the slide has one as fine."""
    middle: int = MIDDLE
    margin: int = MARGIN
    """In steps; the middle has an even number of them."""

    @classmethod
    def over(cls, overview: Overview, factor: int, mpp: Mpp, **cut: int) -> Self:
        """Lay windows over a slide, for a network at about ``mpp``: to 4 % where a pixel of the mask has 8 µm.

        :param factor: pixels of the overview along one of the mask.
        :param cut: ``middle`` and ``margin``, if not the usual ones.
        """
        height, width = (-(-side // factor) for side in overview.pixels.shape[:2])
        return cls(
            shape=(height, width),
            factor=factor,
            downsample=overview.downsample * factor,
            cells=max(round(2 * STEP * mpp / (overview.mpp * factor)), 1),
            most=Mpp(mpp * WITHIN),
            **cut,
        )

    def parts(self) -> Iterator[Part]:
        """Yield the middles of all windows, row by row."""
        side = self.middle * self.cells // 2
        height, width = self.shape
        for row, top in enumerate(range(0, height, side)):
            for column, left in enumerate(range(0, width, side)):
                rows, columns = slice(top, min(top + side, height)), slice(left, min(left + side, width))
                yield Part(row=row, column=column, rows=rows, columns=columns)

    def is_white(self, overview: Overview, part: Part) -> bool:
        """Whether a part is pure white in the overview: not scanned, or transparent."""
        rows, columns = (slice(side.start * self.factor, side.stop * self.factor) for side in part.at)
        return bool(overview.pixels[rows, columns].min() == 255)

    def on_mask(self, values: npt.NDArray[np.float32], part: Part) -> npt.NDArray[np.float32]:
        """Compute the mean over each pixel of the mask of what was computed for the pixels of a part.

        Two steps at a time, so that no sum depends on where the part begins.
        """
        square, (height, width) = 2 * STEP, part.size
        means = np.empty((-(-height // self.cells) * self.cells, -(-width // self.cells) * self.cells), np.float32)
        below, beside = (-side % square for side in values.shape)
        whole = np.pad(values, ((0, below), (0, beside)), mode="edge")
        for row in range(whole.shape[0] // square):
            for column in range(whole.shape[1] // square):
                pixels = whole[row * square : (row + 1) * square, column * square : (column + 1) * square]
                means[row * self.cells : (row + 1) * self.cells, column * self.cells : (column + 1) * self.cells] = (
                    _resized(pixels, self.cells, self.cells)
                )
        return means[:height, :width]

    def run(
        self, slide: Slide, parts: Iterable[Part], network: Network, batch: int, readers: int = 1
    ) -> Generator[tuple[Part, npt.NDArray[Any] | SlideError], None, None]:
        """Yield what the network computes for the pixels of each part, or why the slide cannot be decoded there.

        Windows are read from the coarsest level that is fine enough, a few batches at a time, so memory does not grow
        with the slide. Where a window cannot be decoded, the network sees its middle alone. Parts come in any order.

        :param batch: windows that the network is given at a time, always so many: a GPU takes seconds to get ready for
            each new shape.
        :param readers: threads that read windows ahead.
        """
        level = sufficient_levels(slide, self.most)[0]
        waiting: dict[tuple[int, ...], list[tuple[Part, Rgb, _Cell]]] = {}
        for part, read in self._ahead(slide, level, parts, readers, 2 * batch):
            try:
                seen, at = read()
            except SlideError as error:
                yield part, error
                continue
            alike = waiting.setdefault(seen.shape, [])
            alike.append((part, seen, at))
            if len(alike) == batch:
                yield from self._through(network, waiting.pop(seen.shape), batch)
        for alike in waiting.values():
            yield from self._through(network, alike, batch)

    def _through(
        self, network: Network, alike: list[tuple[Part, Rgb, _Cell]], batch: int
    ) -> Iterator[tuple[Part, npt.NDArray[Any]]]:
        pictures = np.zeros((batch, *alike[0][1].shape), np.uint8)
        for picture, (_, seen, _) in zip(pictures, alike, strict=False):
            picture[:] = seen
        for (part, _, (top, left)), computed in zip(alike, network(pictures), strict=False):
            height, width = (
                min((number + 1) * self.middle * STEP, pixels) - number * self.middle * STEP
                for number, pixels in zip((part.row, part.column), self._pixels, strict=True)
            )
            yield part, computed[top : top + height, left : left + width]

    @property
    def _pixels(self) -> tuple[int, int]:
        """Height and width of the slide in pixels of the network."""
        height, width = (-(-side * 2 * STEP // self.cells) for side in self.shape)
        return height, width

    def _ahead(
        self, slide: Slide, level: int, parts: Iterable[Part], readers: int, most: int
    ) -> Iterator[tuple[Part, Callable[[], tuple[Rgb, _Cell]]]]:
        """Yield each part with what reads its window or waits for the thread that does; so many lie waiting at most."""
        if readers == 1:
            yield from ((part, partial(self._seen, slide, level, part)) for part in parts)
            return
        with ThreadPoolExecutor(readers, thread_name_prefix="windows") as pool:
            waiting: deque[tuple[Part, Callable[[], tuple[Rgb, _Cell]]]] = deque()
            for part in parts:
                waiting.append((part, pool.submit(self._seen, slide, level, part).result))
                if len(waiting) > most:
                    yield waiting.popleft()
            yield from waiting

    def _seen(self, slide: Slide, level: int, part: Part) -> tuple[Rgb, _Cell]:
        """Read the window of a part, or the part alone; also return where the part begins in it, in its pixels."""
        try:
            return self._window(slide, level, part, self.margin)
        except SlideError:
            return self._window(slide, level, part, 0)

    def _window(self, slide: Slide, level: int, part: Part, margin: int) -> tuple[Rgb, _Cell]:
        (top, bottom), (left, right) = (
            self._steps(number, -(-pixels // STEP), margin)
            for number, pixels in zip((part.row, part.column), self._pixels, strict=True)
        )
        rows, columns = (
            _Axis(first, last, pixels, self.downsample * self.cells / (2 * STEP) / slide.level_downsamples[level])
            for first, last, pixels in ((top, bottom, self._pixels[0]), (left, right, self._pixels[1]))
        )
        read = slide.read(
            level,
            Level0Px(round(columns.edges[0] * slide.level_downsamples[level])),
            Level0Px(round(rows.edges[0] * slide.level_downsamples[level])),
            LevelPx(columns.edges[-1] - columns.edges[0]),
            LevelPx(rows.edges[-1] - rows.edges[0]),
        )
        seen = np.empty((sum(rows.sizes), sum(columns.sizes), 3), np.uint8)
        for (from_row, to_row), (y, height) in rows.squares():
            for (from_column, to_column), (x, width) in columns.squares():
                square = _resized(read[from_row:to_row, from_column:to_column], width, height)
                seen[y : y + height, x : x + width] = square
        below, beside = (-side % _MULTIPLE for side in seen.shape[:2])
        if below or beside:
            seen = np.asarray(cv2.copyMakeBorder(seen, 0, below, 0, beside, cv2.BORDER_REPLICATE), np.uint8)
        return seen, ((part.row * self.middle - top) * STEP, (part.column * self.middle - left) * STEP)

    def _steps(self, number: int, count: int, margin: int) -> tuple[int, int]:
        """First and last step of a window along an axis; at the slide's edge it reaches further inwards."""
        first, last = number * self.middle, min((number + 1) * self.middle, count)
        if margin:
            size = min(self.middle + 2 * margin, count)
            first = max(min(first - margin, count - size), 0)
            last = first + size
        return first, last


class _Axis:
    """The steps of a window along one axis: edges in pixels of the level, sizes in pixels of the network."""

    def __init__(self, first: int, last: int, pixels: int, scale: float) -> None:
        at = [min(step * STEP, pixels) for step in range(first, last + 1)]
        self.edges = [round(pixel * scale) for pixel in at]
        self.edges = [max(edge, self.edges[0] + number) for number, edge in enumerate(self.edges)]  # a pixel at least
        self.sizes = [end - start for start, end in pairwise(at)]

    def squares(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield for each step its edges in what was read, and where it begins in the window and its size."""
        begin = 0
        for (start, end), size in zip(pairwise(self.edges), self.sizes, strict=True):
            yield (start - self.edges[0], end - self.edges[0]), (begin, size)
            begin += size


def _resized(picture: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[Any]:
    """Resize a picture: area means when it shrinks, linear interpolation when it grows."""
    way = cv2.INTER_AREA if width <= picture.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=way))
