"""Folders of features: of tiles, or of whole slides as a slide encoder has made them from those of tiles.

    features/0.5mpp-224px/uni2-h/                   one vector a tile
    slide_features/0.5mpp-224px/mean-of-uni2-h/     one vector a slide, of these

    slide_features/0.5mpp-512px/titan-imported-of-conch-v1.5/   such vectors that another program has made

All hold one store a slide, so that whatever reads features reads either: a slide vector is a bag of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

SLIDE_FEATURES: Final = "slide_features"
"""Folder of the workspace that holds those of slides."""
_OF: Final = "-of-"
_IMPORTED: Final = "-imported"


def holds_slide_vectors(features: Path) -> bool:
    """Whether a folder of features holds one vector a slide."""
    return features.parent.parent.name == SLIDE_FEATURES


def holds_imported_vectors(features: Path) -> bool:
    """Whether a folder holds slide vectors that another program has made."""
    return holds_slide_vectors(features) and features.name.partition(_OF)[0].endswith(_IMPORTED)


def stage_of(features: Path) -> str:
    """The stage that makes the features of a folder."""
    return "encode" if holds_slide_vectors(features) else "extract"


def folder_of_vectors(tile_features: Path, encoder: str) -> Path:
    """Where the slide vectors of a folder of tiles' features lie."""
    tiles = tile_features.parent
    return tiles.parent.parent / SLIDE_FEATURES / name_of_vectors(f"{tiles.name}/{tile_features.name}", encoder)


def name_of_vectors(tile_features: str, encoder: str, *, imported: bool = False) -> str:
    """The name of the folder of slide vectors, ``0.5mpp-224px/mean-of-uni2-h`` of ``0.5mpp-224px/uni2-h``.

    :param imported: another program has made them.
    """
    tiles, _, backbone = tile_features.partition("/")
    return f"{tiles}/{encoder}{_IMPORTED if imported else ''}{_OF}{backbone}"


def tile_features_of(features: Path) -> Path:
    """The folder of tiles' features that slide vectors were made from; the folder itself if it holds those."""
    if not holds_slide_vectors(features):
        return features
    return features.parent.parent.parent / "features" / features.parent.name / features.name.partition(_OF)[2]
