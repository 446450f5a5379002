"""A slide from its overview to its tiles, and the picture to judge that by."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Rgb, Slide
from wsipipe.data.tiling.overview import read_overview
from wsipipe.data.tiling.store import read_tile
from wsipipe.stages.tile.qc_picture import draw_qc, qc_image
from wsipipe.stages.tile.slide_tiling import TileResult, tile_slide

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"


class MemorySlide(Slide):
    """A slide of arrays, which remembers what was read."""

    def __init__(self, levels: list[np.ndarray], mpp: float) -> None:
        self.path, self.format, self.reader = Path("memory"), "memory", "numpy"
        self.levels = levels
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.level_downsamples = tuple(levels[0].shape[1] / level.shape[1] for level in levels)
        self.mpp = (mpp, mpp)
        self.reads: list[tuple[int, int]] = []

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        self.reads.append((level, width * height))
        left, top = round(x / self.level_downsamples[level]), round(y / self.level_downsamples[level])
        return self.levels[level][top : top + height, left : left + width]

    def close(self) -> None: ...


@cache
def pyramid(width: int, height: int, factors: tuple[int, ...]) -> list[np.ndarray]:
    """Glass with one ellipse of tissue in its middle, half as wide and high."""
    image = np.full((height, width, 3), 243, np.uint8)
    tissue = np.zeros((height, width), np.uint8)
    cv2.ellipse(tissue, (width // 2, height // 2), (width // 4, height // 4), 0, 0, 360, 1, cv2.FILLED)
    grain = np.random.default_rng(0).integers(-20, 20, (height, width, 1))
    image = np.where(tissue[..., None] > 0, np.array([215, 150, 190]) + grain, image).astype(np.uint8)
    sizes = [(width // factor, height // factor) for factor in factors]
    return [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for size in sizes]


def tile(slide: Slide, **changes: object) -> TileResult:
    return tile_slide(slide, "a", **({"mpp": 0.5, "tile_px": 224} | changes))


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {name}")
    return path


# --------------------------------------------------------------------------------------- synthetic


def test_tiles_lie_on_the_tissue():
    slide = MemorySlide(pyramid(6000, 4800, (1, 4, 16)), 0.5)
    result = tile(slide)
    truth = np.pi * 1500 * 1200
    assert result.tissue.area == pytest.approx(truth * 0.25, rel=0.03)
    centres = (result.tiles.coords + 112 - (3000, 2400)) / (1500, 1200)
    assert ((centres**2).sum(axis=1) < 1.1).all()
    assert len(result.tiles) == pytest.approx(truth / 224**2, rel=0.05)
    assert (result.tiles.tissue_fraction >= 0.5).all()
    assert (result.tiles.sharpness > 0).all()
    assert result.stats["tiles"] == len(result.tiles)
    assert len(result.outlines) == 1


def test_min_tissue():
    slide = MemorySlide(pyramid(6000, 4800, (1, 4, 16)), 0.5)
    counts = [len(tile(slide, min_tissue=least).tiles) for least in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 5
    grid = tile(slide).tiles.grid
    assert counts[0] < grid.columns * grid.rows, "a tile without any tissue is never kept"


def blank(width: int, height: int, factors: tuple[int, ...]) -> list[np.ndarray]:
    return [np.broadcast_to(np.uint8(243), (height // factor, width // factor, 3)) for factor in factors]


def test_the_overview_is_read_from_a_coarse_level_alone():
    slide = MemorySlide(blank(8000, 6000, (1, 4, 16)), 0.5)
    overview = read_overview(slide)
    assert {level for level, _ in slide.reads} == {1}, "level 2 has 500 px, too few; level 0 is not needed"
    assert max(overview.pixels.shape) == 1000
    slide = MemorySlide(blank(80_000, 60_000, (1, 4, 16, 32)), 0.2525)
    overview = read_overview(slide)
    assert {level for level, _ in slide.reads} == {3}
    assert overview.mpp == pytest.approx(8.08)
    slide = MemorySlide(blank(80_000, 60_000, (1, 4, 16)), 0.2525)
    overview = read_overview(slide)
    assert {level for level, _ in slide.reads} == {2}
    assert overview.mpp == pytest.approx(8.08), "the level has 4.04 µm"
    assert max(pixels for _, pixels in slide.reads) <= 2048**2


def test_a_slide_of_one_level_is_read_in_blocks_and_gives_the_same():
    levels = pyramid(6000, 4800, (1, 7))
    single = MemorySlide(levels[:1], 0.5)
    overview = read_overview(single)
    assert max(pixels for _, pixels in single.reads) <= 2048**2
    assert sum(pixels for _, pixels in single.reads) == 6000 * 4800, "each pixel once"
    assert overview.mpp == 3.5
    whole = overview.pixels[: 4800 // 7, : 6000 // 7]
    exact = cv2.resize(levels[0][: 4800 // 7 * 7, : 6000 // 7 * 7], whole.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(whole.astype(int) - exact).max() <= 1, "the seams of the blocks cannot be seen"


def test_a_blank_slide_is_empty_not_an_error():
    result = tile(MemorySlide([np.full((3000, 4000, 3), 244, np.uint8)], 0.5))
    assert len(result.tiles) == 0
    assert result.tiles.coords.shape == (0, 2)
    assert result.stats["tissue_verdict"] == "nothing"
    assert result.outlines == []
    assert qc_image(result).ndim == 3


def test_a_slide_smaller_than_a_tile_says_so():
    with pytest.raises(SlideError, match="100 × 80 px is too small for one tile, which takes 224 × 224"):
        tile(MemorySlide([np.full((80, 100, 3), 200, np.uint8)], 0.5))


def test_a_coarse_slide_is_refused_or_enlarged():
    slide = MemorySlide(pyramid(3000, 2400, (1,)), 1.0)
    with pytest.raises(SlideError, match="coarser than requested"):
        tile(slide)
    result = tile(slide, allow_upsample=True)
    assert result.tiles.grid.read_px == 112
    assert read_tile(slide, result.tiles, 0).shape == (224, 224, 3)


def test_the_same_slide_gives_the_same_everything():
    one, other = (tile(MemorySlide(pyramid(6000, 4800, (1, 4)), 0.5), overlap=32) for _ in range(2))
    np.testing.assert_array_equal(one.tiles.coords, other.tiles.coords)
    np.testing.assert_array_equal(one.tiles.tissue_fraction, other.tiles.tissue_fraction)
    np.testing.assert_array_equal(one.tiles.sharpness, other.tiles.sharpness)
    np.testing.assert_array_equal(qc_image(one), qc_image(other))


# ----------------------------------------------------------------------------------------- picture


def test_the_qc_image_shows_tiles_outline_and_scale(tmp_path):
    result = tile(MemorySlide(pyramid(6000, 4800, (1, 4, 16)), 0.5))
    picture = qc_image(result)
    scale = 1600 / 6000
    slide_part = picture[: round(4800 * scale)]
    assert picture.shape[1] == 1600
    assert picture.shape[0] > slide_part.shape[0]
    green = (slide_part == (0, 130, 60)).all(axis=2)
    rows, columns = np.nonzero(green)
    assert (columns.min(), columns.max()) == pytest.approx((1500 * scale, 4500 * scale), abs=12)
    assert (rows.min(), rows.max()) == pytest.approx((1200 * scale, 3600 * scale), abs=12)
    x, y = result.tiles.coords[len(result.tiles) // 2] * scale
    frame = slide_part[round(y) + 5, round(x)].astype(int)
    assert frame[2] > frame[0], "a blue frame on pink tissue"
    # The bar is 500 µm: at 0.5 / scale µm per pixel of the picture.
    bar = (picture[slide_part.shape[0] :, 1000:] == (28, 31, 35)).all(axis=2).sum(axis=1).max()
    assert bar == pytest.approx(500 / (0.5 / scale), abs=2)
    draw_qc(result, tmp_path / "a.jpg")
    draw_qc(result, tmp_path / "b.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == picture.shape


def test_long_names_and_odd_shapes_are_drawn():
    wide = pyramid(3000, 300, (1,))[0]
    for pixels in (wide, np.ascontiguousarray(wide.transpose(1, 0, 2))):
        result = tile_slide(MemorySlide([pixels], 0.5), "玻片 " * 60, mpp=0.5, tile_px=224)
        assert max(qc_image(result).shape) >= 1600


# ----------------------------------------------------------------------------------- shared slides


@pytest.mark.parametrize(
    ("name", "override", "mpp", "tiles", "share"),
    [
        ("CMU-1-Small-Region.svs", None, 0.5, (44, 54), (0.36, 0.43)),
        ("dicom-cmu-1-small-region", None, 0.5, (44, 54), (0.36, 0.43)),
        ("ilc_breast_20x_region.svs", None, 0.5, (800, 900), (0.17, 0.22)),
        ("giardia_40x_region.svs", None, 0.5, (370, 420), (0.47, 0.56)),
        ("celiac_10x_nompp.tif", 1.0, 1.0, (400, 450), (0.33, 0.38)),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.5, 0.5, (180, 210), (0.6, 0.68)),
        ("ndpi_fluo_dapi.ndpi", None, 0.5, (0, 0), (0, 0)),
    ],
)
def test_shared_slides(name, override, mpp, tiles, share):
    with open_slide(shared("slides") / name, mpp_override=override) as slide:
        result = tile(slide, mpp=mpp)
        assert tiles[0] <= len(result.tiles) <= tiles[1]
        assert share[0] <= result.tissue.mask.mean() <= share[1]
        if len(result.tiles):
            assert read_tile(slide, result.tiles, len(result.tiles) // 2).shape == (224, 224, 3)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("celiac_10x_nompp.tif", "no mpp"),
        ("tcga-cr-7395-01a-01-ts1.svs", "no mpp"),
        ("small.svs", "too small for one tile"),
        ("unreadable.svs", "Bogus marker length"),
    ],
)
def test_shared_slides_that_fail(name, match):
    with open_slide(shared("slides") / name) as slide, pytest.raises(SlideError, match=match) as caught:
        tile(slide)
    assert caught.value.path is not None
    assert caught.value.hint


def test_every_breast_region_is_tissue_all_over():
    for path in sorted(shared("brca/slides").glob("*.tif")):
        with open_slide(path) as slide:
            result = tile(slide)
        grid = result.tiles.grid
        assert len(result.tiles) == grid.columns * grid.rows, path.name
        assert grid.columns * grid.rows == (4 if min(slide.dimensions) >= 448 else 1)
