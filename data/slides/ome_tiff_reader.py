"""OME-TIFF: the main image of the file with its pyramid in SubIFDs, of which OpenSlide sees only the finest level."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tifffile

from ..errors import SlideError
from ..surroundings import reading_fault
from ..units import Mpp
from .decoded_tiles import DecodedTiles
from .jpeg_tiff_reader import difference_from_openslide, fastest_reader, not_the_fast_path
from .ome_xml import OmeImage, OmeXmlError, is_ome_xml, main_image
from .openslide_reader import OpenSlideReader
from .pyramid import has_the_field
from .slide import Slide
from .tiff_images import check_upright, contradicted, tagged_mpp
from .tiff_layout import TIFFFILE_ERRORS, TiledLevel, check_extent, check_whole, tiled_level
from .tiff_reader import TiffReader

_TILED: Final = '"out.tif[tile,pyramid,compression=jpeg]"'
_ANEW: Final = "write it again, with Bio-Formats say: `bfconvert -compression JPEG in.ome.tif out.ome.tif`"
_JOIN: Final = (
    "export it as RGB; if its channels are red, green and blue, take them out "
    "(`bfconvert -channel 0 in.ome.tif r.tif`, and so on) "
    f'and join them: `vips bandjoin "r.tif g.tif b.tif" {_TILED}`'
)


def ome_description(path: Path) -> str:
    """Read the OME-XML of a TIFF from its first directory; empty if it is not an OME-TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            description = str(tiff.pages[0].description)
    except TIFFFILE_ERRORS as error:
        if reading_fault(error):
            raise
        return ""
    return description if is_ome_xml(description) else ""


def open_ome_tiff(path: Path, mpp: tuple[Mpp, Mpp] | None) -> Slide | None:
    """Open the main image of an OME-TIFF, recognised by its first directory; None for other files.

    If OpenSlide opens the file, three tiles are compared; if one differs, OpenSlide reads the slide, and ``reader``
    says so.

    :param mpp: replaces the mpp of the file.
    :raises SlideError: truncated or damaged, or the main image is not one plane of 8-bit RGB.
    """
    xml = "" if path.is_dir() else ome_description(path)
    if not xml:
        return None
    check_whole(path, path)
    found = _main_image(path, xml)
    for level in found.levels:
        check_extent(path, path, (level.width, level.height), (level.tile_width, level.tile_height))
    tiles = DecodedTiles(path, dict(enumerate(found.levels)), white_gaps=True)
    try:
        return _compared(path, tiles, found, mpp or found.mpp)
    except BaseException:
        tiles.close()
        raise


def _compared(path: Path, tiles: DecodedTiles, found: _MainImage, mpp: tuple[Mpp, Mpp] | None) -> Slide:
    try:
        plain = OpenSlideReader(path, mpp)
    except SlideError as error:
        return TiffReader(path, tiles, mpp, "ome-tiff", [*found.remarks, f"not compared with OpenSlide: {error.what}"])
    first, remark = found.levels[0], ""
    if plain.level_dimensions[0] != (first.width, first.height):
        remark = "not compared with OpenSlide, which reads another image of the file"
    elif plain.mistake == "RGB taken for YCbCr":
        remark = f"not compared with OpenSlide: {plain.mistake} by its tags"
    elif len(plain.level_dimensions) > len(found.levels) == 1:  # an older pyramid, without SubIFDs
        tiles.close()
        return fastest_reader(plain)
    else:
        compared, difference = difference_from_openslide(tiles, 0, plain)
        if difference:
            tiles.close()
            return not_the_fast_path(plain, difference)
        if not compared:
            remark = "not compared with OpenSlide: its tiles are missing or damaged"
    plain.close()
    return TiffReader(path, tiles, mpp, "ome-tiff", [*found.remarks, *filter(None, [remark])])


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
            layouts = [tiled_level(image_page) for image_page in (page, *(page.pages or ()))]
            tags = tagged_mpp(page)
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
        elif layout.width >= levels[-1].width or not has_the_field(
            *((level.width, level.height) for level in (levels[0], layout))
        ):
            remarks.append(f"without its sub-image {number}: of {layout.width} × {layout.height} px")
        else:
            levels.append(layout)
    if image.mpp and tags:  # the XML is right: its size in pixels is that of the image, so it is not of another one
        remarks += filter(None, [contradicted(image.mpp, [("its resolution tags state", tags, (1.0,))])])
    return _MainImage(levels=levels, mpp=image.mpp or tags, remarks=remarks)


def _check(image: OmeImage, page: tifffile.TiffPage, path: Path) -> None:
    """Refuse an image that is not one plane of 8-bit colours."""
    check_upright(page, path)
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
        stored = f"{page.imagewidth} × {page.imagelength}"
        wrong = f"its OME-XML states {image.width} × {image.height} px, but the image has {stored}"
        hint = _ANEW
    else:
        return
    raise SlideError(wrong, path=path, hint=hint)
