"""Levels that do not show what level 0 shows are not read."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from wsipipe.data.slides.pyramid import downsample, has_the_field
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.tiling.overview import read_overview
from wsipipe.stages.tile.slide_tiling import tile_slide

WIDTH, HEIGHT = 2400, 1800


def picture() -> np.ndarray:
    """Glass, and tissue of nuclei of all sizes at its left."""
    rng = np.random.default_rng(3)
    pixels = np.full((HEIGHT, WIDTH, 3), 243, np.uint8)
    tissue = pixels[200:1600, 150:1100]
    tissue[:] = (205, 140, 190)
    for x, y, radius in np.stack(
        [rng.integers(0, 950, 4000), rng.integers(0, 1400, 4000), rng.integers(2, 9, 4000)], 1
    ):
        cv2.circle(tissue, (int(x), int(y)), int(radius), (95, 60, 140), cv2.FILLED)
    pixels[200:1600, 150:1100] = cv2.add(tissue, rng.integers(0, 25, tissue.shape, np.uint8))
    return pixels


def shrunk(pixels: np.ndarray, by: float) -> np.ndarray:
    size = (round(pixels.shape[1] / by), round(pixels.shape[0] / by))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def padded(pixels: np.ndarray, by: int, to: int = 256) -> np.ndarray:
    """As Philips does it."""
    level = shrunk(pixels, by)
    return np.pad(level, ((0, -level.shape[0] % to), (0, -level.shape[1] % to), (0, 0)), constant_values=255)


def write(path: Path, *levels: np.ndarray, compression: str | None = "jpeg", tile: int = 256) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                np.ascontiguousarray(level),
                tile=(tile, tile),
                photometric="rgb",
                compression=compression,
                subfiletype=int(number > 0),
                resolution=(2e4, 2e4),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


FOREIGN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a macro image of the glass": lambda image: cv2.resize(image, (576, 192)),
    "a label": lambda image: np.full((300, 300, 3), 200, np.uint8),
    "on its side": lambda image: np.rot90(shrunk(image, 8)),
    "upside down": lambda image: np.rot90(shrunk(image, 8), 2),
    "mirrored": lambda image: shrunk(image, 8)[:, ::-1],
    "cropped to the same shape": lambda image: shrunk(image[: HEIGHT // 2, WIDTH // 2 :], 4),
    "cropped within the tissue": lambda image: shrunk(image[300:1200, 200:1400], 4),
    "blank": lambda image: np.full((HEIGHT // 8, WIDTH // 8, 3), 243, np.uint8),
    "without its lower third": lambda image: shrunk(image, 8)[:150],
    "padded": lambda image: padded(image, 8),
}


@pytest.mark.parametrize("compression", ["jpeg", "lzw"])
@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_level_is_not_used(tmp_path, what, compression):
    image = picture()
    level = FOREIGN[what](image)
    path = write(tmp_path / "a.tif", image, shrunk(image, 4), level, shrunk(image, 16), compression=compression)
    with open_slide(path) as slide:
        assert slide.level_dimensions == ((2400, 1800), (600, 450), (150, 112)), "those after it stay"
        assert slide.level_downsamples[:2] == (1, 4)
        assert f"without its level 2 of {level.shape[1]} × {level.shape[0]} px" in slide.reader
        smallest = slide.read(2, 0, 0, 150, 112)
        assert np.abs(smallest.astype(int) - shrunk(image, 16)).mean() < 4


@pytest.mark.parametrize("tile", [64, 256])
@pytest.mark.parametrize(
    "shrink",
    [
        lambda image, by: shrunk(image, by),
        lambda image, by: image[::by, ::by],
        lambda image, by: shrunk(image, by)[: image.shape[0] // by - 1, : image.shape[1] // by],
        lambda image, by: cv2.addWeighted(
            shrunk(image, by), 1.8, cv2.GaussianBlur(shrunk(image, by), (0, 0), 2), -0.8, 0
        ),
        lambda image, by: cv2.convertScaleAbs(cv2.resize(image, None, fx=1 / by, fy=1 / by), alpha=0.98, beta=3),
        lambda image, by: cv2.GaussianBlur(shrunk(image, by), (0, 0), 1.5),
    ],
    ids=["means", "every fourth pixel", "a row short", "sharpened", "brighter", "blurred"],
)
def test_every_way_to_shrink_gives_a_level(tmp_path, shrink, tile):
    image = picture()
    levels = [shrink(image, by) for by in (4, 8)]
    with open_slide(write(tmp_path / "a.tif", image, *levels, tile=tile)) as slide:
        assert len(slide.level_dimensions) == 3, slide.reader


def test_noise_of_which_every_fourth_pixel_is_kept(tmp_path):
    noise = np.random.default_rng(0).normal((190, 110, 170), 25, (1024, 1024, 3)).clip(0, 255).astype(np.uint8)
    with open_slide(write(tmp_path / "a.tif", noise, noise[::4, ::4])) as slide:
        assert len(slide.level_dimensions) == 2, slide.reader


def test_a_level_of_all_garbage_is_left_to_those_who_read_it(tmp_path):
    path = write(tmp_path / "a.tif", picture(), shrunk(picture(), 4))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as file:
        for offset, count in spans:
            file.seek(offset)
            file.write(bytes(count))
    with open_slide(path) as slide:
        assert len(slide.level_dimensions) == 2


@pytest.mark.parametrize("what", ["padded", "cropped to the same shape", "upside down"])
def test_tiles_lie_on_the_tissue_at_the_asked_resolution(tmp_path, what):
    """Which they did not where such a level was read: its scale is another, or it is of another place."""
    image = picture()
    with open_slide(write(tmp_path / "a.tif", image, FOREIGN[what](image))) as slide:
        result = tile_slide(slide, "a", mpp=2, tile_px=32)
        assert result.tiles.grid.level == 0
        coords = result.tiles.coords
        assert len(coords) > 40
        assert (coords.min(axis=0) >= (150 - 80, 200 - 80)).all()
        assert (coords.max(axis=0) + 128 <= (1100 + 80, 1600 + 80)).all()
        view = read_overview(slide)
        assert view.mpp == pytest.approx(0.5 * view.downsample)


def test_the_field_by_its_sides():
    for size in ((600, 450), (601, 450), (599, 450), (300, 225), (150, 112), (150, 113), (37, 28)):
        assert has_the_field((2400, 1800), size), size
    for size in ((602, 450), (768, 512), (450, 600), (576, 192), (300, 300)):
        assert not has_the_field((2400, 1800), size), size
    assert downsample((2400, 1800), (150, 112)) == 16
