"""Images beside slides that are not slides themselves: thumbnails, labels, macro images of the glass, masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .slide import IMAGE_EXTENSIONS

_WORDS: Final = (
    "thumbnail", "thumb", "label", "macro", "overview", "preview", "barcode", "snapshot", "lowres", "icon", "tile",
    "mask", "overlay", "heatmap", "contour", "contours", "annotation", "annotations",
)  # fmt: skip
_WORD: Final = rf"(?:slide[ _-]?)?(?:{'|'.join(_WORDS)})(?:[ _-]?(?:image|img))?"
_BETWEEN: Final = " ._-()[]"
_AFTER: Final = re.compile(rf"^(?P<slide>.+[{re.escape(_BETWEEN)}]){_WORD}[)\]]?$", re.IGNORECASE)
_BEFORE: Final = re.compile(rf"^{_WORD}(?P<slide>[{re.escape(_BETWEEN)}].+)$", re.IGNORECASE)
_ALONE: Final = re.compile(rf"^{_WORD}$", re.IGNORECASE)


def companions(slides: Sequence[Path]) -> set[Path]:
    """Find the companion images among a folder's files with a slide's extension.

    These are: a plain image named like a slide of another format (``one.jpg`` beside ``one.svs``); any file named like
    another one plus a word such as "label" before or after it (``one_macro.tif``, ``thumb-one.png``,
    ``one.svs.label.png``); and a plain image with such a word in its name in a folder that holds slides of other
    formats.
    """
    stems = {path: path.stem.casefold() for path in slides}
    images = {path for path in slides if path.suffix.lower() in IMAGE_EXTENSIONS}
    of_slides = {name for path in stems if path not in images for name in (stems[path], path.name.casefold())}
    of_slides |= {name.removesuffix(".ome") for name in of_slides}
    known = {name.strip(_BETWEEN) for name in of_slides.union(stems[path] for path in images)}
    beside: set[Path] = set()
    for path, stem in stems.items():
        match = _AFTER.match(stem) or _BEFORE.match(stem)
        of_another = match is not None and match["slide"].strip(_BETWEEN) in known
        among_slides = bool(of_slides) and (match is not None or _ALONE.match(stem) is not None)
        if of_another or (path in images and (among_slides or stem in of_slides)):
            beside.add(path)
    return beside
