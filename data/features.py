"""The feature store: one zarr v3 group a slide, written whole, that says what its numbers are.

    <slide>.zarr/
      features   (N, D) float16 or float32   one vector a tile
      coords     (N, 2) int64                x, y of the tile's top left corner, in level-0 pixels

Each array is one shard, so a slide is a handful of files. The group's attributes say everything that is needed to
know what the numbers mean (:class:`FeatureFacts`), beside ``encoding-type`` and ``encoding-version``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from .artifact import whole
from .errors import StoreError

ENCODING_TYPE = "wsipipe-features"
ENCODING_VERSION = "1"

_CHUNK_BYTES = 1 << 20
"""About this much is decompressed at a time when a slice is read."""

_NOWHERE = np.iinfo(np.int64).min
"""The coordinate that is read where a file of the store is lost; features then read NaN. Neither is ever written."""


class FeatureFacts(BaseModel):
    """What the numbers of a store are."""

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


def write_features(
    path: Path,
    features: NDArray[np.floating[Any]],
    coords: NDArray[np.int64],
    facts: FeatureFacts,
    *,
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Write a slide's features, whole or not at all. Equal content gives equal bytes.

    :param features: (N, D), finite, and finite still in ``dtype``.
    :param coords: (N, 2) in level-0 pixels.
    :raises StoreError: values that are not finite; the message names the first tile.
    """
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(features, dtype=dtype)
    bad = ~np.isfinite(stored).all(axis=1)
    if bad.any():
        first = int(bad.argmax())
        overflow = bool(np.isfinite(features[first]).all())
        raise StoreError(
            f"{int(bad.sum())} of {len(bad)} tiles have features that are "
            + (f"too large for {dtype}" if overflow else "not finite")
            + f", the first at x={coords[first, 0]} y={coords[first, 1]}",
            path=path,
            hint="use --store-dtype float32" if overflow else "use --precision fp32, and check the weights",
        )
    with whole(path) as scratch:
        group = zarr.open_group(scratch, mode="w", zarr_format=3)
        _write_array(group, "features", stored, lost=math.nan)
        _write_array(group, "coords", np.ascontiguousarray(coords, dtype=np.int64), lost=_NOWHERE)
        group.attrs.update(
            {
                "encoding-type": ENCODING_TYPE,
                "encoding-version": ENCODING_VERSION,
                **facts.model_dump(mode="json"),
            }
        )


def _write_array(group: zarr.Group, name: str, values: NDArray[Any], *, lost: float) -> None:
    rows, width = values.shape
    chunk = max(1, min(rows, _CHUNK_BYTES // max(1, width * values.itemsize)))
    shard = chunk * max(1, math.ceil(rows / chunk))  # zarr wants shards to hold whole chunks
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, width),
        shards=(shard, width),
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=lost,  # zarr reads a missing file as this value, without an error
    )
    array[...] = values


def read_facts(path: Path) -> FeatureFacts:
    """What a store holds, without its numbers.

    :raises StoreError: it is no feature store, or one of another version.
    """
    return _open(path)[1]


def read_bag(path: Path) -> Bag:
    """A slide's features and coordinates, in memory.

    :raises StoreError: it is no feature store, one of another version, or damaged.
    """
    group, facts = _open(path)
    try:
        features, coords = np.asarray(group["features"]), np.asarray(group["coords"])
    except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from error
    if features.shape != (len(coords), facts.width) or coords.shape != (len(features), 2):
        raise _damaged(
            path, ValueError(f"features {features.shape}, coords {coords.shape} and width {facts.width} do not fit")
        )
    if not np.isfinite(features).all() or (coords == _NOWHERE).any():
        raise _damaged(path, ValueError("a part of it is lost"))
    return Bag(facts.slide_id, features, coords.astype(np.int64), facts)


def read_bags(paths: Iterable[Path]) -> Iterator[Bag]:
    """The bags of a cohort, one at a time."""
    return map(read_bag, paths)


def _open(path: Path) -> tuple[zarr.Group, FeatureFacts]:
    try:
        group = zarr.open_group(path, mode="r")
        attributes = dict(group.attrs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZarrUserWarning) as error:
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


def _damaged(path: Path, error: Exception) -> StoreError:
    first = (str(error).splitlines() or [repr(error)])[0]
    return StoreError(
        f"is damaged or no feature store: {first}",
        path=path,
        hint="remove it and run wsipipe extract: only this slide is done again",
    )
