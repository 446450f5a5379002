"""OME-TIFF: a reason for what is damaged, and for what is not read."""

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_slides import damage, levels_of, opened, page_of, picture, rewrite_xml, write_ome
from wsipipe.data.errors import SlideError, SurroundingsError
from wsipipe.data.slides.readers import open_slide


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
        ('SizeX="100"', 'SizeX="101"', "states 101 × 90 px"),
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
