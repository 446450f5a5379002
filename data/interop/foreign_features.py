"""Features in the files of other programs: TRIDENT's and CLAM's are read and written, AnnData is written.

TRIDENT (``features_<encoder>/<slide>.h5``)
    ``features`` (N, D) with ``name`` and ``encoder`` in its attributes, and ``coords`` (N, 2) with the attributes of
    the tiles (see :mod:`.foreign_tiles`). Its embeddings of whole slides have the same names, and one vector.

CLAM (``h5_files/<slide>.h5`` and ``pt_files/<slide>.pt`` of extract_features_fp)
    ``features`` (N, D) float32 and ``coords`` (N, 2) int32 without any attribute; the ``.pt`` is the features alone,
    as a torch tensor, which is what CLAM trains on. How large the tiles were only ``patches/<slide>.h5`` knows.

What such files do not tell is said so in the store: :func:`imported_facts` writes ``unknown: imported from …`` where a
digest or a setting would stand. Slides compare equal in it if they came from the same program and encoder, so that they
train together, and a model that they trained refuses features whose weights are known to be something.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from ..artifact import whole
from ..errors import SlideError, StoreError, UsageError, about
from ..features.store import Bag, FeatureFacts
from ..surroundings import patiently, reading_fault
from ..tiling.grid import Coords
from ..tiling.store import TileSet
from ..units import Mpp, TilePx
from ..version import __version__
from .foreign_tiles import ForeignTiles, Source, read_foreign_tiles

UNKNOWN: Final = "unknown: "
"""How a fact begins that the imported file did not tell."""

_AGAIN: Final = "give the HDF5 file of a slide that TRIDENT or CLAM has written, or extract with wsipipe"
_ENCODER: Final = (
    "encoder",
    "encoder_name",
    "patch_encoder",
    "extractor",
    "feature_extractor",
    "model_name",
    "backbone",
)
"""Attributes by which programs name what the features are from; TRIDENT's comes first."""
_MPP: Final = ("mpp", "target_mpp", "patch_mpp", "tile_mpp")
_BLOCK_ROWS: Final = 4096
_WITHIN: Final = 0.02  # relative: as near as an mpp must be to be taken for the same


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignFeatures:
    """A slide's features as another program has written them."""

    path: Path
    source: Source
    features: NDArray[np.floating[Any]]
    """(N, D) float16 or float32"""
    coords: Coords
    """(N, 2): x, y of the tiles' upper left corners, in pixels of level 0"""
    size_level0: float | None
    """Side of a tile's field of view in pixels of level 0, if the file tells."""
    patch_px: TilePx | None
    """Side of a tile as that program read it, if the file tells."""
    name: str | None
    """The slide, if the file tells."""
    encoder: str | None
    """The backbone by that program's name, if the file tells."""
    mpp: float | None = None
    """Microns per pixel, of the tiles or of level 0, if the file tells."""


def read_foreign_features(path: Path) -> ForeignFeatures:
    """Read the features of one slide.

    :raises StoreError: no such file, no HDF5, no features or coordinates in it, or they do not fit each other.
    """
    if path.suffix == ".pt":
        hint = f"give CLAM's h5_files/{path.stem}.h5 beside it, or let TRIDENT write HDF5: it says where the tiles are"
        raise StoreError("holds features without coordinates", path=path, hint=hint)
    with about(path):
        features, coords, of_features, of_coords, of_file = patiently(lambda: _held(path), path)
        features, coords = _vectors(features), _places(coords)
        if len(features) != len(coords):
            wrong = f"{len(features)} feature vectors and {len(coords)} coordinates"
            raise StoreError(wrong, hint=_AGAIN)
        tiles = _tiles(path) if {"patch_size", "patch_size_level0", "patch_level"} & set(of_coords) else None
        by_trident = "encoder" in of_features or (tiles is not None and tiles.source == "trident")
        return ForeignFeatures(
            path=path,
            source="trident" if by_trident else "clam",
            features=features,
            coords=coords,
            size_level0=None if tiles is None else tiles.size_level0,
            patch_px=None if tiles is None else tiles.patch_px,
            name=_told(of_features, "name") or _told(of_coords, "name"),
            encoder=_encoder((of_features, of_coords, of_file)),
            mpp=_mpp((of_features, of_coords, of_file)),
        )


def _held(path: Path) -> tuple[Any, Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Features and coordinates, and the attributes of both and of the file."""
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in ("features", "coords") if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                held = ", ".join(sorted(file)) or "nothing"
                raise StoreError(f"no dataset `{missing[0]}` in it (it holds {held})", hint=_AGAIN)
            features, coords = file["features"], file["coords"]
            return features[()], coords[()], dict(features.attrs), dict(coords.attrs), dict(file.attrs)
    except FileNotFoundError as error:
        raise StoreError("there is no such file", hint=_AGAIN) from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        if reading_fault(error):
            raise
        raise StoreError(f"not HDF5, or damaged: {error}", hint=_AGAIN) from error


def _tiles(path: Path) -> ForeignTiles:
    try:
        return read_foreign_tiles(path)
    except SlideError as error:
        raise StoreError(error.what, path=path, hint=_AGAIN) from error


def _told(attributes: Mapping[str, Any], name: str) -> str | None:
    value = attributes.get(name)
    text = value.decode() if isinstance(value, bytes) else str(value)
    return None if text in ("None", "") else text  # TRIDENT writes None as a word


def _encoder(attributes: Sequence[Mapping[str, Any]]) -> str | None:
    names = {name: None for held in attributes for key in _ENCODER if (name := _told(held, key))}
    if len(names) > 1:
        wrong = f"it contradicts itself: its features are of the encoders {' and '.join(names)}"
        raise StoreError(wrong, hint=_AGAIN)
    return next(iter(names), None)


def _mpp(attributes: Sequence[Mapping[str, Any]]) -> float | None:
    for held in attributes:
        for key in _MPP:
            value = np.asarray(held.get(key, np.nan))
            if value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all() and value.min() > 0:
                return float(value.reshape(()))
    return None


def _vectors(values: Any) -> NDArray[np.floating[Any]]:
    features = np.asarray(values)
    if features.ndim == 3 and len(features) == 1:
        features = features[0]
    if features.ndim == 1 and features.size:
        wrong = "holds one vector for the whole slide, not one a tile"
        raise StoreError(wrong, hint="give the features of the tiles that it was made from")
    if features.ndim != 2 or features.dtype.kind != "f":
        wrong = f"its features have the shape {features.shape} and the type {features.dtype}, not (N, D) and numbers"
        raise StoreError(wrong, hint=_AGAIN)
    return features if features.dtype == np.float16 else features.astype(np.float32, copy=False)


def _places(values: Any) -> Coords:
    coords = np.asarray(values)
    if coords.ndim != 2 or coords.shape[1] != 2 or coords.dtype.kind not in "iuf":
        wrong = f"its coordinates have the shape {coords.shape} and the type {coords.dtype}, not (N, 2) and numbers"
        raise StoreError(wrong, hint=_AGAIN)
    if not ((coords == np.round(coords)) & (coords >= 0) & (coords < 2**40)).all():
        raise StoreError("its coordinates are not whole pixels of level 0", hint=_AGAIN)
    return coords.astype(np.int64)


def imported_facts(
    foreign: ForeignFeatures,
    *,
    slide_id: str,
    backbone: str,
    slide_mpp: Mpp | None = None,
    mpp: Mpp | None = None,
    tile_px: TilePx | None = None,
    slide_digest: str | None = None,
    weights_digest: str | None = None,
    architecture: str | None = None,
    pooling: str | None = None,
) -> FeatureFacts:
    """What a store of imported features can say of itself.

    Of resolution two things must be known. Where the file tells the size of the tiles, ``slide_mpp`` or ``mpp`` will
    do; where it does not, all of ``slide_mpp``, ``mpp`` and ``tile_px``. Magnifications in such files are nominal, and
    are not taken for a resolution.

    :param backbone: the name it goes by here; the file's own name for it is kept with what is unknown.
    :param slide_mpp: microns per pixel of the slide's level 0.
    :param mpp: the same of the tiles as they were read, before the backbone's own resize.
    :param slide_digest: of the slide, where it is at hand. Otherwise the slide's id stands for it, so that it is never
        taken for another slide.
    :param weights_digest: of the weights, where somebody vouches for them.
    :raises UsageError: too little is known of the resolution, or what is given contradicts the file.
    """
    unknown = f"{UNKNOWN}imported from {foreign.source}"
    of_encoder = unknown + (f", encoder {foreign.encoder}" if foreign.encoder else "")
    tile_px, size_level0, mpp = _resolution(foreign, slide_mpp=slide_mpp, mpp=mpp, tile_px=tile_px)
    stated = [value for value in (mpp, slide_mpp) if value is not None]
    if foreign.mpp is not None and all(abs(foreign.mpp / value - 1) > _WITHIN for value in stated):
        wrong = f"it says {foreign.mpp:g} µm per pixel, and its tiles are taken for {mpp:g}"
        raise UsageError(
            wrong, path=foreign.path, hint=f"give the tiles that it was made from (--mpp {foreign.mpp:g}?)"
        )
    return FeatureFacts(
        slide_id=slide_id,
        slide_digest=slide_digest or f"{unknown}, slide {slide_id}",
        tiles_digest=unknown,
        mpp=mpp,
        tile_px=tile_px,
        tile_size_level0=size_level0,
        backbone=backbone,
        architecture=architecture or of_encoder,
        pooling=pooling or of_encoder,
        width=foreign.features.shape[1],
        weights_digest=weights_digest or of_encoder,
        precision=unknown,
        transform={},
        versions={"wsipipe": __version__},
    )


def _resolution(
    foreign: ForeignFeatures, *, slide_mpp: Mpp | None, mpp: Mpp | None, tile_px: TilePx | None
) -> tuple[TilePx, float, Mpp]:
    """Side of a tile in its own pixels and in those of level 0, and its µm per pixel."""
    if foreign.size_level0 is None or foreign.patch_px is None:
        if slide_mpp is None or mpp is None or tile_px is None:
            wrong = "it does not say how large the tiles are"
            hint = "give the `patches/` that they were made from; or --mpp, --tile-px, and the slide's own mpp"
            raise UsageError(wrong, path=foreign.path, hint=hint)
        return tile_px, tile_px * mpp / slide_mpp, mpp
    if tile_px is not None and tile_px != foreign.patch_px:
        wrong = f"its tiles have {foreign.patch_px} px, not {tile_px}"
        raise UsageError(wrong, path=foreign.path, hint=f"leave --tile-px out, or give {foreign.patch_px}")
    if mpp is None and slide_mpp is None:
        wrong = "it does not say what its resolution is, only a nominal magnification"
        raise UsageError(wrong, path=foreign.path, hint="give --mpp, or the slide's own mpp in the cohort table")
    if slide_mpp is None:
        return foreign.patch_px, foreign.size_level0, Mpp(mpp or 0)
    true = Mpp(foreign.size_level0 * slide_mpp / foreign.patch_px)
    if mpp is not None and abs(mpp / true - 1) > _WITHIN:
        wrong = f"its tiles have {true:.6g} µm per pixel on a slide of {slide_mpp:g}, not {mpp:g}"
        raise UsageError(wrong, path=foreign.path, hint=f"leave --mpp out, or give {true:.6g}")
    return foreign.patch_px, foreign.size_level0, true


def write_trident_features(path: Path, bag: Bag, tiles: TileSet | None = None) -> None:
    """Write a slide's features as TRIDENT does, whole; the same bag gives the same bytes.

    The numbers are float32, for programs that do not convert. The tiles' size is in the attributes of ``coords`` under
    TRIDENT's names, whose magnifications are 10 / mpp (see :mod:`wsipipe.data.tiling.store`).

    :param tiles: where the features are from; adds the overlap and the slide's size, which a bag does not know.
    :raises StoreError: tiles of another slide.
    :raises SurroundingsError: the disk is full or read-only.
    """
    facts = bag.facts
    attributes: dict[str, Any] = {
        "patch_size": facts.tile_px,
        "patch_size_level0": int(facts.tile_size_level0),
        "level0_magnification": 10 * facts.tile_size_level0 / (facts.mpp * facts.tile_px),
        "target_magnification": 10 / facts.mpp,
        "name": bag.slide_id,
        "savetodir": ".",
    }
    if tiles is not None:
        if tiles.slide_id != bag.slide_id:
            wrong = f"features of {bag.slide_id} with tiles of {tiles.slide_id}"
            raise StoreError(wrong, path=path, hint="give the tiles that the features are from")
        width, height = tiles.slide_size
        attributes |= {"overlap": int(tiles.grid.overlap), "level0_width": int(width), "level0_height": int(height)}
    with whole(path) as scratch, h5py.File(scratch, "w") as file:
        _write_dataset(file, "features", bag.features, "<f4").attrs.update(
            {"name": bag.slide_id, "savetodir": ".", "encoder": facts.backbone}
        )
        _write_dataset(file, "coords", bag.coords, "<i8").attrs.update(attributes)


def write_clam_features(folder: Path, slide_id: str, bag: Bag) -> None:
    """Write ``h5_files/<id>.h5`` and ``pt_files/<id>.pt`` as CLAM does, each whole; the same bag gives the same bytes
    (of the ``.pt``, with the same version of torch).

    :raises SlideError: there are no tiles; CLAM's networks cannot take an empty bag.
    :raises SurroundingsError: the disk is full or read-only.
    """
    import torch  # of all formats this one alone needs it

    if not len(bag.features):
        raise SlideError("it has no tiles, and CLAM cannot take an empty bag", path=slide_id, hint="leave it out")
    with whole(folder / "h5_files" / f"{slide_id}.h5") as scratch, h5py.File(scratch, "w") as file:
        _write_dataset(file, "features", bag.features, "<f4")
        _write_dataset(file, "coords", bag.coords, "<i4")
    stream = io.BytesIO()  # torch writes a file's own name into it, and a scratch file has another
    torch.save(torch.from_numpy(bag.features.astype(np.float32)), stream)
    with whole(folder / "pt_files" / f"{slide_id}.pt") as scratch:
        scratch.write_bytes(stream.getbuffer())


def _write_dataset(file: h5py.File, name: str, values: NDArray[Any], dtype: str) -> h5py.Dataset:
    """In one piece, without chunks, and converted a part at a time."""
    dataset = file.create_dataset(name, shape=values.shape, dtype=dtype, track_times=False)
    for start in range(0, len(values), _BLOCK_ROWS):
        dataset[start : start + _BLOCK_ROWS] = values[start : start + _BLOCK_ROWS].astype(dtype)
    return dataset


def to_anndata(bag: Bag) -> AnnData:
    """A slide as AnnData, an observation a tile.

    ===================  ===========================================================================
    X                    the features, float32 (many tools that take AnnData know no float16)
    obsm["spatial"]      x, y of the tiles' upper left corners, in pixels of level 0
    obs["slide_id"]      the slide, as a category, so that slides can be concatenated
    obs_names            ``<slide>:<row>``;  var_names: ``<backbone>:<column>``
    uns["wsipipe"]       the store's facts; ``tile_size_level0`` is what squidpy calls a spot's diameter
    ===================  ===========================================================================
    """
    tiles, width = bag.features.shape
    facts = _without_none(bag.facts.model_dump(mode="json"))
    facts["bad_tiles"] = np.array(bag.facts.bad_tiles, np.int64).reshape(-1, 2)
    return AnnData(
        X=bag.features.astype(np.float32),
        obs=pd.DataFrame(
            {"slide_id": pd.Categorical([bag.slide_id] * tiles, categories=[bag.slide_id])},
            index=pd.Index([f"{bag.slide_id}:{row}" for row in range(tiles)], dtype=object),
        ),
        var=pd.DataFrame(
            index=pd.Index([f"{bag.facts.backbone}:{column}" for column in range(width)], dtype=object),
        ),
        obsm={"spatial": bag.coords},
        uns={"wsipipe": facts},
    )


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """AnnData's files have no way to say None that older versions read."""
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def write_anndata(path: Path, bag: Bag) -> None:
    """Write :func:`to_anndata` as ``.h5ad``, whole. The same bag gives the same bytes with the same version of anndata.

    :raises SurroundingsError: the disk is full or read-only.
    """
    with whole(path) as scratch:
        to_anndata(bag).write_h5ad(scratch)
