"""HDF5 files: arrays and attributes, read where damage does no harm (:mod:`.reading_process`), and written whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..artifact import whole
from .reading_process import UnreadableError, in_bytes, most_bytes, read_in_a_process


@dataclass(frozen=True, eq=False)
class Hdf5Content:
    """What was asked for of a file."""

    arrays: Mapping[str, NDArray[Any]]
    """Those of the arrays asked for that are in it; none if only shapes were asked for."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the same arrays."""
    attributes: Mapping[str, Mapping[str, Any]]
    """Of each of these: numbers, texts and arrays; anything else as the text that describes it."""
    of_file: Mapping[str, Any]
    names: tuple[str, ...]
    """All that lies at the root of the file."""


def read_hdf5(path: Path, *names: str, only_shapes: bool = False) -> Hdf5Content:
    """Read these arrays of a file, whole, as far as they are in it.

    :param only_shapes: of the arrays read their shapes and attributes, and none of their numbers.
    :raises UnreadableError: it is no HDF5, or damaged, or an array is larger than what a file of this size may hold.
    :raises OSError: a failure of the machine, for :func:`.surroundings.patiently`.
    :raises SurroundingsError: the storage does not answer, or no memory is left.
    """
    return read_in_a_process(_read, path, names, only_shapes)


def refuse_absurd(name: str, cells: tuple[int, ...], itemsize: int, path: Path) -> None:
    """Refuse an array before it is read: one of more bytes than a file of this size can honestly hold.

    :param cells: its shape, or the shape of what becomes of it.
    :raises UnreadableError: it is too large; the message has the limit.
    """
    size = path.stat().st_size
    if (needed := prod(cells) * itemsize) > (most := most_bytes(size)):
        shape = " × ".join(f"{side:,}" for side in cells)
        raise UnreadableError(
            f"`{name}` has the shape {shape}, which is {in_bytes(needed)}; a file of {in_bytes(size)} may hold "
            f"{in_bytes(most)} (if it is sound, write it without compression)"
        )


def _read(path: Path, names: tuple[str, ...], only_shapes: bool) -> Hdf5Content:
    with h5py.File(path, "r") as file:
        refuse_other_files(file)
        found = {name: held for name in names if isinstance(held := file.get(name), h5py.Dataset)}
        for name, dataset in found.items():
            refuse_absurd(name, dataset.shape or (), dataset.dtype.itemsize, path)
        return Hdf5Content(
            {} if only_shapes else {name: np.asarray(dataset[()]) for name, dataset in found.items()},
            {name: dataset.shape or () for name, dataset in found.items()},
            {name: _attributes(dataset) for name, dataset in found.items()},
            _attributes(file),
            tuple(map(_text, file)),
        )


def refuse_other_files(file: h5py.Group) -> None:
    """Refuse a file that has other files read in its stead, which may lie anywhere on this machine.

    HDF5 follows links to other files, and takes the numbers of an array from other files: those of its external
    storage, or the sources of a virtual array.

    :raises UnreadableError: it does; the message says where.
    """

    links = file.id.links
    names: list[bytes] = []
    links.visit(names.append)  # as bytes: they need not be text, and h5py's own walk takes them for text
    for name in names:
        kind = links.get_info(name).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            elsewhere = _text(links.get_val(name)[0])
            what = f"`{_text(name)}` is a link to another file, which is not followed: {elsewhere!a}"
            raise UnreadableError(what)
        held = file[name] if kind == h5py.h5l.TYPE_HARD else None  # a soft one leads to a place in this file
        if isinstance(held, h5py.Dataset):
            virtual = held.is_virtual and any(part.file_name != "." for part in held.virtual_sources())
            if virtual or held.external:
                raise UnreadableError(f"the numbers of `{_text(name)}` are in another file, which is not opened")


@contextmanager
def whole_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file that is made in memory, and written whole to ``path`` when the block succeeds.

    The library leaves a file open of which it cannot write the end, on a full disk, and crashes when Python ends.

    :raises SurroundingsError: the disk is full or read-only.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        yield file
    with whole(path) as scratch:
        scratch.write_bytes(buffer.getbuffer())


def _attributes(of: h5py.HLObject) -> dict[str, Any]:
    return {_text(name): _plain(value) for name, value in of.attrs.items()}


def _plain(value: Any) -> Any:
    """An attribute's value as something that does not need the open file: a reference becomes a description of it."""
    if isinstance(value, np.generic | np.ndarray) and not value.dtype.hasobject and not isinstance(value, bytes):
        return value
    return _text(value if isinstance(value, str | bytes) else str(value))


def _text(value: str | bytes) -> str:
    """A text that can be written again: bytes in it that are no UTF-8 are written out."""
    content = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    return content.decode("utf-8", "backslashreplace")
