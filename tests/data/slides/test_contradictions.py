"""Slides that contradict themselves are refused, or what is said of them: never another picture or scale in silence."""

import io
import re
import shutil
import struct
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from jpeg_slides import write_slide
from ome_slides import picture, write_ome
from PIL import Image
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide, open_with_mpp
from wsipipe.data.slides.tiff_images import check_images

APERIO = "Aperio Image Library v12.0.15\r\n600x520 [0,0 600x520] (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"
HALF_MICRON = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


def write(path: Path, *, levels: int = 3, description: str | None = None, **tags: object) -> Path:
    """A pyramid of tiles of 64 × 64 px, with level 0's tags on every level."""
    image = picture(600, 520)
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            kind = {"photometric": "rgb", "compression": "lzw", "metadata": None} | HALF_MICRON | tags
            said = None if description is None else description if level == 0 else description.partition("|")[0]
            writer.write(image, tile=(64, 64), subfiletype=int(level > 0), description=said, **kind)
            image = np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return path


def change(path: Path, tag: int, value: object, *, image: int = 0) -> None:
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[image].tags[tag].overwrite(value)


def shorten(path: Path, tag: int, count: int, *, image: int = 0) -> None:
    """A table that lists fewer values than it did."""
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[image].tags[tag].offset + 4
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<I", count))


def refused(path: Path, match: str) -> None:
    with pytest.raises(SlideError, match=match) as error:
        open_slide(path)
    assert error.value.path == str(path)
    assert "again" in str(error.value.hint)


# ------------------------------------------------------------------------------------- images of a TIFF


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("compression", ["jpeg", "lzw"])
@pytest.mark.parametrize("description", [None, APERIO], ids=["generic", "aperio"])
def test_a_table_of_lengths_that_is_too_short(tmp_path, description, compression, image):
    """libtiff takes the tiles without a length for missing ones, and they were white."""
    path = write(tmp_path / "a.tif", description=description, compression=compression)
    open_slide(path).close()
    shorten(path, 325, 12, image=image)
    refused(path, f"has {(90, 25)[image]} tiles, and its table lists the lengths of 12")


@pytest.mark.parametrize("compression", ["jpeg", "lzw", "deflate"])
@pytest.mark.parametrize("image", [0, 2])
def test_compressed_tiles_that_are_said_to_be_pixels(tmp_path, compression, image):
    path = write(tmp_path / "a.tif", compression=compression, predictor=compression != "jpeg")
    change(path, 259, 1, image=image)
    refused(path, r"tiles of 64 × 64 px are [0-9,]+ bytes, and those of its image of .* px hold [0-9,]+$")


@pytest.mark.parametrize(("compression", "tag"), [*product(["lzw"], [0, 1, 3, 4, 5]), *product(["jpeg"], [3, 8])])
def test_a_tag_of_colours_for_another_number_of_values(tmp_path, compression, tag):
    path = write(tmp_path / "a.tif", compression=compression)
    change(path, 262, tag)
    refused(path, "has values a pixel: 3, and its tag of colours says [A-Z]+$")


@pytest.mark.parametrize("tag", [2, 3, 6, 8])
def test_a_grey_picture_that_is_said_to_be_coloured(tmp_path, tag):
    path = tmp_path / "a.tif"
    grey = np.ascontiguousarray(picture(300, 260)[..., 0])
    tifffile.imwrite(path, grey, tile=(64, 64), photometric="minisblack", compression="lzw", metadata=None)
    assert open_slide(path).grey
    change(path, 262, tag)
    refused(path, "has values a pixel: 1, and its tag of colours says [A-Z]+$")


def test_ycbcr_whose_colours_are_not_subsampled_as_its_tags_say(tmp_path):
    path = write(tmp_path / "a.tif")
    change(path, 262, 6)
    refused(path, "tiles of 64 × 64 px are 6,144 bytes, and those of its image of 600 × 520 px hold 12,288")


@pytest.mark.parametrize("tag", [322, 323])
@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits"])
def test_tiles_of_another_size_than_they_are_said_to_have(tmp_path, compression, tag):
    path = write(tmp_path / "a.tif", compression=compression)
    change(path, tag, 63)
    refused(path, "px are 12,096 bytes, and those of its image of 600 × 520 px hold 12,288")


@pytest.mark.parametrize(("tag", "said"), [(322, "65 × 64"), (323, "64 × 65")])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_jpeg_tiles_of_another_size_than_they_are_said_to_have(tmp_path, photometric, tag, said):
    path = tmp_path / "a.tif"
    image = picture(600, 600)
    image = image if photometric == "rgb" else np.ascontiguousarray(image[..., 0])
    tifffile.imwrite(path, image, tile=(64, 64), photometric=photometric, compression="jpeg", metadata=None)
    open_slide(path).close()
    change(path, tag, 65)
    refused(path, f"are {said} px by its tags, and 64 × 64 px by themselves")


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits", "jpeg", "aperio_jp2000_rgb"])
@pytest.mark.parametrize("kind", ["rgb", "planes", "rgba", "grey", "white is zero", "palette", "L*a*b*", "one tile"])
def test_every_way_to_write_an_image_passes(tmp_path, compression, kind):
    image = picture(*((50, 40) if kind == "one tile" else (300, 260)))
    options: dict[str, object] = {"photometric": "rgb", "predictor": compression in ("lzw", "deflate", "zstd")}
    if kind == "planes":
        image, options["planarconfig"] = np.moveaxis(image, 2, 0), "separate"
    elif kind == "rgba":
        image, options["extrasamples"] = np.dstack([image, image[..., :1]]), ["unassalpha"]
    elif kind == "L*a*b*":
        options["photometric"] = "cielab"
    elif kind in ("grey", "white is zero", "palette"):
        image = image[..., 0]
        options["photometric"] = {"grey": "minisblack", "white is zero": "miniswhite"}.get(kind, "palette")
        if kind == "palette":
            options |= {"colormap": np.zeros((3, 256), np.uint16), "predictor": False}
    if compression in ("jpeg", "aperio_jp2000_rgb") and kind in ("rgba", "palette", "L*a*b*", "planes"):
        pytest.skip("nobody writes it")
    path = tmp_path / "a.tif"
    image = np.ascontiguousarray(image)
    tifffile.imwrite(path, image, tile=(64, 48), compression=compression, metadata=None, **options)
    for of in ("generic-tiff", "aperio", "leica", "philips", "ventana"):
        check_images(path, of)


def test_missing_and_damaged_tiles_are_no_contradiction(tmp_path):
    check_images(write_slide(tmp_path / "a.tif", missing=frozenset(range(25))), "generic-tiff")
    path = write(tmp_path / "b.tif", levels=1)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 64, 0, 100, 64), picture(600, 520)[:64, 64:164])


def test_two_tiles_that_begin_at_one_place_and_end_at_two(tmp_path):
    path = write(tmp_path / "a.tif", levels=1)
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts)
    assert counts[0] != counts[1]
    offsets[1] = offsets[0]
    change(path, 324, offsets)
    refused(path, "tiles of its image of 600 × 520 px begin at one place in the file and are of different lengths")
    change(path, 325, [counts[0], *counts[:1], *counts[2:]])  # some writers store equal tiles once
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 64, 0, 64, 64), picture(600, 520)[:64, :64])


# --------------------------------------------------------------------------------------------- levels


def test_a_level_0_that_is_unlike_all_its_levels(tmp_path):
    """Its predictor is lost, so that differences are shown as colours; nothing in that image says so."""
    path = write(tmp_path / "a.tif", predictor=True)
    change(path, 317, 1)
    refused(path, "level 0 shows something else than its 2 other levels, which show the same")
    path = write(tmp_path / "b.tif", predictor=True, levels=2)
    change(path, 317, 1)
    with open_slide(path) as slide:  # either of two may be the right one
        assert "without its level 1 of 300 × 260 px: it shows something else" in slide.reader


def test_a_level_that_a_scanner_marked_and_that_is_damaged_is_not_used(tmp_path):
    path = write_slide(tmp_path / "a.svs", size=(600, 520), levels=3, shared_tables=True, description=APERIO)
    with open_slide(path) as slide:
        own = slide.read(0, 0, 0, 600, 520)
        assert len(slide.level_dimensions) == 3
    with tifffile.TiffFile(path) as tiff:
        tables = tiff.pages[1].tags["JPEGTables"]
    with path.open("r+b") as file:
        file.seek(tables.valueoffset + 7)  # by which the mean of each block is multiplied
        file.write(bytes([tables.value[7] ^ 64]))
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((600, 520), (150, 130))
        assert "without its level 1 of 300 × 260 px: it shows something else than level 0" in slide.reader
        np.testing.assert_array_equal(slide.read(0, 0, 0, 600, 520), own)


# ---------------------------------------------------------------------------------------------- scale


def no_mpp(path: Path, match: str) -> None:
    with open_slide(path) as slide, pytest.raises(SlideError, match=match) as error:
        slide.believed_mpp()
    assert error.value.path == str(path)
    assert "--mpp-override" in str(error.value.hint)
    with open_with_mpp(path, 0.4) as slide:
        assert slide.believed_mpp() == 0.4


@pytest.mark.parametrize("compression", ["jpeg", "lzw"])
def test_an_inch_for_a_centimetre_on_one_level(tmp_path, compression):
    path = write(tmp_path / "a.tif", compression=compression)
    change(path, 296, 2)
    no_mpp(path, r"pixels of 1.27 × 1.27 µm, but the resolution tags of its image of 300 × 260 px state 0.5 × 0.5 µm")


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.95], ids=["the same", "its own", "the wrong way", "rounded"])
def test_levels_may_state_level_0s_size_or_their_own(tmp_path, scale):
    path = write(tmp_path / "a.tif", levels=2)
    change(path, 282, (round(20_000 / scale), 1), image=1)
    change(path, 283, (round(20_000 / scale), 1), image=1)
    with open_slide(path) as slide:
        assert slide.believed_mpp() == 0.5


def test_resolutions_of_printers_on_levels_say_nothing(tmp_path):
    path = write(tmp_path / "a.tif")
    for tag in (282, 283):
        change(path, tag, (72, 1), image=1)
    with open_slide(path) as slide:
        assert slide.believed_mpp() == 0.5


@pytest.mark.parametrize(
    ("tags", "same"), [((20_040, 20_040), True), ((19_000, 19_000), True), ((10_000, 10_000), False)]
)
def test_a_description_and_tags_of_other_pixels(tmp_path, tags, same):
    """As of a slide that was shrunk by a program that copied its description."""
    path = write(tmp_path / "a.svs", description=APERIO, resolution=tags, compression="jpeg")
    if same:
        with open_slide(path) as slide:
            assert slide.believed_mpp() == 0.499
    else:
        no_mpp(path, r"pixels of 0.499 × 0.499 µm, but the resolution tags .* state 1 × 1 µm")


def with_thumbnail(path: Path, mpp: str) -> Path:
    image = picture(600, 520)
    said = APERIO.replace("600x520 [0,0 600x520] (64x64) JPEG/RGB Q=90", "600x520 -> 150x130 - ").replace("0.4990", mpp)
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, tile=(64, 64), photometric="rgb", compression="jpeg", description=APERIO, metadata=None)
        small = cv2.resize(image, (150, 130))
        writer.write(small, photometric="rgb", compression="jpeg", rowsperstrip=16, description=said, metadata=None)
    return path


@pytest.mark.parametrize("mpp", ["0.4990", "1.9960", "0.5", "0"])
def test_a_thumbnail_may_repeat_the_size_of_a_pixel(tmp_path, mpp):
    with open_slide(with_thumbnail(tmp_path / "a.svs", mpp)) as slide:
        assert slide.believed_mpp() == 0.499


@pytest.mark.parametrize("mpp", ["0.8990", "4.4990", "0.2520"])
def test_a_thumbnail_that_states_another_size_of_a_pixel(tmp_path, mpp):
    path = with_thumbnail(tmp_path / "a.svs", mpp)
    no_mpp(
        path, rf"0.499 µm, but the description of its image of 150 × 130 px states {float(mpp):g} × {float(mpp):g} µm"
    )


@pytest.mark.parametrize(("mpp", "magnification"), [("0.4990", "40"), ("0.2520", "20"), ("4.4990", "20")])
def test_a_magnification_of_other_pixels_is_said(tmp_path, mpp, magnification):
    said = APERIO.replace("0.4990", mpp).replace("AppMag = 20", f"AppMag = {magnification}")
    with open_slide(write_slide(tmp_path / "a.svs", description=said)) as slide:
        assert f"pixels of {float(mpp):g} µm, but its magnification is said to be {magnification}" in slide.reader
        assert slide.believed_mpp() == float(mpp)
    for mpp, magnification in (("0.4990", "20"), ("0.5500", "20"), ("0.2628", "40"), ("1.0", "10"), ("0.5", "0")):
        said = APERIO.replace("0.4990", mpp).replace("AppMag = 20", f"AppMag = {magnification}")
        with open_slide(write_slide(tmp_path / "b.svs", description=said)) as slide:
            assert "magnification" not in slide.reader


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_tags_of_other_pixels_than_those_of_ome_xml_are_said(tmp_path, compression):
    same = write_ome(tmp_path / "a.ome.tif", picture(300, 260), compression=compression, **HALF_MICRON)
    with open_slide(same) as slide:
        assert slide.believed_mpp() == 0.5
        assert "tags" not in slide.reader
    shrunk = {"resolution": (10_000, 10_000), "resolutionunit": "CENTIMETER"}
    path = write_ome(tmp_path / "b.ome.tif", picture(300, 260), compression=compression, **shrunk)
    with open_slide(path) as slide:  # its XML has the size of the image, so it is not of one that was larger
        assert slide.believed_mpp() == 0.5
        assert "it states pixels of 0.5 × 0.5 µm, but its resolution tags state 1 × 1 µm" in slide.reader


# ------------------------------------------------------------------------------------- other formats


@pytest.mark.parametrize(("tag", "side", "frames"), [(6, 2120, 117), (6, 1110, 65), (7, 2711, 120), (8, 0, 0)])
def test_a_dicom_file_without_the_frames_of_its_size(shared, tmp_path, tag, side, frames):
    """They would be laid out in rows of another length: tissue everywhere, and nothing in its place."""
    folder = tmp_path / "slide"
    shutil.copytree(shared / "slides" / "dicom-cmu-1-small-region", folder)
    level = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    whole = level.read_bytes()
    if tag == 8:  # of its frames themselves, one fewer
        at = re.search(rb"\x28\0\x08\0IS\x04\x00130 ", whole)
        assert at is not None
        level.write_bytes(whole[: at.start() + 8] + b"129 " + whole[at.end() :])
        match = "need 130 frames of 240 × 240 px, and it has 129"
    else:
        at = re.search(b"\x48\0" + bytes([tag]) + rb"\0UL\x04\0", whole)
        assert at is not None
        level.write_bytes(whole[: at.end()] + struct.pack("<I", side) + whole[at.end() + 4 :])
        match = f"need {frames} frames of 240 × 240 px, and it has 130"
    with pytest.raises(SlideError, match=match) as error:
        open_slide(folder)
    assert error.value.path == str(level)
    assert "copy it again" in error.value.hint


@pytest.mark.parametrize(("height", "width"), [(376, 200), (88, 200), (120, 192), (120, 456)])
def test_a_jpeg_whose_header_is_not_that_of_its_stream(tmp_path, height, width):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), picture(200, 120))
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"cannot be decoded: .*JPEG"):
        slide.read(0, 0, 0, 20, 20)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 1}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("filling", [0, 9], ids=["", "with bytes too many"])
def test_every_kind_of_jpeg_is_read(tmp_path, mode, options, filling):
    stream = io.BytesIO()
    Image.fromarray(picture(203, 121)).convert(mode).save(stream, "JPEG", **options)
    content = stream.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(content[:-2] + b"\x11" * filling + content[-2:] + b"after its end")
    with Image.open(io.BytesIO(content)) as image, open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 203, 121), np.asarray(image.convert("RGB")))
