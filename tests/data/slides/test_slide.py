"""Slides: pixels as they are, microns that are believed or refused, and a clear reason for what cannot be read."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from wsipipe.data.errors import SlideError, SurroundingsError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.resolution import mpp_from_properties
from wsipipe.data.slides.tiff_layout import missing_bytes

SHARED = Path(__file__).resolve().parents[3] / "../shared/data/slides"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {name}")
    return path


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth colours that differ everywhere."""
    small = np.random.default_rng(seed).integers(40, 220, (height // 32 + 2, width // 32 + 2, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_tiff(path: Path, image: np.ndarray, *, levels: int = 1, bigtiff: bool = False, **tags: object) -> Path:
    """A tiled pyramid; ``tags`` as tifffile takes them."""
    tags = {"compression": "deflate", "resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"} | tags
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for level in range(levels):
            writer.write(image, tile=(64, 64), photometric="rgb", subfiletype=int(level > 0), metadata=None, **tags)
            image = np.ascontiguousarray(image[::2, ::2])
    return path


# ------------------------------------------------------------------------------------------ pixels


def test_pixels_are_those_of_the_file(tmp_path):
    image = picture(300, 200)
    with open_slide(write_tiff(tmp_path / "a.tif", image, levels=3)) as slide:
        assert slide.dimensions == (300, 200)
        assert slide.level_dimensions == ((300, 200), (150, 100), (75, 50))
        assert slide.level_downsamples == (1.0, 2.0, 4.0)
        assert slide.format == "generic-tiff"
        np.testing.assert_array_equal(slide.read(0, 17, 33, 120, 90), image[33:123, 17:137])
        # Positions are of level 0, sizes of the level that is read.
        np.testing.assert_array_equal(slide.read(1, 40, 20, 50, 30), image[::2, ::2][10:40, 20:70])


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_outside_is_white(tmp_path, suffix):
    image = picture(100, 80)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        write_tiff(path, image)
    with open_slide(path, mpp_override=0.5) as slide:
        corner = slide.read(0, -10, -20, 50, 60)
        assert (corner[:20] == 255).all()
        assert (corner[:, :10] == 255).all()
        np.testing.assert_array_equal(corner[20:, 10:], image[:40, :40])
        end = slide.read(0, 90, 70, 40, 30)
        np.testing.assert_array_equal(end[:10, :10], image[70:, 90:])
        assert (end[10:] == 255).all()
        assert (end[:, 10:] == 255).all()
        for x, y in ((500, 0), (-500, 0), (0, 500), (0, -500)):
            assert (slide.read(0, x, y, 20, 20) == 255).all()
        with pytest.raises(IndexError):
            slide.read(1, 0, 0, 10, 10)


def test_transparent_pixels_are_laid_on_white(tmp_path):
    rgba = np.zeros((4, 3, 4), np.uint8)
    rgba[..., :3] = (200, 100, 0)
    rgba[..., 3] = np.array([0, 51, 255], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        pixels = slide.read(0, 0, 0, 3, 4)
    assert pixels[0].tolist() == [[255, 255, 255], [244, 224, 204], [200, 100, 0]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_every_kind_of_8_bit_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (40, 30), (255, 255, 255)).convert(mode).save(path)
    with open_slide(path) as slide:
        assert slide.read(0, 0, 0, 40, 30).shape == (30, 40, 3)
        assert (slide.read(0, 0, 0, 40, 30) == 255).all()


def test_many_threads_read_the_same_pixels(tmp_path):
    image = picture(640, 640)
    places = [(x, y) for x in range(0, 600, 40) for y in range(0, 600, 40)]
    with (
        open_slide(write_tiff(tmp_path / "a.tif", image)) as slide,
        ThreadPoolExecutor(4) as pool,
    ):
        for (x, y), pixels in zip(places, pool.map(lambda at: slide.read(0, *at, 40, 40), places), strict=True):
            np.testing.assert_array_equal(pixels, image[y : y + 40, x : x + 40])


def test_a_slide_survives_a_tile_that_cannot_be_decoded(tmp_path):
    path = write_tiff(tmp_path / "a.tif", picture(256, 256), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\x00" * count)
    with open_slide(path) as slide:
        before = slide.read(0, 128, 128, 64, 64)
        for _ in range(2):
            with pytest.raises(SlideError, match=r"cannot decode 64 × 64 px of level 0 at \(64, 64\)") as caught:
                slide.read(0, 64, 64, 64, 64)
            assert caught.value.path == str(path)
            np.testing.assert_array_equal(slide.read(0, 128, 128, 64, 64), before)


# --------------------------------------------------------------------------------------------- mpp


@pytest.mark.parametrize(("unit", "per_unit"), [("CENTIMETER", 40_000), ("INCH", 101_600)])
def test_mpp_comes_from_the_tiff_where_its_unit_is_sane(tmp_path, unit, per_unit):
    path = write_tiff(tmp_path / "a.tif", picture(64, 64), resolution=(per_unit, per_unit), resolutionunit=unit)
    with open_slide(path) as slide:
        assert slide.believed_mpp() == pytest.approx(0.25)


def test_without_mpp_a_slide_opens_and_says_the_ways_out(tmp_path):
    path = write_tiff(tmp_path / "a.tif", picture(64, 64), resolution=(1, 1), resolutionunit="NONE")
    with open_slide(path) as slide:
        assert slide.mpp is None
        with pytest.raises(SlideError, match="no mpp") as caught:
            slide.believed_mpp()
    assert "--mpp-override" in caught.value.hint
    assert "`mpp` column" in caught.value.hint
    with open_slide(path, mpp_override=0.25) as slide:
        assert slide.believed_mpp() == 0.25


def test_an_override_is_stronger_than_the_file(tmp_path):
    with open_slide(write_tiff(tmp_path / "a.tif", picture(64, 64)), mpp_override=0.31) as slide:
        assert slide.believed_mpp() == 0.31


@pytest.mark.parametrize("mpp", [28.97, 352.8, 0.01, 0.0, -0.5, float("nan"), float("inf")])
def test_an_absurd_mpp_is_refused_whoever_says_it(tmp_path, mpp):
    with (
        open_slide(write_tiff(tmp_path / "a.tif", picture(64, 64)), mpp_override=mpp) as slide,
        pytest.raises(SlideError, match="implausible"),
    ):
        slide.believed_mpp()


def test_an_absurd_mpp_in_the_file_is_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", picture(64, 64), resolution=(72, 72), resolutionunit="INCH")
    with open_slide(path) as slide, pytest.raises(SlideError, match="implausible") as caught:
        slide.believed_mpp()
    assert "--mpp-override" in caught.value.hint


def test_pixels_that_are_not_square_are_refused_beyond_one_percent(tmp_path):
    path = write_tiff(tmp_path / "a.tif", picture(64, 64), resolution=(20_000, 20_100))
    with open_slide(path) as slide:
        assert slide.believed_mpp() == pytest.approx((0.5 + 10_000 / 20_100) / 2)
    path = write_tiff(tmp_path / "b.tif", picture(64, 64), resolution=(20_000, 20_400))
    with open_slide(path) as slide, pytest.raises(SlideError, match="not square"):
        slide.believed_mpp()


def test_the_rule_for_the_source_of_mpp():
    tags = {"tiff.XResolution": "40000", "tiff.YResolution": "40000", "tiff.ResolutionUnit": "centimeter"}
    assert mpp_from_properties(tags) == (0.25, 0.25)
    own = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}
    assert mpp_from_properties(tags | own) == (0.5, 0.5), "the vendor's word is stronger than the tags"
    assert mpp_from_properties(tags | {"tiff.ResolutionUnit": "none"}) is None
    assert mpp_from_properties({"tiff.ResolutionUnit": "inch"}) is None
    for dots in ("72", "96", "300", "0"):
        tags = {"tiff.XResolution": dots, "tiff.YResolution": dots, "tiff.ResolutionUnit": "inch"}
        assert mpp_from_properties(tags) is None, "print resolutions say nothing"


def test_a_plain_image_has_no_mpp_of_its_own(tmp_path):
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png", dpi=(50_800, 50_800))
    with open_slide(tmp_path / "a.png") as slide:
        assert slide.mpp is None


# ------------------------------------------------------------------------------------------ faults


def test_a_missing_file(tmp_path):
    with pytest.raises(SurroundingsError, match="No such file"):
        open_slide(tmp_path / "gone.svs")


@pytest.mark.parametrize("name", ["a.svs", "a.png", "a.tif"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(SlideError, match="0 bytes"):
        open_slide(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_file_that_vanishes_before_it_is_read(tmp_path, name):
    path = tmp_path / name
    if name == "a.png":
        Image.fromarray(picture(100, 80)).save(path)
    else:
        write_tiff(path, picture(256, 256), compression="jpeg")
        with tifffile.TiffFile(path) as tiff:
            offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
        content = bytearray(path.read_bytes())
        content[offset : offset + count] = bytes(count)
        path.write_bytes(content)
    with open_slide(path, mpp_override=0.5) as slide:
        path.unlink()
        with pytest.raises(SurroundingsError, match="vanished") as caught:
            slide.read(0, 0, 0, 50, 50)
    assert caught.value.path == str(path)
    assert "bring it back" in caught.value.hint


@pytest.mark.parametrize(("name", "match"), [("a.svs", "does not read"), ("a.png", "neither a PNG nor a JPEG")])
def test_something_else(tmp_path, name, match):
    (tmp_path / name).write_text("slide_id,label\n")
    with pytest.raises(SlideError, match=match) as caught:
        open_slide(tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_tiff_says_so(tmp_path, share, bigtiff):
    whole = write_tiff(tmp_path / "a.tif", picture(500, 400), levels=3, bigtiff=bigtiff).read_bytes()
    path = tmp_path / "b.tif"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)


def test_a_whole_tiff_misses_nothing(tmp_path):
    for bigtiff in (False, True):
        assert missing_bytes(write_tiff(tmp_path / "a.tif", picture(500, 400), levels=3, bigtiff=bigtiff)) == 0
    for name in ("CMU-1-Small-Region.svs", "celiac_10x_nompp.tif", "ndpi_fluo_dapi.ndpi", "giardia_40x_region.svs"):
        assert missing_bytes(shared(name)) == 0


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_image_is_refused_not_filled(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(picture(300, 300)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_slide(path, mpp_override=0.5) as slide, pytest.raises(SlideError, match="cannot be decoded"):
        slide.read(0, 0, 0, 10, 10)


def test_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="8 bits"):
        open_slide(tmp_path / "a.png")


def test_a_folder_that_is_no_slide(tmp_path):
    with pytest.raises(SlideError, match="without DICOM") as caught:
        open_slide(tmp_path)
    assert caught.value.path == str(tmp_path)
    assert "DICOM folder" in caught.value.hint
    (tmp_path / "a.dcm").write_bytes(b"\x00" * 200)
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path)
    assert caught.value.path == str(tmp_path)


# ----------------------------------------------------------------------------------- shared slides


@pytest.mark.parametrize(
    ("name", "size", "mpp", "slide_format"),
    [
        ("CMU-1-Small-Region.svs", (2220, 2967), 0.499, "aperio"),
        ("dicom-cmu-1-small-region", (2220, 2967), 0.499, "dicom"),
        ("ilc_breast_20x_region.svs", (13760, 15784), 0.5056, "aperio"),
        ("giardia_40x_region.svs", (10112, 13312), 0.263018, "aperio"),
        ("ndpi_fluo_dapi.ndpi", (3968, 4864), 0.228175, "hamamatsu"),
        ("celiac_10x_nompp.tif", (8321, 7331), None, "generic-tiff"),
        ("tcga-cr-7395-01a-01-ts1.svs", (4443, 3567), None, "aperio"),
    ],
)
def test_shared_slides(name, size, mpp, slide_format):
    with open_slide(shared(name)) as slide:
        assert slide.dimensions == size
        assert slide.format == slide_format
        if mpp is None:
            assert slide.mpp is None
        else:
            assert slide.believed_mpp() == pytest.approx(mpp, abs=1e-6)
        assert slide.read(0, 100, 100, 30, 20).shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("name", "match"), [("broken.svs", "does not read"), ("unopenable.tiff", "Unsupported TIFF compression")]
)
def test_shared_slides_that_cannot_be_opened(name, match):
    with pytest.raises(SlideError, match=match):
        open_slide(shared(name))


def test_a_shared_slide_that_opens_and_cannot_be_read():
    with open_slide(shared("unreadable.svs")) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match="Bogus marker length"):
                slide.read(0, 0, 0, 16, 16)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "ilc_breast_20x_region.svs", "ndpi_fluo_dapi.ndpi"])
def test_a_truncated_shared_slide_says_so(tmp_path, name, share):
    whole = shared(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)


def test_a_folder_with_two_dicom_slides_is_refused(tmp_path):
    series = b"1.2.826.0.1.3680043.8.498.21577574112843936045397065457192622591"
    folder = tmp_path / "two"
    folder.mkdir()
    for file in shared("dicom-cmu-1-small-region").glob("*.dcm"):
        one = file.read_bytes()
        assert series in one
        (folder / file.name).write_bytes(one)
        (folder / f"other-{file.name}").write_bytes(one.replace(series, series[:-1] + b"2"))
    with pytest.raises(SlideError, match="DICOM files of 2 slides"):
        open_slide(folder)
