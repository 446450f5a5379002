"""Bags as the networks take them: tensors, with the graph of each slide's tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.features import Bag
from .tile_graph import knn_edges


@dataclass(frozen=True)
class BagTensors:
    """One slide.

    :param slide_id: whose bag it is.
    :param features: (P, D) as stored, float16 or float32.
    :param edges: (2, E) int64, from each tile to its neighbours.
    """

    slide_id: str
    features: Tensor
    edges: Tensor

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return self.features.nbytes + self.edges.nbytes

    def to(self, device: torch.device) -> BagTensors:
        """The same on another device."""
        return replace(self, features=self.features.to(device), edges=self.edges.to(device))


def bag_tensors(bag: Bag, neighbours: int) -> BagTensors:
    """A slide's tensors, its graph built of each tile's nearest ``neighbours`` on the slide."""
    return BagTensors(bag.slide_id, torch.from_numpy(bag.features), torch.as_tensor(knn_edges(bag.coords, neighbours)))
