"""Arrays in the HDF5 files of TRIDENT, CLAM and STAMP, with their attributes: read, checked and written.

What is wrong with a file is a SlideError that names neither the file nor the way out: :func:`of_file` adds both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, SlideError
from ..files.hdf5 import read_hdf5
from ..files.reading_process import UnreadableError
from ..plain_files import refuse_pipe
from ..surroundings import patiently
from ..tiling.grid import Coords
from ..wording import some

_BLOCK_ROWS: Final = 4096


@dataclass(frozen=True)
class Attributes:
    """The attributes of an array or of a file."""

    values: Mapping[str, Any]

    def text(self, name: str) -> str | None:
        """None where it is missing, empty, or TRIDENT's None, which is written as a word."""
        value = self.values.get(name)
        text = value.decode() if isinstance(value, bytes) else str(value)
        return None if text in ("None", "") else text

    def number(self, name: str) -> float | None:
        """None where it is missing.

        :raises SlideError: it is no number, or a negative one.
        """
        value = self.values.get(name)
        if value is None or str(value) == "None":
            return None
        try:
            number = float(np.asarray(value, np.float64).reshape(()))
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise SlideError(f"its {name} is {value!r}, which is no size")
        return number

    def size(self, name: str) -> float:
        """A number without which nobody knows how large the tiles are.

        :raises SlideError: it is missing, or no size.
        """
        number = self.number(name)
        if not number:
            raise SlideError(f"it does not say how large the tiles are: no {name}")
        return number


@dataclass(frozen=True, eq=False)
class ReadArrays:
    """Some arrays of a file."""

    values: Mapping[str, Any]
    attributes: Mapping[str, Attributes]
    """Of each array that is read."""
    of_file: Attributes
    names: tuple[str, ...]
    """All that the file holds."""


@contextmanager
def of_file(path: str | PathLike[str], kind: type[InputError], hint: str) -> Iterator[None]:
    """Turn what is wrong with a file into an error of one kind that names the file, and this way out if none is given.

    :raises InputError: of that kind, for a SlideError within the block.
    """
    try:
        yield
    except SlideError as error:
        raise kind(error.what, path=error.path or path, hint=error.hint or hint) from error.__cause__ or error


def read_arrays(path: Path, *names: str) -> ReadArrays:
    """Read these arrays of a file, whole.

    :raises SlideError: no such file, no HDF5, damaged, or one of the arrays is not in it.
    :raises SurroundingsError: it cannot be read for some seconds.
    """
    read = read_some_arrays(path, *names)
    require(read, *names)
    return read


def read_some_arrays(path: Path, *names: str) -> ReadArrays:
    """Read those of these arrays that are in a file, whole.

    :raises SlideError: no such file, no HDF5, or damaged.
    :raises SurroundingsError: it cannot be read for some seconds.
    """
    return patiently(lambda: _read(path, names), path)


def require(read: ReadArrays, *names: str) -> None:
    """Refuse a file that lacks one of these arrays.

    :raises SlideError: it does; the message says what it holds.
    """
    if missing := [name for name in names if name not in read.values]:
        raise SlideError(f"no dataset `{missing[0]}` in it (it holds {some(sorted(read.names)) or 'nothing'})")


def _read(path: Path, names: tuple[str, ...]) -> ReadArrays:
    refuse_pipe(path, SlideError)
    try:
        content = read_hdf5(path, *names)
    except FileNotFoundError as error:
        raise SlideError("there is no such file") from error
    except UnreadableError as error:
        raise SlideError(f"not HDF5, or damaged: {error}") from error
    attributes = {name: Attributes(held) for name, held in content.attributes.items()}
    return ReadArrays(content.arrays, attributes, Attributes(content.of_file), content.names)


def tile_coords(values: Any) -> Coords:
    """Positions of tiles as whole pixels of level 0, (N, 2).

    :raises SlideError: another shape, no numbers, fractions, or negative.
    """
    coords = np.asarray(values)
    if coords.size == 0:
        return np.zeros((0, 2), np.int64)
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iuf":
        wrong = f"its coordinates have the shape {coords.shape} and the type {coords.dtype}, not (N, 2) and numbers"
        raise SlideError(wrong)
    if not (np.isfinite(coords) & (coords == np.round(coords)) & (np.abs(coords) < 2**40)).all():
        raise SlideError("its coordinates are not whole pixels of level 0")
    if (coords < 0).any():
        count = int((coords < 0).any(axis=1).sum())
        raise SlideError(f"its coordinates are not whole pixels of level 0: {count} tiles have negative coordinates")
    return coords.astype(np.int64)


def write_array(file: h5py.File, name: str, values: NDArray[Any], dtype: str) -> h5py.Dataset:
    """Write an array in one piece, without chunks and times, and converted a part at a time."""
    dataset = file.create_dataset(name, shape=values.shape, dtype=dtype, track_times=False)
    for start in range(0, len(values), _BLOCK_ROWS):
        dataset[start : start + _BLOCK_ROWS] = values[start : start + _BLOCK_ROWS].astype(dtype)
    return dataset
