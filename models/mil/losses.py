"""The loss terms of MoMKD (CVPR 2026).

f, p, u and v are unit vectors of S numbers: p of a tile, v of a slide, u of a patient's omics, f any of them. C⁺ and C⁻
are the K slots of a class, together C (2 × K × S); y is the label, and C^y the slots of the slide's own class. With
more classes than two C has more rows, and alignment is the mean of L over the other classes, each as C^other.

- alignment, of u (omics) and of v (histology): φ(f, C) = (1/τa) ln Σ_k exp(τa f·c_k),
  Δ = φ(f, C^y) − φ(f, C^other), L = softplus(β (margin − Δ));
- memory: mean over tiles and over S of (p − nearest slot of C^y)², plus 10 (Σ_jk (ĉ_j·ĉ_k)² / K² − 1/K) of C^y;
- total: 0.5 CE + 0.2 L_histology + 0.05 L_omics + λr MSE(reconstruction, g) + 0.1 memory.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from .bag_tensors import BagBatch


class LossSettings(BaseModel):
    """Constants and weights of the loss; the values here are those of the authors' public code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alignment_tau: float = Field(default=5.0, gt=0)
    """τa, how sharply φ follows the nearest slot."""
    alignment_beta: float = Field(default=20.0, gt=0)
    """β, the steepness of the alignment's softplus."""
    margin: float = 0.3
    orthogonality: float = Field(default=10.0, ge=0)
    """Weight of the orthogonality inside the memory term."""

    task_weight: float = Field(default=0.5, ge=0)
    histology_weight: float = Field(default=0.2, ge=0)
    omics_weight: float = Field(default=0.05, ge=0)
    reconstruction_weight: float = Field(default=0.05, ge=0)
    """λr; the paper says 0.01."""
    memory_weight: float = Field(default=0.1, ge=0)


def soft_angle(f: Tensor, C: Tensor, tau: float) -> Tensor:
    """φ(f, C) = (1/τa) ln Σ_k exp(τa f·c_k), a soft maximum of cosines: f (B, S) and slots C (…, K, S) → (…, B)."""
    return torch.logsumexp(tau * (f @ C.transpose(-1, -2)), dim=-1) / tau


def alignment(f: Tensor, C: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """Soft-angle alignment softplus(β (margin − Δ)) with Δ = φ(f, C^y) − φ(f, C^other); (B).

    Of more classes than two it is the mean over the others: a slide must be nearer to its own class's slots than to
    those of every other class, by the margin.

    :param f: (B, S) unit vectors, u of the omics or v of the slides.
    :param C: (classes, K, S) unit slots; of two classes negative and positive.
    :param targets: t (B), y or the probability of positive: t · L(y = 1) + (1 − t) · L(y = 0); or (B, classes), how
        much each class is the target: Σ_c t_c · L(y = c).
    """
    shares = targets if targets.ndim == 2 else torch.stack([1 - targets, targets], dim=1)
    near = soft_angle(f, C, settings.alignment_tau).unbind()
    beta, margin = settings.alignment_beta, settings.margin
    total: Tensor | None = None
    for y in reversed(range(len(near))):  # positive first: sums of floats depend on their order
        others = [functional.softplus(beta * (margin - (near[y] - near[c]))) for c in range(len(near)) if c != y]
        own = others[0] if len(others) == 1 else torch.stack(others).mean(dim=0)
        total = shares[:, y] * own if total is None else total + shares[:, y] * own
    assert total is not None
    return total


def orthogonality(C: Tensor) -> Tensor:
    """Σ_jk (ĉ_j·ĉ_k)² / K² − 1/K of slots (…, K, S): zero at right angles, (K − 1)/K when they coincide; (…)."""
    directions = functional.normalize(C, dim=-1)
    K = C.shape[-2]
    return (directions @ directions.transpose(-1, -2)).square().sum(dim=(-1, -2)) / K**2 - 1 / K


def slot_distance(p: Tensor, C: Tensor, labels: Tensor) -> Tensor:
    """Squared Euclidean distance of each tile to its class's nearest slot, averaged over S; gradient to p only; (N).

    :param p: (N, S) tile projections.
    :param C: (classes, K, S) slots as stored, not normalised.
    :param labels: y of each tile's slide (N).
    """
    C = C.detach()
    tiles = torch.arange(len(p), device=p.device)
    to_all = torch.cdist(p.detach(), C.flatten(0, 1)).view(len(p), *C.shape[:2])  # (N, classes, K)
    nearest = to_all[tiles, labels].argmin(dim=1)
    return (p - C[labels, nearest]).square().mean(dim=1)


def memory_regularisation(p: Tensor, bags: BagBatch, slots: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Nearest-slot distance (moves the tiles) + 10 × orthogonality (moves the slots), each of the bag's own class.

    :param p: (N, S) tile projections of the bags.
    :param slots: (classes, K, S) as stored.
    :param labels: y (B).
    :returns: (B), the distance averaged over each bag's tiles.
    """
    distance = bags.mean(slot_distance(p, slots, labels[bags.slide_of_tile]))
    return distance + settings.orthogonality * orthogonality(slots)[labels]
