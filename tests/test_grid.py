"""The grid: fields of view to a pixel, tiles inside the slide, abutting, and always in the same order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsipipe.data.errors import SlideError, UsageError
from wsipipe.data.grid import TileGrid, plan_grid
from wsipipe.data.units import Mpp, TilePx


def grid_of(
    mpp0: float,
    *,
    size: tuple[int, int] = (50_000, 40_000),
    factors: tuple[int, ...] = (1, 4, 16, 32),
    mpp: float = 0.5,
    tile_px: int = 224,
    overlap: int = 0,
    native_tolerance: float = 0.0,
    allow_upsample: bool = False,
) -> TileGrid:
    """A grid over a scanner's pyramid: levels cut to whole pixels, downsamples as OpenSlide has them."""
    dimensions = [(size[0] // factor, size[1] // factor) for factor in factors]
    downsamples = [(size[0] / width + size[1] / height) / 2 for width, height in dimensions]
    return plan_grid(
        dimensions,
        downsamples,
        Mpp(mpp0),
        mpp=Mpp(mpp),
        tile_px=TilePx(tile_px),
        overlap=TilePx(overlap),
        native_tolerance=native_tolerance,
        allow_upsample=allow_upsample,
        path="slide.svs",
    )


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
    with pytest.raises(SlideError, match=r"0\.5056 µm per pixel") as caught:
        grid_of(0.5056)
    assert "--allow-upsample" in caught.value.hint
    assert caught.value.path == "slide.svs"
    grid = grid_of(0.5056, allow_upsample=True)
    assert (grid.level, grid.read_px, grid.native) == (0, 222, False)
    assert abs(grid.read_px * 0.5056 - 112) <= 0.5056 / 2


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


@st.composite
def grids(draw: st.DrawFn) -> tuple[TileGrid, tuple[int, int], tuple[int, int]]:
    """A grid, the size of the slide, and the size of the level that is read."""
    size = draw(st.integers(1, 20_000)), draw(st.integers(1, 20_000))
    most = min(*size, 64)
    factors = (1, *sorted(draw(st.sets(st.integers(2, most), max_size=4)) if most > 2 else ()))
    tile_px = draw(st.sampled_from([16, 112, 224, 225, 256, 512]))
    mpp0 = draw(st.floats(0.1, 1.0))
    grid = grid_of(
        mpp0,
        size=size,
        factors=factors,
        mpp=draw(st.floats(0.25, 8.0)),
        tile_px=tile_px,
        overlap=draw(st.integers(0, tile_px // 2)),
        native_tolerance=draw(st.sampled_from([0.0, 0.02, 0.2])),
        allow_upsample=True,
    )
    factor = factors[grid.level]
    return grid, size, (size[0] // factor, size[1] // factor)


@given(grids())
def test_tiles_lie_inside(drawn):
    grid, size, level_size = drawn
    coords = grid.coords()
    assert len(coords) == grid.columns * grid.rows
    assert (coords >= 0).all()
    assert (coords + grid.size_level0 <= size).all()
    assert (coords / grid.downsample + grid.read_px <= np.array(level_size) + 1e-6).all()


@given(grids())
def test_neighbours_abut_or_overlap_as_asked_and_no_place_is_left_out(drawn):
    grid, size, level_size = drawn
    true_size = grid.read_px * grid.downsample
    asked = true_size * grid.overlap / grid.tile_px
    for axis, count in ((0, grid.columns), (1, grid.rows)):
        at = np.unique(grid.coords()[:, axis]) if grid.columns * grid.rows else np.empty(0, np.int64)
        if not grid.columns * grid.rows:
            continue
        assert len(at) == count
        assert at[0] == 0
        shared = true_size - np.diff(at)
        assert (np.abs(shared - asked) <= 1 + 1e-6).all(), "to the rounding of two positions"
        drift = at - np.arange(count) * grid.step
        assert (np.abs(drift) <= 0.5 + 1e-6).all(), "rounded once: no error adds up"
        # One more tile would stick out, at level 0 or where the level is cut short.
        following = round(count * grid.step)
        sticks_out = following + grid.size_level0 > size[axis]
        assert sticks_out or following / grid.downsample + grid.read_px > level_size[axis]


@given(grids())
def test_the_field_of_view_is_the_asked_one(drawn):
    grid, _, _ = drawn
    if grid.native:
        return
    asked = grid.tile_px * grid.mpp
    assert abs(grid.read_px * grid.level_mpp - asked) <= max(0.5 * grid.level_mpp, grid.level_mpp - asked) + 1e-9
    assert grid.tile_mpp * grid.tile_px == pytest.approx(grid.read_px * grid.level_mpp)


@given(grids())
def test_the_order_is_row_by_row_and_the_same_each_time(drawn):
    grid, _, _ = drawn
    coords = grid.coords()
    np.testing.assert_array_equal(coords, coords[np.lexsort((coords[:, 0], coords[:, 1]))])
    np.testing.assert_array_equal(coords, grid.coords())


@given(grids())
def test_the_level_is_fine_enough(drawn):
    grid, _, _ = drawn
    if grid.level > 0:
        assert grid.level_mpp <= grid.mpp * 1.2 * (1 + 1e-6)
