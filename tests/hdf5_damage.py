"""Damage to HDF5 files that their library does not survive, or that makes them larger than any machine."""

from __future__ import annotations

from pathlib import Path

import h5py


def endless(content: bytes) -> bytes:
    """A file whose reading does not end, of one that holds texts of any length.

    They lie in collections of pieces one after the other; a piece of length 0 has itself for the next one.
    """
    first = content.index(b"GCOL") + 16
    return content[:first] + bytes(16) + content[first + 16 :]


def make_absurd(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Give a dataset a shape that nothing stands behind, in a file that stays small."""
    with h5py.File(path, "r+") as file:
        attributes, dtype = dict(file[name].attrs), file[name].dtype
        del file[name]
        dataset = file.create_dataset(name, shape, dtype, chunks=(1024, *shape[1:]))
        dataset.attrs.update(attributes)
    assert path.stat().st_size < 10_000_000
