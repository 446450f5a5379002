"""A small MoMKD, and the bags and targets that the tests of its parts give it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from wsipipe.models.mil.bag_tensors import BagBatch, BagTensors, Patient
from wsipipe.models.mil.momkd import MoMKD, MoMKDConfig
from wsipipe.models.mil.network import Losses, Targets
from wsipipe.models.mil.tile_graph import knn_edges

SMALL = MoMKDConfig(
    in_features=12, n_genes=10, hidden=8, shared=6, slots=3, omics_hidden=16, omics_embedding=7, head_hidden=5
)
STEADY = SMALL.model_copy(update={"histology_dropout": 0.0, "omics_dropout": 0.0, "head_dropout": 0.0})
"""Without dropout."""
OMICS = ("omics_encoder.", "omics_decoder.", "omics_projection.")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(config: MoMKDConfig = SMALL, seed: int = 0) -> MoMKD:
    torch.manual_seed(seed)
    return MoMKD(config)


def slide(tiles: int = 20, seed: int = 0, width: int = 12) -> BagTensors:
    side = math.ceil(math.sqrt(tiles))
    coords = np.array([(x, y) for y in range(side) for x in range(side)])[:tiles]
    return BagTensors(f"S{seed}", torch.randn(tiles, width, generator=seeded(seed)), knn_edges(coords).int())


def bag(tiles: int = 20, seed: int = 0, width: int = 12) -> BagBatch:
    return BagBatch.of([slide(tiles, seed, width)])


def genes(seed: int = 1) -> Tensor:
    return torch.randn(10, generator=seeded(seed))


def patient(label: int, *bags: BagTensors, expression: Tensor | None = None, target: float | None = None) -> Patient:
    return Patient(f"P-{label}", label, bags, expression, target)


def targets_of(label: int, expression: Tensor | None = None, target: float | None = None) -> Targets:
    return Targets.of([patient(label, expression=expression, target=target)])


SIZES = (1, 5, 60, 60, 1, 5)
TAUGHT = [
    patient(i % 2, slide(tiles, i), expression=genes(i) if i in (3, 4) else None) for i, tiles in enumerate(SIZES)
]
"""A slide of one tile, a small one and a larger one of each class; a positive and a negative patient are measured."""


def together(patients: list[Patient]) -> tuple[BagBatch, Targets]:
    """The patients' slides as one step."""
    return BagBatch.of([b for p in patients for b in p.bags]), Targets.of([p for p in patients for _ in p.bags])


def gradients(losses: Losses, model: MoMKD) -> dict[str, Tensor]:
    """Of the total; zeros where none flows."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(losses.total, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for name, p, gradient in zip(names, parameters, found, strict=True)
    }


def reached(term: Tensor, model: MoMKD) -> set[str]:
    """Names of the parameters to which a gradient of ``term`` flows (a gradient of zeros counts as one that flows)."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}


def side(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}
