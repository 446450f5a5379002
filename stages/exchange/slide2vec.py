"""The vectors of slides that slide2vec has written: a tensor, and what its two files of metadata say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ...data.errors import StoreError
from ...data.interop.hdf5_arrays import of_file
from ...data.interop.slide_vectors import ForeignVector, as_vector, read_hdf5_vector
from ...data.json_text import read_json
from ...data.surroundings import patiently
from ...data.units import TilePx
from ...models.backbones.tensor_files import UNREADABLE, is_plain, read_without_running

_AGAIN: Final = "give slide_embeddings/<slide>.pt as slide2vec has written it, with <slide>.meta.json beside it"


def read_vector(path: Path) -> ForeignVector:
    """Read the vector of one slide, whichever program has written it.

    :raises StoreError: no such file, damaged, or it does not hold one vector of one slide.
    """
    return read_slide2vec_vector(path) if path.suffix.lower() == ".pt" else read_hdf5_vector(path)


def metadata_of(path: Path) -> list[Path]:
    """The files of metadata that belong to a tensor, as far as they are there."""
    return [file for file in (_metadata_file(path), _tiling_file(path)) if file.is_file()]


def read_slide2vec_vector(path: Path) -> ForeignVector:
    """Read the vector of one slide that slide2vec has written.

    :raises StoreError: it or its metadata is missing, damaged, or of something else than one slide.
    """
    if not path.is_file():
        raise StoreError("there is no such file", path=path, hint=_AGAIN)
    with of_file(path, StoreError, _AGAIN):
        try:
            tensor = patiently(lambda: read_without_running(path), path)
        except UNREADABLE as error:
            first = (str(error).splitlines() or [repr(error)])[0]
            raise StoreError(f"no tensor, or damaged: {first}", path=path, hint=_AGAIN) from error
        if not isinstance(tensor, Tensor) or not is_plain(tensor):
            raise StoreError("does not hold one plain tensor", path=path, hint=_AGAIN)
        vector = as_vector(tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy())
    about = _json(_metadata_file(path))
    if (kind := about.get("artifact_type")) != "slide_embeddings":
        what = f"is of {kind or 'nobody knows what'} by its metadata, not of slide_embeddings"
        raise StoreError(what, path=path, hint="give the folder slide_embeddings")
    tiling_file = _tiling_file(path)
    identity = _part(about, "compatibility")
    tiling = _part(_json(tiling_file), "tiling") if tiling_file.is_file() else {}
    px = [value for value in (_number(s, "requested_tile_size_px") for s in (identity, tiling)) if value]
    if len({*px}) > 1:
        what = f"contradicts itself: tiles of {px[0]:g} px, and of {px[1]:g} px in {tiling_file.name}"
        raise StoreError(what, path=path, hint="keep the metadata of the run that made it")
    tiles = _number(tiling, "n_tiles")
    return ForeignVector(
        path=path,
        source="slide2vec",
        vector=vector,
        encoder=_text(about, "encoder_name"),
        backbone=_text(identity, "tile_encoder"),
        name=_text(about, "sample_id"),
        tiles=int(tiles) if tiles else None,
        tile_px=TilePx(round(px[0])) if px else None,
        size_level0=_number(tiling, "tile_size_lv0"),
        mpp=_number(tiling, "requested_spacing_um"),
    )


def _metadata_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}.meta.json")


def _tiling_file(path: Path) -> Path:
    return path.parent.parent / "tiles" / f"{path.stem}.coordinates.meta.json"


def _json(file: Path) -> dict[str, Any]:
    content = read_json(file, StoreError, what="metadata of slide2vec", hint=_AGAIN)
    if not isinstance(content, dict):
        raise StoreError(f"holds {type(content).__name__}, not metadata of slide2vec", path=file, hint=_AGAIN)
    return content


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of metadata; empty where there is none."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _text(content: dict[str, Any], name: str) -> str | None:
    value = content.get(name)
    return value if isinstance(value, str) and value else None


def _number(content: dict[str, Any], name: str) -> float | None:
    """A size, as far as it is one."""
    value = content.get(name)
    sane = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**40
    return float(value) if sane else None  # type: ignore[arg-type]
