"""The records that say which slide the features of a folder are of, and how its tiles were made and read.

Those are the records of tiling and of extraction. Slide vectors that another program has made were imported without
either: what is known of their slides and tiles is in the records of the import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..data.errors import CohortError
from ..data.manifest import Manifest, Record
from .features_folder import holds_imported_vectors, tile_features_of
from .lineage import Lineage

VECTOR: Final = "vector"
"""In the record of an imported vector: the digest of its numbers."""
_OF_VECTORS: Final = ("mpp", "tile_px", "backbone", "encoder")


def tiling_of(tiles: Path, features: Path) -> tuple[Path, str]:
    """Folder and stage of the records that say which slide it is and how it was tiled.

    :param tiles: folder of the stage that tiled the slides, if one did.
    """
    return (features, "encode") if holds_imported_vectors(features) else (tiles, "tile")


def extraction_of(features: Path) -> tuple[Path, str]:
    """Folder and stage of the records that say how the tiles' features were made."""
    return (features, "encode") if holds_imported_vectors(features) else (tile_features_of(features), "extract")


def latest(place: tuple[Path, str], lineage: Lineage | None = None) -> dict[str, Record]:
    """The latest record of each slide there, valid or not."""
    folder, stage = place
    return Manifest.of(folder).latest(stage) if lineage is None else lineage.latest(folder, stage)


def digest_of_slide(record: Record | None) -> str | None:
    """The digest by which a slide is known whatever its id: of its bytes, or of its imported vector.

    :param record: of its tiling or import.
    :returns: None if it is not here, or was imported by a version that did not record its vector's.
    """
    if record is None or "slide" not in record.inputs:
        return None
    return record.stats.get(VECTOR) if record.stage == "encode" else record.inputs["slide"].digest


def identity_of_slide(slide: str, record: Record) -> str:
    """What tells a slide from others: its digest, or its id where none was recorded."""
    return digest_of_slide(record) or slide


def recipe_of_imported(slides: Sequence[str], records: Mapping[str, Record], folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of ``tile``, ``extract`` and ``encode`` that imported vectors stand for.

    :raises CohortError: slides were imported with different ones.
    """
    first = records[slides[0]].settings
    for slide in slides:
        own = records[slide].settings
        if other := [name for name in _OF_VECTORS if own.get(name) != first.get(name)]:
            what = f"{slides[0]} and {slide} were imported with different settings ({', '.join(other)})"
            raise CohortError(what, path=folder, hint="import the folder again, with --replace")
    return {
        "tile": {"mpp": first["mpp"], "tile_px": first["tile_px"]},
        "extract": {"backbone": first["backbone"]},
        "encode": {"encoder": first["encoder"]},
    }
