"""Resizing a tile: the filter that is named, no alias, no shift, and the same bytes wherever it runs."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from wsipipe.data.tiling.resize import resize_tile
from wsipipe.data.units import TilePx

TILE_PX = TilePx(224)
RATIOS = [225, 229, 300, 375, 426, 444, 448, 512, 640, 896, 1000, 3584]
"""Pixels read for a tile of 224."""


def triangle(side: int, tile_px: int) -> np.ndarray:
    """The filter in double precision, (tile_px, side): a triangle of twice the ratio, cut off at the edges."""
    ratio = side / tile_px
    centres = (np.arange(tile_px) + 0.5) * ratio
    weights = np.clip(1 - np.abs(np.arange(side) + 0.5 - centres[:, None]) / ratio, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def exactly(pixels: np.ndarray, tile_px: int) -> np.ndarray:
    weights = triangle(pixels.shape[0], tile_px)
    return np.stack([weights @ pixels[..., channel].astype(float) @ weights.T for channel in range(3)], axis=2)


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)


def grey(pattern: np.ndarray) -> np.ndarray:
    """From 0 to 1 as an RGB picture."""
    return np.rint(pattern * 255).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.fixture(scope="module")
def tissue(shared) -> list[np.ndarray]:
    """Places of a slide at 0.263 µm per pixel, 896 px each."""
    with openslide.OpenSlide(shared / "slides" / "giardia_40x_region.svs") as handle:
        wide, high = handle.dimensions
        places = [(x, y) for y in range(0, high - 896, 1800) for x in range(0, wide - 896, 1800)]
        pictures = [np.array(handle.read_region(place, 0, (896, 896)).convert("RGB")) for place in places]
    detailed = [picture for picture in pictures if picture.std() > 20]
    assert len(detailed) >= 6
    return detailed[:6]


# --------------------------------------------------------------------------------------- the filter


@pytest.mark.parametrize("side", RATIOS)
def test_it_is_the_triangle_to_a_grey_level(side):
    pixels = noise(side)
    away = np.abs(resize_tile(pixels, TILE_PX) - exactly(pixels, TILE_PX))
    assert away.max() <= 1.1
    assert away.mean() < 0.35, "one rounding gives 0.25, and there is one an axis"


@given(st.integers(2, 40), st.floats(1.0, 16.0))
def test_it_is_the_triangle_at_any_ratio(tile_px, ratio):
    pixels = noise(max(round(tile_px * ratio), tile_px + 1))
    tile = resize_tile(pixels, TilePx(tile_px))
    assert tile.shape == (tile_px, tile_px, 3)
    assert tile.dtype == np.uint8
    assert np.abs(tile - exactly(pixels, tile_px)).max() <= 1.1


@pytest.mark.parametrize("side", [375, 426, 448, 896])
def test_on_tissue_it_is_pillows(tissue, side):
    for picture in tissue:
        pixels = picture[:side, :side]
        pillows = np.asarray(Image.fromarray(pixels).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR)).astype(int)
        away = np.abs(resize_tile(pixels, TILE_PX) - pillows)
        assert away.max() <= 1
        assert away.mean() < 0.02


@pytest.mark.parametrize("side", [225, 300, 426, 448, 640, 1000])
def test_a_plain_picture_stays_as_it_is(side):
    for value in range(256):
        colour = np.array([value, 255 - value, value // 2], np.uint8)
        tile = resize_tile(np.broadcast_to(colour, (side, side, 3)), TilePx(56))
        assert (tile == colour).all()


@pytest.mark.parametrize("side", [375, 426, 448, 896])
def test_brightness_is_kept(tissue, side):
    for picture in tissue:
        pixels = picture[:side, :side]
        means = resize_tile(pixels, TILE_PX).mean(axis=(0, 1))
        # Halves are rounded up, and at 448 px every eighth sum of an axis is one: an eighth of a level, as Pillow's.
        np.testing.assert_allclose(means, exactly(pixels, TILE_PX).mean(axis=(0, 1)), atol=0.15)
        np.testing.assert_allclose(means, pixels.mean(axis=(0, 1)), atol=0.35)  # the edges weigh less


# -------------------------------------------------------------------------------------------- alias


@pytest.mark.parametrize(("side", "most"), [(375, 14), (426, 4), (444, 2), (448, 1), (512, 6), (640, 13), (896, 1)])
def test_stripes_of_two_pixels_come_out_grey(side, most):
    """Finer than a tile can show. Picking pixels leaves all of the 127 grey levels, means over areas 6 to 38."""
    stripes = grey(np.tile(np.arange(side) % 2, (side, 1)))
    for picture in (stripes, stripes.transpose(1, 0, 2)):
        inner = resize_tile(picture, TILE_PX)[3:-3, 3:-3].astype(float)
        assert np.abs(inner - 127.5).max() <= most
    checks = grey(np.indices((side, side)).sum(axis=0) % 2)
    assert np.abs(resize_tile(checks, TILE_PX)[3:-3, 3:-3].astype(float) - 127.5).max() <= 2


@pytest.mark.parametrize("side", [375, 426, 448, 640, 896])
def test_a_zone_plate_fades_where_it_becomes_too_fine(side):
    """Rings whose frequency rises from 0 in the centre to 0.5 cycles a pixel at the edge."""
    y, x = np.indices((side, side)) - (side - 1) / 2
    plate = grey(0.5 + 0.5 * np.cos(np.pi * (x**2 + y**2) / side))
    y, x = (np.indices((TILE_PX, TILE_PX)) - (TILE_PX - 1) / 2) * side / TILE_PX
    frequency = np.hypot(x, y) / side  # cycles a pixel read; a tile can show up to 0.5 × TILE_PX / side
    too_fine = (frequency > 0.65 * TILE_PX / side) & (frequency < 0.5)

    def alias(tile: np.ndarray) -> float:
        return float(tile[..., 0][too_fine].astype(float).std())

    ours = alias(resize_tile(plate, TILE_PX))
    by_area = alias(np.asarray(cv2.resize(plate, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)))
    assert ours < 12, "of 90"
    assert ours < 0.6 * by_area
    can_be_shown = frequency < 0.15 * TILE_PX / side
    shown = resize_tile(plate, TILE_PX)[..., 0][can_be_shown].astype(float)
    assert shown.std() > 0.8 * 90


# ----------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("side", [229, 375, 426, 444, 448, 640, 896])
def test_nothing_is_shifted(side):
    y, x = np.indices((side, side)) + 0.5
    for at in ((0.5, 0.5), (0.31, 0.62), (0.77, 0.24)):
        blob = grey(np.exp(-((x - at[0] * side) ** 2 + (y - at[1] * side) ** 2) / (2 * (0.04 * side) ** 2)))
        weights = resize_tile(blob, TILE_PX)[..., 0].astype(float)
        y_out, x_out = np.indices(weights.shape) + 0.5
        assert abs((weights * x_out).sum() / weights.sum() - at[0] * TILE_PX) < 0.05
        assert abs((weights * y_out).sum() / weights.sum() - at[1] * TILE_PX) < 0.05


@pytest.mark.parametrize("side", RATIOS)
def test_a_flipped_picture_gives_the_flipped_tile(side):
    pixels = noise(side)
    tile = resize_tile(pixels, TILE_PX)
    np.testing.assert_array_equal(resize_tile(pixels[:, ::-1], TILE_PX), tile[:, ::-1])
    np.testing.assert_array_equal(resize_tile(pixels[::-1], TILE_PX), tile[::-1])
    turned = resize_tile(pixels.transpose(1, 0, 2), TILE_PX).transpose(1, 0, 2)
    assert np.abs(turned.astype(int) - tile).max() <= 1, "one axis is rounded before the other"


# ----------------------------------------------------------------------------- whatever it is given


def test_pixels_that_need_no_resizing_are_handed_on():
    pixels = noise(224)
    assert resize_tile(pixels, TILE_PX) is pixels


def test_what_is_enlarged_goes_through_its_pixels():
    small = cv2.GaussianBlur(noise(75), (0, 0), 3)
    tile = resize_tile(small, TilePx(225))
    assert tile.shape == (225, 225, 3)
    np.testing.assert_allclose(tile[1::3, 1::3].astype(int), small, atol=1)  # every third lies on one of them


def test_any_memory_will_do_and_none_is_changed():
    whole = noise(896)
    before = whole.copy()
    expected = resize_tile(whole[100:526, 200:626].copy(), TILE_PX)
    part = whole[100:526, 200:626]
    part.flags.writeable = False
    tile = resize_tile(part, TILE_PX)
    np.testing.assert_array_equal(tile, expected)
    np.testing.assert_array_equal(whole, before)
    assert tile.flags.c_contiguous
    assert tile.flags.writeable


# --------------------------------------------------------------------------------- wherever it runs

DIGEST = """
import hashlib, sys
import numpy as np
import wsipipe.data.tiling.store
assert "torch" not in sys.modules, "planning tiles does without"
from wsipipe.data.tiling.resize import resize_tile
digest = hashlib.sha256()
for side in (300, 426, 448, 896):
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    digest.update(resize_tile(pixels, 224).tobytes())
print(digest.hexdigest())
"""


def digest() -> str:
    its = hashlib.sha256()
    for side in (300, 426, 448, 896):
        its.update(resize_tile(noise(side), TILE_PX).tobytes())
    return its.hexdigest()


def test_any_thread_gives_the_same():
    expected = digest()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: digest(), range(12))) == {expected}


def test_other_numbers_of_cores_and_other_instruction_sets_give_the_same():
    elsewhere = os.environ | {"OMP_NUM_THREADS": "4", "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", DIGEST], env=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()
