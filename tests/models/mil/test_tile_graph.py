"""The tile graph: known answers, the tie rule, the same edges as a brute-force search; the graphs of several bags."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from wsipipe.data.errors import UsageError
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors
from wsipipe.models.mil.tile_graph import knn_edges


def brute_force(coords: NDArray[np.int64], k: int) -> list[list[int]]:
    """Edges by sorting all pairs on (squared distance, index)."""
    sources, targets = [], []
    for i, (x, y) in enumerate(coords.tolist()):
        others = [((x - a) ** 2 + (y - b) ** 2, j) for j, (a, b) in enumerate(coords.tolist()) if j != i]
        for _, j in sorted(others)[:k]:
            sources.append(i)
            targets.append(j)
    return [sources, targets]


def test_inner_tile_of_a_grid_has_the_eight_around_it():
    coords = np.array([(x, y) for y in range(0, 5 * 224, 224) for x in range(0, 5 * 224, 224)])
    edges = knn_edges(coords).numpy()
    assert edges.shape == (2, 25 * 8)
    assert sorted(edges[1, edges[0] == 12]) == [6, 7, 8, 11, 13, 16, 17, 18]


def test_edges_leave_the_tile_and_arrive_at_its_neighbours():
    # The tile far off has neighbours, but is nobody's neighbour: it is a source only.
    edges = knn_edges(np.array([[0, 0], [1, 0], [2, 0], [100, 0]]), k=2)
    assert edges.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3], [1, 2, 0, 2, 1, 0, 2, 1]]


def test_of_equally_near_tiles_the_lower_index_wins():
    # Four tiles at distance 5 from the first, in shuffled places, and k = 2.
    coords = np.array([[0, 0], [0, 5], [5, 0], [-5, 0], [0, -5]])
    edges = knn_edges(coords, k=2)
    assert edges[1, edges[0] == 0].tolist() == [1, 2]


def test_one_tile_has_its_self_loop_and_two_have_each_other():
    assert knn_edges(np.array([[7, 7]])).tolist() == [[0], [0]]
    assert knn_edges(np.array([[7, 7], [0, 0]])).tolist() == [[0, 1], [1, 0]]


def test_tiles_in_one_place_are_neighbours_and_never_their_own():
    coords = np.repeat([[3, 3]], 40, axis=0)
    assert knn_edges(coords).tolist() == brute_force(coords, 8)


@settings(deadline=None)  # shared cores make single runs slow
@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), min_size=2, max_size=60),
    st.integers(1, 10),
)
def test_equals_brute_force(places: list[tuple[int, int]], k: int):
    coords = np.array(places) * 1792  # a small lattice: ties and shared places everywhere
    assert knn_edges(coords, k).tolist() == brute_force(coords, min(k, len(coords) - 1))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_the_tie_rule_holds_whatever_order_the_tiles_come_in(k: int):
    grid = np.array([(x, y) for y in range(20) for x in range(20)]) * 224
    coords = np.random.default_rng(k).permutation(grid)
    assert knn_edges(coords, k).tolist() == brute_force(coords, k)


def test_a_hundred_thousand_tiles_have_their_neighbours():
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(np.arange(400), np.arange(400)), axis=-1).reshape(-1, 2) * 512
    coords = lattice[np.sort(rng.choice(len(lattice), 100_000, replace=False))]
    edges = knn_edges(coords).numpy()
    assert edges.shape == (2, 800_000)
    assert (edges[0] != edges[1]).all()
    for tile in rng.choice(100_000, 20):
        squared = ((coords - coords[tile]) ** 2).sum(axis=1)
        squared[tile] = np.iinfo(np.int64).max
        assert edges[1, edges[0] == tile].tolist() == np.argsort(squared, kind="stable")[:8].tolist()


@pytest.mark.parametrize("coords", [np.empty((0, 2), int), np.zeros((3, 2)), np.zeros((3, 3), int), np.zeros(4, int)])
def test_what_is_no_grid_is_refused(coords: NDArray[np.generic]):
    with pytest.raises(UsageError):
        knn_edges(coords)


# Several bags side by side


def slides(sizes: list[int], dtype: torch.dtype = torch.float32) -> list[BagTensors]:
    """Slides of a grid that is five tiles wide; each tile's features are its own."""
    random = torch.Generator().manual_seed(sum(sizes))
    bags = []
    for number, tiles in enumerate(sizes):
        coords = np.array([(i % 5, i // 5) for i in range(tiles)]) * 224
        features = torch.randn(tiles, 3, generator=random).to(dtype)
        bags.append(BagTensors(f"S{number}", features, knn_edges(coords).to(torch.int32)))
    return bags


SIZES = st.lists(st.integers(1, 23), min_size=1, max_size=6)


@given(SIZES)
def test_graphs_of_several_bags_lie_side_by_side(sizes: list[int]):
    bags = slides(sizes)
    batch = BagBatch.of(bags)
    assert batch.sizes == tuple(sizes)
    assert torch.equal(batch.x, torch.cat([bag.features for bag in bags]))
    of_tile = [number for number, tiles in enumerate(sizes) for _ in range(tiles)]
    assert batch.slide_of_tile.tolist() == of_tile
    assert batch.member.tolist() == [[slide == number for slide in of_tile] for number in range(len(sizes))]
    expected = [
        [source + sum(sizes[:number]), target + sum(sizes[:number])]
        for number, bag in enumerate(bags)
        for source, target in bag.edges.T.tolist()
    ]
    assert batch.edges.dtype == torch.int64
    assert batch.edges.T.tolist() == expected
    assert (batch.slide_of_tile[batch.edges[0]] == batch.slide_of_tile[batch.edges[1]]).all()
    for part, bag in zip(batch.split(batch.x), bags, strict=True):
        assert torch.equal(part, bag.features)


@given(SIZES, st.floats(0.01, 100))
def test_softmax_and_mean_stay_within_each_slide(sizes: list[int], scale: float):
    batch = BagBatch.of(slides(sizes))
    parts = batch.split(batch.x)
    scores = scale * batch.x[:, 0]
    attention = batch.softmax(scores)
    assert attention.shape == (len(sizes), sum(sizes))
    assert (attention[~batch.member] == 0).all()
    alone = torch.cat([part.softmax(dim=0) for part in batch.split(scores)])
    torch.testing.assert_close(attention.sum(dim=0), alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(batch.mean(batch.x), torch.stack([part.mean(dim=0) for part in parts]))
    torch.testing.assert_close(batch.mean(batch.x[:, 1]), torch.stack([part[:, 1].mean() for part in parts]))


def test_half_precision_features_are_widened_and_not_rounded_again():
    bags = slides([4, 1], torch.float16)
    for together in (bags, bags[:1]):
        batch = BagBatch.of(together)
        assert batch.x.dtype == torch.float32
        assert torch.equal(batch.x.half(), torch.cat([bag.features for bag in together]))
