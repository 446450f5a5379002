"""One vector a slide, as TRIDENT, STAMP and slide2vec write them, and what a store of them can say of itself.

TRIDENT (``wsi_objects/WSI.py`` at ac5f46e): ``slide_features_<encoder>/<slide>.h5``
    ``features`` (D,) with ``name`` in its attributes, and ``coords`` (N, 2) of the tiles with the attributes of these
    (:mod:`.trident`). One tile alone has ``coords`` (2,). The encoder is in the folder's name alone.

STAMP (``encoding/encoder/__init__.py`` at 7816df6): ``<encoder>-slide-<hash>/<slide>.h5``
    ``feats`` (D,), and for the file ``encoder`` and ``feat_type``: ``slide``, or ``patient`` for one vector a patient.
    Nothing says what the tiles were.

slide2vec (``docs/output-layout.rst`` at 0a02b49): ``slide_embeddings/<slide>.pt``, and ``<slide>.meta.json`` beside it,
    which names encoder and tile encoder; ``tiles/<slide>.coordinates.meta.json`` tells resolution, side and number of
    the tiles. The tensor is read in :mod:`wsipipe.stages.exchange.slide2vec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ..artifact import digest_of_value, is_stray
from ..errors import SlideError, StoreError
from ..features.store import FeatureFacts, SlideEncoding
from ..file_names import file_name_key, why_no_file_name
from ..tiling.grid import Coords
from ..units import TilePx
from ..version import __version__
from .hdf5_arrays import ReadArrays, of_file, read_some_arrays, require, tile_coords
from .imported_features import UNKNOWN
from .tile_positions import FieldOfView, field_of_view

VectorSource = Literal["trident", "stamp", "slide2vec"]

_AGAIN: Final = "give the file of a slide that TRIDENT, STAMP or slide2vec has written"
_WIDEST: Final = 65_536
_ENDINGS: Final = (".h5", ".pt")
_BESIDE: Final = (".meta.json", ".lock")
"""What these programs write beside the vectors."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignVector:
    """A slide's vector as another program has written it; None is what its file does not tell."""

    path: Path
    source: VectorSource
    vector: NDArray[np.float32]
    """(D,)"""
    encoder: str | None = None
    """The slide encoder by that program's name."""
    backbone: str | None = None
    """The tiles' backbone by that program's name."""
    name: str | None = None
    """The slide."""
    tiles: int | None = None
    """Number of tiles that went into it."""
    corner: tuple[int, int] = (0, 0)
    """Corner of the rectangle around the tiles, in pixels of level 0."""
    tile_px: TilePx | None = None
    size_level0: float | None = None
    """Side of a tile's field of view in pixels of level 0."""
    magnification: float | None = None
    """The tiles' nominal one."""
    mpp: float | None = None
    """Microns per pixel of the tiles."""


@dataclass(frozen=True)
class VectorFiles:
    """What lies in a folder of vectors."""

    of_slides: dict[str, Path]
    """Slide → its file."""
    wrong: dict[str, SlideError]
    """Slides whose file cannot be taken, and why."""
    others: list[str]
    """Names of files that are no vectors."""


def find_vectors(folder: Path) -> VectorFiles:
    """List the files of a folder that hold a slide's vector each, by slide.

    Ids are in Unicode's composed form, and files whose names differ only in case are of one slide, as many file systems
    have it.

    :raises StoreError: there are none, they lie in folders below, or a slide's id cannot be a file name in the
        workspace.
    """
    found = VectorFiles({}, {}, [])
    entries = sorted(path for path in folder.iterdir() if not is_stray(path.name))
    of_key: dict[str, str] = {}
    for path in entries:
        is_vector = path.suffix.lower() in _ENDINGS
        if not is_vector or path.is_dir():
            if is_vector or not (path.is_dir() or path.name.endswith(_BESIDE)):
                found.others.append(path.name)
            continue
        slide = normalize("NFC", path.stem)
        if reason := why_no_file_name(slide):
            raise StoreError(f"the slide id {slide!a} {reason}", path=folder, hint="rename the file")
        first = of_key.setdefault(file_name_key(slide), slide)
        if first in found.of_slides or first in found.wrong:
            other = found.of_slides.pop(first, None)
            what = f"there are two files of {slide}" + (f", the other is {other.name}" if other else "")
            found.wrong[first] = SlideError(what, path=path, hint="keep the one that counts")
        elif not path.exists():
            found.wrong[slide] = SlideError("is a link to a file that is not there", path=path, hint="bring it back")
        else:
            found.of_slides[slide] = path
    if not found.of_slides and not found.wrong:
        below = sorted(path.name for path in entries if path.is_dir())
        hint = f"give one of its folders: {', '.join(below[:5])}" if below else _AGAIN
        raise StoreError("holds no slide's vector (<slide>.h5 or <slide>.pt)", path=folder, hint=hint)
    return found


def read_hdf5_vector(path: Path) -> ForeignVector:
    """Read the vector of one slide that TRIDENT or STAMP has written.

    :raises StoreError: no such file, no HDF5, no vector in it, one of a patient, or features of tiles.
    """
    with of_file(path, StoreError, _AGAIN):
        read = read_some_arrays(path, "features", "coords", "feats")
        if "features" in read.values and "feats" in read.values:
            raise SlideError("it holds `features` and `feats`, and nobody says which of them counts")
        return _of_stamp(path, read) if "feats" in read.values else _of_trident(path, read)


def _of_trident(path: Path, read: ReadArrays) -> ForeignVector:
    require(read, "features", "coords")
    places = np.asarray(read.values["coords"])
    coords: Coords = tile_coords(places[None] if places.shape == (2,) else places)
    vector = as_vector(read.values["features"])
    if vector.ndim != np.ndim(read.values["features"]) and len(coords) == 1:
        what = "may be the features of its one tile or the slide's vector"
        raise SlideError(what, hint="leave this slide out, or encode it with wsipipe")
    of_features, of_coords = read.attributes["features"], read.attributes["coords"]
    field: FieldOfView | None = None
    if {"patch_size", "patch_size_level0", "patch_level"} & of_coords.values.keys():
        field = field_of_view(read)
    corner = (int(coords[:, 0].min()), int(coords[:, 1].min())) if len(coords) else (0, 0)
    return ForeignVector(
        path=path,
        source="trident",
        vector=vector,
        encoder=of_features.text("slide_encoder"),
        name=of_features.text("name") or of_coords.text("name"),
        tiles=len(coords) or None,
        corner=corner,
        tile_px=None if field is None else field.patch_px,
        size_level0=None if field is None else field.size_level0,
        magnification=None if field is None else field.magnification,
    )


def _of_stamp(path: Path, read: ReadArrays) -> ForeignVector:
    kind, encoder = read.of_file.text("feat_type"), read.of_file.text("encoder")
    if kind == "patient":
        what = "holds the vector of a patient, made of all slides together"
        raise SlideError(what, hint="let STAMP encode slides, not patients")
    if kind == "tile" or (kind is None and encoder is None):
        what = "does not say that it holds a slide's vector (no `feat_type`, no `encoder`)"
        raise SlideError(what, hint="encode the slides with a current STAMP")
    return ForeignVector(
        path=path,
        source="stamp",
        vector=as_vector(read.values["feats"]),
        encoder=encoder,
        backbone=read.of_file.text("extractor"),
    )


def as_vector(values: Any) -> NDArray[np.float32]:
    """The numbers of one vector, (D,) or (1, D), as (D,).

    :raises SlideError: they are several vectors, none, or no finite numbers.
    """
    numbers = np.asarray(values)
    if numbers.ndim == 2 and len(numbers) == 1:
        numbers = numbers[0]
    if numbers.ndim == 2 and numbers.size:
        wrong = f"holds {len(numbers)} vectors, as features of tiles are, not one for the whole slide"
        raise SlideError(wrong, hint="features of tiles: without --encoder, from a folder of another name")
    if numbers.ndim != 1 or numbers.dtype.kind != "f" or not 0 < numbers.size <= _WIDEST:
        wrong = f"its vector has the shape {numbers.shape} and the type {numbers.dtype}, not (D,) and numbers"
        raise SlideError(wrong)
    with np.errstate(over="ignore"):
        vector: NDArray[np.float32] = numbers.astype(np.float32)
    if not np.isfinite(vector).all():
        raise SlideError("its vector holds NaN or infinity", hint="encode this slide again")
    return vector


def slide_stands_for(slide_id: str) -> str:
    """What stands for a slide whose bytes nobody has: its id, whichever program's vector it is."""
    return f"{UNKNOWN}imported, slide {slide_id}"


def vector_facts(
    foreign: ForeignVector, *, slide_id: str, encoder: str, backbone: str, mpp: float, tile_px: int
) -> FeatureFacts:
    """What a store of an imported vector can say of itself.

    :param encoder, backbone: the names that they go by here.
    :param mpp, tile_px: of the tiles; what the file tells was compared with them.
    """
    unknown = f"{UNKNOWN}imported from {foreign.source}"
    return FeatureFacts(
        slide_id=slide_id,
        slide_digest=digest_of_value(slide_stands_for(slide_id)),
        tiles_digest=unknown,
        mpp=mpp,
        tile_px=tile_px,
        tile_size_level0=foreign.size_level0 or tile_px,  # of no tile here anything is drawn
        backbone=backbone,
        architecture=unknown,
        pooling=unknown,
        width=len(foreign.vector),
        weights_digest=unknown,
        precision=unknown,
        transform={},
        versions={"wsipipe": __version__},
        encoding=SlideEncoding(
            encoder=encoder,
            weights_digest=unknown,
            tile_width=None,
            tiles=foreign.tiles,
            features_digest=unknown,
        ),
    )
