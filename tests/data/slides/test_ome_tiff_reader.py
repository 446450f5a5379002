"""OME-TIFF: every level's pixels as they were written, and microns from the XML."""

from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_slides import HALF_MICRON, levels_of, opened, picture, write_ome
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.jpeg_tiff_reader import JpegTiffReader
from wsipipe.data.slides.openslide_reader import OpenSlideReader
from wsipipe.data.slides.pyramid import downsample
from wsipipe.data.slides.readers import open_slide

LOSSLESS = ["lzw", "deflate", "zstd", "packbits", "jpeg2000", None]


# ------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("tile", [(64, 64), (32, 128), None], ids=["square", "oblong", "strips"])
@pytest.mark.parametrize("planar", [False, True], ids=["rgb", "planes"])
@pytest.mark.parametrize("compression", LOSSLESS)
def test_every_level_is_as_it_was_written(tmp_path, compression, planar, tile):
    image = picture(301, 207)
    rows = {} if tile else {"rowsperstrip": 50}
    path = write_ome(tmp_path / "a.ome.tif", image, compression=compression, planar=planar, tile=tile, **rows)
    with opened(path) as slide:
        assert slide.format == "ome-tiff"
        assert slide.level_dimensions == ((301, 207), (151, 104), (76, 52))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        assert slide.believed_mpp() == 0.5
        for level, pixels in enumerate(levels_of(image, 3)):
            height, width = pixels.shape[:2]
            np.testing.assert_array_equal(slide.read(level, 0, 0, width, height), pixels)
            at, size = 30 * 2**level, 41
            np.testing.assert_array_equal(slide.read(level, at, at, size, 20), pixels[30:50, 30 : 30 + size])


@pytest.mark.parametrize("predictor", [True, False])
def test_differences_are_summed(tmp_path, predictor):
    image = picture(200, 150)
    for compression in ("lzw", "deflate", "zstd"):
        for planar in (False, True):
            path = write_ome(tmp_path / "a.tif", image, compression=compression, predictor=predictor, planar=planar)
            with opened(path) as slide:
                np.testing.assert_array_equal(slide.read(1, 0, 0, 100, 75), image[::2, ::2])


@pytest.mark.parametrize("planar", [False, True], ids=["rgb", "planes"])
def test_an_uncompressed_image_in_one_strip_is_not_read_whole(tmp_path, planar):
    image = picture(1500, 1000)
    path = write_ome(tmp_path / "a.tif", image, compression=None, tile=None, planar=planar, levels=1)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages[0].dataoffsets) == (3 if planar else 1)
    with opened(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 700, 600, 100, 300), image[600:900, 700:800])
        assert slide._tiles._bytes < image.nbytes
        np.testing.assert_array_equal(slide.read(0, 0, 0, 1500, 1000), image)


@pytest.mark.parametrize("coding", [(2, 2), (2, 1), (1, 1), "rgb", "planes"])
@pytest.mark.parametrize("tile", [(64, 64), None], ids=["tiles", "strips"])
def test_jpeg_is_openslides_and_near_what_was_written(tmp_path, coding, tile):
    image = picture(301, 207)
    options: dict[str, object] = {"compression": "jpeg", "tile": tile} | ({} if tile else {"rowsperstrip": 48})
    if coding == "planes":
        options["planar"] = True
    elif coding == "rgb":
        options["compressionargs"] = {"outcolorspace": "rgb"}
    else:
        options["subsampling"] = coding
    path = write_ome(tmp_path / "a.ome.tif", image, **options)
    with opened(path) as slide:
        assert slide.reader.startswith("libjpeg-turbo")
        for level, pixels in enumerate(levels_of(image, 3)):
            height, width = pixels.shape[:2]
            off = np.abs(slide.read(level, 0, 0, width, height).astype(int) - pixels).mean()
            assert off < 12, "the coding is lossy; with the wrong colours it would be 40 and more"
        if tile:
            with OpenSlideReader(path, None) as plain:
                assert len(plain.level_dimensions) == 1, "OpenSlide sees the pyramid: then leave it to OpenSlide"
                np.testing.assert_array_equal(slide.read(0, -9, 7, 350, 250), plain.read(0, -9, 7, 350, 250))
        else:
            assert "not compared with OpenSlide" in slide.reader


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    """Sizes that no tile divides, with its levels."""
    image = picture(333, 251)
    path = write_ome(tmp_path_factory.mktemp("pyramid") / "a.ome.tif", image, tile=(48, 64))
    with opened(path) as slide:
        yield slide, levels_of(image, 3)


@given(
    level=st.integers(0, 2),
    x=st.integers(-300, 600),
    y=st.integers(-300, 600),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_region_and_white_outside(pyramid, level, x, y, width, height):
    slide, levels = pyramid
    ground = np.full((1400, 1400, 3), 255, np.uint8)
    pixels = levels[level]
    ground[400 : 400 + pixels.shape[0], 400 : 400 + pixels.shape[1]] = pixels
    left, top = (int(np.floor(at / 2**level + 0.5)) + 400 for at in (x, y))  # the nearest pixel
    region = slide.read(level, x, y, width, height)
    assert region.dtype == np.uint8
    np.testing.assert_array_equal(region, ground[top : top + height, left : left + width])


@given(size=st.tuples(st.integers(600, 200_000), st.integers(600, 200_000)), by=st.sampled_from([2, 3, 4, 16]))
def test_downsamples_are_whole_where_the_sides_allow_it(size, by):
    width, height = size
    assert downsample(size, (width // by, height // by)) == by
    assert downsample(size, (-(-width // by), -(-height // by))) == by
    assert downsample((1000, 800), (1000 / 1.5, 800 / 1.5)) == pytest.approx(1.5)


def test_missing_tiles_are_white(tmp_path):
    image = picture(128, 64)
    tiles = [imagecodecs.zlib_encode(np.ascontiguousarray(image[:, :64])), b""]
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        writer.write(iter(tiles), shape=image.shape, dtype=np.uint8, metadata={"axes": "YXS"}, **options)
    with opened(tmp_path / "a.tif") as slide:
        region = slide.read(0, 0, 0, 128, 64)
        np.testing.assert_array_equal(region[:, :64], image[:, :64])
        assert (region[:, 64:] == 255).all()
        with OpenSlideReader(tmp_path / "a.tif", None) as plain:
            np.testing.assert_array_equal(plain.read(0, 0, 0, 128, 64), region)


def test_a_level_that_is_not_there(pyramid):
    slide, _ = pyramid
    for level in (-1, 3):
        with pytest.raises(IndexError):
            slide.read(level, 0, 0, 10, 10)


# ----------------------------------------------------------------------------- which image, which reader


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tiff", "a.svs", "a.bin"])
def test_an_ome_tiff_may_be_called_anything(tmp_path, name):
    with opened(write_ome(tmp_path / name, picture(100, 90))) as slide:
        assert len(slide.level_dimensions) == 3


def test_labels_are_passed_over_even_if_they_come_first_or_are_larger(tmp_path):
    image = picture(200, 150)
    with opened(write_ome(tmp_path / "a.tif", image, label=picture(400, 300))) as slide:
        assert slide.dimensions == (200, 150)
        np.testing.assert_array_equal(slide.read(1, 0, 0, 100, 75), image[::2, ::2])


def test_the_largest_image_counts(tmp_path):
    images = [picture(100, 80), picture(300, 200), picture(120, 120)]
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        for image in images:
            writer.write(image, photometric="rgb", tile=(64, 64), compression="lzw", metadata={"axes": "YXS"})
    with opened(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((300, 200),)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 300, 200), images[1])


def test_a_pyramid_that_openslide_sees_is_openslides(tmp_path):
    """Not SubIFDs, but directories one after another, as before OME-TIFF 6."""
    image = picture(256, 256)
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'SizeX="256" SizeY="256" SizeC="3" SizeZ="1" SizeT="1" Type="uint8" PhysicalSizeX="0.25" PhysicalSizeY="0.25">'
        '<TiffData IFD="0"/></Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for level, pixels in enumerate(levels_of(image, 2)):
            kind = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg", "metadata": None}
            writer.write(pixels, subfiletype=int(level > 0), description=xml if level == 0 else None, **kind)
    with open_slide(tmp_path / "a.tif") as slide:
        assert isinstance(slide, JpegTiffReader)
        assert slide.level_downsamples == (1.0, 2.0)
        assert slide.believed_mpp() == 0.25


def test_other_pixels_than_openslides_are_found_out(tmp_path, monkeypatch):
    path = write_ome(
        tmp_path / "a.tif", picture(200, 200), compression="jpeg", compressionargs={"outcolorspace": "rgb"}
    )
    decode = simplejpeg.decode_jpeg

    def naive(stream, **arguments):
        return decode(stream.replace(b"Adobe\x00\x64" + bytes(5), b"Adobe\x00\x64" + bytes(4) + b"\x01"), **arguments)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", naive)
    with open_slide(path) as slide:
        assert isinstance(slide, OpenSlideReader)
        assert slide.believed_mpp() == 0.5
        assert "(not the fast path: other pixels than OpenSlide's" in slide.reader


def test_jfif_streams_have_their_own_colours_whatever_the_tags_say(tmp_path):
    """Bio-Formats wrote YCbCr streams under tags that say RGB."""
    image = picture(128, 64)
    tiles = [imagecodecs.jpeg8_encode(np.ascontiguousarray(image[:, x : x + 64]), 95) for x in (0, 64)]
    assert all(tile[6:10] == b"JFIF" for tile in tiles)
    kind = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}}
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        writer.write(iter(tiles), shape=image.shape, dtype=np.uint8, metadata={"axes": "YXS"}, **kind)
    with opened(tmp_path / "a.tif") as slide, OpenSlideReader(tmp_path / "a.tif", None) as plain:
        assert "YCbCr taken for RGB by its tags" in plain.reader
        assert np.abs(slide.read(0, 0, 0, 128, 64).astype(int) - image).mean() < 10
        np.testing.assert_array_equal(plain.read(0, 0, 0, 128, 64), slide.read(0, 0, 0, 128, 64))


@pytest.mark.parametrize("number", [33003, 33004, 33005])
@pytest.mark.parametrize("codec", ["j2k", "jp2"])
def test_jpeg_2000_of_bio_formats(tmp_path, number, codec):
    image = picture(128, 64)
    tiles = [
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(image[:, x : x + 64]), reversible=True, codecformat=codec)
        for x in (0, 64)
    ]
    kind = {"tile": (64, 64), "photometric": "rgb", "compression": number}
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        writer.write(iter(tiles), shape=image.shape, dtype=np.uint8, metadata={"axes": "YXS"}, **kind)
    with opened(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 128, 64), image)


def test_the_reader_says_what_decodes(tmp_path):
    for compression, name in {"jpeg": "libjpeg-turbo", "lzw": "LZW", "jpeg2000": "OpenJPEG", None: "no comp"}.items():
        with opened(write_ome(tmp_path / "a.tif", picture(100, 100), compression=compression)) as slide:
            assert slide.reader.startswith(name)
            assert ("not compared" in slide.reader) == (compression == "jpeg2000"), "OpenSlide does not open those"


# --------------------------------------------------------------------------------------------- mpp


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [(0.25, None, 0.25), (0.25, "µm", 0.25), (250, "nm", 0.25), (0.00025, "mm", 0.25), (0.000025, "cm", 0.25)],
)
def test_mpp_in_every_unit(tmp_path, size, unit, mpp):
    metadata = {"PhysicalSizeX": size, "PhysicalSizeY": size}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    with opened(write_ome(tmp_path / "a.tif", picture(80, 80), metadata=metadata)) as slide:
        assert slide.believed_mpp() == pytest.approx(mpp)


@pytest.mark.parametrize(
    "metadata", [{"PhysicalSizeX": 0.25}, HALF_MICRON | {"PhysicalSizeXUnit": "pixel"}, {"Name": "x"}]
)
def test_without_microns_in_the_xml_the_tags_count(tmp_path, metadata):
    with opened(write_ome(tmp_path / "a.tif", picture(80, 80), metadata=metadata)) as slide:
        assert slide.mpp is None
        with pytest.raises(SlideError, match="no mpp"):
            slide.believed_mpp()
    for unit, dots in (("CENTIMETER", 40_000), ("INCH", 101_600)):
        tags = {"resolution": (dots, dots), "resolutionunit": unit}
        with opened(write_ome(tmp_path / "b.tif", picture(80, 80), metadata=metadata, **tags)) as slide:
            assert slide.believed_mpp() == pytest.approx(0.25)


def test_the_xml_is_stronger_than_the_tags_and_an_override_than_both(tmp_path):
    tags = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    path = write_ome(tmp_path / "a.tif", picture(80, 80), **tags)
    with opened(path) as slide:
        assert slide.believed_mpp() == 0.5
    with opened(path, 0.31) as slide:
        assert slide.believed_mpp() == 0.31


@pytest.mark.parametrize(("x", "y", "match"), [(28.97, 28.97, "implausible"), (0.5, 0.25, "not square")])
def test_an_mpp_that_cannot_be_is_refused(tmp_path, x, y, match):
    metadata = {"PhysicalSizeX": x, "PhysicalSizeY": y}
    with (
        opened(write_ome(tmp_path / "a.tif", picture(80, 80), metadata=metadata)) as slide,
        pytest.raises(SlideError, match=match),
    ):
        slide.believed_mpp()


# --------------------------------------------------------------------------------- threads, and one decode a tile


def test_many_threads_read_the_same_pixels_and_decode_each_tile_once(tmp_path, monkeypatch):
    image = picture(640, 512)
    path = write_ome(tmp_path / "a.tif", image, compression="jpeg")
    rows = [[(x, y) for x in range(0, 590, 50)] for y in range(0, 460, 50)]
    with opened(path) as slide:
        alone = [[slide.read(0, *at, 50, 50) for at in row] for row in rows]
    calls, decode = [], simplejpeg.decode_jpeg

    def counting(stream, **arguments):
        calls.append(stream)
        return decode(stream, **arguments)

    with opened(path) as slide, ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(simplejpeg, "decode_jpeg", counting)
        for row, pixels in zip(rows, alone, strict=True):  # no thread falls a row behind the others
            np.testing.assert_array_equal(list(pool.map(lambda at: slide.read(0, *at, 50, 50), row)), pixels)
        assert len(calls) == 10 * 8
