"""Evidence memory spelt out tile by tile, and bags and networks to hold against it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from wsipipe.models.mil.bag_tensors import BagTensors
from wsipipe.models.mil.evidence_memory import (
    EvidenceMemory,
    EvidenceMemoryConfig,
)
from wsipipe.models.mil.network import Targets
from wsipipe.models.mil.tile_graph import knn_edges

WIDTH, GENES = 12, 10


def network_of(seed: int = 0, **changes: object) -> EvidenceMemory:
    """As it starts."""
    torch.manual_seed(seed)
    sizes = {"in_features": WIDTH, "n_genes": GENES, "hidden": 16, "attention": 8, "shared": 6}
    return EvidenceMemory(EvidenceMemoryConfig.model_validate({**sizes, **changes}))


def moved(**changes: object) -> EvidenceMemory:
    """No parameter where it started, slots of other lengths than 1; in evaluation mode."""
    network = network_of(**changes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return network.eval()


def grid(tiles: int) -> NDArray[np.int64]:
    """The tiles of a square, row after row, the last row not full."""
    side = int(np.ceil(np.sqrt(tiles)))
    return np.array([(x, y) for y in range(side) for x in range(side)])[:tiles]


def line(tiles: int) -> NDArray[np.int64]:
    return np.array([(224 * x, 0) for x in range(tiles)])


def scattered(tiles: int) -> NDArray[np.int64]:
    """A grid with gaps."""
    places = np.random.default_rng(tiles).choice(4 * tiles, tiles, replace=False)
    return np.stack([places % tiles, places // tiles], axis=1)


def bag(tiles: int, seed: int = 0) -> BagTensors:
    features = torch.randn(tiles, WIDTH, generator=torch.Generator().manual_seed(seed))
    return BagTensors(f"s{seed}", features.half(), knn_edges(grid(tiles)).int())


def targets_of(
    labels: Sequence[int], targets: Sequence[float] | None = None, measured: Sequence[int] = (), seed: int = 9
) -> Targets:
    expression = torch.randn(len(measured), GENES, generator=torch.Generator().manual_seed(seed))
    return Targets(
        torch.tensor(labels),
        torch.tensor([float(y) for y in (labels if targets is None else targets)]),
        expression if measured else None,
        torch.tensor(measured) if measured else None,
    )


def gradients(term: Tensor, network: EvidenceMemory) -> dict[str, Tensor]:
    """Of the parameters that ``term`` reaches."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def reached(term: Tensor, network: EvidenceMemory) -> set[str]:
    return {name.split(".")[0] for name, gradient in gradients(term, network).items() if gradient.abs().sum() > 0}


def slide_by_hand(w: dict[str, Tensor], one: BagTensors, background: float) -> dict[str, Tensor]:
    """One slide in float64, its tiles' neighbours one by one."""
    x, tiles, m = one.features.double(), len(one.features), w["slot_weights"]
    unit = torch.stack([slot / (slot * slot).sum().sqrt() for slot in w["slots"]])
    h = (x @ w["embedding.0.weight"].T + w["embedding.0.bias"]).clamp(min=0)
    content = torch.tanh(h @ w["gate.V.weight"].T + w["gate.V.bias"])
    opened = 1 / (1 + torch.exp(-(h @ w["gate.U.weight"].T + w["gate.U.bias"])))
    gate = (content * opened) @ w["gate.w.weight"][0] + w["gate.w.bias"]
    s = (h @ w["tile_projection.weight"].T + w["tile_projection.bias"]) @ unit.T
    mean = sum(s) / tiles
    t = torch.stack([sum(m * (s[i] - mean)) for i in range(tiles)])
    share = 1 / (1 + torch.exp(-w["blend"]))
    blended = []
    for tile in range(tiles):
        around = [target for source, target in one.edges.T.tolist() if source == tile]
        blended.append((1 - share) * t[tile] + share * sum(t[target] for target in around) / len(around))
    scores = torch.stack(blended)
    powers = torch.exp(gate + torch.exp(w["log_sharpness"]) * scores.abs())
    a = powers / powers.sum()
    slots = sum(a[i] * s[i] for i in range(tiles)) - background * mean
    return {"attention": a, "scores": scores, "slots": slots, "log_odds": sum(m * slots) + w["bias"]}


def terms_by_hand(w: dict[str, Tensor], slides: Sequence[dict[str, Tensor]], taught: Targets) -> dict[str, Tensor]:
    """The unweighted terms in float64, slide by slide."""

    def cross_entropy(log_odds: Tensor, target: float) -> Tensor:
        p = 1 / (1 + torch.exp(-log_odds))
        return -(target * p.log() + (1 - target) * (1 - p).log())

    targets = taught.values.double().tolist()
    task = [cross_entropy(slide["log_odds"], y) for slide, y in zip(slides, targets, strict=True)]
    terms = {"task": sum(task) / len(slides)}
    if taught.expression is None or taught.measured is None:
        return terms
    unit = torch.stack([slot / (slot * slot).sum().sqrt() for slot in w["slots"]])
    omics, distillation = [], []
    for g, place in zip(taught.expression.double(), taught.measured.tolist(), strict=True):
        z = unit @ (w["omics_projection.1.weight"] @ g + w["omics_projection.1.bias"])
        omics.append(cross_entropy(sum(w["slot_weights"] * z) + w["omics_bias"], targets[place]))
        p = (torch.exp(z) / torch.exp(z).sum()).detach()
        q = torch.exp(slides[place]["slots"]) / torch.exp(slides[place]["slots"]).sum()
        distillation.append(sum(p * (p.log() - q.log())))
    return {**terms, "omics": sum(omics) / len(slides), "distillation": sum(distillation) / len(slides)}
