"""Import of slide vectors: what they are, by their folder, their files and the flags, which must not contradict."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ...data.errors import StoreError, UsageError
from ...data.manifest import Manifest
from ...data.units import same_mpp
from ..results import Summary
from ..run.runner import Runner

if TYPE_CHECKING:
    from ...data.interop.slide_vectors import ForeignVector
    from ...models.slide_encoders.registry import EncoderCard

T = TypeVar("T")

_OF_TRIDENT: Final = "slide_features_"
_OF_STAMP: Final = re.compile(r".+-slide(-[0-9a-f]{8})?")
_OF_SLIDE2VEC: Final = "slide_embeddings"
_MEAN: Final = "mean-"
"""How TRIDENT's names of means begin; that of the tiles' backbone follows."""


def are_vectors(folder: Path, encoder: str | None) -> bool:
    """Whether a folder is said to hold slide vectors, by a flag or by the name that these programs give it."""
    name = _place(folder).name
    named = name.startswith(_OF_TRIDENT) or name == _OF_SLIDE2VEC or _OF_STAMP.fullmatch(name) is not None
    return encoder is not None or named


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the user says of the vectors, where folder and files do not.

    :param tiles: name of the tiles' folder here that they were made from, whose resolution and side then count.
    """

    encoder: str | None = None
    backbone: str | None = None
    mpp: float | None = None
    tile_px: int | None = None
    tiles: str | None = None


def import_vectors(runner: Runner, source: Path, said: Said) -> Summary:
    """Import the slide vectors of a folder.

    :raises UsageError: something is not known, or folder, files and flags contradict each other.
    :raises StoreError: no file of the folder can be read.
    """
    from ...models.backbones.backbone import backbone_called, find_backbone
    from ...models.slide_encoders.registry import encoder_called
    from ...stages.exchange.import_vectors import ImportVectorsSettings, ImportVectorsStage
    from ...stages.features_folder import SLIDE_FEATURES, name_of_vectors

    if not source.is_dir():
        raise UsageError("no such folder of slide vectors", path=source, hint="give the folder that holds <slide>.h5")
    for flag, given in (("--mpp", said.mpp), ("--tile-px", said.tile_px)):
        if given is not None and not 0 < given < math.inf:
            raise UsageError(f"{flag} {given:g} is no size", path=source, hint=f"give {flag} a number above 0")
    source = _place(source)
    first = _first_readable(source)
    by_folder, of_mean = _named_by(source)
    name = _one(source, "--encoder", "the slide encoder", [by_folder, first.encoder, said.encoder], same=_same_encoder)
    card = encoder_called(name)
    if card is not None:
        name = card.name
    of_tiles = [of_mean, first.backbone, said.backbone, *_only_backbone(card)]
    named = _one(source, "--backbone", "the tiles' backbone", of_tiles, same=_same_backbone)
    known = (backbone_called(named) or find_backbone(named)).name
    if card is not None:
        card.refuse_backbone(known)
    here = (None, None) if said.tiles is None else _of_tiles(runner.workspace / "tiles" / said.tiles)
    resolution = _one(source, "--mpp", "the tiles' µm per pixel", [here[0], said.mpp, first.mpp], same=same_mpp)
    side = _one(source, "--tile-px", "the side of a tile", [here[1], said.tile_px, first.tile_px], same=_equal)
    settings = ImportVectorsSettings(encoder=_as_name(name, source), backbone=known, mpp=resolution, tile_px=int(side))
    place = said.tiles or f"{settings.mpp:g}mpp-{settings.tile_px}px"
    folder = runner.workspace / SLIDE_FEATURES / name_of_vectors(f"{place}/{known}", settings.encoder, imported=True)
    return runner.run(ImportVectorsStage(settings, folder, runner.workspace, source=source))


def _place(folder: Path) -> Path:
    """The folder with its name: that of ``.``, and that of a link, not of what it leads to."""
    return Path(os.path.abspath(folder))  # noqa: PTH100


def _first_readable(source: Path) -> ForeignVector:
    """The first file that can be read: what it says of itself, the others are held against.

    One that says something else fails by itself, whichever is the odd one; one that says nothing is taken for the same.
    """
    from ...data.interop.slide_vectors import find_vectors
    from ...stages.exchange.slide2vec import read_vector

    wrong: StoreError | None = None
    found = find_vectors(source)
    for file in found.of_slides.values():
        try:
            return read_vector(file)
        except StoreError as error:
            wrong = wrong or error
    raise wrong or next(iter(found.wrong.values()))


def _named_by(source: Path) -> tuple[str | None, str | None]:
    """The encoder that the folder's name says, and the tiles' backbone if it says that too."""
    if not source.name.startswith(_OF_TRIDENT):
        return None, None
    name = source.name.removeprefix(_OF_TRIDENT)
    return ("mean", name.removeprefix(_MEAN)) if name.startswith(_MEAN) else (name, None)


def _only_backbone(card: EncoderCard | None) -> list[str | None]:
    """The backbone that an encoder reads, if it reads no other."""
    return [] if card is None or card.other_backbones else [card.backbone]


def _of_tiles(folder: Path) -> tuple[float, int]:
    """Resolution and side of the tiles of a folder, as they were asked for."""
    from ...stages.tile.settings import TileSettings

    record = next((r for r in Manifest.of(folder).latest("tile").values() if r.status != "failed"), None)
    if record is None:
        raise UsageError("no tiles are called so", path=folder, hint="leave --tiles out, or look with wsipipe status")
    settings = {**TileSettings.defaults(), **record.settings}
    return float(settings["mpp"]), int(settings["tile_px"])


def _one(source: Path, flag: str, what: str, said: list[T | None], *, same: Callable[[T, T], bool]) -> T:
    """What is said, by whomever says it.

    :raises UsageError: nobody says it, or two say different things.
    """
    known = [value for value in said if value is not None]
    if not known:
        hint = f"give {flag}"
        raise UsageError(f"neither the folder nor the files tell {what}", path=source, hint=hint)
    for other in known[1:]:
        if not same(known[0], other):
            wrong = f"{what} is said to be {known[0]} and {other}"
            raise UsageError(wrong, path=source, hint=f"correct {flag}, or the folder's name if it is wrong")
    return known[0]


def _equal(one: T, other: T) -> bool:
    return one == other


def _same_backbone(one: str, other: str) -> bool:
    from ...models.backbones.backbone import same_backbone

    return same_backbone(one, other)


def _same_encoder(one: str, other: str) -> bool:
    from ...models.backbones.backbone import same_name
    from ...models.slide_encoders.registry import encoder_called

    card = encoder_called(one)
    return same_name(one, other) or (card is not None and card.is_called(other))


def _as_name(encoder: str, source: Path) -> str:
    """The encoder's name as a part of a folder's."""
    from ...stages.encode.settings import ENCODER_NAME

    name = encoder.lower().replace("_", "-")
    if re.fullmatch(ENCODER_NAME, name) is None:
        what = f"{encoder!r} cannot be the name of a slide encoder here"
        raise UsageError(what, path=source, hint="give --encoder: letters, digits, dots and dashes")
    return name
