"""A cache of decoded tiles: a tile is decoded once when regions are read row by row, by one thread or by many."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np

from ..errors import SurroundingsError
from ..surroundings import patiently
from ..units import LevelPx
from .codecs import decoder_of
from .slide import Mask, Rgb
from .tiff_layout import TiledLevel

CACHE_BYTES: Final = 256 * 2**20
"""Upper bound of the cache of one slide, apart from the tiles of the regions being read. A slide with short rows takes
less: the cache holds one row of tiles more than the tallest region so far."""


class DecodedTiles:
    """Tiles by level, row and column, decoded on first use; the least recently used are dropped first.

    :param white_gaps: whether missing tiles are white; if not, reading one gives None.
    :raises OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, levels: Mapping[int, TiledLevel], *, white_gaps: bool = False) -> None:
        self.levels = levels
        self._white_gaps = white_gaps
        self._decoders = {level: decoder_of(layout) for level, layout in levels.items()}
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        self._stamp = _stamp(self._file)
        self._lock = Lock()
        self._tiles: OrderedDict[tuple[int, int], Future[Rgb | None]] = OrderedDict()  # by level and index
        self._bytes = self._most_bytes = 0

    def region(self, level: int, left: int, top: int, width: LevelPx, height: LevelPx) -> Rgb | None:
        """Read the pixels of a region, (height, width, 3), white outside the level; None if one of its tiles fails.

        :param left, top: its upper left corner in pixels of ``level``.
        """
        layout = self.levels[level]
        x_from, x_to = max(left, 0), min(left + width, layout.width)
        y_from, y_to = max(top, 0), min(top + height, layout.height)
        if x_to - x_from == width and y_to - y_from == height:
            region = np.empty((height, width, 3), np.uint8)
        else:
            region = np.full((height, width, 3), 255, np.uint8)
            if x_from >= x_to or y_from >= y_to:
                return region
        tile_width, tile_height = layout.tile_width, layout.tile_height
        columns = range(x_from // tile_width, (x_to - 1) // tile_width + 1)
        rows = range(y_from // tile_height, (y_to - 1) // tile_height + 1)
        self._keep_rows(level, len(rows) + 1)
        for row in rows:
            tile_y = row * tile_height
            from_y, to_y = max(y_from, tile_y), min(y_to, tile_y + tile_height)
            for column, tile in zip(columns, self._of_row(level, row, columns), strict=True):
                if tile is None:
                    return None
                tile_x = column * tile_width
                from_x, to_x = max(x_from, tile_x), min(x_to, tile_x + tile_width)
                region[from_y - top : to_y - top, from_x - left : to_x - left] = tile[
                    from_y - tile_y : to_y - tile_y, from_x - tile_x : to_x - tile_x
                ]
        return region

    def gaps(self, level: int, left: int, top: int, width: LevelPx, height: LevelPx) -> Mask | None:
        """Mark the pixels of a region that lie in missing tiles, (height, width); None if no tile is missing."""
        layout = self.levels[level]
        if 0 not in layout.byte_counts:
            return None
        missing = np.array([not all(count for _, count in layout.parts_of(tile)) for tile in range(layout.tiles)])
        row, column = (np.arange(size) + start for size, start in ((height, top), (width, left)))
        inside = (row >= 0) & (row < layout.height), (column >= 0) & (column < layout.width)
        tiles = (row // layout.tile_height)[:, None] * layout.columns + column // layout.tile_width
        gaps = missing[tiles.clip(0, layout.tiles - 1)] & inside[0][:, None] & inside[1]
        return gaps if gaps.any() else None

    def decode(self, level: int, index: int) -> Rgb | None:
        """Decode one tile, (tile_height, tile_width, 3); None if it is missing or damaged."""
        layout = self.levels[level]
        rows = layout.rows_of(index)
        if self._white_gaps and not all(count for _, count in layout.parts_of(index)):
            return np.full((rows, layout.tile_width, 3), 255, np.uint8)
        streams = self.streams(level, index)
        return None if streams is None else self._decoders[level](streams, rows)

    def streams(self, level: int, index: int) -> list[bytes] | None:
        """Read a tile's compressed bytes, one stream or one per plane; None if the tile is missing.

        :raises SurroundingsError: it cannot be read.
        """
        streams: list[bytes] = []
        for offset, count in self.levels[level].parts_of(index):
            streams.append(patiently(lambda at=offset, size=count: self._bytes_at(at, size), self._path))  # type: ignore[misc]
            if not count or len(streams[-1]) != count:
                return None
        return streams

    def _bytes_at(self, offset: int, count: int) -> bytes:
        inside = min(count, self._stamp[0] - offset)  # more is only said to be there, and would be allocated
        try:
            content = os.pread(self._file, inside, offset) if inside > 0 else b""
        except OSError:
            with suppress(OSError):
                self._open_again()
            raise
        if len(content) < count and _stamp(self._file) != self._stamp:
            raise _other_file(self._path)
        return content

    def _open_again(self) -> None:
        """Reopen the file under the same descriptor: after a network fault the old handle may never work again.

        All threads use the new handle at once.
        """
        file = os.open(self._path, os.O_RDONLY)
        try:
            if _stamp(file) != self._stamp:
                raise _other_file(self._path)
            os.dup2(file, self._file)
        finally:
            os.close(file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._tiles.clear()
        self._bytes = 0

    def _keep_rows(self, level: int, rows: int) -> None:
        """Enlarge the cache to hold this many rows of a level's tiles, up to :data:`CACHE_BYTES`."""
        wanted = min(rows * self.levels[level].columns * self.levels[level].tile_bytes, CACHE_BYTES)
        if wanted > self._most_bytes:
            with self._lock:
                self._most_bytes = max(self._most_bytes, wanted)

    def _of_row(self, level: int, row: int, columns: range) -> list[Rgb | None]:
        """Read some tiles of a row, from the cache where possible.

        The first caller decodes a tile; others wait on its future. A thread decodes its own tiles before it waits, so
        that two threads never wait on each other.
        """
        first = row * self.levels[level].columns
        futures: list[Future[Rgb | None]] = []
        mine: dict[int, Future[Rgb | None]] = {}
        with self._lock:
            for index in range(first + columns.start, first + columns.stop):
                future = self._tiles.get((level, index))
                if future is None:
                    future = mine[index] = self._tiles[level, index] = Future()
                    self._bytes += self.levels[level].tile_bytes
                else:
                    self._tiles.move_to_end((level, index))
                futures.append(future)
            while self._bytes > self._most_bytes:
                (oldest, _), _ = self._tiles.popitem(last=False)
                self._bytes -= self.levels[oldest].tile_bytes
        for index, future in mine.items():
            try:
                future.set_result(self.decode(level, index))
            except BaseException as error:  # storage fails, or an interrupt: the waiting threads must get the error
                self._forget(level, mine)
                for unfinished in mine.values():
                    if not unfinished.done():
                        unfinished.set_exception(error)
                raise
        return [future.result() for future in futures]

    def _forget(self, level: int, tiles: Mapping[int, Future[Rgb | None]]) -> None:
        """Remove tiles that were not decoded from the cache, so that the next caller reads them again."""
        with self._lock:
            for index, future in tiles.items():
                if not future.done() and self._tiles.get((level, index)) is future:
                    del self._tiles[level, index]
                    self._bytes -= self.levels[level].tile_bytes


def _stamp(file: int) -> tuple[int, int]:
    """Size and modification time of an open file, which reveal that the file was replaced."""
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns


def _other_file(path: Path) -> SurroundingsError:
    hint = "let whatever writes to it finish, then run the same command again"
    return SurroundingsError("was replaced or changed while it was being read", path=path, hint=hint)
