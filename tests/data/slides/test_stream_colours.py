"""Colours are those of the compressed tiles, whatever the tags of the file say."""

from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from dicom_files import JPEG, JPEG_2000, UNCOMPRESSED, dicom
from wsipipe.data.slides.jpeg_tiff_reader import JpegTiffReader
from wsipipe.data.slides.openslide_reader import OpenSlideReader
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.stream_colours import as_ycbcr, dicom_mistakes, jpeg_2000_colours, jpeg_colours

APERIO = "Aperio Image Library v11.2.1\r\n320x192 [0,0 320x192] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"


def picture(width: int = 320, height: int = 192) -> np.ndarray:
    """Smooth strong colours, different everywhere."""
    coarse = np.random.default_rng(1).integers(0, 255, (height // 40 + 2, width // 40 + 2, 3), np.uint8)
    return cv2.resize(coarse, (width, height))


def jpeg(pixels: np.ndarray, coding: str, subsampling: str = "444") -> bytes:
    """``JFIF``: YCbCr, which says so; ``Adobe``: RGB, which says so; ``ids``: RGB, which says so by its components
    alone; ``silent``: YCbCr or (``silent RGB``) RGB, which says nothing."""
    colours = "RGB" if coding in ("Adobe", "ids", "silent RGB") else "YCBCR"
    own = np.ascontiguousarray(pixels)
    stream = bytearray(imagecodecs.jpeg8_encode(own, 95, outcolorspace=colours, subsampling=subsampling))
    if coding in ("JFIF", "Adobe"):
        return bytes(stream)
    length = int.from_bytes(stream[4:6], "big")
    del stream[2 : 4 + length]  # the marker at the beginning
    if coding.startswith("silent"):
        frame, scan = stream.find(b"\xff\xc0"), stream.find(b"\xff\xda")
        for number in range(3):
            stream[frame + 10 + 3 * number] = stream[scan + 5 + 2 * number] = number
    return bytes(stream)


def jpeg_2000(pixels: np.ndarray, *, transformed: bool) -> bytes:
    own = np.ascontiguousarray(pixels)
    return bytes(imagecodecs.jpeg2k_encode(own, reversible=True, mct=transformed, codecformat="j2k"))


def write(
    path: Path, tiles: list[bytes], *, tag: str, compression: object = "jpeg", description: str | None = None
) -> Path:
    """A TIFF of 320 × 192 px in tiles of 64, under any tag."""
    ome = path.name.endswith(".ome.tif")
    kind: dict[str, object] = {"tile": (64, 64), "photometric": "rgb", "compression": compression}
    if compression == "jpeg":
        kind["compressionargs"] = {"outcolorspace": "rgb"}
    with tifffile.TiffWriter(path, ome=ome) as writer:
        metadata = {"metadata": {"axes": "YXS"}} if ome else {"metadata": None, "description": description}
        writer.write(iter(tiles), shape=(192, 320, 3), dtype=np.uint8, **kind, **metadata)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite({"RGB": 2, "YCBCR": 6}[tag])
    return path


def parts(image: np.ndarray) -> list[np.ndarray]:
    return [image[y : y + 64, x : x + 64] for y, x in product(range(0, 192, 64), range(0, 320, 64))]


def difference(path: Path) -> tuple[float, str]:
    """Mean difference of what is read from what was written, and by what it is read."""
    with open_slide(path) as slide:
        aligned = np.abs(slide.read(0, 0, 0, 320, 192).astype(int) - picture()).mean()
        beside = np.abs(slide.read(0, 33, 21, 200, 100).astype(int) - picture()[21:121, 33:233]).mean()
        return max(aligned, beside), f"{type(slide).__name__}: {slide.reader}"


def openslides(path: Path) -> float:
    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, (320, 192)))[..., :3]
    return float(np.abs(pixels.astype(int) - picture()).mean())


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.ome.tif"])
@pytest.mark.parametrize(
    ("coding", "tag", "wrong"),
    [
        ("JFIF", "RGB", True),
        ("JFIF", "YCBCR", False),
        ("Adobe", "RGB", False),
        ("Adobe", "YCBCR", True),
        ("ids", "RGB", False),
        ("ids", "YCBCR", True),
        ("silent", "YCBCR", False),
        ("silent RGB", "RGB", False),
    ],
)
def test_the_stream_counts_and_the_tag_where_it_says_nothing(tmp_path, name, coding, tag, wrong):
    tiles = [jpeg(part, coding) for part in parts(picture())]
    path = write(tmp_path / name, tiles, tag=tag, description=APERIO if name == "a.svs" else None)
    assert (openslides(path) > 30) == wrong, "what OpenSlide alone makes of it"
    away, reader = difference(path)
    assert away < 5, reader


def test_thinned_out_components_are_chroma(tmp_path):
    tiles = [jpeg(part, "silent", "420") for part in parts(picture())]
    away, reader = difference(write(tmp_path / "a.tif", tiles, tag="RGB"))
    assert away < 10, reader


def test_what_openslide_gives_is_put_right_to_the_bit(tmp_path):
    """So that the fast path, which is compared with it, is taken; and what is read between pixels is right too."""
    path = write(tmp_path / "a.tif", [jpeg(part, "JFIF", "420") for part in parts(picture())], tag="RGB")
    with open_slide(path) as fast, OpenSlideReader(path, None) as plain:
        assert isinstance(fast, JpegTiffReader)
        assert "YCbCr taken for RGB by its tags" in fast.reader
        np.testing.assert_array_equal(fast.read(0, -10, -10, 400, 300), plain.read(0, -10, -10, 400, 300))


def test_ycbcr_by_libjpegs_arithmetic():
    rng = np.random.default_rng(0)
    coded = rng.integers(0, 256, (64, 64, 3), np.uint8)
    y, cb, cr = np.moveaxis(coded.astype(float) - (0, 128, 128), 2, 0)
    exact = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2).clip(0, 255)
    assert np.abs(as_ycbcr(coded) - exact).max() <= 1


@pytest.mark.parametrize("tag", ["RGB", "YCBCR"])
@pytest.mark.parametrize(("number", "transformed"), [(33005, True), (33005, False), (33003, True)])
def test_jpeg_2000_that_is_rgb(tmp_path, number, transformed, tag):
    """33003 is YCbCr in Aperio's files, unless the stream says otherwise; OpenSlide goes by the number."""
    tiles = [jpeg_2000(part, transformed=transformed) for part in parts(picture())]
    path = write(tmp_path / "a.svs", tiles, tag=tag, compression=number, description=APERIO)
    assert (openslides(path) > 30) == (number == 33003)
    away, reader = difference(path)
    assert away < 1, reader


def test_jpeg_2000_of_ycbcr(tmp_path):
    coded = cv2.cvtColor(picture(), cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    tiles = [jpeg_2000(part, transformed=False) for part in parts(coded)]
    away, reader = difference(write(tmp_path / "a.svs", tiles, tag="RGB", compression=33003, description=APERIO))
    assert away < 3, reader


def test_what_streams_say():
    pixels = picture()[:64, :64]
    said = {coding: jpeg_colours(jpeg(pixels, coding)) for coding in ("JFIF", "Adobe", "ids", "silent", "silent RGB")}
    assert said == {"JFIF": "YCBCR", "Adobe": "RGB", "ids": "RGB", "silent": "", "silent RGB": ""}
    assert jpeg_2000_colours(jpeg_2000(pixels, transformed=True)) == "RGB"
    assert jpeg_2000_colours(jpeg_2000(pixels, transformed=False)) == ""
    stream = jpeg(pixels, "Adobe")
    for end in range(0, 700, 3):  # a stream that is cut, or not one at all
        jpeg_colours(stream[:end])
        jpeg_2000_colours(stream[:end])
        jpeg_colours(b"\xff\xd8" + bytes([255]) * end)


# ------------------------------------------------------------------------------------------- DICOM


@pytest.mark.parametrize(
    ("syntax", "photometric", "coding", "mistakes"),
    [
        (JPEG, "YBR_FULL_422", "JFIF", {None}),
        (JPEG, "RGB", "JFIF", {"YCbCr taken for RGB"}),
        (JPEG, "RGB", "Adobe", {None}),
        (JPEG, "YBR_FULL_422", "Adobe", {"RGB taken for YCbCr"}),
        (JPEG, "YBR_FULL_422", "silent", {None}),
        (JPEG_2000, "YBR_ICT", "transformed", {None}),
        (JPEG_2000, "RGB", "transformed", {None}),
        (JPEG_2000, "RGB", "not transformed", {None}),
        (JPEG_2000, "YBR_ICT", "not transformed", {"undecided"}),
        (JPEG_2000, "YBR_FULL", "not transformed", {"undecided"}),
        (UNCOMPRESSED, "RGB", "", set()),
    ],
)
def test_dicom(tmp_path, syntax, photometric, coding, mistakes):
    pixels = picture()[:64, :64]
    frame = jpeg(pixels, coding) if syntax == JPEG else b""
    if syntax == JPEG_2000:
        frame = jpeg_2000(pixels, transformed=coding == "transformed")
    file = dicom(tmp_path, "a.dcm", "1.2.3", photometric=photometric, syntax=syntax, frame=frame)
    dicom(tmp_path, "other.dcm", "1.2.4", photometric="RGB", syntax=JPEG, frame=jpeg(pixels, "JFIF"))
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert dicom_mistakes(file) == mistakes


def test_a_dicom_slide_whose_tag_says_rgb(shared, tmp_path):
    """The shared slide, whose streams are JFIF, under another tag: its pixels stay the same."""
    source = shared / "slides" / "dicom-cmu-1-small-region"
    for file in source.glob("*.dcm"):
        content = file.read_bytes()
        assert content.count(b"CS\x0c\x00YBR_FULL_422") == 1
        (tmp_path / file.name).write_bytes(content.replace(b"CS\x0c\x00YBR_FULL_422", b"CS\x04\x00RGB "))
    with open_slide(source) as right, open_slide(tmp_path) as slide:
        assert "YCbCr taken for RGB by its tags, put right" in slide.reader
        np.testing.assert_array_equal(slide.read(0, 100, 200, 900, 700), right.read(0, 100, 200, 900, 700))
