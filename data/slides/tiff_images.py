"""What the images of a TIFF state of themselves, held against their tiles and against one another.

A contradiction would be read as another picture, or at another scale, in silence: libtiff, and OpenSlide with it, fills
up what a table lacks, takes compressed bytes for pixels where a tag says so, and drops what a tile has too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import tifffile

from ..errors import SlideError
from ..surroundings import reading_fault
from ..units import Mpp
from .codecs import DECOMPRESS
from .pyramid import has_the_field
from .resolution import mpp_from_properties
from .slide import UPRIGHT
from .stream_colours import BY_TAG, jpeg_size, stream_head
from .tiff_layout import COMPRESSIONS, CONTIGUOUS, JPEG, JPEG_2000, MOST_TILE_BYTES, TIFFFILE_ERRORS

_ORIENTATION: Final = 274
_SUBSAMPLING: Final = 530
_GREY: Final = frozenset({0, 1})  # PhotometricInterpretation: white or black is zero
_PHOTOMETRIC: Final = 262
_YCBCR: Final = 6
_PALETTE, _COLOUR_MAP = 3, 320
_COLOURS: Final = {1: frozenset({0, 1, _PALETTE, 4}), 3: frozenset({2, _YCBCR, 8, 9, 10})}
"""PhotometricInterpretation for one and three values a pixel: grey, palette, mask; RGB, YCbCr, kinds of L*a*b*."""
_NOT_IN_JPEG: Final = frozenset({_PALETTE, 8, 9, 10})
_UNITS: Final = {2: "inch", 3: "centimeter"}
_APERIO: Final = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")
_WITHIN: Final = 0.1
"""Statements differ by less where one is nominal and one is measured, or one is rounded."""
_MICRONS_AT_1: Final = 10.0
"""Of a pixel at a nominal magnification of 1: 0.5 at 20, 0.25 at 40."""
_MAGNIFICATION_WITHIN: Final = 1.7
"""Factor: nominal magnifications mean 0.45 to 0.55 µm at 20, and the next ones are 2 away."""
_COPY_AGAIN: Final = "its tags are damaged: copy it again from where it came"


def check_kind(path: Path) -> bool:
    """Refuse a TIFF that would be misread: more than 8 bits per channel, or an orientation tag.

    :returns: whether it is grey.
    :raises SlideError: it has one of the two.
    :raises OSError: it cannot be read.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            check_upright(page, path)
            bits, grey = int(np.max(page.bitspersample)), int(page.photometric) in _GREY
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        return False  # damage is reported when the tile is read
    if bits > 8:
        wrong = f"an image of more than 8 bits a channel ({bits})"
        hint = "scale its values to 0 to 255: `vips cast in.tif out.tif uchar --shift` if all 16 bits are used"
        raise SlideError(wrong, path=path, hint=hint)
    return grey


def check_upright(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse an image whose orientation tag asks for a rotation or a mirror image.

    :raises SlideError: it does.
    """
    orientation = page.tags.valueof(_ORIENTATION, 1)
    if orientation != 1:
        wrong = f"its orientation tag ({orientation}) says to turn it, which some programs do and others do not"
        raise SlideError(wrong, path=path, hint=UPRIGHT)


def check_images(path: Path, slide_format: str) -> None:
    """Refuse a TIFF with a tiled image that contradicts itself.

    :raises SlideError: its size is not that of its tiles, its tables are of different lengths, its tag of colours is
        one of a single value a pixel, or its tiles hold another number of bytes than their size makes up.
    :raises OSError: it cannot be read.
    """
    if slide_format not in BY_TAG:
        return
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages:
                if isinstance(page, tifffile.TiffPage) and page.is_tiled and (wrong := _contradiction(page)):
                    raise SlideError(wrong, path=path, hint=_COPY_AGAIN)
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise  # what else is damaged is reported when the tile is read


def _contradiction(page: tifffile.TiffPage) -> str:
    planes = 1 if page.planarconfig == CONTIGUOUS else page.samplesperpixel
    tiles = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength) * planes
    size = f"{page.imagewidth} × {page.imagelength} px"
    if (listed := len(page.dataoffsets)) != tiles:
        return f"{size} need {tiles:,} tiles, and its table lists {listed:,}"
    if (lengths := len(page.databytecounts)) != tiles:
        return f"its image of {size} has {tiles:,} tiles, and its table lists the lengths of {lengths:,}"
    pairs = {(offset, count) for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True) if count}
    if len({offset for offset, _ in pairs}) < len(pairs):  # equal tiles may be stored once
        return f"tiles of its image of {size} begin at one place in the file and are of different lengths"
    if not _has_its_colours(page):
        tag = getattr(page.photometric, "name", page.photometric)
        return f"its image of {size} has values a pixel: {page.samplesperpixel}, and its tag of colours says {tag}"
    of = f"{page.tilewidth} × {page.tilelength} px"
    if COMPRESSIONS.get(int(page.compression)) in (JPEG, JPEG_2000):
        own = jpeg_size(stream_head(page)) or (0, 0)
        sides = ((page.imagewidth, page.tilewidth), (page.imagelength, page.tilelength))
        # A tile that is the only one along a side may be as short as the image.
        if any(0 < side != tile < whole for side, (whole, tile) in zip(own, sides, strict=True)):
            return f"the tiles of its image of {size} are {of} by its tags, and {own[0]} × {own[1]} px by themselves"
        return ""
    needed = _tile_bytes(page, page.samplesperpixel // planes)
    held = set(_held(page, needed)) if 0 < needed <= MOST_TILE_BYTES else set()
    if len(held) == 1 and held != {needed}:
        return f"tiles of {of} are {needed:,} bytes, and those of its image of {size} hold {held.pop():,}"
    return ""


def _has_its_colours(page: tifffile.TiffPage) -> bool:
    tag = page.tags.valueof(_PHOTOMETRIC)
    if tag is None or page.extrasamples or page.samplesperpixel not in _COLOURS:
        return True
    if COMPRESSIONS.get(int(page.compression)) in (JPEG, JPEG_2000) and tag in _NOT_IN_JPEG:
        return False
    return tag in _COLOURS[page.samplesperpixel] and (tag != _PALETTE or _COLOUR_MAP in page.tags)


def _tile_bytes(page: tifffile.TiffPage, samples: int) -> int:
    """Bytes of a tile that is not compressed; 0 if that is not known here."""
    if page.bitspersample != 8 or page.tiledepth != 1:
        return 0
    pixels = int(page.tilewidth * page.tilelength)
    if int(page.photometric) == _YCBCR and samples == 3:
        across, down = page.tags.valueof(_SUBSAMPLING, (2, 2))
        return pixels + 2 * int(-(-page.tilewidth // across) * -(-page.tilelength // down))
    return pixels * samples


def _held(page: tifffile.TiffPage, needed: int) -> Iterator[int]:
    """Yield how many bytes some of its tiles hold: the shortest that is not compressed, or three of others."""
    compression = COMPRESSIONS.get(int(page.compression), "")
    counts = np.asarray(page.databytecounts, np.int64)
    there = np.flatnonzero(counts)
    if not there.size:
        return
    if compression == "none":
        yield min(int(counts[there].min()), needed)  # a writer may count what it fills up with
        return
    decompress = DECOMPRESS.get(compression)
    if decompress is None:
        return
    most = 2 * needed + 1
    for index in {int(there[place]) for place in (0, there.size // 2, -1)}:
        if counts[index] <= most:
            page.parent.filehandle.seek(page.dataoffsets[index])
            stream = page.parent.filehandle.read(int(counts[index]))
            try:
                yield len(decompress(stream, out=most))
            except (RuntimeError, ValueError):  # damage is reported when the tile is read
                continue


def tagged_mpp(page: tifffile.TiffPage) -> tuple[Mpp, Mpp] | None:
    """Read the µm per pixel that an image's resolution tags state; None if they state none that is plausible."""
    properties = {"tiff.ResolutionUnit": _UNITS.get(int(page.tags.valueof("ResolutionUnit", 2)), "")}
    for axis in "XY":
        dots, length = page.tags.valueof(f"{axis}Resolution", (0, 1))
        properties[f"tiff.{axis}Resolution"] = str(dots / length if length else 0)
    return mpp_from_properties(properties)


Statement = tuple[str, tuple[float, float], tuple[float, ...]]
"""Where a size of a pixel is stated, as words that end with a verb, the size, and by which factors it may differ."""


def other_mpp(path: Path, mpp: tuple[Mpp, Mpp]) -> str:
    """Say where a TIFF states another size of a pixel than ``mpp``; empty if nowhere.

    A converter may keep the description of a slide that it has shrunk, or a tool may correct the tags of one image
    only: then one of two statements is wrong, and nothing shows which. Images beside level 0 may state level 0's or
    their own, and some writers scale it the wrong way round.

    :param mpp: µm per pixel along x and y that are to be used.
    :raises OSError: it cannot be read.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            return contradicted(mpp, _stated(tiff))
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        return ""


def contradicted(mpp: tuple[Mpp, Mpp], statements: Iterable[Statement]) -> str:
    """Say which of some statements does not fit ``mpp``; empty if all do."""
    for where, other, factors in statements:
        sides = list(zip(other, mpp, strict=True))
        if not any(all(abs(own - factor * x) <= _WITHIN * factor * x for own, x in sides) for factor in factors):
            of_file, stated = (f"{x:.6g} × {y:.6g} µm" for x, y in (mpp, other))
            return f"it states pixels of {of_file}, but {where} {stated}"
    return ""


def unlike_its_magnification(mpp: float, magnification: str) -> bool:
    """Whether a nominal magnification is that of pixels about twice as large or as small, or more so."""
    try:
        factor = mpp * float(magnification) / _MICRONS_AT_1
    except ValueError:
        return False
    return factor > 0 and not 1 / _MAGNIFICATION_WITHIN < factor < _MAGNIFICATION_WITHIN


def _stated(tiff: tifffile.TiffFile) -> Iterator[Statement]:
    full = tiff.pages[0].imagewidth, tiff.pages[0].imagelength
    for number, page in enumerate(tiff.pages):
        if not isinstance(page, tifffile.TiffPage):
            continue
        size = page.imagewidth, page.imagelength
        factor = full[0] / size[0]
        factors = (1.0, factor, 1 / factor)
        level = page.is_tiled and has_the_field(full, size)
        if (number == 0 or level) and (tags := tagged_mpp(page)) is not None:
            yield f"the resolution tags of its image of {size[0]} × {size[1]} px state", tags, factors
        if (found := _APERIO.search(page.description)) is not None and (own := float(found[1])) > 0:
            yield f"the description of its image of {size[0]} × {size[1]} px states", (own, own), factors
