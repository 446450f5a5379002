"""The feature store: one zarr v3 group a slide, written whole, that says what its numbers are.

    <slide>.zarr/
      features   (N, D) float16 or float32   one vector a tile
      coords     (N, 2) int64                x, y of the tile's top left corner, in level-0 pixels

Each array is one shard, so a slide is a handful of files. The group's attributes say everything that is needed to
know what the numbers mean (:class:`FeatureFacts`), beside ``encoding-type`` and ``encoding-version``.

Reading, from least to most::

    facts = read_facts(path)              # what it is; no numbers
    slide = open_features(path)           # numbers when asked for, and only the chunks (about 1 MiB) they lie in
    slide.shape                           # (N, D)
    slide.features[1000:1064]             # a slice, an index in any order, a boolean mask: what NumPy takes for rows
    slide.coords[slide.coords[:, 0] < 5000]
    bag = read_bag(path)                  # all of a slide, in memory, for training
    for bag in read_bags(sorted(folder.glob("*.zarr"))): ...      # a cohort, a slide at a time

Writing, in the memory of a chunk however many tiles a slide has::

    with FeatureWriter(path, width=1536, dtype="float16", most=len(tiles)) as writer:
        for features, coords in batches:
            writer.append(features, coords)
        writer.finish(facts)              # left without it, nothing has happened

:func:`write_features` is the same for arrays that are there already.
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
from typing import Any, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.errors import ZarrUserWarning

from ..artifact import is_stray, whole
from ..errors import StoreError, UsageError
from ..surroundings import patiently, reading_fault
from .rows import UNREADABLE, RowReader, RowWriter

ENCODING_TYPE = "wsipipe-features"
ENCODING_VERSION = "1"

StoreDtype = Literal["float16", "float32"]
_NOWHERE = np.iinfo(np.int64).min
"""The coordinate that is read where a file of the store is lost; features then read NaN. Neither is ever written."""


class FeatureFacts(BaseModel):
    """What the numbers of a store are.

    A text that begins with ``unknown:`` stands for what the file did not tell that the store was imported from
    (:func:`~wsipipe.data.interop.imported_features.imported_facts`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide_id: str
    slide_digest: str
    tiles_digest: str
    mpp: float
    """True µm per pixel of the tiles before the backbone's own resize; near the asked one, within the tolerance."""
    tile_px: int
    tile_size_level0: float
    """Side of a tile in level-0 pixels."""
    backbone: str
    architecture: str
    pooling: str
    width: int
    weights_digest: str
    precision: str
    transform: dict[str, Any]
    bad_tiles: list[list[int]] = []
    """x, y (level-0 pixels) of tiles that could not be decoded and are left out."""
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Bag:
    """A slide as a model sees it."""

    slide_id: str
    features: NDArray[np.floating[Any]]
    """(N, D)"""
    coords: NDArray[np.int64]
    """(N, 2): x, y in level-0 pixels"""
    facts: FeatureFacts


class FeatureWriter:
    """A slide's store, written as the features come: under its own name only when finished, else not at all.

    Equal content gives equal bytes, in however many pieces it came. After any error nothing is left of it.
    What it needs of memory is a chunk of about 1 MiB an array. One thread at a time.

    :param path: of the store; an older one there is replaced when this one is finished.
    :param most: no more tiles than this will come.
    :raises SurroundingsError: the disk is full or read-only; so do ``append`` and ``finish``.
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
        """How many were appended."""
        return self._features.rows

    def append(self, features: NDArray[np.floating[Any]], coords: NDArray[np.int64]) -> None:
        """Add tiles after those that are there.

        :param features: (n, D), finite, and finite still in the store's type; any n.
        :param coords: (n, 2) in level-0 pixels.
        :raises StoreError: values that are not finite; the message names the first tile.
        :raises UsageError: another width, more tiles than ``most``, or a writer that is closed.
        """
        self._refuse_closed()
        try:
            self._append(features, np.asarray(coords, dtype=np.int64))
        except BaseException as error:
            self._leave(error)
            raise

    def finish(self, facts: FeatureFacts) -> None:
        """Write what is left and what the numbers are, and take the place under ``path``.

        :raises UsageError: facts of another width, or a writer that is closed.
        """
        self._refuse_closed()
        try:
            if facts.width != self._features.width:
                wrong = f"features {self._features.width} wide with facts that say {facts.width}"
                raise UsageError(wrong, path=self.path, hint="give the width that the backbone has")
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
        """Leave no trace. Does nothing to a writer that is finished or discarded."""
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
        step = self._features.chunk_rows  # so that a whole slide at once is not copied at once
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
            raise UsageError("its writer is closed", path=self.path, hint="open another one")

    def _leave(self, error: BaseException | None) -> None:
        """End the scratch store, well or for this reason; what is said of a full disk is said there."""
        self._open = False
        for rows in (self._features, self._places):
            with suppress(OSError):  # of a full disk, again: what counts is `error`
                rows.close()
        self._whole.__exit__(None if error is None else type(error), error, None)


class _Discarded(Exception):  # noqa: N818  no error: it never leaves this module
    """Why a store was not finished: nobody wanted it."""


def write_features(
    path: Path,
    features: NDArray[np.floating[Any]],
    coords: NDArray[np.int64],
    facts: FeatureFacts,
    *,
    dtype: StoreDtype = "float16",
) -> None:
    """Write a slide's features, whole or not at all. Equal content gives equal bytes.

    :param features: (N, D), finite, and finite still in ``dtype``.
    :param coords: (N, 2) in level-0 pixels.
    :raises StoreError: values that are not finite; the message names the first tile.
    """
    with FeatureWriter(path, width=features.shape[1], dtype=dtype, most=len(features)) as writer:
        writer.append(features, coords)
        writer.finish(facts)


@dataclass(frozen=True)
class OpenFeatures:
    """A store whose numbers are read when asked for. There is nothing to close."""

    facts: FeatureFacts
    features: RowReader
    """(N, D)"""
    coords: RowReader
    """(N, 2): x, y in level-0 pixels"""

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles and width."""
        return self.features.shape

    def __len__(self) -> int:
        return len(self.features)


def read_facts(path: Path) -> FeatureFacts:
    """What a store holds, without its numbers.

    :raises StoreError: it is no feature store, or one of another version.
    """
    return patiently(lambda: _open(path), path)[1]


def open_features(path: Path) -> OpenFeatures:
    """A slide's features and coordinates, none of them read yet.

    :raises StoreError: it is no feature store, one of another version, or damaged.
    """
    return patiently(lambda: _opened(path), path)


def _opened(path: Path) -> OpenFeatures:
    group, facts = _open(path)
    try:
        features, coords = group["features"], group["coords"]
        shapes = features.shape, coords.shape
    except (*UNREADABLE, AttributeError) as error:
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


def read_bag(path: Path) -> Bag:
    """A slide's features and coordinates, in memory.

    :raises StoreError: it is no feature store, one of another version, or damaged.
    """
    store = open_features(path)
    return Bag(store.facts.slide_id, store.features[:], store.coords[:], store.facts)


def read_bags(paths: Iterable[Path]) -> Iterator[Bag]:
    """The bags of a cohort, one at a time; a Mac's ``._<slide>.zarr`` beside a store is none."""
    return (read_bag(path) for path in paths if not is_stray(path.name))


def _open(path: Path) -> tuple[zarr.Group, FeatureFacts]:
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZarrUserWarning) as error:
        _let_through(error)
        raise _damaged(path, error) from error  # what zarr raises depends on where its JSON is damaged
    kind, version = attributes.pop("encoding-type", None), attributes.pop("encoding-version", None)
    if (kind, version) != (ENCODING_TYPE, ENCODING_VERSION):
        raise StoreError(
            f"is {kind or 'no store of ours'} version {version}, not {ENCODING_TYPE} version {ENCODING_VERSION}",
            path=path,
            hint="use the wsipipe that wrote it, or extract again",
        )
    try:
        return group, FeatureFacts.model_validate(attributes)
    except ValidationError as error:
        raise _damaged(path, error) from error


def _let_through(error: Exception) -> None:
    """Raise it again if the machine is at fault. What is missing may be damage too, and keeps its name."""
    fault = reading_fault(error)
    if fault is not None and fault.errno != errno.ENOENT:
        raise error


def _damaged(path: Path, error: Exception) -> StoreError:
    first = (str(error).splitlines() or [repr(error)])[0]
    return StoreError(
        f"is damaged or no feature store: {first}",
        path=path,
        hint="remove it and run wsipipe extract: only this slide is done again",
    )
