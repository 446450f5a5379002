"""The networks that slides were tiled with: part of a model's recipe, since another network would give other tiles.

Their weights are files of the user. A recipe has the digests of the files in place of their paths, under the names of
the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...data.artifact import digest_of
from ...data.errors import BundleError
from ...data.manifest import Record
from ..settings import RESOLVED
from .settings import NETWORKS, TileSettings

WORDS: Final = {"tissue_weights": "tissue weights", "artefact_weights": "artefact weights"}
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")


def is_digest(value: object) -> bool:
    """Whether a recipe's value can be the digest of a file."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def recipe_of_tiles(record: Record) -> dict[str, Any]:
    """The settings that a slide was tiled with, with the digests of its networks."""
    settings = {name: value for name, value in record.settings.items() if name != RESOLVED}
    return {**settings, **record.settings.get(RESOLVED, {}), **networks_in(record)}


def recipe_of_settings(settings: TileSettings) -> dict[str, Any]:
    """The settings by which slides are tiled, with the digests of their networks."""
    recipe = settings.result_settings()
    if settings.artefact_weights is not None:
        recipe["artefact_mpp"] = settings.mpp_of_artefacts()
    files = {name: getattr(settings, name) for name in NETWORKS}
    return recipe | {name: digest_of(file) for name, file in files.items() if file is not None}


def networks_in(record: Record) -> dict[str, str]:
    """Setting → digest of the weights that a slide was tiled with."""
    return {name: record.inputs[name].digest for name in NETWORKS if name in record.inputs}


def refuse_other_networks(recipe: Mapping[str, Any], here: Mapping[str, str], path: Path) -> None:
    """Refuse tiles of other networks than those of a model's recipe.

    A recipe of before 27 November 2026 does not say whether there were tissue weights; then any are accepted.

    :param recipe: the recipe's settings of tiling.
    :param here: setting → digest of the weights used here.
    :param path: of the tiles, or of a slide.
    :raises BundleError: they differ; the message names the weights.
    """
    for name, what in WORDS.items():
        wanted, used = recipe.get(name), here.get(name)
        if wanted == used or (wanted is None and name == "tissue_weights"):
            continue
        flag = f"--{name.replace('_', '-')}"
        if wanted is None:
            wrong = f"tiled with {what}, and the slides that the model was trained on were not"
            raise BundleError(wrong, path=path, hint=f"tile it without {flag}, and extract it again")
        wrong = f"tiled with other {what} than the model's" if used else f"tiled without the model's {what}"
        hint = f"tile it again with the model's ({wanted[:19]}…): {flag} FILE; and extract it again"
        raise BundleError(wrong, path=path, hint=hint)


def given_networks(recipe: Mapping[str, Any], settings: TileSettings, model: Path) -> tuple[dict[str, Path], list[str]]:
    """Choose the user's files of weights with which new slides are tiled for a model; also notes for the user.

    :param recipe: the model's settings of tiling.
    :param settings: those of the user, with the files.
    :param model: the model's folder.
    :raises BundleError: the model's slides were tiled with weights that are not given, or with others.
    """
    given: dict[str, Path] = {}
    notes = []
    for name, what in WORDS.items():
        wanted, file, flag = recipe.get(name), getattr(settings, name), f"--{name.replace('_', '-')}"
        if wanted is None and file is not None and name == "artefact_weights":
            notes.append(f"the model's slides were tiled without {what}: {file.name} is not used")
            continue
        if wanted is None and file is not None:
            notes.append(f"the model's recipe names no {what}: the tissue of new slides is found with {file.name}")
        if wanted is not None and file is None:
            wrong = f"the slides that it was trained on were tiled with {what}, and none are given"
            raise BundleError(wrong, path=model, hint=f"give the same file ({wanted[:19]}…): {flag} FILE")
        if wanted is not None and file is not None and (digest := digest_of(file)) != wanted:
            wrong = f"the slides that it was trained on were tiled with other {what} than {file.name}"
            raise BundleError(wrong, path=model, hint=f"give {flag} the file of {wanted[:19]}…; this is {digest[:19]}…")
        if file is not None:
            given[name] = file
    return given, notes
