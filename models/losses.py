"""The loss terms of MoMKD (DESIGN section 5). f, p, u, v are unit vectors; C is one class's K slots (K × S)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional


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


@dataclass(frozen=True)
class Losses:
    """The unweighted terms of one bag and their weighted total, each a scalar tensor.

    ``omics`` and ``reconstruction`` are zero for a patient without RNA.
    """

    task: Tensor
    histology: Tensor
    omics: Tensor
    reconstruction: Tensor
    memory: Tensor
    total: Tensor

    def values(self) -> dict[str, float]:
        """The terms as numbers, by name, for a training log."""
        return {name: float(term.detach()) for name, term in vars(self).items()}


def soft_angle(f: Tensor, C: Tensor, tau: float) -> Tensor:
    """φ(f, C) = (1/τa) ln Σ_k exp(τa f·c_k): a soft maximum of the cosines between f (S) and the slots C (K, S)."""
    return torch.logsumexp(tau * (C @ f), dim=0) / tau


def alignment(f: Tensor, own: Tensor, other: Tensor, settings: LossSettings) -> Tensor:
    """Soft-angle alignment softplus(β (margin − Δ)) with Δ = φ(f, C^y) − φ(f, C^other).

    :param f: (S) unit vector, u of the omics or v of the slide.
    :param own: (K, S) unit slots of the bag's class, C^y.
    :param other: (K, S) unit slots of the other class.
    """
    tau = settings.alignment_tau
    delta = soft_angle(f, own, tau) - soft_angle(f, other, tau)
    return functional.softplus(settings.alignment_beta * (settings.margin - delta))


def orthogonality(C: Tensor) -> Tensor:
    """Σ_jk (ĉ_j·ĉ_k)² / K² − 1/K: zero when the K slots (K, S) stand at right angles, (K − 1)/K when they coincide."""
    directions = functional.normalize(C, dim=-1)
    K = len(C)
    return (directions @ directions.T).square().sum() / K**2 - 1 / K


def slot_distance(p: Tensor, C: Tensor) -> Tensor:
    """Squared Euclidean distance of each tile to its nearest slot, averaged over tiles and over S; gradient to p only.

    :param p: (P, S) tile projections.
    :param C: (K, S) slots as stored, not normalised.
    """
    C = C.detach()
    nearest = torch.cdist(p.detach(), C).argmin(dim=1)
    return (p - C[nearest]).square().mean()


def memory_regularisation(p: Tensor, C: Tensor, settings: LossSettings) -> Tensor:
    """Nearest-slot distance (moves the tiles) + 10 × orthogonality (moves the slots); C is C^y as stored (K, S)."""
    return slot_distance(p, C) + settings.orthogonality * orthogonality(C)


def weigh(
    settings: LossSettings, *, task: Tensor, histology: Tensor, omics: Tensor, reconstruction: Tensor, memory: Tensor
) -> Losses:
    """Total: 0.5 CE + 0.2 L_histology + 0.05 L_omics + λr MSE + 0.1 memory, with the weights of ``settings``."""
    total = (
        settings.task_weight * task
        + settings.histology_weight * histology
        + settings.omics_weight * omics
        + settings.reconstruction_weight * reconstruction
        + settings.memory_weight * memory
    )
    return Losses(task, histology, omics, reconstruction, memory, total)
