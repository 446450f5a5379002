"""The feature store: one self-describing zarr v3 group per slide, written completely or not at all.

    <slide>.zarr/
      features   (N, D) float16 or float32   one vector per tile
      coords     (N, 2) int64                x, y of the tile's top left corner, in level-0 pixels

A slide vector (:mod:`wsipipe.stages.encode`) is such a store with one row: the vector of the whole slide, at the top
left corner of the rectangle around its tiles.

Each array is one shard, so a slide is a handful of files. The group's attributes hold everything needed to interpret
the numbers (:class:`FeatureFacts`), beside ``encoding-type`` and ``encoding-version``.

Reading, from least to most::

    facts = read_facts(path)              # the metadata; no numbers
    slide = open_features(path)           # numbers on access, and only their chunks (about 1 MiB each)
    slide.shape                           # (N, D)
    slide.features[1000:1064]             # a slice, an index in any order, a boolean mask, as in NumPy
    slide.coords[slide.coords[:, 0] < 5000]
    bag = read_bag(path)                  # all of a slide, in memory, for training
    for bag in read_bags(sorted(folder.glob("*.zarr"))): ...      # a cohort, a slide at a time

Writing, in the memory of one chunk for any number of tiles::

    with FeatureWriter(path, width=1536, dtype="float16", most=len(tiles)) as writer:
        for features, coords in batches:
            writer.append(features, coords)
        writer.finish(facts)              # without this, nothing is stored

:func:`write_features` does the same for arrays in memory.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ..artifact import is_stray, whole
from ..errors import StoreError, UsageError
from ..files.zarr_store import UNREADABLE, open_zarr
from ..json_text import fault
from ..surroundings import patiently, reading_fault
from .rows import RowReader, RowWriter

ENCODING_TYPE = "wsipipe-features"
ENCODING_VERSION = "1"

StoreDtype = Literal["float16", "float32"]
_NOWHERE = np.iinfo(np.int64).min
"""The coordinate that is read if a file of the store is lost; features then read NaN. Neither is ever written."""


class SlideEncoding(BaseModel):
    """How the tiles of a slide became one vector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    """A name from ``wsipipe encoders``."""
    weights_digest: str
    """Of the encoder's sorted tensors, in whatever file they came; empty for one without weights."""
    tile_width: int | None = Field(gt=0, le=65_536)
    """Width of the tiles' features; None of an imported vector."""
    tiles: int | None = Field(gt=0)
    """Number of tiles that went into the vector; None of an imported one whose file does not tell."""
    features_digest: str
    """Of the store of the tiles' features."""


class FeatureFacts(BaseModel):
    """The metadata of a store: where its numbers come from and how they were computed.

    A text that begins with ``unknown:`` stands for what the file did not tell that the store was imported from
    (:func:`~wsipipe.data.interop.imported_features.imported_facts`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_id: str
    slide_digest: str
    """Of the slide's bytes."""
    tiles_digest: str
    """Of the tile file that the features were extracted from."""
    mpp: float = Field(gt=0)
    """True µm per pixel of the tiles before the backbone's own resize; within the tolerance of the requested one."""
    tile_px: int = Field(gt=0)
    """Side of a tile in pixels of mpp."""
    tile_size_level0: float = Field(gt=0)
    """Side of a tile in level-0 pixels."""
    backbone: str
    architecture: str
    pooling: str
    width: int = Field(gt=0, le=65_536)
    weights_digest: str
    """Of the backbone's sorted tensors, in whatever file they came."""
    precision: str
    transform: dict[str, Any]
    """What pixels the backbone saw: side, crop, interpolation, mean and standard deviation."""
    bad_tiles: list[list[int]] = []
    """x, y (level-0 pixels) of the tiles that could not be decoded and were left out."""
    versions: dict[str, str] = {}
    """Of the libraries that computed them."""
    encoding: SlideEncoding | None = None
    """Of a store that holds one vector of the whole slide in place of one a tile; all else then describes its tiles."""

    @property
    def slide_encoder(self) -> str:
        """The slide encoder and the digest of its weights, as one text; empty for features of tiles."""
        return "" if self.encoding is None else f"{self.encoding.encoder} {self.encoding.weights_digest}".strip()

    @model_serializer(mode="wrap")
    def _without_what_tiles_lack(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``encoding`` out where there is none, so that stores of tiles keep their bytes."""
        content: dict[str, Any] = serialised(self)
        return content if self.encoding is not None else {k: v for k, v in content.items() if k != "encoding"}


@dataclass(frozen=True)
class Bag:
    """A slide as a model sees it: its features and coordinates in memory."""

    slide_id: str
    features: NDArray[np.floating[Any]]
    """(N, D)"""
    coords: NDArray[np.int64]
    """(N, 2): x, y in level-0 pixels"""
    facts: FeatureFacts


class FeatureWriter:
    """A streaming writer of a slide's store, which appears under its name only when finished.

    Equal content gives equal bytes, in whatever pieces it was appended. After any error nothing is left on disk. It
    needs the memory of one chunk of about 1 MiB per array. For one thread at a time.

    :param path: the path of the store; an existing one is replaced when this one is finished.
    :param most: upper bound of the number of tiles.
    :raises SurroundingsError: the disk is full or read-only; also raised by ``append`` and ``finish``.
    """

    def __init__(self, path: Path, *, width: int, dtype: StoreDtype, most: int) -> None:
        self.path, self.dtype, self.most = path, dtype, most
        self._whole = whole(path)
        scratch = self._whole.__enter__()
        self._open = True
        try:
            self._group = zarr.open_group(scratch, mode="w", zarr_format=3)
            self._features = RowWriter(self._group, scratch, "features", width=width, dtype=dtype, lost=math.nan)
            self._places = RowWriter(self._group, scratch, "coords", width=2, dtype="int64", lost=_NOWHERE)
        except BaseException as error:
            self._whole.__exit__(type(error), error, None)
            raise

    @property
    def tiles(self) -> int:
        """The number of tiles appended so far."""
        return self._features.rows

    def append(self, features: NDArray[np.floating[Any]], coords: NDArray[np.int64]) -> None:
        """Add tiles after the existing ones.

        :param features: (n, D), finite, also after conversion to the store's type; any n.
        :param coords: (n, 2) in level-0 pixels.
        :raises StoreError: values that are not finite; the message names the first tile.
        :raises UsageError: another width, more tiles than ``most``, or a closed writer.
        """
        self._refuse_closed()
        try:
            self._append(features, np.asarray(coords, dtype=np.int64))
        except BaseException as error:
            self._leave(error)
            raise

    def finish(self, facts: FeatureFacts) -> None:
        """Write the remaining rows and the metadata, and put the store in place at ``path``.

        :raises UsageError: facts with another width, or a closed writer.
        """
        self._refuse_closed()
        try:
            if facts.width != self._features.width:
                wrong = f"features of width {self._features.width}, but the facts state {facts.width}"
                raise UsageError(wrong, path=self.path, hint="give the backbone's width")
            self._features.finish()
            self._places.finish()
            self._group.attrs.update(
                {
                    "encoding-type": ENCODING_TYPE,
                    "encoding-version": ENCODING_VERSION,
                    **facts.model_dump(mode="json"),
                }
            )
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)

    def discard(self) -> None:
        """Remove the unfinished store. Does nothing if the writer is finished or discarded."""
        if self._open:
            self._leave(_Discarded())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _append(self, features: NDArray[np.floating[Any]], coords: NDArray[np.int64]) -> None:
        width, before = self._features.width, self.tiles
        if features.ndim != 2 or features.shape[1] != width or coords.shape != (len(features), 2):
            wrong = f"features {features.shape} and coords {coords.shape}, not (n, {width}) and (n, 2)"
            raise UsageError(wrong, path=self.path, hint="append both of the same tiles")
        if before + len(features) > self.most:
            wrong = f"{before + len(features)} tiles where at most {self.most} were announced"
            raise UsageError(wrong, path=self.path, hint="announce as many as the slide has")
        step = self._features.chunk_rows  # so that a whole slide is never copied at once
        for start in range(0, len(features), step):
            part, places = features[start : start + step], coords[start : start + step]
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(part, dtype=self.dtype)
            self._refuse_not_finite(stored, part, places)
            self._features.append(stored)
            self._places.append(places)

    def _refuse_not_finite(
        self, stored: NDArray[Any], given: NDArray[np.floating[Any]], coords: NDArray[np.int64]
    ) -> None:
        bad = ~np.isfinite(stored).all(axis=1)
        if bad.any():
            first = int(bad.argmax())
            overflow = bool(np.isfinite(given[first]).all())
            raise StoreError(
                f"{int(bad.sum())} of {self.tiles + len(bad)} tiles have features that are "
                + (f"too large for {self.dtype}" if overflow else "not finite")
                + f", the first at x={coords[first, 0]} y={coords[first, 1]}",
                path=self.path,
                hint="use --store-dtype float32" if overflow else "use --precision fp32, and check the weights",
            )

    def _refuse_closed(self) -> None:
        if not self._open:
            raise UsageError("the writer is closed", path=self.path, hint="open another one")

    def _leave(self, error: BaseException | None) -> None:
        """Close the temporary store: put it in place, or remove it because of an error.

        An error for a full disk is raised there.
        """
        self._open = False
        for rows in (self._features, self._places):
            with suppress(OSError):  # a full disk may fail here again; `error` is the one to report
                rows.close()
        self._whole.__exit__(None if error is None else type(error), error, None)


class _Discarded(Exception):  # noqa: N818  not an error: it never leaves this module
    """The reason for removing a store whose writer was discarded."""


def write_features(
    path: Path,
    features: NDArray[np.floating[Any]],
    coords: NDArray[np.int64],
    facts: FeatureFacts,
    *,
    dtype: StoreDtype = "float16",
) -> None:
    """Write a slide's features, completely or not at all. Equal content gives equal bytes.

    :param features: (N, D), finite, also after conversion to ``dtype``.
    :param coords: (N, 2) in level-0 pixels.
    :raises StoreError: values that are not finite; the message names the first tile.
    """
    with FeatureWriter(path, width=features.shape[1], dtype=dtype, most=len(features)) as writer:
        writer.append(features, coords)
        writer.finish(facts)


@dataclass(frozen=True)
class OpenFeatures:
    """A store whose numbers are read on access. It needs no closing."""

    facts: FeatureFacts
    features: RowReader
    """(N, D)"""
    coords: RowReader
    """(N, 2): x, y in level-0 pixels"""

    @property
    def shape(self) -> tuple[int, int]:
        """The number of tiles and the width."""
        return self.features.shape

    def __len__(self) -> int:
        return len(self.features)


def read_facts(path: str | Path) -> FeatureFacts:
    """Read a store's metadata, without its numbers.

    :raises StoreError: it is not a feature store, or one of another version.
    """
    return patiently(lambda: _open(Path(path)), path)[1]


def open_features(path: str | Path) -> OpenFeatures:
    """Open a slide's features and coordinates, without reading them yet.

    :raises StoreError: it is not a feature store, one of another version, or damaged.
    """
    return patiently(lambda: _opened(Path(path)), path)


def _opened(path: Path) -> OpenFeatures:
    group, facts = _open(path)
    try:
        features, coords = group["features"], group["coords"]
        shapes = features.shape, coords.shape
        if features.dtype.name not in get_args(StoreDtype) or coords.dtype != np.int64:
            raise TypeError(f"its features are {features.dtype} and its coordinates {coords.dtype}")
    except UNREADABLE as error:
        _let_through(error)
        raise _damaged(path, error) from error
    if shapes != ((shapes[1][0], facts.width), (shapes[0][0], 2)):
        wrong = f"features {shapes[0]}, coords {shapes[1]} and width {facts.width} do not fit"
        raise _damaged(path, ValueError(wrong))
    damaged = partial(_damaged, path)
    return OpenFeatures(
        facts,
        RowReader(features, path, lost=math.nan, damaged=damaged),
        RowReader(coords, path, lost=_NOWHERE, damaged=damaged),
    )


def read_bag(path: str | Path) -> Bag:
    """Read a slide's features and coordinates into memory.

    :raises StoreError: it is not a feature store, one of another version, or damaged.
    """
    store = open_features(path)
    return Bag(store.facts.slide_id, store.features[:], store.coords[:], store.facts)


def read_bags(paths: Iterable[str | Path]) -> Iterator[Bag]:
    """Read the bags of a cohort, one at a time, skipping a Mac's ``._<slide>.zarr`` files."""
    return (read_bag(path) for path in paths if not is_stray(Path(path).name))


def _open(path: Path) -> tuple[zarr.Group, FeatureFacts]:
    try:
        group = open_zarr(path)
        attributes = dict(group.attrs)
    except UNREADABLE as error:
        _let_through(error)
        raise _damaged(path, error) from error  # what zarr raises depends on where its JSON is damaged
    kind, version = attributes.pop("encoding-type", None), attributes.pop("encoding-version", None)
    if (kind, version) != (ENCODING_TYPE, ENCODING_VERSION):
        raise StoreError(
            f"is {kind or 'an unknown store'} version {version}, not {ENCODING_TYPE} version {ENCODING_VERSION}",
            path=path,
            hint="use the wsipipe that wrote it, or extract again",
        )
    try:
        return group, FeatureFacts.model_validate(attributes)
    except ValidationError as error:
        raise _damaged(path, ValueError(fault(error))) from error


def _let_through(error: Exception) -> None:
    """Raise the error again if the storage is at fault; a missing file counts as damage and is not raised."""
    fault = reading_fault(error)
    if fault is not None and fault.errno != errno.ENOENT:
        raise error


def _damaged(path: Path, error: Exception) -> StoreError:
    first = (str(error).splitlines() or [repr(error)])[0]
    return StoreError(
        f"is damaged or not a feature store: {first}",
        path=path,
        hint="remove it and run wsipipe extract: only this slide is done again",
    )
