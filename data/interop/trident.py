"""TRIDENT's files: what its attributes say of tiles, and features written as it writes them.

``patches/<slide>_patches.h5``
    ``coords`` (N, 2), x and y of the upper left corners in pixels of level 0, and the rest in its attributes. TRIDENT
    reads squares of ``round(patch_size × level0_magnification / target_magnification)`` pixels of level 0; that is the
    field of view. Its magnifications are nominal (anything from 0.2 to 0.3 µm is "40"): their ratio says how large a
    tile is, and each of them what its resolution cannot be (:func:`not_its_magnification`).
    ``patch_size_level0`` says the field of view rounded down. Newer files tell ``level0_width`` and ``level0_height``.
    Tiles may reach over the right and lower edge of the slide. Our own tile files are read by it as they are
    (:mod:`wsipipe.data.tiling.store`).

``features_<encoder>/<slide>.h5``
    ``features`` (N, D) with ``name`` and ``encoder`` in its attributes, and ``coords`` with the attributes of the
    tiles. Its embeddings of whole slides have the same names, and one vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import SlideError, StoreError
from ..files.hdf5 import whole_hdf5
from ..tiling.store import TileSet
from ..units import Level0Px
from .hdf5_arrays import Attributes, write_array

if TYPE_CHECKING:
    from ..features.store import Bag

_LARGEST: Final = 2**40
"""Pixels along a side that no slide has."""
_NOMINAL: Final = (6.0, 12.8)
"""Least and greatest µm per pixel × magnification: to TRIDENT what has 0.3 to 0.6 µm is 20x, below 0.16 µm 80x
(``wsi_objects/WSI.py`` at 0b2f600, ``_fetch_magnification``)."""


def is_trident_s(coords: Attributes) -> bool:
    """Whether these are the attributes that TRIDENT gives to ``coords``."""
    return bool({"target_magnification", "patch_size_level0"} & coords.values.keys())


def trident_field_of_view(coords: Attributes) -> float:
    """Side of a tile in pixels of level 0.

    :raises SlideError: the attributes do not say it, or contradict each other.
    """
    said = coords.number("patch_size_level0")
    level0, target = coords.number("level0_magnification"), coords.number("target_magnification")
    if not level0 or not target:
        return float(coords.size("patch_size_level0"))
    exact = coords.size("patch_size") * level0 / target
    if not exact < _LARGEST:
        raise SlideError(f"its magnifications {level0:g} and {target:g} make tiles of {exact:.3g} px of level 0")
    size = float(round(exact))
    if said and abs(said - size) > 1:
        wrong = f"it contradicts itself: tiles of {size:g} px of level 0 by their magnifications, and of {said:g}"
        raise SlideError(wrong)
    return size


def not_its_magnification(magnification: float | None, mpp: float) -> str:
    """Say why tiles of this resolution are none of this nominal magnification; empty if they can be.

    It is wide: it tells 0.5 µm per pixel from 0.25 and from 1, and not from 0.45.

    :param magnification: the target magnification of a file; None if it does not tell.
    """
    if magnification is None:
        return ""
    least, most = (product / magnification for product in _NOMINAL)
    if least <= mpp <= most:
        return ""
    return f"its tiles are {magnification:g}x, which is {least:.3g} to {most:.3g} µm per pixel, and not {mpp:.6g}"


def trident_slide_size(coords: Attributes) -> tuple[Level0Px, Level0Px] | None:
    """Width and height of the slide; None in older files."""
    width, height = coords.number("level0_width"), coords.number("level0_height")
    return None if width is None or height is None else (Level0Px(round(width)), Level0Px(round(height)))


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
    with whole_hdf5(path) as file:
        write_array(file, "features", bag.features, "<f4").attrs.update(
            {"name": bag.slide_id, "savetodir": ".", "encoder": facts.backbone}
        )
        write_array(file, "coords", bag.coords, "<i8").attrs.update(attributes)
