"""Streaming reader and writer of a zarr v3 array's rows: one shard, in the memory of one chunk.

zarr's own writer needs a whole shard in memory and its size in advance. In a shard (zarr v3 ``sharding_indexed``, index
at the end) chunks may be stored in any order, and the index comes last; so chunks can be written as they fill, and the
array's metadata when its length is known. The bytes equal those that zarr's writer produces for the whole array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zarr
from numcodecs import Zstd
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from ..files.zarr_store import UNREADABLE
from ..surroundings import patiently, reading_fault

_CHUNK_BYTES = 1 << 20
"""About this much is decompressed at a time when rows are read."""

_BLOCK_BYTES = 8 << 20
"""About this much is read at a time if more is requested."""

_LEVEL = 3
"""Level of zstd: levels 1 to 6 compress features equally well, at over 1 GB/s on one core; lz4 saves nothing."""

Rows = int | slice | list[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]
"""A selection of rows, as in NumPy."""


class RowReader:
    """A two-dimensional array whose rows are read on access, chunk by chunk.

    :param folder: the folder of the store.
    :param lost: the fill value that zarr returns if a file is missing.
    :param damaged: builds the error to raise if rows are lost or damaged.
    """

    def __init__(
        self, array: zarr.Array, folder: Path, *, lost: float, damaged: Callable[[Exception], Exception]
    ) -> None:
        rows, width = array.shape
        self.shape: tuple[int, int] = (rows, width)
        self.dtype: np.dtype[Any] = array.dtype
        self._array, self._folder, self._lost, self._damaged = array, folder, lost, damaged

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """Read rows: (n, width), or (width,) for one row.

        :raises IndexError: there is no such row.
        :raises SurroundingsError: the store cannot be read for some seconds.
        """
        index = np.arange(len(self))[rows]
        values = np.empty((index.size, self.shape[1]), self.dtype)
        step = max(1, _BLOCK_BYTES // max(1, self.shape[1] * self.dtype.itemsize))
        wanted = np.atleast_1d(index)
        order = np.argsort(wanted, kind="stable")  # so that each chunk is decompressed about once
        for start in range(0, index.size, step):  # all of a long slide at once would be in memory twice
            block = order[start : start + step]
            values[block] = patiently(partial(self._read, wanted[block]), self._folder)
        return values.reshape(*index.shape, self.shape[1])

    def stored(self, rows: slice) -> NDArray[Any]:
        """Read rows as they are stored, (n, width): NaN and infinity too, and the fill value where a part is lost."""
        return patiently(partial(self._stored, np.arange(len(self))[rows]), self._folder)

    def _read(self, index: NDArray[np.integer[Any]]) -> NDArray[Any]:
        values = self._stored(index)
        if not np.isfinite(values).all() or (values == self._lost).any():
            self._folder.stat()  # zarr also returns the fill value if the whole store is gone, for example its disk
            raise self._damaged(ValueError("a part of it is lost"))
        return values

    def _stored(self, index: NDArray[np.integer[Any]]) -> NDArray[Any]:
        in_a_row = bool((np.diff(index) == 1).all())
        try:
            values = self._array[index[0] : index[-1] + 1] if in_a_row else self._array.oindex[index]
        except UNREADABLE as error:
            if reading_fault(error):
                raise
            raise self._damaged(error) from error
        return np.asarray(values)


class RowWriter:
    """A two-dimensional array in a zarr group on disk, written from the first row to the last.

    :param group: the group in ``folder`` that gets the array; it must not contain one of that name.
    :param lost: the fill value that zarr returns if a file of the array is missing; must never occur as a value.
    """

    def __init__(self, group: zarr.Group, folder: Path, name: str, *, width: int, dtype: str, lost: float) -> None:
        self._group, self._name, self._lost = group, name, lost
        self._file = folder / name / "c" / "0" / "0"
        self.rows, self.width = 0, width
        self.chunk_rows = max(1, _CHUNK_BYTES // max(1, width * np.dtype(dtype).itemsize))
        self._chunk: NDArray[Any] = np.empty((self.chunk_rows, width), dtype)
        self._filled = 0
        self._index: list[tuple[int, int]] = []
        """Offset in the shard and length in bytes of each chunk."""
        self._stream: BinaryIO | None = None

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows: full chunks are written, the rest is kept until the next call."""
        while len(rows):
            taken = rows[: len(self._chunk) - self._filled]
            self._chunk[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self.rows += len(taken)
            rows = rows[len(taken) :]
            if self._filled == self.chunk_rows:
                self._write_chunk()

    def finish(self) -> None:
        """Write the last chunk, the shard's index and the array's metadata."""
        chunk = self.chunk_rows if self._index else max(1, self._filled)  # a single chunk is as short as the array
        if self._filled:
            padded = np.full((chunk, self.width), self._lost, self._chunk.dtype)
            padded[: self._filled] = self._chunk[: self._filled]
            self._chunk = padded
            self._write_chunk()
        if self._stream is not None:
            self._stream.write(CRC32C(location="end").encode(np.array(self._index, "<u8")))
        self.close()
        self._group.create_array(
            self._name,
            shape=(self.rows, self.width),
            dtype=self._chunk.dtype,
            chunks=(chunk, self.width),
            shards=(chunk * max(1, len(self._index)), self.width),
            compressors=ZstdCodec(level=_LEVEL, checksum=True),
            fill_value=self._lost,
        )

    def close(self) -> None:
        """Close the file, finished or not."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _write_chunk(self) -> None:
        if self._stream is None:
            self._file.parent.mkdir(parents=True)
            self._stream = self._file.open("wb")
        little_endian = self._chunk.astype(self._chunk.dtype.newbyteorder("<"), copy=False)
        packed = Zstd(level=_LEVEL, checksum=True).encode(little_endian)
        self._index.append((self._stream.tell(), len(packed)))
        self._stream.write(packed)
        self._filled = 0
