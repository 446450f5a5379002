"""The fraction of tissue in each tile: what counting pixels gives."""

import numpy as np
import pytest
from drawn_overviews import ellipse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tile_grids import grid_of
from wsipipe.data.tiling.grid import TileGrid
from wsipipe.data.tiling.overview import shrink
from wsipipe.data.tiling.tissue import TissueMask, tissue_fractions
from wsipipe.data.units import Level0Px, Mpp


def test_tissue_fractions_are_exact_to_the_fraction_of_a_pixel():
    rng = np.random.default_rng(0)
    mask = rng.random((40, 50)) < 0.5
    downsample = 7  # whole, so that the mask can be painted at level 0
    painted = np.kron(mask, np.ones((downsample, downsample), bool))
    tissue = TissueMask(
        mask=mask,
        downsample=float(downsample),
        mpp=Mpp(8),
        verdict="tissue and glass",
        threshold=7,
        pen=np.zeros_like(mask),
    )
    side = 45
    coords = np.stack([rng.integers(0, 350 - side, 200), rng.integers(0, 280 - side, 200)], axis=1)
    expected = [painted[y : y + side, x : x + side].mean() for x, y in coords]
    fractions = tissue_fractions(tissue, coords, Level0Px(side))
    np.testing.assert_allclose(fractions, expected, atol=1e-6)
    assert fractions.dtype == np.float32
    assert tissue_fractions(tissue, np.empty((0, 2), np.int64), Level0Px(side)).shape == (0,)


@pytest.mark.parametrize("downsample", [7.0, 16.003, 31.97])
def test_a_tile_beside_the_tissue_has_none_of_it(downsample):
    """Not even 1e-17: what touches tissue is told by it."""
    mask = ellipse(900, 1000, (450, 500), (200, 300))
    tissue = TissueMask(
        mask=mask,
        downsample=downsample,
        mpp=Mpp(8),
        verdict="tissue and glass",
        threshold=7,
        pen=np.zeros_like(mask),
    )
    side = Level0Px(224)
    x, y = np.meshgrid(np.arange(0, 900 * downsample - side, side), np.arange(0, 1000 * downsample - side, side))
    coords = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)
    fractions = tissue_fractions(tissue, coords, side)
    start, end = np.floor(coords / downsample).astype(int), np.ceil((coords + side) / downsample).astype(int)
    touches = [mask[top:bottom, left:right].any() for (left, top), (right, bottom) in zip(start, end, strict=True)]
    whole = [mask[top:bottom, left:right].all() for (left, top), (right, bottom) in zip(start, end, strict=True)]
    np.testing.assert_array_equal(fractions > 0, touches)
    np.testing.assert_array_equal(fractions == 1, whole)


def test_fractions_at_a_fractional_downsample():
    mask = np.zeros((10, 10), bool)
    mask[:, 5:] = True
    tissue = TissueMask(
        mask=mask, downsample=16.004, mpp=Mpp(8), verdict="tissue and glass", threshold=7, pen=np.zeros_like(mask)
    )
    (half,) = tissue_fractions(tissue, np.array([[40, 0]]), Level0Px(80))  # the tissue begins at x = 80.02
    assert half == pytest.approx((120 - 80.02) / 80, abs=1e-6)


def test_shrink_takes_means_and_keeps_the_edge():
    picture = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1).repeat(3, axis=2)
    small = shrink(picture, 2)
    assert small.shape == (3, 4, 3)
    assert small[0, 0, 0] == round((0 + 1 + 7 + 8) / 4)
    assert small[2, 3, 0] == 34


@st.composite
def grids_on_tissue(draw: st.DrawFn) -> tuple[TileGrid, TissueMask]:
    """A small slide, tissue of any shape on it, in mask pixels of whole pixels of level 0."""
    across = draw(st.integers(1, 6))
    mask = draw(hnp.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30))))
    factor = draw(st.sampled_from([1, 2, 4]))
    height, width = ((side * across + factor - 1) // factor * factor for side in mask.shape)
    grid = grid_of(
        0.5,
        size=(width, height),
        factors=(1, factor),
        mpp=draw(st.sampled_from([0.5, 0.66, 1.0, 1.7, 2.0])),
        tile_px=draw(st.integers(3, 12)),
        overlap=draw(st.integers(0, 2)),
    )
    nothing = np.zeros_like(mask)
    mpp = Mpp(0.5 * across)
    return grid, TissueMask(
        mask=mask, downsample=float(across), mpp=mpp, verdict="tissue and glass", threshold=7, pen=nothing
    )


def at_level0(tissue: TissueMask, grid: TileGrid) -> np.ndarray:
    """The mask pixel by pixel of level 0, with room for the tiles that reach beyond it."""
    across = int(tissue.downsample)
    full = tissue.mask.repeat(across, axis=0).repeat(across, axis=1)
    return np.pad(full, [(0, int(grid.size_level0)), (0, int(grid.size_level0))])


@given(grids_on_tissue())
def test_fractions_are_what_counting_pixels_gives(drawn):
    grid, tissue = drawn
    full, side, coords = at_level0(tissue, grid), int(grid.size_level0), grid.coords()
    counted = [full[y : y + side, x : x + side].sum() / side**2 for x, y in coords.tolist()]
    np.testing.assert_allclose(tissue_fractions(tissue, coords, grid.size_level0), counted, atol=1e-6)


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    st.floats(1.0, 40.0),
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700)), min_size=1, max_size=8),
)
def test_fractions_are_right_where_tiles_cut_through_pixels_of_the_mask(mask, downsample, side, places):
    tissue = TissueMask(
        mask=mask, downsample=downsample, mpp=Mpp(8.0), verdict="tissue and glass", threshold=7, pen=np.zeros_like(mask)
    )

    def shares(count: int, start: float) -> np.ndarray:
        """How much of each pixel along an axis lies within the tile."""
        edges = np.clip(np.arange(count + 1), start / downsample, (start + side) / downsample)
        return np.diff(edges)

    height, width = mask.shape
    expected = [shares(height, y) @ mask @ shares(width, x) / (side / downsample) ** 2 for x, y in places]
    np.testing.assert_allclose(
        tissue_fractions(tissue, np.array(places, np.int64), Level0Px(side)), np.clip(expected, 0, 1), atol=1e-5
    )


@given(grids_on_tissue())
def test_every_pixel_of_tissue_within_the_grid_is_in_a_tile_that_is_kept(drawn):
    grid, tissue = drawn
    if not grid.columns * grid.rows:
        return
    full, side, coords = at_level0(tissue, grid), int(grid.size_level0), grid.coords()
    kept = coords[tissue_fractions(tissue, coords, grid.size_level0) >= 1e-6]
    for x, y in kept.tolist():
        full[y : y + side, x : x + side] = False
    extent = coords.max(axis=0) + side
    assert not full[: extent[1], : extent[0]].any()
