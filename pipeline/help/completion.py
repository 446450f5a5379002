"""What the shell completes beside names of commands and flags: backbones, methods, models, folders of results.

It is asked at every press of the tab key, so nothing heavy is imported and no record is read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Final

from ...data.molecular.block_table import BLOCKS
from ...models.training.methods import METHODS
from ...stages.registry import FOLDERS
from ...stages.settings import FILE_NAME

Completer = Callable[[str], list[str]]


def _beginning(words: Iterable[str], typed: str) -> list[str]:
    return [word for word in words if word.startswith(typed)]


def backbones(incomplete: str) -> list[str]:
    """Names of registered backbones."""
    text = files("wsipipe.models.backbones").joinpath("backbones.toml").read_text(encoding="utf-8")
    return _beginning(tomllib.loads(text), incomplete)


def methods(incomplete: str) -> list[str]:
    """Names of training methods."""
    return _beginning(METHODS, incomplete)


def blocks(incomplete: str) -> list[str]:
    """Names of molecular blocks."""
    return _beginning(BLOCKS, incomplete)


def devices(incomplete: str) -> list[str]:
    """Names of devices; how many GPUs there are is not asked."""
    return _beginning(("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps"), incomplete)


def gpus(incomplete: str) -> list[str]:
    """GPUs as they are often given."""
    return _beginning(("0", "0,1", "all"), incomplete)


def models(incomplete: str) -> list[str]:
    """Names of the models of the workspace."""
    return _there(incomplete, "models", "models/*")


def tiles(incomplete: str) -> list[str]:
    """Names of the workspace's folders of tiles."""
    return _there(incomplete, "tiles", "tiles/*")


def features(incomplete: str) -> list[str]:
    """Names of the workspace's folders of features."""
    return _there(incomplete, "features", "features/*/*")


def biomarkers(incomplete: str) -> list[str]:
    """Names of the biomarkers in the settings file here."""
    return _beginning(_settings().get("biomarkers", {}), incomplete)


def folders(incomplete: str) -> list[str]:
    """The workspace's folders of results."""
    return [name for pattern in FOLDERS for name in _there(incomplete, "", pattern)]


def _there(typed: str, below: str, pattern: str) -> list[str]:
    workspace = Path(str(_settings().get("workspace", "work")))
    names: list[str] = []
    with suppress(OSError):
        found = sorted(path for path in workspace.glob(pattern) if path.is_dir())
        names = [path.relative_to(workspace / below).as_posix() for path in found]
    return _beginning(names, typed)


def _settings() -> dict[str, dict[str, object]]:
    """The settings file here, if there is one that can be read."""
    with suppress(OSError, ValueError):
        content: dict[str, dict[str, object]] = tomllib.loads(Path(FILE_NAME).read_text(encoding="utf-8"))
        return content
    return {}


COMPLETERS: Final[dict[str, Completer]] = {
    **{"backbone": backbones, "init_backbone": backbones, "method": methods, "methods": methods, "blocks": blocks},
    **{"device": devices, "gpu": gpus, "model": models, "tiles": tiles, "features": features, "names": folders},
    "targets": biomarkers,
}
"""Flag or argument → what completes its value; choices and paths the shell completes by itself."""
