"""The grid: fields of view to a pixel, tiles inside the slide, abutting, and always in the same order."""

from dataclasses import dataclass
from math import log
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tile_grids import downsamples_of, grid_of
from wsipipe.data.errors import SlideError, UsageError, about
from wsipipe.data.tiling.grid import LevelPolicy, TileGrid, fine_levels, plan_grid
from wsipipe.data.units import Mpp, TilePx

# ----------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    ("mpp0", "read_px"),
    # 224 × 0.5 µm = 112 µm, over the size of a pixel.
    [(0.2499, 448), (0.25, 448), (0.2525, 444), (0.263018, 426), (0.299, 375), (0.3, 373), (0.3001, 373), (0.5, 224)],
)
def test_the_field_of_view_is_the_asked_one_to_a_pixel(mpp0, read_px):
    grid = grid_of(mpp0)
    assert (grid.level, grid.read_px) == (0, read_px)
    assert abs(grid.read_px * mpp0 - 112) <= mpp0 / 2
    assert grid.size_level0 == read_px
    assert grid.native == (read_px == 224)


def test_a_coarser_slide_is_refused_or_enlarged():
    with pytest.raises(SlideError, match=r"0\.5056 µm per pixel") as caught, about("slide.svs"):
        grid_of(0.5056)
    assert "--allow-upsample" in caught.value.hint
    assert caught.value.path == "slide.svs"
    grid = grid_of(0.5056, allow_upsample=True)
    assert (grid.level, grid.read_px, grid.native) == (0, 222, False)
    assert abs(grid.read_px * 0.5056 - 112) <= 0.5056 / 2


@pytest.mark.parametrize("mpp0", [0.526036, 0.52349, 0.6004, 1.00001, 0.8888888, 15.12344, 2.0])
@pytest.mark.parametrize("policy", ["coarsest", "finest", "nearest"])
def test_the_resolution_that_the_refusal_names_is_accepted(mpp0, policy):
    with pytest.raises(SlideError) as caught:
        grid_of(mpp0, mpp=0.25, native_tolerance=0, level_policy=policy)
    named = float(caught.value.hint.rpartition("--mpp ")[2])
    assert mpp0 <= named <= mpp0 + 1e-4
    assert grid_of(mpp0, mpp=named, native_tolerance=0, level_policy=policy).level == 0


@pytest.mark.parametrize("mpp0", [0.494, 0.499, 0.5, 0.5056, 0.51])
def test_a_level_within_the_tolerance_is_read_as_it_is(mpp0):
    grid = grid_of(mpp0, native_tolerance=0.02)
    assert (grid.level, grid.read_px, grid.native) == (0, 224, True)
    assert grid.tile_mpp == pytest.approx(mpp0), "its true mpp is recorded, not the asked one"
    for outside in (0.4899, 0.5101):
        assert not grid_of(outside, native_tolerance=0.02, allow_upsample=True).native


def test_the_coarsest_level_that_is_fine_enough_is_read():
    levels = {0.5: 0, 0.99: 0, 1.0: 1, 2.0: 1, 3.99: 1, 4.0: 2, 8.0: 3}
    assert {mpp: grid_of(0.25, size=(64_000, 64_000), mpp=mpp).level for mpp in levels} == levels
    # 1 % too coarse is within the tolerance.
    assert grid_of(0.2525, size=(64_000, 64_000), mpp=1.0, native_tolerance=0.02).level == 1
    assert grid_of(0.2525, size=(64_000, 64_000), mpp=1.0, native_tolerance=0.0).level == 0


def test_downsamples_are_never_cut_to_whole_numbers():
    grid = grid_of(0.25, size=(64_003, 64_003), mpp=2.0)
    assert grid.downsample == pytest.approx(64_003 / 16_000)
    assert grid.read_px == 448
    x = grid.coords()[: grid.columns, 0]
    np.testing.assert_array_equal(x, np.rint(np.arange(grid.columns) * 448 * 64_003 / 16_000))


@pytest.mark.parametrize("downsample", [4.00012, 16.0041])
@pytest.mark.parametrize("mpp0", [0.2499, 0.2525, 0.299, 0.3001, 0.5056])
@pytest.mark.parametrize("ratio", [1.0, 1.0004, 1.25, 1.9])
@pytest.mark.parametrize("overlap", [0, 32])
def test_the_field_of_view_is_exact_at_a_level_that_is_no_whole_number_of_pixels_away(mpp0, downsample, ratio, overlap):
    size = 90_000, 70_000
    mpp = mpp0 * downsample * ratio
    grid = plan_grid(
        [size, (int(size[0] / downsample), int(size[1] / downsample))],
        [1.0, downsample],
        Mpp(mpp0),
        mpp=Mpp(mpp),
        tile_px=TilePx(224),
        overlap=TilePx(overlap),
        native_tolerance=0.0,
        allow_upsample=False,
    )
    assert grid.level == 1
    assert abs(grid.read_px * downsample * mpp0 - 224 * mpp) <= downsample * mpp0 / 2 * (1 + 1e-9)
    assert abs(grid.size_level0 - grid.read_px * downsample) <= 0.5
    step = grid.read_px * downsample * (224 - overlap) / 224
    x, y = grid.coords().reshape(grid.rows, grid.columns, 2)[-1, -1]
    assert (x, y) == (round((grid.columns - 1) * step), round((grid.rows - 1) * step))
    assert size[0] - (x + grid.size_level0) <= step
    assert size[1] - (y + grid.size_level0) <= step + downsample


@pytest.mark.parametrize(
    ("policy", "mpp", "level", "read_px"),
    # Levels of 0.25, 1 and 4 µm per pixel.
    [
        ("coarsest", 0.5, 0, 448),
        ("coarsest", 0.9, 0, 806),
        ("coarsest", 2.0, 1, 448),
        ("finest", 0.25, 0, 224),
        ("finest", 1.0, 0, 896),
        ("finest", 4.0, 0, 3584),
        ("nearest", 0.25, 0, 224),
        ("nearest", 0.22, 0, 197),  # 14 % coarser, and nothing is finer
        ("nearest", 0.5, 0, 448),
        ("nearest", 0.79, 0, 708),  # level 1 is 27 % coarser
        ("nearest", 0.8, 1, 179),  # 25 %
        ("nearest", 0.9, 1, 202),
        ("nearest", 2.0, 1, 448),
        ("nearest", 3.0, 1, 672),  # by ratio, level 2 is nearer, but too coarse
        ("nearest", 3.5, 2, 196),
    ],
)
@pytest.mark.parametrize("allow_upsample", [False, True])
def test_the_policy_chooses_the_level(policy, mpp, level, read_px, allow_upsample):
    grid = grid_of(
        0.25, size=(64_000, 64_000), factors=(1, 4, 16), mpp=mpp, level_policy=policy, allow_upsample=allow_upsample
    )
    assert (grid.level, grid.read_px) == (level, read_px)
    assert abs(grid.tile_mpp * 224 - mpp * 224) <= grid.level_mpp / 2


@pytest.mark.parametrize(("mpp", "nearest"), [(0.48, 0), (0.4898, 0), (0.49, 1), (0.59, 1)])
def test_nearest_is_meant_by_ratio_and_on_either_side(mpp, nearest):
    """Between levels of 0.4 and 0.6 µm per pixel, both usable, the ratio turns at √0.24 = 0.4899."""
    its = {"mpp": Mpp(mpp), "tile_px": TilePx(224), "overlap": TilePx(0), "native_tolerance": 0.0}
    levels = [(9000, 9000), (6000, 6000)], [1.0, 1.5], Mpp(0.4)
    assert plan_grid(*levels, level_policy="nearest", allow_upsample=False, **its).level == nearest
    assert plan_grid(*levels, allow_upsample=False, **its).level == 0


def test_a_level_that_is_cut_short_gives_no_tile_that_reaches_beyond_it():
    """2000 px of level 0 would hold 499 of its pixels, but it has 498."""
    dimensions = [(2000, 100_000), (498, 25_000)]
    for tile_px, columns in ((498, 1), (499, 0)):
        grid = plan_grid(
            dimensions,
            downsamples_of(dimensions),
            Mpp(0.25),
            mpp=Mpp(0.25 * downsamples_of(dimensions)[1]),
            tile_px=TilePx(tile_px),
            overlap=TilePx(0),
            native_tolerance=0.0,
            allow_upsample=False,
        )
        assert (grid.level, grid.read_px, grid.columns) == (1, tile_px, columns)
        assert grid.size_level0 <= 2000


@pytest.mark.parametrize("policy", get_args(LevelPolicy))
def test_no_policy_enlarges_much_unasked(policy):
    for mpp0 in (0.5056, 0.625, 0.6251, 1.0):
        if policy == "nearest" and mpp0 <= 0.625:
            assert grid_of(mpp0, level_policy=policy).read_px == round(112 / mpp0)
        else:
            with pytest.raises(SlideError, match="coarser than requested"):
                grid_of(mpp0, level_policy=policy)
        grid = grid_of(mpp0, level_policy=policy, allow_upsample=True)
        assert (grid.level, grid.read_px) == (0, round(112 / mpp0))


@pytest.mark.parametrize("policy", get_args(LevelPolicy))
def test_within_the_tolerance_a_level_is_native_under_any_policy(policy):
    grid = grid_of(0.5056, native_tolerance=0.02, level_policy=policy)
    assert (grid.level, grid.read_px, grid.native) == (0, 224, True)


def test_896_px_at_20x_resized_to_224_is_2_mpp():
    grid = grid_of(0.5, mpp=2.0, factors=(1, 4, 16))
    assert (grid.level, grid.read_px, grid.size_level0, grid.native) == (1, 224, 896, True)


def test_tiles_come_row_by_row():
    grid = grid_of(0.5, size=(700, 460), factors=(1,))
    assert grid.coords().tolist() == [[0, 0], [224, 0], [448, 0], [0, 224], [224, 224], [448, 224]]
    assert grid.coords().dtype == np.int64


def test_overlap_is_meant_in_pixels_of_the_tile():
    grid = grid_of(0.25, size=(2000, 448), factors=(1,), overlap=56)
    assert grid.coords()[:, 0].tolist() == [0, 336, 672, 1008, 1344]  # 448 − 2 × 56


def test_a_slide_smaller_than_a_tile_has_none():
    grid = grid_of(0.5, size=(223, 5000), factors=(1,))
    assert grid.coords().shape == (0, 2)
    assert grid_of(0.5, size=(224, 224), factors=(1,)).coords().tolist() == [[0, 0]]


@pytest.mark.parametrize("overlap", [-1, 224, 300])
def test_an_overlap_of_a_whole_tile_is_refused(overlap):
    with pytest.raises(UsageError, match="cannot overlap"):
        grid_of(0.5, overlap=overlap)


def test_a_step_of_less_than_a_pixel_is_refused():
    with pytest.raises(UsageError, match="less than a pixel"):
        grid_of(0.5, overlap=223, mpp=0.25, allow_upsample=True)


# -------------------------------------------------------------------------------------- properties


@dataclass(frozen=True)
class Drawn:
    """A grid, and what it was planned from."""

    grid: TileGrid
    dimensions: list[tuple[int, int]]
    downsamples: list[float]
    mpp0: float
    native_tolerance: float
    policy: str

    @property
    def size(self) -> tuple[int, int]:
        return self.dimensions[0]

    @property
    def level_size(self) -> tuple[int, int]:
        return self.dimensions[self.grid.level]


@st.composite
def grids(draw: st.DrawFn) -> Drawn:
    """Levels at whole downsamples and others, and some a pixel short, as scanners leave them."""
    side = st.integers(1, 20_000) | st.integers(5_000, 20_000)
    size = draw(side), draw(side)
    most = min(*size, 64)
    whole = st.integers(2, 64).map(float)
    broken = st.floats(1.01, 64) | st.sampled_from([4.00012, 16.0041])
    factors = sorted(draw(st.sets(whole | broken, min_size=draw(st.integers(0, 2)), max_size=4)))
    dimensions = [size]
    for factor in factors:
        if factor <= most:
            short = draw(st.integers(0, 1)), draw(st.integers(0, 1))
            dimensions.append((max(int(size[0] / factor) - short[0], 1), max(int(size[1] / factor) - short[1], 1)))
    downsamples = downsamples_of(dimensions)
    tile_px = draw(st.sampled_from([16, 112, 224, 225, 256, 512]))
    mpp0 = draw(st.floats(0.1, 1.0))
    native_tolerance = draw(st.sampled_from([0.0, 0.02, 0.2]))
    policy: LevelPolicy = draw(st.sampled_from(get_args(LevelPolicy)))
    grid = plan_grid(
        dimensions,
        downsamples,
        Mpp(mpp0),
        mpp=Mpp(mpp0 * draw(st.sampled_from(downsamples)) * draw(st.just(1.0) | st.floats(0.75, 2.5))),
        tile_px=TilePx(tile_px),
        overlap=TilePx(draw(st.integers(0, tile_px // 2))),
        native_tolerance=native_tolerance,
        allow_upsample=True,
        level_policy=policy,
    )
    assume(grid.columns * grid.rows < 200_000)
    return Drawn(grid, dimensions, downsamples, mpp0, native_tolerance, policy)


@given(grids())
def test_tiles_lie_inside_the_slide_and_inside_the_level(drawn):
    grid, coords = drawn.grid, drawn.grid.coords()
    assert len(coords) == grid.columns * grid.rows
    assert (coords >= 0).all()
    assert (coords + grid.size_level0 <= drawn.size).all()
    assert (coords / grid.downsample + grid.read_px <= np.array(drawn.level_size) + 1e-6).all()


@given(grids())
def test_neighbours_abut_or_overlap_as_asked_and_no_place_is_left_out(drawn):
    grid = drawn.grid
    if not grid.columns * grid.rows:
        return
    true_size = grid.read_px * grid.downsample
    asked = true_size * grid.overlap / grid.tile_px
    for axis, count in ((0, grid.columns), (1, grid.rows)):
        at = np.unique(grid.coords()[:, axis])
        assert len(at) == count
        assert at[0] == 0
        shared = true_size - np.diff(at)
        assert (np.abs(shared - asked) <= 1 + 1e-6).all(), "to the rounding of two positions"
        drift = at - np.arange(count) * grid.step
        assert (np.abs(drift) <= 0.5 + 1e-6).all(), "rounded once: no error adds up"


@given(grids())
def test_all_is_covered_but_less_than_a_tile_at_the_right_and_at_the_bottom(drawn):
    grid = drawn.grid
    for axis, count in ((0, grid.columns), (1, grid.rows)):
        # One more tile would stick out, at level 0 or where the level is cut short.
        following = round(count * grid.step)
        beyond_slide = following + grid.size_level0 > drawn.size[axis]
        assert beyond_slide or following / grid.downsample + grid.read_px > drawn.level_size[axis]
        end = min(drawn.size[axis], drawn.level_size[axis] * grid.downsample)
        covered = round((count - 1) * grid.step) + grid.size_level0 if count else 0
        assert end - covered <= grid.read_px * grid.downsample + 1


@given(grids())
def test_the_field_of_view_is_the_asked_one(drawn):
    grid = drawn.grid
    if abs(grid.level_mpp / grid.mpp - 1) <= drawn.native_tolerance + 1e-9:
        assert grid.native
        assert grid.tile_mpp == pytest.approx(grid.level_mpp)
    else:
        assert abs(grid.read_px * grid.level_mpp - grid.tile_px * grid.mpp) <= grid.level_mpp / 2 + 1e-9
    assert grid.tile_mpp * grid.tile_px == pytest.approx(grid.read_px * grid.level_mpp)
    assert grid.size_level0 * drawn.mpp0 == pytest.approx(grid.read_px * grid.level_mpp, abs=drawn.mpp0 / 2 + 1e-9)


@given(grids())
def test_the_order_is_row_by_row_and_the_same_each_time(drawn):
    coords = drawn.grid.coords()
    np.testing.assert_array_equal(coords, coords[np.lexsort((coords[:, 0], coords[:, 1]))])
    np.testing.assert_array_equal(coords, drawn.grid.coords())


@given(grids())
def test_the_level_is_the_policys(drawn):
    grid = drawn.grid
    ratios = [drawn.mpp0 * downsample / grid.mpp for downsample in drawn.downsamples]
    most = 1 + max(drawn.native_tolerance, 0.25 if drawn.policy == "nearest" else 0)
    assume(all(abs(ratio - most) > 1e-6 for ratio in ratios))
    usable = [ratio for ratio in ratios if ratio <= most]
    own = ratios[grid.level]
    if not usable or drawn.policy == "finest":
        assert grid.level == 0
    elif drawn.policy == "coarsest":
        assert own == max(usable)
    else:
        assert own <= most
        assert abs(log(own)) == min(abs(log(ratio)) for ratio in usable)


def test_of_levels_that_are_equally_fine_the_first_is_first():
    assert fine_levels([0.25, 1.0, 1.0, 4.0, 0.5], 1.0) == [1, 2, 4, 0]
    assert fine_levels([0.25, 1.0], 0.2) == []
