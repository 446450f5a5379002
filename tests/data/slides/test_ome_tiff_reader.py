"""OME-TIFF: every level's pixels as they were written, microns from the XML, and a reason for what is not read."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsipipe.data.errors import SlideError, SurroundingsError
from wsipipe.data.slides.jpeg_tiff_reader import JpegTiffReader
from wsipipe.data.slides.ome_tiff_reader import OmeTiffReader, downsample
from wsipipe.data.slides.openslide_reader import OpenSlideReader
from wsipipe.data.slides.readers import open_slide

LOSSLESS = ["lzw", "deflate", "zstd", "packbits", "jpeg2000", None]
HALF_MICRON = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def picture(width: int, height: int) -> np.ndarray:
    """Smooth strong colours with a little noise, different everywhere."""
    rng = np.random.default_rng(width)
    coarse = cv2.resize(rng.integers(0, 220, (height // 40 + 2, width // 40 + 2, 3), np.uint8), (width, height))
    return cv2.add(coarse, rng.integers(0, 20, (height, width, 3), np.uint8))


def levels_of(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Every second, fourth … pixel: what is read is told apart from what lies beside it."""
    return [np.ascontiguousarray(image[:: 2**level, :: 2**level]) for level in range(levels)]


def write_ome(
    path: Path,
    image: np.ndarray,
    *,
    levels: int = 3,
    compression: str | None = "deflate",
    planar: bool = False,
    metadata: dict[str, object] | None = None,
    label: np.ndarray | None = None,
    **options: object,
) -> Path:
    """A pyramid in SubIFDs, as Bio-Formats and tifffile write it; ``options`` as tifffile takes them."""
    options = {"tile": (64, 64), "photometric": "rgb", "compression": compression} | options
    if planar:
        options["planarconfig"] = "separate"
    with tifffile.TiffWriter(path, ome=True) as writer:
        if label is not None:
            writer.write(label, photometric="rgb", metadata={"Name": "label image"})
        for level, pixels in enumerate(levels_of(image, levels)):
            if level == 0:
                options["metadata"] = {"axes": "SYX" if planar else "YXS"} | (metadata or HALF_MICRON)
            else:
                options["metadata"] = None
            writer.write(
                np.moveaxis(pixels, 2, 0) if planar else pixels,
                subifds=levels - 1 if level == 0 else None,
                subfiletype=int(level > 0),
                **options,
            )
    return path


def rewrite_xml(path: Path, old: str, new: str) -> None:
    """Another word of the same length in the OME-XML."""
    assert len(old.encode()) == len(new.encode())
    content = path.read_bytes()
    assert content.count(old.encode()) == 1
    path.write_bytes(content.replace(old.encode(), new.encode()))


def page_of(tiff: tifffile.TiffFile, level: int) -> tifffile.TiffPage:
    return tiff.pages[0] if level == 0 else tiff.pages[0].pages[level - 1]


def damage(path: Path, tile: int, *, level: int = 0, keep: float = 0.0) -> None:
    """Nothing but zeros in the rest of a tile."""
    with tifffile.TiffFile(path) as tiff:
        page = page_of(tiff, level)
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
    kept = int(keep * count)
    with path.open("r+b") as file:
        file.seek(offset + kept)
        file.write(bytes(count - kept))


@contextmanager
def opened(path: Path, mpp: float | None = None):
    with open_slide(path, mpp) as slide:
        assert isinstance(slide, OmeTiffReader), slide.reader
        yield slide


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
        assert "its JPEG streams, rightly, YCbCr" in slide.reader
        assert np.abs(slide.read(0, 0, 0, 128, 64).astype(int) - image).mean() < 10
        assert np.abs(plain.read(0, 0, 0, 128, 64).astype(int) - image).mean() > 30


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


@pytest.mark.parametrize(("x", "y", "match"), [(28.97, 28.97, "cannot be"), (0.5, 0.25, "not square")])
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


# ------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(
    ("compression", "keep"),
    [("jpeg", 0.0), ("jpeg", 0.5), ("lzw", 0.0), ("lzw", 0.5), ("deflate", 0.5), ("zstd", 0.0), ("jpeg2000", 0.0)],
)
def test_a_damaged_tile_fails_the_regions_that_touch_it_and_no_other(tmp_path, compression, keep, level):
    path = write_ome(tmp_path / "a.tif", picture(400, 300), compression=compression)
    with opened(path) as slide:
        right, below = (slide.read(level, x << level, y << level, 50, 50) for x, y in ((130, 70), (70, 90)))
        assert slide.reader
    damage(path, 0, level=level, keep=keep)
    with opened(path) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=rf"cannot decode 10 × 10 px of level {level} at \(0, 0\)") as caught:
                slide.read(level, 0, 0, 10, 10)
            assert caught.value.path == str(path)
            assert "damaged" in caught.value.hint
            np.testing.assert_array_equal(slide.read(level, 130 << level, 70 << level, 50, 50), right)
            np.testing.assert_array_equal(slide.read(level, 70 << level, 90 << level, 50, 50), below)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_a_level_that_is_all_garbage_fails_alone(tmp_path, compression):
    image = picture(200, 150)
    path = write_ome(tmp_path / "a.tif", image, compression=compression)
    for tile in range(12):
        damage(path, tile)
    with opened(path) as slide:
        for x, y in ((0, 0), (100, 100)):
            with pytest.raises(SlideError, match="cannot decode"):
                slide.read(0, x, y, 20, 20)
        assert slide.read(1, 0, 0, 100, 75).std() > 10
        assert "missing or damaged" in slide.reader


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_truncated_file_says_so(tmp_path, share, bigtiff):
    path = tmp_path / "a.ome.tif"
    kind = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=bigtiff) as writer:
        for level, pixels in enumerate(levels_of(picture(400, 300), 3)):
            writer.write(pixels, subifds=2 if level == 0 else None, subfiletype=int(level > 0), **kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SlideError, match="truncated") as caught:
        open_slide(path)
    assert caught.value.path == str(path)


def test_the_end_of_a_sub_image_is_missed_too(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", picture(400, 300), levels=2)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page = page_of(tiff, 1)
        last = page.dataoffsets[-1]
        tag = page.tags["TileOffsets"]
        own = {part.offset for part in (tiff.pages[0], page)}
    # The last tile's data moved to the end of the file, of which then half is cut.
    moved = content[last : last + page.databytecounts[-1]]
    patched = bytearray(content + moved)
    at = tag.valueoffset + 4 * (len(page.dataoffsets) - 1)
    patched[at : at + 4] = len(content).to_bytes(4, "little")
    assert own
    path.write_bytes(patched)
    with opened(path):
        pass
    path.write_bytes(patched[: -len(moved) // 2])
    with pytest.raises(SlideError, match=f"truncated: at least {len(moved) - len(moved) // 2}"):
        open_slide(path)


def test_a_file_that_vanishes(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", picture(400, 300), compression="jpeg")
    damage(path, 0)
    with opened(path) as slide:
        before = slide.read(0, 64, 64, 60, 60)
        path.unlink()
        np.testing.assert_array_equal(slide.read(0, 64, 64, 60, 60), before)
        with pytest.raises(SurroundingsError, match="vanished") as caught:
            slide.read(0, 0, 0, 60, 60)
        assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "photometric", "match", "hint"),
    [
        ((4, 90, 100), "CYX", np.uint8, "minisblack", "channels: 4, of which 1 in", "bfconvert -channel"),
        ((90, 100), "YX", np.uint8, "minisblack", "channels: 1, of which 1", "RGB"),
        ((90, 100, 3), "YXS", np.uint16, "rgb", "not 8-bit RGB .pixels of type uint16", "vips cast"),
        ((5, 90, 100, 3), "ZYXS", np.uint8, "rgb", "5 focal planes and 1 time points", "bfconvert -z 0"),
        ((2, 90, 100, 3), "TYXS", np.uint8, "rgb", "1 focal planes and 2 time points", "-timepoint 0"),
        ((90, 100, 4), "YXS", np.uint8, "rgb", "channels: 4, of which 4", "RGB"),
    ],
)
def test_what_is_not_one_plane_of_8_bit_rgb_is_refused(tmp_path, shape, axes, dtype, photometric, match, hint):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(np.zeros(shape, dtype), photometric=photometric, tile=(64, 64), metadata={"axes": axes})
    with pytest.raises(SlideError, match=match) as caught:
        open_slide(path)
    assert caught.value.path == str(path)
    assert hint in caught.value.hint


@pytest.mark.parametrize("compression", ["webp", "png", "jpegxl"])
def test_a_compression_that_is_not_read_is_named(tmp_path, compression):
    path = write_ome(tmp_path / "a.ome.tif", picture(100, 90), compression=compression)
    with pytest.raises(SlideError, match=f"(?i)compression {compression}") as caught:
        open_slide(path)
    assert "bfconvert -compression" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("</Pixels>", "<Pixels> ", "OME-XML cannot be read"),
        ('SizeX="100"', 'SizeX="1o0"', "OME-XML cannot be read"),
        ('SizeX="100"', 'SizeX="101"', "speaks of 101 × 90 px"),
        ('IFD="0"', 'IFD="7"', "directories cannot be read"),
        ('Image ID="Image:0"', 'Bmage ID="Image:0"', "OME-XML cannot be read"),
    ],
)
def test_xml_that_does_not_fit_its_file(tmp_path, old, new, match):
    path = write_ome(tmp_path / "a.ome.tif", picture(100, 90))
    rewrite_xml(path, old, new)
    with pytest.raises(SlideError, match=match) as caught:
        open_slide(path)
    assert caught.value.hint


def test_pixels_in_another_file_are_told(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", picture(100, 90))
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata
    own = xml.split('UUID="')[1].split('"')[0]
    data = f'<TiffData IFD="0"><UUID FileName="b.ome.tif">{own[:-1]}x</UUID></TiffData>'
    start = xml.index("<TiffData")
    xml = xml[:start] + data + xml[xml.index("/>", start) + 2 :]
    tifffile.imwrite(path, picture(100, 90), photometric="rgb", metadata=None, description=xml.encode())
    with pytest.raises(SlideError, match=r"another file, b\.ome\.tif") as caught:
        open_slide(path)
    assert "one file" in caught.value.hint


@pytest.fixture(scope="module", params=["jpeg", "jpeg2000", "lzw"])
def whole(tmp_path_factory, request):
    return write_ome(tmp_path_factory.mktemp("whole") / "a.ome.tif", picture(130, 90), compression=request.param)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), where=st.sampled_from(["xml", "tags", "any"]))
def test_a_flipped_byte_gives_pixels_or_an_error_of_ours(whole, at, value, where):
    damaged = bytearray(whole.read_bytes())
    with tifffile.TiffFile(whole) as tiff:
        first, xml = tiff.pages[0], tiff.pages[0].tags["ImageDescription"]
        start, end = {
            "xml": (xml.valueoffset, xml.valueoffset + xml.count),
            "tags": (first.offset, first.offset + 6 + 12 * len(first.tags)),
            "any": (0, len(damaged)),
        }[where]
    damaged[start + int(at * (end - start))] = value
    path = whole.with_name("b.ome.tif")
    path.write_bytes(damaged)
    error = None
    try:
        with open_slide(path) as slide:
            for level in range(len(slide.level_dimensions)):
                assert slide.read(level, 0, 0, 40, 30).shape == (30, 40, 3)
    except SlideError as ours:
        error = ours
    assert error is None or (error.path == str(path) and error.hint)
