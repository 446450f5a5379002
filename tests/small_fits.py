"""Small networks, patients with a planted signal, and what makes two fits the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from wsipipe.models.mil.bag_tensors import BagTensors, Patient
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig
from wsipipe.models.mil.tile_graph import knn_edges
from wsipipe.models.training.fit import Fit

WIDTH, GENES = 8, 6


def config(**changes: Any) -> MoMKDConfig:
    sizes = {"hidden": 16, "shared": 8, "slots": 3, "omics_hidden": 8, "omics_embedding": 8, "head_hidden": 8}
    return MoMKDConfig.model_validate({"in_features": WIDTH, "n_genes": GENES, **sizes, **changes})


def model_of(kind: type[MoMKD] = MoMKD, **changes: Any) -> MoMKD:
    torch.manual_seed(0)
    return kind(config(**changes))


def patient(number: int, label: int, *, slides: int = 1, rna: bool = True) -> Patient:
    """A patient whose positive slides have, in every second tile, a feature that the negative ones lack."""
    draw = torch.Generator().manual_seed(number)
    bags = []
    for slide in range(slides):
        tiles = 6 + number % 4
        features = torch.randn(tiles, WIDTH, generator=draw)
        features[::2, 0] += 4 * label
        coords = np.stack([np.arange(tiles) % 3, np.arange(tiles) // 3], axis=1)
        bags.append(BagTensors(f"P{number}-{slide}", features.half(), knn_edges(coords)))
    expression = torch.randn(GENES, generator=draw) + label
    return Patient(f"P{number}", label, bags, expression if rna else None)


def cohort(first: int, size: int) -> list[Patient]:
    """Half of them positive; every third without RNA."""
    return [patient(n, n % 2, slides=1 + n % 2, rna=n % 3 > 0) for n in range(first, first + size)]


def same(one: Fit, other: Fit) -> bool:
    """Whether two fits are equal to the last bit."""
    return (
        (one.history, one.best_epoch) == (other.history, other.best_epoch)
        and one.state.keys() == other.state.keys()
        and all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())
    )
