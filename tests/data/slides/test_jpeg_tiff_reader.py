"""The fast path: OpenSlide's pixels, each compressed tile decoded once, and a reason where it is not taken."""

import threading
import tracemalloc
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpeg_slides import picture, write_slide
from wsipipe.data.errors import SlideError
from wsipipe.data.slides import decoded_tiles
from wsipipe.data.slides.jpeg_tiff_reader import JpegTiffReader
from wsipipe.data.slides.openslide_reader import OpenSlideReader
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.tiff_layout import TiledLevel, tiled_jpeg_levels
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.units import LevelPx

APERIO = "Aperio Image Library v1\r\n300x300 |MPP = 0.5|AppMag = 20"
SHARED = [
    "slides/CMU-1-Small-Region.svs",
    "slides/ilc_breast_20x_region.svs",
    "slides/giardia_40x_region.svs",
    "slides/celiac_10x_nompp.tif",
    "slides/small.svs",
    "slides/tcga-cr-7395-01a-01-ts1.svs",
    "brca/slides/TCGA-A7-A0DA-01Z-00-DX1.tif",
]


def write_jpeg_2000(
    path: Path,
    *,
    size: tuple[int, int] = (300, 260),
    missing: frozenset[int] = frozenset(),
    compression: int = 33005,
    mct: bool = True,
) -> Path:
    """As Aperio's scanners: RGB codestreams (compression 33005) of 64 px tiles; width and height.

    :param mct: whether the codestream transforms its components.
    """
    width, height = size
    padded = cv2.copyMakeBorder(picture(*size), 0, -height % 64, 0, -width % 64, cv2.BORDER_REPLICATE)
    streams = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(padded[y : y + 64, x : x + 64]), level=35, codecformat="j2k", reversible=False, mct=mct
        )
        for y, x in product(range(0, height, 64), range(0, width, 64))
    ]
    streams = [b"" if index in missing else stream for index, stream in enumerate(streams)]
    kind = {"tile": (64, 64), "photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(iter(streams), shape=(height, width, 3), dtype=np.uint8, description=APERIO, **kind)
    return path


def damage(path: Path, tile: int, stream: bytes | None = None, *, level: int = 0) -> None:
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[level].dataoffsets[tile], tiff.pages[level].databytecounts[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count) if stream is None else stream[:count])


@contextmanager
def both(path: Path):
    """The slide on the fast path, and as OpenSlide reads it."""
    with open_slide(path) as fast, OpenSlideReader(path, None) as plain:
        assert isinstance(fast, JpegTiffReader), fast.reader
        yield fast, plain


@contextmanager
def counted_decodes(monkeypatch):
    """How often the decoder is called, as a list of its input's beginnings."""
    calls, decode = [], simplejpeg.decode_jpeg

    def counting(stream, **arguments):
        calls.append(stream)
        return decode(stream, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(simplejpeg, "decode_jpeg", counting)
        yield calls


def assert_same(fast, plain, level, x, y, width, height):
    ours, theirs = fast.read(level, x, y, width, height), plain.read(level, x, y, width, height)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs, err_msg=f"level {level}, {width} × {height} at ({x}, {y})")


def same_outcome(fast, plain, *region):
    """Whether both give the same pixels, or the same error."""
    outcomes = []
    for slide in (fast, plain):
        try:
            outcomes.append(slide.read(*region).tolist())
        except SlideError as error:
            outcomes.append(str(error))
    return outcomes[0] == outcomes[1]


# ------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("name", SHARED)
def test_shared_slides_are_openslides_pixels(shared, name):
    rng = np.random.default_rng(0)
    with both(shared / name) as (fast, plain):
        for attribute in ("format", "level_dimensions", "level_downsamples", "mpp", "path"):
            assert getattr(fast, attribute) == getattr(plain, attribute)
        for level, (width, height) in enumerate(fast.level_dimensions):
            downsample = fast.level_downsamples[level]
            for turn in range(12):
                at = rng.integers((-50, -50), (width + 50, height + 50))
                size = rng.integers(1, (700, 700))
                x, y = (round(place * downsample) + turn % 3 for place in at)
                assert_same(fast, plain, level, x, y, *(int(side) for side in size))
            assert_same(fast, plain, level, 0, 0, 300, 200)
            end = int((width - 100) * downsample), int((height - 90) * downsample)
            assert_same(fast, plain, level, *end, 200, 180)


@pytest.mark.parametrize("description", [None, APERIO], ids=["generic", "aperio"])
@pytest.mark.parametrize("shared_tables", [False, True])
@pytest.mark.parametrize(
    ("coding", "subsampling"), [("RGB", "444"), ("YCBCR", "444"), ("YCBCR", "422"), ("YCBCR", "420")]
)
def test_every_coding_of_colours(tmp_path, coding, subsampling, shared_tables, description):
    path = write_slide(
        tmp_path / "a.tif",
        coding=coding,
        subsampling=subsampling,
        shared_tables=shared_tables,
        levels=2,
        description=description,
    )
    with both(path) as (fast, plain):
        assert fast.format == ("generic-tiff" if description is None else "aperio")
        assert fast.level_downsamples == (1.0, 2.0)
        for level in (0, 1):
            assert_same(fast, plain, level, -20, -20, 400, 400)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].photometric.name == coding
            assert (tiff.pages[0].jpegtables is not None) == shared_tables
        error = np.abs(fast.read(0, 0, 0, 300, 260).astype(int) - picture(300, 260)).mean()
        assert error < 20, "the coding is lossy; with the wrong colours it would be 50 and more"


def test_jpeg_2000_is_openslides(tmp_path):
    with both(write_jpeg_2000(tmp_path / "a.svs", missing=frozenset({3}))) as (fast, plain):
        assert fast.reader.startswith("OpenJPEG")
        assert_same(fast, plain, 0, -20, -20, 400, 400)
        assert np.abs(fast.read(0, 0, 64, 300, 196).astype(int) - picture(300, 260)[64:]).mean() < 20
        assert (fast.read(0, 192, 0, 64, 64) == 255).all()


@pytest.mark.parametrize(
    ("start", "end"), [(0, 20), (2, 30), (30, 100), (60, 110), (150, 300), (-300, -200), (-2, None)]
)
def test_a_hole_in_a_jpeg_2000_tile_is_what_openslide_makes_of_it(tmp_path, start, end):
    path = write_jpeg_2000(tmp_path / "a.svs")
    stream = bytearray(stream_of(path, 6))
    for fill in (0, 1, 255):
        stream[start:end] = bytes([fill]) * len(stream[start:end])
        damage(path, 6, stream)
        with both(path) as slides:
            assert same_outcome(*slides, 0, 64, 64, 64, 64)
            assert_same(*slides, 0, 128, 0, 172, 260)


def test_jpeg_2000_of_ycbcr_is_openslides(tmp_path):
    with open_slide(write_jpeg_2000(tmp_path / "a.svs", compression=33003, mct=False)) as slide:
        assert isinstance(slide, OpenSlideReader)
        assert "(not the fast path: JPEG 2000 of YCbCr (compression 33003))" in slide.reader


def test_a_jpeg_2000_tile_that_asks_for_too_much_memory_is_not_decoded(tmp_path):
    path = write_jpeg_2000(tmp_path / "a.svs")
    stream = bytearray(stream_of(path, 6))
    stream[8:16] = (60_000).to_bytes(4) * 2  # its width and height
    damage(path, 6, stream)
    tiles = decoded_tiles.DecodedTiles(path, dict(enumerate(tiled_jpeg_levels(path, [(300, 260)]))))
    assert tiles.decode(0, 6) is None
    assert tiles.decode(0, 7) is not None
    tiles.close()


@pytest.mark.parametrize(("offset", "count"), [(8, 2**34), (0, 2**62), (2**63, 16), (2**62, 2**62)])
def test_a_stream_that_is_said_to_lie_beyond_the_file_is_no_tile(tmp_path: Path, offset: int, count: int) -> None:
    """The damaged length of a strip in a small file is not allocated."""
    path = tmp_path / "a.tif"
    path.write_bytes(bytes(4096))
    layout = TiledLevel(
        width=64, height=16, tile_width=64, tile_height=16, offsets=[offset], byte_counts=[count], compression="none"
    )
    tiles = decoded_tiles.DecodedTiles(path, {0: layout})
    tracemalloc.start()
    try:
        assert tiles.region(0, 0, 0, LevelPx(64), LevelPx(16)) is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
        tiles.close()


@pytest.fixture(scope="module", params=[None, APERIO], ids=["generic", "aperio"])
def pyramid(tmp_path_factory, request):
    """One of sizes that no tile divides, with missing tiles and a damaged one."""
    path = tmp_path_factory.mktemp("pyramid") / "a.tif"
    write_slide(path, size=(516, 388), tile=48, levels=3, missing=frozenset({7, 20}), description=request.param)
    damage(path, 40)
    with both(path) as slides:
        yield slides


@given(
    level=st.integers(0, 2),
    x=st.integers(-200, 600),
    y=st.integers(-200, 600),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_region_is_openslides(pyramid, level, x, y, width, height):
    fast, plain = pyramid
    assert same_outcome(fast, plain, level, x, y, width, height)


def test_the_overview_is_openslides(shared):
    with both(shared / "slides/ilc_breast_20x_region.svs") as (fast, plain):
        np.testing.assert_array_equal(read_overview(fast).pixels, read_overview(plain).pixels)


def test_a_level_that_is_not_there(tmp_path):
    with open_slide(write_slide(tmp_path / "a.tif")) as slide, pytest.raises(IndexError):
        slide.read(1, 0, 0, 10, 10)


# ------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("description", [None, APERIO], ids=["generic", "aperio"])
def test_missing_tiles_are_what_openslide_makes_of_them(tmp_path, description):
    path = write_slide(tmp_path / "a.tif", missing=frozenset({0, 6}), levels=2, description=description)
    with both(path) as (fast, plain):
        assert (fast.read(0, 64, 64, 64, 64) == 255).all()
        for level in (0, 1):
            assert_same(fast, plain, level, 0, 0, 300, 260)
        assert ("tiles are missing in a finer level" in fast.reader) == (description is not None)


def stream_of(path: Path, tile: int) -> bytes:
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[tile], tiff.pages[0].databytecounts[tile]
    return path.read_bytes()[offset : offset + count]


@pytest.mark.parametrize("start", [0, 2, 200])
def test_a_damaged_tile_fails_the_regions_that_touch_it_and_no_other(tmp_path, start):
    path = write_slide(tmp_path / "a.tif")
    stream = stream_of(path, 6)
    damage(path, 6, stream[:start] + bytes(len(stream) - start))
    with both(path) as (fast, plain):
        for _ in range(2):
            with pytest.raises(SlideError, match=r"cannot decode 10 × 10 px of level 0 at \(64, 64\)") as caught:
                fast.read(0, 64, 64, 10, 10)
            assert caught.value.path == str(path)
            assert_same(fast, plain, 0, 128, 64, 172, 196)
            assert_same(fast, plain, 0, 0, 0, 300, 64)


@pytest.mark.parametrize(("start", "end"), [(700, 800), (1000, 1512), (1500, -2), (1500, None), (-2, None)])
def test_a_hole_in_a_tile_is_what_openslide_makes_of_it(tmp_path, start, end):
    """libjpeg decodes some with a warning, some without; OpenSlide refuses the former."""
    path = write_slide(tmp_path / "a.tif")
    stream = bytearray(stream_of(path, 6))
    stream[start:end] = bytes(len(stream[start:end]))
    damage(path, 6, stream)
    with both(path) as slides:
        assert same_outcome(*slides, 0, 64, 64, 64, 64)


def test_data_that_ends_too_early_is_not_filled_up_with_grey(tmp_path):
    path = write_slide(tmp_path / "a.tif")
    stream = stream_of(path, 6)
    damage(path, 6, stream[: len(stream) // 2] + b"\xff\xd9" * len(stream))
    with both(path) as (fast, _), pytest.raises(SlideError, match="cannot decode"):
        fast.read(0, 64, 64, 10, 10)


@pytest.mark.parametrize("garbage", [0, 1])
def test_a_level_that_is_all_garbage_fails_alone(tmp_path, garbage):
    path = write_slide(tmp_path / "a.tif", levels=2)
    for tile in range(25 if garbage == 0 else 9):
        damage(path, tile, level=garbage)
    with both(path) as (fast, plain):
        assert f"for level {garbage} (its tiles are not decoded" in fast.reader
        with pytest.raises(SlideError, match=rf"cannot decode 50 × 50 px of level {garbage} at \(0, 0\)") as caught:
            fast.read(garbage, 0, 0, 50, 50)
        assert caught.value.path == str(path)
        assert_same(fast, plain, 1 - garbage, 0, 0, 100, 100)


@pytest.mark.parametrize("description", [None, APERIO], ids=["generic", "aperio"])
@pytest.mark.parametrize(("tag", "side", "tiles"), [(257, 1030, 85), (257, 130, 15), (256, 130, 15), (257, 321, 30)])
def test_a_size_that_is_not_that_of_its_tiles_is_refused(tmp_path, description, tag, side, tiles):
    """A part of the slide would be missing in silence, or each of many tiles that are not there be tried."""
    path = write_slide(tmp_path / "a.tif", description=description)
    for same in (257, 259) if tag == 257 else (300, 260):  # as many tiles as before
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages[0].tags[tag].overwrite(same)
        open_slide(path).close()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(side)
    with pytest.raises(SlideError, match=rf" px need {tiles} tiles, and its table lists 25") as refused:
        open_slide(path)
    assert refused.value.path == str(path)
    assert "copy it again" in str(refused.value.hint)


def test_a_closed_slide_has_given_its_file_back(tmp_path):
    path = write_slide(tmp_path / "a.tif")
    open_files = Path("/proc/self/fd")
    if not open_files.exists():
        pytest.skip("nothing here tells the open files")
    before = len(list(open_files.iterdir()))
    slide = open_slide(path)
    slide.read(0, 0, 0, 100, 100)
    slide.close()
    slide.close()
    assert len(list(open_files.iterdir())) == before


# --------------------------------------------------------------------------------------- reasons


def test_the_reader_says_what_decodes(tmp_path):
    with open_slide(write_slide(tmp_path / "a.tif")) as slide:
        assert "jpeg" in slide.reader
        assert "openslide" not in slide.reader
    with open_slide(write_slide(tmp_path / "b.tif", size=(301, 260), levels=2)) as slide:
        assert "; openslide" in slide.reader
        assert "for level 1 (downsample of 1.99" in slide.reader


def test_levels_of_another_kind_are_read_through_openslide(tmp_path):
    path = tmp_path / "a.tif"
    image = picture(256, 256)
    with tifffile.TiffWriter(path) as writer:
        kind = {"tile": (64, 64), "metadata": None}
        writer.write(image, photometric="rgb", compression="jpeg", **kind)
        writer.write(image[::2, ::2], photometric="rgb", compression="lzw", subfiletype=1, **kind)
    with both(path) as (fast, plain):
        assert "for level 1 (compression LZW)" in fast.reader
        for level in (0, 1):
            assert_same(fast, plain, level, 10, 10, 100, 100)


@pytest.mark.parametrize(
    ("compression", "photometric", "reason"),
    [("lzw", "rgb", "compression LZW"), (None, "rgb", "compression none"), ("jpeg", "minisblack", "not 8-bit RGB")],
)
def test_why_the_fast_path_is_not_taken(tmp_path, compression, photometric, reason):
    image = picture(200, 200)
    image = image if photometric == "rgb" else np.ascontiguousarray(image[..., 0])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric=photometric, compression=compression, metadata=None)
    with open_slide(path) as slide:
        assert isinstance(slide, OpenSlideReader)
        assert f"(not the fast path: {reason}" in slide.reader


def test_a_slide_whose_colours_are_not_as_its_tags_say(tmp_path, monkeypatch):
    """A decoder of other pixels than OpenSlide's is found out when the slide is opened."""
    decode = simplejpeg.decode_jpeg

    def naive(stream, **arguments):
        return decode(stream.replace(b"Adobe\x00\x64" + bytes(5), b"Adobe\x00\x64" + bytes(4) + b"\x01"), **arguments)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", naive)
    with open_slide(write_slide(tmp_path / "a.tif", coding="RGB", subsampling="444")) as slide:
        assert isinstance(slide, OpenSlideReader)
        assert "(not the fast path: other pixels than OpenSlide's" in slide.reader


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("slides/ndpi_fluo_dapi.ndpi", "the format is hamamatsu"),
        ("slides/dicom-cmu-1-small-region", "the format is dicom"),
        ("slides/unreadable.svs", "its tiles are not decoded"),
    ],
)
def test_why_shared_slides_are_not_on_the_fast_path(shared, name, reason):
    with open_slide(shared / name) as slide:
        assert slide.reader.startswith("openslide ")
        assert f"(not the fast path: {reason}" in slide.reader


# ------------------------------------------------------------------------- threads, and one decode a tile


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("side", [40, 100, 150])
def test_a_sweep_decodes_each_tile_once(tmp_path, monkeypatch, threads, side):
    path = write_slide(tmp_path / "a.tif", size=(3000, 500), tile=64)
    places = [(x, y) for y in range(0, 500 - side, side) for x in range(0, 3000 - side, side)]
    columns, rows = (-(-(last + side) // 64) for last in places[-1])
    with both(path) as (fast, plain), counted_decodes(monkeypatch) as calls, ThreadPoolExecutor(threads) as pool:
        reading = deque()
        for place in [*places, *[None] * threads]:
            if len(reading) == threads or (place is None and reading):  # no thread falls far behind the others
                (x, y), pixels = reading.popleft()
                np.testing.assert_array_equal(pixels.result(), plain.read(0, x, y, side, side))
            if place is not None:
                reading.append((place, pool.submit(fast.read, 0, *place, side, side)))
        assert len(calls) == columns * rows


def test_threads_that_want_the_same_tile_decode_it_once(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "a.tif")
    gate = threading.Barrier(8)

    def read(slide):
        gate.wait()
        return slide.read(0, 0, 0, 128, 128)

    with both(path) as (fast, plain), counted_decodes(monkeypatch) as calls, ThreadPoolExecutor(8) as pool:
        for pixels in pool.map(read, [fast] * 8):
            np.testing.assert_array_equal(pixels, plain.read(0, 0, 0, 128, 128))
        assert len(calls) == 4


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "a.tif", size=(900, 900), tile=64)
    with open_slide(path) as fast:
        for y in range(0, 900, 60):
            for x in range(0, 900, 60):
                fast.read(0, x, y, 60, 60)
        held = [future.result() for future in fast._tiles._tiles.values()]
        assert sum(tile.nbytes for tile in held) == fast._tiles._bytes <= 3 * 15 * 64 * 64 * 3
    few = 10 * 64 * 64 * 3
    monkeypatch.setattr(decoded_tiles, "CACHE_BYTES", few)
    with both(path) as (fast, plain):
        assert_same(fast, plain, 0, 0, 0, 900, 900)
        assert fast._tiles._bytes <= few
