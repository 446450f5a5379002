"""Outlines of the tissue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from tissue_masks import ring_area, tissue
from wsipipe.data.tiling.contours import outlines


def test_a_square_with_a_hole_in_pixels_of_level_0():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:25] = True
    mask[8:12, 15:20] = False
    (piece,) = outlines(tissue(mask))
    assert piece.outer.min(axis=0).tolist() == [320, 160]
    assert piece.outer.max(axis=0).tolist() == [800, 480]
    (hole,) = piece.holes
    assert hole.min(axis=0).tolist() == [480, 256]
    assert hole.max(axis=0).tolist() == [640, 384]
    assert ring_area(piece.outer) > 0 > ring_area(hole), "RFC 7946: outer rings one way, holes the other"
    # Corners are cut by an eighth of a pixel each.
    assert ring_area(piece.outer) == pytest.approx((10 * 15 - 4 / 8) * 32**2)
    assert ring_area(hole) == pytest.approx(-(4 * 5 - 4 / 8) * 32**2)


def test_tissue_up_to_the_edges_is_outlined_at_the_edges():
    (piece,) = outlines(tissue(np.ones((6, 9), bool), downsample=10.0))
    assert piece.outer.min(axis=0).tolist() == [0, 0]
    assert piece.outer.max(axis=0).tolist() == [90, 60]


def test_an_island_in_a_hole_is_a_piece_of_its_own():
    mask = np.ones((30, 30), bool)
    mask[5:25, 5:25] = False
    mask[10:20, 10:20] = True
    outside, island = outlines(tissue(mask))
    assert len(outside.holes) == 1
    assert island.holes == ()
    assert island.outer.min() == 320


def test_no_tissue_is_an_empty_collection():
    assert outlines(tissue(np.zeros((5, 5), bool))) == []


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_hold_exactly_the_tissue(mask):
    pieces = outlines(tissue(mask, downsample=2.5))
    inside = np.zeros(mask.shape, int)
    row, column = np.indices(mask.shape)
    centres = np.stack([column.ravel() + 0.5, row.ravel() + 0.5], axis=1) * 2.5
    for piece in pieces:
        for ring in (piece.outer, *piece.holes):
            assert (ring[0] == ring[-1]).all()
            assert len(ring) >= 5
            within = Polygon(ring).contains_points(centres).reshape(mask.shape)
            inside += np.where(within, 1 if ring is piece.outer else -1, 0)
        assert ring_area(piece.outer) > 0
        assert all(ring_area(hole) < 0 for hole in piece.holes)
    np.testing.assert_array_equal(inside, mask.astype(int))
