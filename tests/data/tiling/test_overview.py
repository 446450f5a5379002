"""The small picture of a slide: what it shows, and what it does where a slide cannot be decoded."""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from wsipipe.data.errors import SlideError
from wsipipe.data.slides.readers import open_slide
from wsipipe.data.slides.slide import Rgb, Slide
from wsipipe.data.tiling.overview import MAX_UNREAD, UNREAD_GREY, read_overview, shrink_mask, sufficient_levels
from wsipipe.data.tiling.tissue import find_tissue
from wsipipe.data.units import Mpp

GLASS, PINK = (243, 243, 243), (222, 160, 190)


class DamagedSlide(Slide):
    """A slide of arrays, parts of which cannot be decoded.

    :param damage: (level, left, top, right, bottom) in pixels of that level.
    """

    def __init__(
        self, levels: list[np.ndarray], mpp: float, damage: tuple[tuple[int, int, int, int, int], ...] = ()
    ) -> None:
        self.path, self.format, self.reader = Path("damaged.svs"), "memory", "numpy"
        self.levels, self.damage = levels, damage
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.level_downsamples = tuple(levels[0].shape[1] / level.shape[1] for level in levels)
        self.mpp = (Mpp(mpp), Mpp(mpp))
        self.good: list[tuple[int, int]] = []
        self.failed: list[tuple[int, int]] = []

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        left, top = round(x / self.level_downsamples[level]), round(y / self.level_downsamples[level])
        for which, *box in self.damage:
            if which == level and left < box[2] and top < box[3] and left + width > box[0] and top + height > box[1]:
                self.failed.append((level, width * height))
                raise SlideError(f"cannot decode a tile of level {level}", path=self.path, hint="scan it again")
        self.good.append((level, width * height))
        return self.levels[level][top : top + height, left : left + width]

    def close(self) -> None: ...


def drawn(width: int = 4096, height: int = 3072) -> np.ndarray:
    picture = np.full((height, width, 3), GLASS, np.uint8)
    tissue = np.zeros((height, width), np.uint8)
    cv2.ellipse(tissue, (width // 2, height // 2), (width // 3, height // 3), 0, 0, 360, 1, cv2.FILLED)
    grain = np.random.default_rng(0).integers(-30, 30, (height // 8 + 1, width // 8 + 1, 1), np.int16)
    grain = np.kron(grain, np.ones((8, 8, 1), np.int16))[:height, :width]
    picture[tissue > 0] = (np.array(PINK) + grain)[tissue > 0].clip(0, 255)
    return picture


def reduced(picture: np.ndarray, factor: int) -> np.ndarray:
    return cv2.resize(picture, (picture.shape[1] // factor, picture.shape[0] // factor), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def levels() -> list[np.ndarray]:
    full = drawn()
    return [full, reduced(full, 2), reduced(full, 4)]


def test_a_whole_slide_has_nothing_unread(levels):
    overview = read_overview(DamagedSlide(levels, 2.0))
    assert overview.mpp == 8.0
    assert overview.unread.shape == overview.pixels.shape[:2]
    assert not overview.unread.any()
    np.testing.assert_array_equal(overview.pixels, levels[2])


def test_a_damaged_place_is_marked_and_the_rest_is_as_it_was(levels):
    slide = DamagedSlide(levels[:1], 2.0, ((0, 1000, 1500, 1100, 1560),))
    overview = read_overview(slide)
    whole = read_overview(DamagedSlide(levels[:1], 2.0))
    unread, factor = overview.unread, round(overview.downsample)
    assert unread[1500 // factor : 1560 // factor, 1000 // factor : 1100 // factor].all()
    assert unread.sum() * factor**2 <= (100 + 2 * 128) * (60 + 2 * 128)
    assert (overview.pixels[unread] == UNREAD_GREY).all()
    np.testing.assert_array_equal(overview.pixels[~unread], whole.pixels[~unread])
    assert sum(pixels for _, pixels in slide.good) == 4096 * 3072 - unread.sum() * factor**2, "each good pixel once"


@settings(max_examples=40, deadline=None)
@given(st.integers(300, 3000), st.integers(300, 3000), st.sampled_from([0.26, 0.5, 1.1, 2.0]), st.data())
def test_unread_covers_the_damage_and_little_else(width, height, mpp, data):
    """Whatever the size and the factor: no damaged pixel is shown, nothing is lost beyond a block of 128 px."""
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    damage = (0, x, y, min(x + 40, width), min(y + 40, height))
    overview = read_overview(DamagedSlide([picture], mpp, (damage,)), max_unread=1)
    whole = read_overview(DamagedSlide([picture], mpp))
    factor = round(overview.downsample)
    assert overview.unread[damage[2] // factor, damage[1] // factor]
    assert overview.unread[(damage[4] - 1) // factor, (damage[3] - 1) // factor]
    rows, columns = np.nonzero(overview.unread)
    for first, last, start in ((columns.min(), columns.max(), x), (rows.min(), rows.max(), y)):
        assert (start - first * factor) < 128 + factor
        assert (last * factor - start) < 128 + 40 + factor
    np.testing.assert_array_equal(overview.pixels[~overview.unread], whole.pixels[~overview.unread])


@pytest.mark.parametrize(
    "damage", [((2, 0, 0, 1024, 768),), ((2, 100, 100, 400, 300),)], ids=["all of the level", "part of it"]
)
def test_the_next_finer_level_takes_the_place_of_a_damaged_one(levels, damage):
    slide = DamagedSlide(levels, 2.0, damage)
    overview = read_overview(slide)
    assert not overview.unread.any()
    assert {level for level, _ in slide.good if level != 2} == {1}, "level 0 is not needed"
    assert np.abs(overview.pixels.astype(int) - levels[2]).max() <= 1
    assert overview.mpp == 8.0


def test_a_level_that_is_lost_is_given_up_early(levels):
    slide = DamagedSlide(levels, 2.0, ((2, 0, 0, 1024, 768),))
    read_overview(slide)
    assert len(slide.failed) <= 6


def test_too_much_damage_names_slide_share_and_way_out(levels):
    damage = tuple((level, 0, 0, 4096, 3072) for level in range(3))
    with pytest.raises(SlideError, match="more than 1 % of it cannot be decoded") as caught:
        read_overview(DamagedSlide(levels, 2.0, damage))
    assert "damaged.svs" in str(caught.value)
    assert "level 2" in str(caught.value)
    assert "level 0" in str(caught.value)
    assert caught.value.hint == "scan it again"


def test_how_much_may_be_unread_can_be_said(levels):
    slide = DamagedSlide(levels[:1], 2.0, ((0, 0, 0, 700, 700),))
    share = 700 * 700 / (4096 * 3072)
    with pytest.raises(SlideError, match="more than 2 %"):
        read_overview(slide, max_unread=0.02)
    overview = read_overview(slide, max_unread=0.1)
    assert share <= overview.unread.mean() <= 1.3 * share


def test_unread_parts_are_no_tissue(levels):
    damage = tuple((level, 2000 >> level, 1500 >> level, 2060 >> level, 1530 >> level) for level in range(3))
    overview = read_overview(DamagedSlide(levels[:1], 2.0, damage))
    assert overview.unread.any()
    tissue = find_tissue(overview)
    whole = find_tissue(read_overview(DamagedSlide(levels[:1], 2.0)))
    assert not tissue.mask[overview.unread].any()
    assert (tissue.mask == (whole.mask & ~overview.unread)).mean() > 0.999


def test_a_plain_wide_slide_with_a_missing_edge():
    """The last row and column stand for less than the others, read or not."""
    picture = drawn(3001, 1203)
    overview = read_overview(DamagedSlide([picture], 4.0, ((0, 2990, 1190, 3001, 1203),)), max_unread=0.05)
    assert overview.downsample == 2
    assert overview.pixels.shape == (602, 1501, 3)
    assert overview.unread[-1, -1]


def test_memory_stays_bounded_where_blocks_fail():
    width = height = 12_000
    picture = np.broadcast_to(np.uint8(243), (height, width, 3))
    slide = DamagedSlide([picture], 0.25, ((0, 5000, 5000, 5300, 5300), (0, 9000, 9000, 9001, 9001)))
    tracemalloc.start()
    overview = read_overview(slide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert overview.unread.any()
    assert max(pixels for _, pixels in slide.good + slide.failed) <= 2048**2
    assert peak < 40 * 2**20


def test_levels_that_suffice_come_coarsest_first():
    slide = DamagedSlide([np.zeros((64, side, 3), np.uint8) for side in (1024, 512, 256)], 0.5)
    assert sufficient_levels(slide, Mpp(2.0)) == [2, 1, 0]
    assert sufficient_levels(slide, Mpp(1.9)) == [1, 0]
    assert sufficient_levels(slide, Mpp(0.3)) == [0]


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_a_mask_pixel_is_set_where_all_of_its_square_is(factor):
    mask = np.random.default_rng(0).random((23, 31)) < 0.9
    expected = [
        [mask[top : top + factor, left : left + factor].all() for left in range(0, 31, factor)]
        for top in range(0, 23, factor)
    ]
    np.testing.assert_array_equal(shrink_mask(mask, factor), expected)


# ----------------------------------------------------------------------------------- a damaged file


def written(path: Path, destroyed: range, *, levels: int = 2) -> Path:
    """A pyramidal TIFF of JPEG tiles; the data of some tiles of its last level are overwritten."""
    full = drawn(3072, 2304)
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            file.write(
                full if level == 0 else reduced(full, 4),
                tile=(256, 256),
                compression="jpeg",
                photometric="rgb",
                resolution=(5000 / 4**level, 5000 / 4**level),  # 2 µm at level 0
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
            )
    with tifffile.TiffFile(path) as file:
        page = file.pages[-1]
        places = [(page.dataoffsets[index], page.databytecounts[index]) for index in destroyed]
    with path.open("r+b") as stream:
        for offset, count in places:
            stream.seek(offset)
            stream.write(b"\x00" * count)
    return path


def test_tiles_of_a_real_file_are_lost(tmp_path):
    whole = written(tmp_path / "whole.tif", range(0), levels=1)
    damaged = written(tmp_path / "damaged.tif", range(40, 41), levels=1)
    with open_slide(whole) as slide:
        good = read_overview(slide)
    with open_slide(damaged) as slide:
        overview = read_overview(slide, max_unread=0.05)
        with pytest.raises(SlideError, match="cannot be decoded"):
            read_overview(slide, max_unread=0.001)
    row, column = divmod(40, 3072 // 256)
    factor = overview.downsample
    tile = tuple(slice(round(at * 256 / factor), round((at + 1) * 256 / factor)) for at in (row, column))
    assert overview.unread[tile].all()
    assert overview.unread.mean() <= 384 * 384 / (3072 * 2304)
    np.testing.assert_array_equal(overview.pixels[~overview.unread], good.pixels[~overview.unread])


def test_the_finer_level_of_a_real_file_stands_in(tmp_path):
    with open_slide(written(tmp_path / "whole.tif", range(0)), mpp_override=0.5) as slide:
        good = read_overview(slide)
    with open_slide(written(tmp_path / "damaged.tif", range(9)), mpp_override=0.5) as slide:
        assert len(slide.level_dimensions) == 2
        overview = read_overview(slide)
    assert not overview.unread.any()
    assert overview.mpp <= good.mpp
    assert MAX_UNREAD == 0.01


@pytest.mark.parametrize("factor", [16, 23, 32, 40, 200])
def test_one_unset_pixel_is_enough_in_a_square_of_any_size(factor: int) -> None:
    mask = np.ones((2 * factor, factor), bool)
    mask[factor // 2, 3] = False
    assert shrink_mask(mask, factor).tolist() == [[False], [True]]
