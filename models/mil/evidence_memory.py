"""Evidence memory: tiles, slides and RNA are compared with the same slots, and attention grows with |evidence|.

A method of this package, not of the MoMKD paper. Slots ĉ_k (unit vectors of S) each carry a weight m_k, above zero for
evidence of positive.
Tiles, slides and RNA are projected into the slots' space; the evidence for slot k is the product with ĉ_k:

- tile: h_i = dropout(ReLU(W x_i)), s_ik = (W_p h_i)·ĉ_k, relative to its slide: s̄_k the mean over the slide's tiles,
  t_i = Σ_k m_k (s_ik − s̄_k); t̃_i = (1 − λ) t_i + λ mean of t over the tile's neighbours, λ learned;
- attention: a = softmax(gate(h_i) + β |t̃_i|) over the slide's tiles, gate that of ABMIL (Ilse et al. 2018), β learned:
  attention grows with |evidence|, for and against positive alike;
- slide: s_k = Σ_i a_i s_ik − γ s̄_k, log-odds Σ_k m_k s_k + b, γ fixed;
- RNA, in training: z_k = (W_g dropout(g))·ĉ_k, log-odds Σ_k m_k z_k + b'.

Loss: CE(slide, target) + ρ CE(RNA, target) + δ KL(softmax(z) ‖ softmax(s)), z's gradient stopped in the last: a slide
must match the slots that its own patient's RNA matches, and RNA is not fitted to slides. For a patient without RNA the
last two terms are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..tasks.binary import BINARY
from ..tasks.task import Task
from .abmil import GatedAttention
from .bag_tensors import BagBatch
from .mixed_precision import in_float32
from .network import MOST_SLOTS, Losses, NetworkConfig, NetworkOutput, SlideNetwork, Slots, Targets, Width


class EvidenceMemoryConfig(NetworkConfig):
    """Sizes, weights and fixed constants. For the planted cohorts: hidden 64, attention 32, shared 32, slots 8."""

    hidden: Width = 512
    """H."""
    attention: Width = 128
    """Width of the gate's hidden layer."""
    shared: Width = 64
    """S."""
    slots: int = Field(default=8, gt=1, le=MOST_SLOTS)
    """K, for both classes together: slots start as evidence for positive and for negative in turn. An odd K gives
    positive one more, which does no harm: weights are learnt, and directions drawn at random."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    omics_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Of the expression itself."""
    background: float = Field(default=0.5, ge=0, lt=1)
    """γ, share of the slide's mean evidence that is subtracted; at 1 a network whose attention is still uniform gets no
    gradient."""
    sharpness_start: float = Field(default=1.0, gt=0)
    """β before the first step."""
    omics_weight: float = Field(default=0.5, ge=0)
    """ρ."""
    distillation_weight: float = Field(default=0.5, ge=0)
    """δ."""


@dataclass(frozen=True)
class EvidenceMemoryOutput(NetworkOutput):
    """The network's output with the slides' evidence; ``scores`` are t̃."""

    slots: Tensor
    """s (B, K), the slides' evidence."""


class EvidenceMemory(SlideNetwork):
    """Weighted slots on which a slide and its own RNA must agree."""

    Config = EvidenceMemoryConfig
    has_slots: ClassVar[bool] = True
    omics: ClassVar[tuple[str, ...]] = ("omics_projection.", "omics_bias")
    config: EvidenceMemoryConfig

    def __init__(self, config: EvidenceMemoryConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        c = config
        self.embedding = nn.Sequential(nn.Linear(c.in_features, c.hidden), nn.ReLU(), nn.Dropout(c.dropout))
        self.gate = GatedAttention(c.hidden, c.attention, c.dropout)
        self.tile_projection = nn.Linear(c.hidden, c.shared)
        self.slots = nn.Parameter(functional.normalize(torch.randn(c.slots, c.shared), dim=-1))
        self.slot_weights = nn.Parameter((1 - 2 * (torch.arange(c.slots) % 2)) / c.slots**0.5)
        self.bias = nn.Parameter(torch.zeros(()))
        self.log_sharpness = nn.Parameter(torch.tensor(c.sharpness_start).log())
        self.blend = nn.Parameter(torch.zeros(()))
        if c.n_genes:
            self.omics_projection = nn.Sequential(nn.Dropout(c.omics_dropout), nn.Linear(c.n_genes, c.shared))
            self.omics_bias = nn.Parameter(torch.zeros(()))

    def evidence(self, projected: Tensor) -> Tensor:
        """(…, S) → (…, K) float32, for each slot."""
        return projected.float() @ functional.normalize(self.slots, dim=-1).T

    def forward(self, bags: BagBatch) -> EvidenceMemoryOutput:
        """Logits, attention, tile scores t̃ and evidence s of slides, from histology alone."""
        h = self.embedding(bags.x)
        gate, projected = self.gate(h), self.tile_projection(h)
        with in_float32(bags.x):  # small differences of evidence count
            s = self.evidence(projected)
            mean = bags.mean(s)
            # A product, as the gradient of mean[slide_of_tile] is summed in no fixed order by several CPU threads.
            t = (s - bags.member.to(s.dtype).T @ mean) @ self.slot_weights
            share = self.blend.sigmoid()
            t = (1 - share) * t + share * neighbours_mean(t, bags.edges)
            a = bags.softmax(gate + self.log_sharpness.exp() * t.abs())
            slide = a @ s - self.config.background * mean
            return EvidenceMemoryOutput(_two_logits(slide @ self.slot_weights + self.bias), a.sum(dim=0), t, slide)

    def loss(self, output: EvidenceMemoryOutput, targets: Targets) -> Losses:
        """All terms; those of RNA are sums over the measured bags divided by B, so that every bag weighs the same.

        :raises UsageError: there is expression, and the network was built without genes.
        """
        task = self.task.loss(output.logits, targets.values)
        rna = self.measured_expression(targets)
        if rna is None:
            return Losses({"task": task}, task)
        expression, measured = rna
        c = self.config
        share = len(measured) / len(targets.labels)
        projected = self.omics_projection(expression)
        with in_float32(projected):
            z = self.evidence(projected)
            omics = _two_logits(z @ self.slot_weights + self.omics_bias)
        divergence = functional.kl_div(
            output.slots[measured].log_softmax(dim=1),
            z.detach().log_softmax(dim=1),
            reduction="batchmean",
            log_target=True,
        )
        omics_loss = self.task.loss(omics, targets.values[measured])
        terms = {"task": task, "omics": share * omics_loss, "distillation": share * divergence}
        total = task + c.omics_weight * terms["omics"] + c.distillation_weight * terms["distillation"]
        return Losses(terms, total)

    @property
    def slots_shown(self) -> Slots:
        """The slots with their weights m."""
        weights = tuple(self.slot_weights.detach().tolist())
        return Slots(tuple(f"slot {k + 1}" for k in range(self.config.slots)), weights)

    def nearness_to_slots(self, bags: BagBatch) -> Tensor:
        """s_ik − s̄_k, the evidence of each tile for each slot, relative to its slide; (N, K)."""
        s = self.evidence(self.tile_projection(self.embedding(bags.x)))
        return s - bags.member.to(s.dtype).T @ bags.mean(s)

    def epoch_figures(self) -> dict[str, float]:
        """Return β and λ."""
        return {"sharpness": float(self.log_sharpness.detach().exp()), "blend": float(self.blend.detach().sigmoid())}


def neighbours_mean(t: Tensor, edges: Tensor) -> Tensor:
    """Mean of t over the targets of each tile's edges.

    Sums have a fixed order, forward and backward, on CPU and CUDA.

    :param t: (N).
    :param edges: (2, E) int64, sorted by source as :func:`~.tile_graph.knn_edges` gives them; none misses a tile.
    """
    starts = torch.searchsorted(edges[0], torch.arange(len(t), device=t.device))
    return functional.embedding_bag(edges[1], t[:, None], starts, mode="mean")[:, 0]


def _two_logits(log_odds: Tensor) -> Tensor:
    """Logits (B, 2) of which the log-odds are these (B)."""
    return torch.stack([-log_odds / 2, log_odds / 2], dim=1)
