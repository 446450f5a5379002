"""The class memory of MoMKD (CVPR 2026): K slots a class, the only parameters that slides and omics share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

MemoryMode = Literal["gradient", "momentum", "fixed"]
"""What moves the slots: the losses (the public code), a running average of the vectors nearest to them, nothing."""

NEGATIVE, POSITIVE = 0, 1
KMEANS_ITERATIONS = 20
KMEANS_CANDIDATES = 5
"""Candidates drawn for each further initial centre of the k-means."""
COSINE_TOLERANCE = 1e-6
"""Two unit vectors whose cosine is this close to 1 are one direction in float32."""


class ClassMemory(nn.Module):
    """Slots C⁻ (index 0) and C⁺ (index 1), stored as one tensor ``slots`` (2, K, S); of C classes (C, K, S).

    They are used as unit vectors (:meth:`directions`), except by the memory regularisation. In mode ``gradient`` they
    are a parameter, in ``momentum`` and ``fixed`` a buffer that gets no gradient; the state-dict key is the same. Until
    :meth:`init` is called they point in random directions.
    """

    slots: Tensor

    def __init__(self, slots: int, shared: int, mode: MemoryMode, momentum: float, classes: int = 2) -> None:
        """
        :param slots: K.
        :param shared: S.
        :param momentum: share of a slot that one step leaves in place; only used in mode ``momentum``.
        :param classes: C.
        """
        super().__init__()
        self.mode = mode
        self.momentum = momentum
        start = functional.normalize(torch.randn(classes, slots, shared), dim=-1)
        if mode == "gradient":
            self.slots = nn.Parameter(start)
        else:
            self.register_buffer("slots", start)

    def directions(self) -> Tensor:
        """(C, K, S) slots as unit vectors; gradient flows to the slots in mode ``gradient``."""
        return functional.normalize(self.slots, dim=-1)

    def scores(self, p: Tensor) -> Tensor:
        """score_i = max_k p_i·c⁺_k − max_k p_i·c⁻_k, the memory's gradient stopped; p (P, S) → (P).

        Of C classes the first is the one that all others are held against, as negative is of two: the maximum over the
        slots of the others, minus that over its own.
        """
        best = self.nearness(p)
        return best[POSITIVE:].amax(dim=0) - best[NEGATIVE]

    def nearness(self, p: Tensor) -> Tensor:
        """max_k p_i·c_k over each class's slots, the memory's gradient stopped; p (P, S) → (C, P)."""
        cosines = p @ self.directions().detach().transpose(1, 2)  # (C, P, K)
        return cosines.amax(dim=2)

    @torch.no_grad()
    def assigned(self, points: Tensor, label: int) -> Tensor:
        """Index of the slot of class ``label`` nearest in angle to each point; (N, S) → (N) int64."""
        return (points @ self.directions()[label].T).argmax(dim=1)

    @torch.no_grad()
    def init(self, label: int, points: Tensor, generator: torch.Generator) -> None:
        """Set the slots of class ``label`` to the cosine k-means centres of ``points`` (N, S)."""
        self.slots[label] = cosine_kmeans(points, self.slots.shape[1], generator)

    @torch.no_grad()
    def update(self, label: int, p: Tensor, u: Tensor) -> None:
        """Move the slots of class ``label`` towards the vectors nearest to them (mode ``momentum``).

        c ← ‖m c + (1 − m) p̄_c‖, p̄_c the mean of the tiles p (P, S) nearest to c, then the same with the omics
        vectors u (R, S); P and R may be 0. Tiles and omics are averaged separately because a few omics vectors would
        have no weight among thousands of tiles. A slot without nearest vectors stays.
        """
        for points in (p, u):
            belongs = functional.one_hot(self.assigned(points, label), self.slots.shape[1]).to(points.dtype)  # (N, K)
            counts = belongs.sum(dim=0)[:, None]
            means = (belongs.T @ points) / counts.clamp(min=1)
            moved = functional.normalize(self.momentum * self.slots[label] + (1 - self.momentum) * means, dim=-1)
            self.slots[label] = torch.where(counts > 0, moved, self.slots[label])


@torch.no_grad()
def cosine_kmeans(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means on the unit sphere: ``k`` unit centres (k, S) of ``points`` (N, S), on the points' device.

    The initial centres are spread: each further one is drawn with probability 1 − cosine to the nearest so far. (The
    public code draws all at random and so may put two in one cluster.) A cluster that loses all its points takes the
    point farthest from its centre. Where there are fewer distinct points than centres, the rest point in random
    directions, since equal slots would receive equal gradients for ever.

    :param points: at least one.
    :param generator: a CPU generator, the only source of randomness, so that the device does not matter.
    """
    points = functional.normalize(points, dim=-1)
    centres = _spread_centres(points, k, generator)
    for _ in range(KMEANS_ITERATIONS):
        centres = moved_centres(points, centres)
    return centres


def moved_centres(points: Tensor, centres: Tensor) -> Tensor:
    """One round of :func:`cosine_kmeans`: unit ``points`` (N, S) and ``centres`` (k, S) to the centres' next places."""
    cosine, nearest = (points @ centres.T).max(dim=1)
    # A matrix product instead of index_add: on a GPU the latter adds in no fixed order.
    sums = functional.one_hot(nearest, len(centres)).to(points.dtype).T @ points
    length = sums.norm(dim=1, keepdim=True)
    occupied = length > COSINE_TOLERANCE
    moved = torch.where(occupied, sums / length.clamp(min=COSINE_TOLERANCE), centres)
    empty = (~occupied[:, 0]).nonzero()[:, 0].tolist()
    for centre, point in zip(empty, cosine.argsort()[: len(empty)].tolist(), strict=False):
        if 1 - cosine[point] > COSINE_TOLERANCE:
            moved[centre] = points[point]
    return moved


def _spread_centres(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): of a few candidates, the one that lowers the cost most."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    centres = [points[first]]
    far = 1 - points @ centres[0]
    while len(centres) < k:
        if far.max() > COSINE_TOLERANCE:
            draws = torch.multinomial(far.clamp(min=0).cpu(), KMEANS_CANDIDATES, replacement=True, generator=generator)
            candidates = points[draws.to(points.device)]
            left = torch.minimum(far, 1 - candidates @ points.T)  # (candidates, N)
            best = int(left.sum(dim=1).argmin())
            centres.append(candidates[best])
            far = left[best]
        else:
            direction = torch.randn(points.shape[1], generator=generator).to(points)
            centres.append(functional.normalize(direction, dim=0))
    return torch.stack(centres)


@dataclass(frozen=True)
class SlotUsage:
    """How evenly points are spread over the slots of a class."""

    active: int
    """Slots with at least one point."""
    entropy: float
    """Of the shares, in nats: 0 when one slot takes all, ln K when all take the same."""


def slot_usage(counts: Tensor) -> SlotUsage:
    """Usage figures of ``counts`` (K), how many points each slot was assigned (see :meth:`ClassMemory.assigned`)."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return SlotUsage(active=int((counts > 0).sum()), entropy=float(torch.special.entr(shares).sum()))
