"""Features that TRIDENT or CLAM has extracted, and what a store of them can say of itself.

What such files do not tell is said so in the store: :func:`imported_facts` writes ``unknown: imported from …`` where a
digest or a setting would stand. Slides compare equal in it if they came from the same program and encoder, so that they
train together, and a model that they trained refuses features whose weights are known to be something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import SlideError, StoreError, UsageError
from ..features.store import FeatureFacts
from ..tiling.grid import Coords
from ..units import Mpp, TilePx, same_mpp
from ..version import __version__
from .hdf5_arrays import Attributes, of_file, read_arrays, tile_coords
from .slide_files import file_of_slide
from .tile_positions import TRUE_MPP, FieldOfView, Source, field_of_view
from .trident import not_its_magnification

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
    magnification: float | None = None
    """The tiles' nominal one, if the file tells."""


def find_foreign_features(folder: Path, slide_id: str) -> Path:
    """The features of a slide: ``<id>.h5``, in a folder or in CLAM's ``h5_files/`` below it.

    :raises SlideError: there are none.
    """
    places = [[f"{slide_id}.h5"], [f"h5_files/{slide_id}.h5"]]
    hint = "extract them there, or with wsipipe extract"
    return file_of_slide(f"features of {slide_id}", folder, places, hint=hint)


def read_foreign_features(path: Path) -> ForeignFeatures:
    """Read the features of one slide.

    :raises StoreError: no such file, no HDF5, no features or coordinates in it, or they do not fit each other.
    """
    if path.suffix == ".pt":
        hint = f"give CLAM's h5_files/{path.stem}.h5 beside it, or let TRIDENT write HDF5: it says where the tiles are"
        raise StoreError("holds features without coordinates", path=path, hint=hint)
    with of_file(path, StoreError, _AGAIN):
        read = read_arrays(path, "features", "coords")
        features, coords = _vectors(read.values["features"]), tile_coords(read.values["coords"])
        if len(features) != len(coords):
            raise SlideError(f"{len(features)} feature vectors and {len(coords)} coordinates")
        of_features, of_coords = read.attributes["features"], read.attributes["coords"]
        field: FieldOfView | None = None
        if {"patch_size", "patch_size_level0", "patch_level"} & of_coords.values.keys():
            field = field_of_view(read)
        by_trident = "encoder" in of_features.values or (field is not None and field.source == "trident")
        attributes = (of_features, of_coords, read.of_file)
        return ForeignFeatures(
            path=path,
            source="trident" if by_trident else "clam",
            features=features,
            coords=coords,
            size_level0=None if field is None else field.size_level0,
            patch_px=None if field is None else field.patch_px,
            name=of_features.text("name") or of_coords.text("name"),
            encoder=_encoder(attributes),
            mpp=_mpp(attributes),
            magnification=None if field is None else field.magnification,
        )


def _encoder(attributes: Sequence[Attributes]) -> str | None:
    names = {name: None for held in attributes for key in _ENCODER if (name := held.text(key))}
    if len(names) > 1:
        raise SlideError(f"it contradicts itself: its features are of the encoders {' and '.join(names)}")
    return next(iter(names), None)


def _mpp(attributes: Sequence[Attributes]) -> float | None:
    for held in attributes:
        for key in _MPP:
            value = np.asarray(held.values.get(key, np.nan))
            if value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all() and value.min() > 0:
                return float(value.reshape(()))
    return None


def _vectors(values: Any) -> NDArray[np.floating[Any]]:
    features = np.asarray(values)
    if features.ndim == 3 and len(features) == 1:
        features = features[0]
    if features.ndim == 1 and features.size:
        wrong = "holds one vector for the whole slide, not one a tile"
        raise SlideError(wrong, hint="give the features of its tiles; or import slide vectors: --encoder NAME")
    if features.ndim != 2 or features.dtype.kind != "f":
        wrong = f"its features have the shape {features.shape} and the type {features.dtype}, not (N, D) and numbers"
        raise SlideError(wrong)
    return features if features.dtype == np.float16 else features.astype(np.float32, copy=False)


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
    overruled: bool = False,
) -> FeatureFacts:
    """What a store of imported features can say of itself.

    Of resolution two things must be known. Where the file tells the size of the tiles, ``slide_mpp`` or ``mpp`` will
    do; where it does not, all of ``slide_mpp``, ``mpp`` and ``tile_px``. Magnifications in such files are nominal: they
    are not taken for a resolution, but one that they rule out is refused.

    :param backbone: the name it goes by here; the file's own name for it is kept with what is unknown.
    :param slide_mpp: microns per pixel of the slide's level 0.
    :param mpp: the same of the tiles as they were read, before the backbone's own resize.
    :param slide_digest: of the slide, where it is at hand. Otherwise the slide's id stands for it, so that it is never
        taken for another slide.
    :param weights_digest: of the weights, where somebody vouches for them.
    :param overruled: the user has said the slide's resolution against what files state of it.
    :raises UsageError: too little is known of the resolution, or what is given contradicts the file.
    """
    unknown = f"{UNKNOWN}imported from {foreign.source}"
    of_encoder = unknown + (f", encoder {foreign.encoder}" if foreign.encoder else "")
    tile_px, size_level0, mpp = _resolution(foreign, slide_mpp=slide_mpp, mpp=mpp, tile_px=tile_px)
    stated = [value for value in (mpp, slide_mpp) if value is not None]
    if foreign.mpp is not None and not any(same_mpp(foreign.mpp, value) for value in stated):
        wrong = f"it says {foreign.mpp:g} µm per pixel, and its tiles are taken for {mpp:g}"
        raise UsageError(
            wrong, path=foreign.path, hint=f"give the tiles that it was made from (--mpp {foreign.mpp:g}?)"
        )
    if not overruled and (wrong := not_its_magnification(foreign.magnification, mpp)):
        raise UsageError(wrong, path=foreign.path, hint=TRUE_MPP)
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
    if mpp is not None and not same_mpp(mpp, true):
        wrong = f"its tiles have {true:.6g} µm per pixel on a slide of {slide_mpp:g}, not {mpp:g}"
        raise UsageError(wrong, path=foreign.path, hint=f"leave --mpp out, or give {true:.6g}")
    return foreign.patch_px, foreign.size_level0, true
