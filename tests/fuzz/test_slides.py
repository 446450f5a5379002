"""Damaged slides of every kind that the tests can write, and the small real ones: read, or refused as a slide."""

import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from dicom_files import JPEG, dicom
from ome_slides import picture, write_ome
from PIL import Image
from trial import Trial
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.dicom_header import read_dicom_header
from wsipipe.data.slides.finding import find_slides, slide_identity
from wsipipe.data.slides.ome_xml import OmeXmlError, main_image
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Slide
from wsipipe.data.tiling.overview import read_overview

Survives = Callable[..., Trial]

APERIO = "Aperio Image Library v12.0.15\r\n300x260 [0,0 300x260] (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"


def read_tiles(path: Path) -> Slide:
    """A slide's identity and tiles in its corner, in its middle and over its edge; gives it open."""
    slide_identity(path)
    find_slides([path])
    slide = open_slide(path)
    width, height = slide.dimensions
    for level in range(len(slide.level_dimensions)):
        for x, y in ((0, 0), (width // 2, height // 2), (width - 5, height - 5)):
            with suppress(SlideError):
                slide.read(level, x, y, 256, 256)
    return slide


def read_all(path: Path) -> None:
    """What the stages do with a slide: its identity, its tiles, its overview."""
    with read_tiles(path) as slide:
        slide.mpp = (0.5, 0.5)
        read_overview(slide, max_unread=0.5)


def _tiff(path: Path, compression: str, levels: int = 2, **tags: object) -> None:
    image = picture(300, 260)
    with tifffile.TiffWriter(path, bigtiff=bool(tags.pop("bigtiff", False))) as writer:
        for level in range(levels):
            kind = {"tile": (64, 64), "photometric": "rgb", "compression": compression, "metadata": None} | tags
            writer.write(image, subfiletype=int(level > 0), **kind)
            image = np.ascontiguousarray(image[::2, ::2])


def _png(path: Path) -> None:
    Image.fromarray(np.dstack([picture(90, 60), picture(90, 60)[..., :1]])).save(path)


def _jpeg(path: Path) -> None:
    cv2.imwrite(str(path), picture(200, 120))


KINDS: dict[str, Callable[[Path], object]] = {
    "jpeg.tif": lambda path: _tiff(path, "jpeg"),
    "deflate.tif": lambda path: _tiff(path, "deflate"),
    "big.tif": lambda path: _tiff(path, "lzw", bigtiff=True),
    "aperio.svs": lambda path: _tiff(path, "jpeg", 1, description=APERIO),
    "jpeg2000.svs": lambda path: _tiff(path, "aperio_jp2000_rgb", 1, description=APERIO),
    "deflate.ome.tif": lambda path: write_ome(path, picture(300, 260)),
    "planes.ome.tif": lambda path: write_ome(path, picture(300, 260), planar=True, compression="zstd"),
    "strips.ome.tif": lambda path: write_ome(path, picture(100, 80), tile=None, compression=None, levels=1),
    "plain.png": _png,
    "plain.jpg": _jpeg,
}


@pytest.mark.parametrize("name", KINDS)
def test_slides(survives: Survives, tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole-{name}"
    KINDS[name](whole)
    survives(read_all, whole.read_bytes(), name)


@pytest.mark.parametrize("name", ["small.svs", "giardia_40x_region.svs", "ndpi_fluo_dapi.ndpi"])
def test_real_slides(survives: Survives, shared: Path, name: str) -> None:
    file = shared / "slides" / name
    survives(read_all, file.read_bytes(), name)


def test_dicom_headers(survives: Survives, tmp_path: Path) -> None:
    whole = dicom(tmp_path / "whole", "a.dcm", "1.2.3", syntax=JPEG, frame=b"\xff\xd8\xff\xd9" * 20)
    survives(read_dicom_header, whole.read_bytes(), "a.dcm")


@pytest.mark.parametrize("damaged", ["label", "overview", "thumbnail", "level"])
def test_real_dicom_slides(survives: Survives, shared: Path, tmp_path: Path, damaged: str) -> None:
    """One of the slide's files is damaged. Its overview takes most of a second each time, and is of the same tiles."""
    files = sorted((shared / "slides" / "dicom-cmu-1-small-region").iterdir(), key=lambda file: file.stat().st_size)
    folder = tmp_path / "dicom"
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    chosen = files[("label", "overview", "thumbnail", "level").index(damaged)]
    survives(lambda _: read_tiles(folder).close(), chosen.read_bytes(), folder / chosen.name)


def _index(name: str) -> bytes:
    slots = "".join(f"LAYER_0_LEVEL_{level} = LAYER_0_LEVEL_{level}_SECTION\r\n" for level in range(3))
    return (
        f"[GENERAL]\r\nSLIDE_VERSION = 01.02\r\nSLIDE_ID = {name}\r\nIMAGENUMBER_X = 4\r\nIMAGENUMBER_Y = 4\r\n"
        f"OBJECTIVE_MAGNIFICATION = 20\r\nCameraImageDivisionsPerSide = 1\r\n[HIERARCHICAL]\r\n"
        f"INDEXFILE = Index.dat\r\nHIER_COUNT = 1\r\nHIER_0_NAME = Slide zoom level\r\nHIER_0_COUNT = 3\r\n"
        f"{slots}[DATAFILE]\r\nFILE_COUNT = 0\r\n"
    ).encode()


def test_indices_of_slides_of_many_files(tmp_path: Path, survives: Survives) -> None:
    """No writer makes a whole one here, so that what is whole is refused too: it must not be worse for the damage."""

    def refused(path: Path) -> None:
        with suppress(SlideError):
            read_all(path)

    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "Slidedat.ini").write_bytes(_index("a"))
    (folder / "Index.dat").write_bytes(b"01.02a" + struct.pack("<II", 20, 40) + bytes(200))
    (tmp_path / "a.mrxs").write_bytes(b"")
    survives(lambda _: refused(tmp_path / "a.mrxs"), _index("a"), folder / "Slidedat.ini")
    survives(
        refused, b"[Virtual Microscope Specimen]\r\nNoJpegColumns=1\r\nNoJpegRows=1\r\nImageFile=b.jpg\r\n", "b.vms"
    )


XML = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="u">'
    '<Image ID="Image:0" Name="one"><Pixels Type="uint8" SizeX="300" SizeY="260" SizeZ="1" SizeT="1" SizeC="3" '
    'PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.5"><TiffData IFD="0"><UUID>u</UUID></TiffData>'
    "</Pixels></Image></OME>"
)


def test_ome_xml(survives: Survives) -> None:
    def described(path: Path) -> None:
        try:
            main_image(path.read_text(errors="replace"))
        except OmeXmlError as error:
            raise SlideError(str(error)) from error

    survives(described, XML.encode(), "a.xml")


def test_what_long_rounds_have_found(tmp_path: Path) -> None:
    """Files that a short round may not come upon."""
    png = tmp_path / "a.png"
    _png(png)
    whole = png.read_bytes()
    png.write_bytes(whole[:20])
    with pytest.raises(SlideError):
        open_slide(png)
    at = whole.index(b"IDAT")
    png.write_bytes(whole[: at - 4] + b"\xff" + whole[at - 3 :])
    with open_slide(png) as slide, pytest.raises(SlideError, match="a chunk of"):
        slide.read(0, 0, 0, 9, 9)
    header = dicom(tmp_path, "a.dcm", "1.2.3")
    element = header.read_bytes().replace(b"\x02\0\x10\0UI\x14\0", b"\x02\0\x10\0UI\xff\xff")
    assert element != header.read_bytes()
    header.write_bytes(element)
    assert read_dicom_header(header) is not None


def with_large_table(whole: bytes, offsets: tuple[int, ...]) -> bytes:
    """The DICOM file with eight bytes an offset, as it is for more than 4 GB."""
    at = whole.index(FRAMES)
    table = at + len(FRAMES)
    frames = whole[table + 4 + int.from_bytes(whole[table : table + 4], "little") :]
    lengths = [int.from_bytes(frames[offset + 4 : offset + 8], "little") for offset in offsets_of(whole)]
    elements = [
        b"\xe0\x7f" + number + b"\0OV\0\0" + struct.pack(f"<I{len(values)}Q", 8 * len(values), *values)
        for number, values in ((b"\x01", offsets), (b"\x02", lengths))
    ]
    return whole[:at] + b"".join(elements) + FRAMES + bytes(4) + frames


FRAMES = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff\xfe\xff\0\xe0"


def offsets_of(whole: bytes) -> tuple[int, ...]:
    table = whole.index(FRAMES) + len(FRAMES)
    length = int.from_bytes(whole[table : table + 4], "little")
    return struct.unpack(f"<{length // 4}I", whole[table + 4 : table + 4 + length])


@pytest.mark.parametrize("large", [False, True], ids=["four bytes an offset", "eight bytes"])
def test_frames_that_a_dicom_file_says_lie_outside_it_are_refused(shared: Path, tmp_path: Path, large: bool) -> None:
    """OpenSlide's library would read there, which ends the process."""
    folder = tmp_path / "slide"
    shutil.copytree(shared / "slides" / "dicom-cmu-1-small-region", folder)
    level = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    whole = level.read_bytes()
    offsets = offsets_of(whole)
    level.write_bytes(with_large_table(whole, offsets) if large else whole)
    with open_slide(folder) as slide:
        own = slide.read(0, 0, 0, 300, 300)
    with open_slide(shared / "slides" / "dicom-cmu-1-small-region") as slide:
        np.testing.assert_array_equal(own, slide.read(0, 0, 0, 300, 300))
    beyond = (offsets[0], 1 << 28, *offsets[2:])
    table = whole.index(FRAMES) + len(FRAMES) + 4
    level.write_bytes(
        with_large_table(whole, (*beyond[:2], (1 << 63) + 5, *beyond[3:]))
        if large
        else whole[:table] + struct.pack(f"<{len(beyond)}I", *beyond) + whole[table + 4 * len(beyond) :]
    )
    for damaged in (level.read_bytes(), whole[: len(whole) // 4]):
        level.write_bytes(damaged)
        with pytest.raises(SlideError, match=r"table of compressed frames leads .* outside the file") as refused:
            open_slide(folder)
        assert refused.value.hint == "copy it again from where it came"
