"""Pictures that are turned by a tag, have more than 8 bits, or no colour: right, or refused by name."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.stages.tile.slide_tiling import tile_slide

TAG = 0x0112


def picture() -> np.ndarray:
    pixels = np.full((300, 400, 3), 243, np.uint8)
    pixels[50:250, 50:350] = np.random.default_rng(0).normal((190, 110, 170), 25, (200, 300, 3)).clip(0, 255)
    return pixels


def write(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    """A TIFF or OME-TIFF in tiles, or a PNG or JPEG, as the name says."""
    if ".tif" in path.name:
        kind = {"tile": (128, 128), "photometric": "rgb" if pixels.ndim == 3 else "minisblack"}
        kind |= {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"} if ".ome." not in path.name else {}
        tags = [(274, 3, 1, orientation, True)] if orientation != 1 else []
        tifffile.imwrite(path, pixels, ome=".ome." in path.name, extratags=tags, **kind)
    else:
        exif = Image.Exif()
        exif[TAG] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.ome.tif"])
def test_a_picture_that_a_tag_turns_is_refused(tmp_path, name, orientation):
    with pytest.raises(SlideError, match=f"orientation tag \\({orientation}\\)") as caught:
        open_slide(write(tmp_path / name, picture(), orientation))
    assert "autorot" in caught.value.hint


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.ome.tif"])
def test_one_that_is_upright_is_read(tmp_path, name):
    with open_slide(write(tmp_path / name, picture())) as slide:
        assert np.abs(slide.read(0, 0, 0, 400, 300).astype(int) - picture()).mean() < 12


def deep(path: Path) -> Path:
    """12 bits a channel, as cameras and some scanners give them: read as 8 they are nearly black."""
    values = picture().astype(np.uint16) * 16
    if path.name == "grey.png":
        Image.fromarray(values[..., 0]).save(path)
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(values))
    elif path.suffix == ".jpg":
        try:
            path.write_bytes(imagecodecs.jpeg_encode(values, bitspersample=12))
        except ValueError as error:
            pytest.skip(f"imagecodecs {imagecodecs.__version__} writes no JPEG of 12 bits: {error}")
    else:
        write(path, values[..., 0] if "grey" in path.name else values)
    return path


@pytest.mark.parametrize("name", ["a.png", "grey.png", "a.jpg", "a.tif", "grey.tif", "a.ome.tif"])
def test_more_than_8_bits_are_refused_by_name(tmp_path, name):
    with pytest.raises(SlideError, match=r"8.bit") as caught:
        open_slide(deep(tmp_path / name))
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "black and white.png"])
def test_tissue_is_not_looked_for_in_a_grey_picture(tmp_path, name):
    grey = np.asarray(Image.fromarray(picture()).convert("L"))
    path = tmp_path / name
    if name.startswith("black"):
        Image.fromarray(grey).convert("1").save(path)
    else:
        write(path, grey)
    with open_slide(path, 0.5) as slide:
        assert slide.grey
        with pytest.raises(SlideError, match="a grey picture") as caught:
            tile_slide(slide, "a", mpp=0.5, tile_px=64)
    assert "--annotations" in caught.value.hint


def test_a_palette_and_inks_are_colours(tmp_path):
    for mode, name in (("P", "a.png"), ("CMYK", "a.jpg")):
        Image.fromarray(picture()).convert(mode).save(tmp_path / name)
        with open_slide(tmp_path / name) as slide:
            assert not slide.grey
            assert np.abs(slide.read(0, 0, 0, 400, 300).astype(int) - picture()).mean() < 20
