"""A zarr store on disk that may come from a stranger: zarr is given only what was checked before.

Zarr reads whatever a store's metadata ask for: in format 2 objects that are unpickled, which runs code, and in any
format arrays of a size that no memory has. Here it finds format 3 alone, codecs and types of numbers from a list, sizes
that the files on disk can hold, and compressed chunks that unpack into as much as their array says.
"""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numcodecs import Zstd
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from ..artifact import files_of, is_stray
from ..errors import InputError
from ..json_text import parse_json

UNREADABLE: Final = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    ZarrUserWarning,
)
"""Errors that zarr raises for a damaged store, depending on where the damage is."""

_BYTES_OF: Final = {
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{"bool": 1, "float16": 2, "float32": 4, "float64": 8},
}
_TEXT: Final = "string"
_BYTES_OF_A_TEXT: Final = 16
_CODECS: Final = frozenset({"bytes", "crc32c", "sharding_indexed", "vlen-utf8", "zstd"})
_CODEC: Final = {False: "bytes", True: "vlen-utf8"}
"""Of numbers and of texts."""
_ALWAYS: Final = 256 << 20
"""An array of up to so many bytes is read however small its files are."""
_RATIO: Final = 1000
"""A larger one may be so many times as large as its files; features compress to nine tenths."""
_MOST_CHUNKS: Final = 10_000
"""Files of an array, where fewer exist; and a hundred times as many chunks in a file."""
_MOST_METADATA: Final = 64 << 20
_OF_FORMAT_2: Final = frozenset({".zarray", ".zgroup", ".zattrs", ".zmetadata"})
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class UncheckedStore(ValueError):  # noqa: N818  named after what was found
    """A store asks for something that is not read from a file that anybody may have written."""


@dataclass(frozen=True)
class _Chunks:
    """What a file of an array holds: chunks of so many bytes at most, in a shard so many of them."""

    bytes: int
    packed: bool
    """Whether they are compressed: by the array's codecs, whatever the bytes look like."""
    in_a_shard: int | None = None
    texts: int | None = None
    """Number of texts in a chunk of them."""


class CheckedStore(LocalStore):  # type: ignore[misc]  # zarr has no types
    """A store on disk for reading, less what file browsers leave in its folders.

    :raises UncheckedStore: by whatever is read of it; see :func:`open_zarr`.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self._arrays: dict[str, _Chunks] = {}

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a file of the store, or a part of it."""
        folder, _, name = key.rpartition("/")
        path = self.root / key
        if name in _OF_FORMAT_2:
            return None
        if path.exists() and not path.is_file():
            raise UncheckedStore(f"{key} is a folder or something else, not a file")
        if name == "zarr.json" and path.exists() and path.stat().st_size > _MOST_METADATA:
            raise UncheckedStore(f"{key} is larger than {_MOST_METADATA:,} bytes")
        value = await super().get(key, prototype, byte_range)
        if value is None:
            return None
        content = value.as_numpy_array()
        if name == "zarr.json":
            chunks = _checked(parse_json(content.tobytes()), self.root / folder, key)
            if chunks is not None:
                self._arrays[folder] = chunks
        elif (chunks := self._arrays.get(key.removesuffix("/c").partition("/c/")[0])) is not None:
            _check_chunks(content, chunks, whole=byte_range is None, key=key)
        return value

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List a folder of the store."""
        async for name in super().list_dir(prefix):
            if not is_stray(name):
                yield name


def open_zarr(path: str | PathLike[str]) -> zarr.Group:
    """Open a store for reading; what is read of it is checked as it is read.

    :raises UncheckedStore: it is of zarr's format 2, or asks for what is not read (:class:`CheckedStore`).
    :raises Exception: one of :data:`UNREADABLE`: no store, or a damaged one.
    """
    path = Path(path)
    if path.is_dir() and not (path / "zarr.json").exists() and any((path / name).exists() for name in _OF_FORMAT_2):
        raise UncheckedStore("it is of zarr's format 2, of which reading may run code, and only format 3 is read")
    return zarr.open_group(CheckedStore(path), mode="r", zarr_format=3, use_consolidated=False)


def _checked(metadata: Any, folder: Path, key: str) -> _Chunks | None:
    """Check a ``zarr.json``; of an array, tell what its files hold."""
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        raise UncheckedStore(f"{key} is not of zarr's format 3")
    if metadata.get("consolidated_metadata") is not None:
        raise UncheckedStore(f"{key} has consolidated metadata, which the format does not define yet")
    if metadata.get("node_type") != "array":
        return None
    if metadata.get("storage_transformers"):
        raise UncheckedStore(f"{key} has storage transformers")
    kind, grid = metadata.get("data_type"), metadata.get("chunk_grid")
    if not isinstance(kind, str) or kind not in {_TEXT, *_BYTES_OF}:
        raise UncheckedStore(f"{key} has values of the type {str(kind)[:60]!a}")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise UncheckedStore(f"{key} has no regular chunks")
    return _checked_sizes(metadata, folder, key, _BYTES_OF.get(kind, _BYTES_OF_A_TEXT), text=kind == _TEXT)


def _checked_sizes(metadata: dict[str, Any], folder: Path, key: str, value: int, *, text: bool) -> _Chunks:
    try:
        there = files_of(folder)
    except InputError as error:  # a pipe in place of a file
        raise UncheckedStore(error.what) from error
    on_disk = sum(file.stat().st_size for file in there)
    most = max(_ALWAYS, _RATIO * on_disk)
    shape = _sizes(metadata.get("shape"), 0, key)
    file = _sizes(metadata["chunk_grid"].get("configuration", {}).get("chunk_shape"), 1, key)
    packed = _check_codecs(metadata.get("codecs"), key, text=text)
    if len(file) != len(shape):
        raise UncheckedStore(f"{key} has chunks of another number of axes")
    for what, sizes in (("an array", shape), ("a chunk", file)):
        if (claimed := math.prod(sizes) * value) > most:
            shown = " × ".join(f"{size:,}" for size in sizes)
            raise UncheckedStore(
                f"{key} claims {what} of {shown} values, {claimed:,} bytes, in files of {on_disk:,} bytes: "
                f"at most {most:,} are read"
            )
    files = math.prod(-(-size // of_file) for size, of_file in zip(shape, file, strict=True))
    if files > max(_MOST_CHUNKS, 2 * len(there)):
        raise UncheckedStore(f"{key} claims {files:,} chunks, and {len(there):,} files are there")
    shard = metadata["codecs"][0]
    if shard["name"] != "sharding_indexed":
        return _Chunks(most, packed, texts=math.prod(file)) if text else _Chunks(math.prod(file) * value, packed)
    inner = _sizes(shard["configuration"].get("chunk_shape"), 1, key)
    if len(inner) != len(file) or any(whole % part for whole, part in zip(file, inner, strict=True)):
        raise UncheckedStore(f"{key} has shards that are no whole number of chunks")
    in_a_shard = math.prod(whole // part for whole, part in zip(file, inner, strict=True))
    if in_a_shard > 100 * _MOST_CHUNKS:
        raise UncheckedStore(f"{key} claims {in_a_shard:,} chunks in a shard")
    return _Chunks(math.prod(inner) * value, packed, in_a_shard)


def _sizes(value: Any, least: int, key: str) -> list[int]:
    if not isinstance(value, list) or not all(type(size) is int and size >= least for size in value):
        raise UncheckedStore(f"{key} has the sizes {str(value)[:60]!a}")
    return value


def _check_codecs(codecs: Any, key: str, *, text: bool, in_a_shard: bool = False) -> bool:
    """Refuse other codecs than those of our stores, which compress once, and shards within shards.

    :returns: whether they compress.
    """
    names = _names(codecs, key)
    if names == ["sharding_indexed"] and not in_a_shard and not text:
        configuration = codecs[0].get("configuration")
        if not isinstance(configuration, dict) or configuration.get("index_location", "end") != "end":
            raise UncheckedStore(f"{key} has shards of another layout")
        packed = _check_codecs(configuration.get("codecs"), key, text=False, in_a_shard=True)
        if (of_index := _names(configuration.get("index_codecs"), key)) != ["bytes", "crc32c"]:
            raise UncheckedStore(f"{key} has the codecs {', '.join(of_index)} in the index of its shards")
        return packed
    if names not in ([_CODEC[text]], [_CODEC[text], "zstd"]):
        raise UncheckedStore(f"{key} has the codecs {', '.join(names)} in another order than is read")
    return names[-1] == "zstd"


def _names(codecs: Any, key: str) -> list[str]:
    if not isinstance(codecs, list):
        raise UncheckedStore(f"{key} has no list of codecs")
    names: list[str] = []
    for codec in codecs:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if not isinstance(name, str) or name not in _CODECS:
            raise UncheckedStore(f"{key} has the codec {str(name)[:60]!a}: only {', '.join(sorted(_CODECS))} are read")
        names.append(name)
    return names


def _check_chunks(content: np.ndarray[Any, Any], chunks: _Chunks, *, whole: bool, key: str) -> None:
    """Refuse compressed chunks that would unpack into more than their array says."""
    data = np.ascontiguousarray(content).data.cast("B")
    starts = [0]
    if chunks.in_a_shard is not None and whole:
        size = 16 * chunks.in_a_shard + 4  # offsets, lengths, checksum
        index = np.frombuffer(data[-size:-4], "<u8")[::2] if len(data) >= size else np.array([], "<u8")
        starts = [start for start in index.tolist() if start < len(data)]
    for start in starts if chunks.packed else ():
        claimed = _unpacked(data[start : start + 18])
        if claimed is not None and claimed > chunks.bytes:
            raise UncheckedStore(
                f"{key} would unpack into {claimed:,} bytes, more than the {chunks.bytes:,} of a chunk"
            )

    if chunks.texts is not None:
        _check_texts(bytes(data), chunks.texts, key, packed=chunks.packed)


def _check_texts(content: bytes, texts: int, key: str, *, packed: bool) -> None:
    """Refuse a chunk that begins with another number of texts: the codec allocates that many before it reads them."""
    if packed:
        content = Zstd().decode(content)
    if (claimed := int.from_bytes(content[:4], "little")) != texts:
        raise UncheckedStore(f"{key} claims {claimed:,} texts, and a chunk has {texts:,}")


def _unpacked(frame: memoryview) -> int | None:
    """Size that a zstd frame says it unpacks into (RFC 8878, section 3.1.1.1); None for what is no frame."""
    if bytes(frame[:4]) != _ZSTD or len(frame) < 5:
        return None
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    length = (single, 2, 4, 8)[descriptor >> 6]
    if not length:
        raise UncheckedStore("a compressed chunk does not say how large it is")
    field = bytes(frame[start : start + length])
    size: int = struct.unpack("<Q", field.ljust(8, b"\0"))[0]
    return size + 256 if length == 2 else size
