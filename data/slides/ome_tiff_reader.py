"""OME-TIFF: the main image of those in the file, its pyramid in SubIFDs, of which OpenSlide sees the finest level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tifffile

from ..errors import SlideError
from ..surroundings import patiently, reading_fault
from ..units import Level0Px, LevelPx, Mpp
from .codecs import library_of
from .decoded_tiles import DecodedTiles
from .jpeg_tiff_reader import difference_from_openslide, fastest_reader, not_the_fast_path
from .ome_xml import OmeImage, OmeXmlError, is_ome_xml, main_image
from .openslide_reader import OpenSlideReader
from .resolution import mpp_from_properties
from .slide import Rgb, Slide
from .tiff_layout import TIFFFILE_ERRORS, TiledJpeg, TiledLevel, check_whole, tiled_level

_UNITS: Final = {2: "inch", 3: "centimeter"}
_TILED: Final = '"out.tif[tile,pyramid,compression=jpeg]"'
_ANEW: Final = "write it again, with Bio-Formats say: `bfconvert -compression JPEG in.ome.tif out.ome.tif`"
_JOIN: Final = (
    "export it as RGB; if its channels are red, green and blue, take them out "
    "(`bfconvert -channel 0 in.ome.tif r.tif`, and so on) "
    f'and join them: `vips bandjoin "r.tif g.tif b.tif" {_TILED}`'
)


def ome_description(path: Path) -> str:
    """The OME-XML of a TIFF; empty if it is not an OME-TIFF. Only the first directory is read."""
    try:
        with tifffile.TiffFile(path) as tiff:
            description = str(tiff.pages[0].description)
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        return ""
    return description if is_ome_xml(description) else ""


def open_ome_tiff(path: Path, xml: str, mpp: tuple[Mpp, Mpp] | None) -> Slide:
    """The main image of an OME-TIFF.

    Three of its tiles are compared with OpenSlide's, if OpenSlide opens it; where one differs, OpenSlide reads it, and
    ``reader`` says so.

    :param xml: of :func:`ome_description`.
    :param mpp: in place of what the file says.
    :raises SlideError: truncated or damaged, or the main image is not one plane of 8-bit RGB.
    """
    check_whole(path, path)
    found = _main_image(path, xml)
    mpp = mpp or found.mpp
    tiles = DecodedTiles(path, dict(enumerate(found.levels)), white_gaps=True)
    try:
        return _compared(path, tiles, found, mpp)
    except BaseException:
        tiles.close()
        raise


def _compared(path: Path, tiles: DecodedTiles, found: _MainImage, mpp: tuple[Mpp, Mpp] | None) -> Slide:
    try:
        plain = OpenSlideReader(path, mpp)
    except SlideError as error:
        return OmeTiffReader(path, tiles, mpp, [*found.remarks, f"not compared with OpenSlide: {error.what}"])
    first, remark = found.levels[0], ""
    if plain.level_dimensions[0] != (first.width, first.height):
        remark = "not compared with OpenSlide, which reads another image of the file"
    elif len(plain.level_dimensions) > len(found.levels) == 1:  # a pyramid of the kind before SubIFDs
        tiles.close()
        return fastest_reader(plain)
    elif _is_jfif(tiles):
        # Bio-Formats has written such. OpenSlide goes by the tags, and has the colours wrong.
        remark = "not compared with OpenSlide: its tags say RGB, its JPEG streams, rightly, YCbCr"
    else:
        compared, difference = difference_from_openslide(tiles, 0, plain)
        if difference:
            tiles.close()
            return not_the_fast_path(plain, difference)
        if not compared:
            remark = "not compared with OpenSlide: its tiles are missing or damaged"
    plain.close()
    return OmeTiffReader(path, tiles, mpp, [*found.remarks, *filter(None, [remark])])


class OmeTiffReader(Slide):
    """Each compressed tile is decoded once where regions are read row by row, by one thread or by many.

    A position between two pixels of a level is taken for the nearest one: pixels are those of the file, never blended,
    and lie at most half a pixel of their level from where they were asked. Missing tiles are white.

    :param tiles: of all levels; they are this reader's from now on.
    :param remarks: what ``reader`` says beside the decoder.
    """

    def __init__(self, path: Path, tiles: DecodedTiles, mpp: tuple[Mpp, Mpp] | None, remarks: list[str]) -> None:
        self.path = path
        self.format = "ome-tiff"
        self.mpp = mpp
        self._tiles = tiles
        self.level_dimensions = tuple((level.width, level.height) for level in tiles.levels.values())
        self.level_downsamples = tuple(downsample(self.level_dimensions[0], size) for size in self.level_dimensions)
        self.reader = ", ".join(sorted({library_of(level.compression) for level in tiles.levels.values()}))
        if remarks:
            self.reader += f" ({'; '.join(remarks)})"

    def read(self, level: int, x: Level0Px, y: Level0Px, width: LevelPx, height: LevelPx) -> Rgb:
        if not 0 <= level < len(self.level_dimensions):
            raise IndexError(f"{self.path} has no level {level}")
        left, top = (math.floor(at / self.level_downsamples[level] + 0.5) for at in (x, y))
        region = self._tiles.region(level, left, top, width, height)
        if region is None:
            patiently(self.path.stat, self.path)  # of a file that is gone nobody can say that it is damaged
            wrong = f"cannot decode {width} × {height} px of level {level} at ({x}, {y})"
            hint = "the file is damaged, or the disk it lies on: copy or scan it again"
            raise SlideError(wrong, path=self.path, hint=hint)
        return region

    def close(self) -> None:
        self._tiles.close()


def downsample(full: tuple[int, int], size: tuple[int, int]) -> float:
    """Pixels of level 0 along one of a level: if a whole number gives its sides, rounded up or down, that one.

    :param full, size: width and height of level 0 and of the level.
    """
    ratio = (full[0] / size[0] + full[1] / size[1]) / 2
    whole = round(ratio)
    if all(own in (its // whole, -(-its // whole)) for its, own in zip(full, size, strict=True)):
        return float(whole)
    return ratio


@dataclass(frozen=True, kw_only=True)
class _MainImage:
    levels: list[TiledLevel]
    mpp: tuple[Mpp, Mpp] | None
    remarks: list[str]


def _main_image(path: Path, xml: str) -> _MainImage:
    try:
        image = main_image(xml)
    except OmeXmlError as error:
        raise SlideError(str(error), path=path, hint=_ANEW) from error
    if image.elsewhere:
        hint = "bring all of it into one file: `bfconvert in.ome.tif out.ome.tif`"
        raise SlideError(f"its pixels lie in another file, {image.elsewhere}", path=path, hint=hint)
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[image.directory]
            _check(image, page, path)
            layouts = [tiled_level(its) for its in (page, *(page.pages or ()))]
            mpp = image.mpp or _mpp_of_tags(page)
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        wrong = f"damaged: its directories cannot be read ({error})"
        raise SlideError(wrong, path=path, hint="copy it again from where it came") from error
    if isinstance(layouts[0], str):
        raise SlideError(f"an image of a kind that is not read: {layouts[0]}", path=path, hint=_ANEW)
    levels, remarks = [layouts[0]], []
    for number, layout in enumerate(layouts[1:], start=1):
        if isinstance(layout, str):
            remarks.append(f"without its sub-image {number}: {layout}")
        elif not _is_reduced(layout, levels):
            remarks.append(f"without its sub-image {number}: of {layout.width} × {layout.height} px")
        else:
            levels.append(layout)
    return _MainImage(levels=levels, mpp=mpp, remarks=remarks)


def _check(image: OmeImage, page: tifffile.TiffPage, path: Path) -> None:
    """Refuse what is not one plane of 8-bit colours."""
    planes = -(-image.channels // page.samplesperpixel)
    if image.focal_planes > 1 or image.time_points > 1:
        wrong = f"{image.focal_planes} focal planes and {image.time_points} time points, not one image"
        hint = "take one of them out: `bfconvert -z 0 -timepoint 0 in.ome.tif out.ome.tif`"
    elif page.samplesperpixel != 3 or planes > 1:
        wrong = f"not RGB (channels: {image.channels}, of which {page.samplesperpixel} in a plane; fluorescence?)"
        hint = _JOIN
    elif image.pixel_type != "uint8":
        wrong = f"not 8-bit RGB (pixels of type {image.pixel_type})"
        hint = f"convert it to 8 bits: `vips cast in.ome.tif {_TILED} uchar --shift`"
    elif (page.imagewidth, page.imagelength) != (image.width, image.height):
        its = f"{page.imagewidth} × {page.imagelength}"
        wrong = f"its OME-XML speaks of {image.width} × {image.height} px where there are {its}"
        hint = _ANEW
    else:
        return
    raise SlideError(wrong, path=path, hint=hint)


def _is_reduced(layout: TiledLevel, levels: list[TiledLevel]) -> bool:
    """Whether an image is smaller than the levels so far, and shows the same field, to a pixel of its own."""
    full = levels[0]
    by = downsample((full.width, full.height), (layout.width, layout.height))
    off = max(abs(full.width / by - layout.width), abs(full.height / by - layout.height))
    return layout.width < levels[-1].width and off <= 1


def _mpp_of_tags(page: tifffile.TiffPage) -> tuple[Mpp, Mpp] | None:
    properties = {"tiff.ResolutionUnit": _UNITS.get(int(page.tags.valueof("ResolutionUnit", 2)), "")}
    for axis in "XY":
        dots, length = page.tags.valueof(f"{axis}Resolution", (0, 1))
        properties[f"tiff.{axis}Resolution"] = str(dots / length if length else 0)
    return mpp_from_properties(properties)


def _is_jfif(tiles: DecodedTiles) -> bool:
    """Whether the JPEG streams of level 0 say YCbCr, as JFIF does, though the tags say RGB."""
    layout = tiles.levels[0]
    if not isinstance(layout, TiledJpeg) or layout.colour_space != "RGB" or layout.planes > 1:
        return False
    streams = tiles.streams(0, next((index for index in range(layout.tiles) if layout.byte_counts[index]), 0))
    return streams is not None and streams[0][6:10] == b"JFIF"
