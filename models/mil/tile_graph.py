"""The graph of a bag: edges from each tile to its k nearest tiles on the slide."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ...data.errors import UsageError


def knn_edges(coords: NDArray[np.integer], k: int = 8) -> torch.Tensor:
    """Build the edges from every tile (source) to its ``min(k, P − 1)`` nearest tiles (targets).

    A tile grid is full of equal distances, so there is a rule for ties: the nearer tile first (squared Euclidean
    distance, exact in integers), and of two equally near the one with the lower index. Edges are ordered by source,
    then by that rule; the same coordinates give the same edges on every machine. A single tile has its self-loop.

    :param coords: (P, 2) integer positions, pixels of any one scale. Distinct in a tile grid; tiles at the same
        position are neighbours at distance 0.
    :param k: neighbours per tile.
    :returns: (2, E) int64 on the CPU, row 0 the source and row 1 the target, E = P · min(k, P − 1).
    :raises UsageError: no tile, coordinates that are not (P, 2) integers, or ``k`` below 1.
    """
    coords = np.asarray(coords)
    if coords.ndim != 2 or coords.shape[1] != 2 or not np.issubdtype(coords.dtype, np.integer):
        raise UsageError(f"tile coordinates must be whole numbers of shape (P, 2), not {coords.dtype} {coords.shape}")
    tiles = len(coords)
    if tiles == 0:
        raise UsageError("a bag without tiles has no graph", hint="leave the slide out: its status is `empty`")
    if k < 1:
        raise UsageError(f"a tile needs at least one neighbour, not {k}")
    if tiles == 1:
        return torch.zeros((2, 1), dtype=torch.int64)

    places = coords.astype(np.int64)
    k = min(k, tiles - 1)
    tree = cKDTree(places)
    targets = np.empty((tiles, k), dtype=np.int64)
    unsettled = np.arange(tiles)
    queried = min(2 * k + 1, tiles)
    while len(unsettled):
        nearest, certain = _nearest(tree, places, unsettled, k, queried)
        targets[unsettled[certain]] = nearest[certain]
        unsettled = unsettled[~certain]
        queried = min(2 * queried, tiles)
    edges = np.stack([np.repeat(np.arange(tiles), k), targets.ravel()])
    return torch.from_numpy(edges)


def _nearest(
    tree: cKDTree, places: NDArray[np.int64], tiles: NDArray[np.int64], k: int, queried: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose ``k`` neighbours among the ``queried`` that the tree returns, and say whether each row is certain.

    A row is uncertain if its k-th neighbour is as far as the farthest candidate: a tile that the tree did not return
    may be equally near and come first by the rule for ties.
    """
    _, candidates = tree.query(places[tiles], k=queried)
    candidates = candidates.astype(np.int64)
    squared = ((places[candidates] - places[tiles][:, None]) ** 2).sum(axis=2)
    farthest = squared.max(axis=1)
    squared[candidates == tiles[:, None]] = np.iinfo(np.int64).max  # a tile is not its own neighbour: last in order
    order = np.lexsort((candidates, squared), axis=1)[:, :k]
    certain = np.take_along_axis(squared, order[:, -1:], axis=1)[:, 0] < farthest
    return np.take_along_axis(candidates, order, axis=1), certain | (queried == len(places))
