"""MoMKD, momentum memory knowledge distillation (CVPR 2026): a slide network with a memory shaped by omics.

P tiles with features x (P × D) and graph edges, a patient's expression g, label y ∈ {0, 1}; ‖·‖ normalises to unit
vectors of S numbers; C⁺ and C⁻ are the memory's K slots a class. All linear layers have biases.

- Histology encoder: two GATv2 layers with residuals; h = max(h1, h2) element-wise (P × H).
- Tile projection p_i = ‖W_patch h_i‖; score_i = max_k p_i·c⁺_k − max_k p_i·c⁻_k, the memory's gradient stopped.
- Attention a = softmax(score / τ), τ learned and clamped to [0.01, 2]; V = Σ a_i h_i; v = ‖W_pool V‖;
  logits = head(V).
- Omics encoder and, for training, decoder: u = ‖W_omics encoder(g)‖, g reconstructed by the decoder.
- Losses: :mod:`.losses`. Initial slots: cosine k-means over the p of training tiles (:mod:`.memory`).

*More classes than two* (the paper has two). The memory has K slots for each of C classes. The first class is the one
that the others are held against, as negative is of two: score_i = max over the slots of all other classes − max over
those of the first. A slide's alignment is the mean over the other classes of the loss of two; the regularisation is
that of the slide's own class, as with two; the head has C logits. With C = 2 each of these is the formula above. A
tile's scores for the reader are, for each class, its nearness to that class's slots minus the mean nearness to those of
the others.

Histology and omics share no parameter but the memory's slots. Several bags of a step are one block-diagonal graph, and
every term is the mean over the bags; with one bag it is the public code's arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ...data.errors import CohortError, UsageError
from ..tasks.binary import BINARY
from ..tasks.task import Task
from .bag_tensors import BagBatch, Patient
from .dropout import Dropout
from .gatv2 import GATv2, Graph
from .losses import LossSettings, alignment, memory_regularisation
from .memory import ClassMemory, MemoryMode, slot_usage
from .mixed_precision import in_float32
from .network import MOST_SLOTS, Losses, NetworkConfig, NetworkOutput, SlideNetwork, Slots, Targets, Width

HEADS = 2
"""Attention heads of each GATv2 layer."""
KMEANS_TILES = 50_000
"""Approximate upper bound of the tiles per class whose projections enter the k-means."""


class EncodersConfig(NetworkConfig):
    """Sizes and dropout of both encoders and the head; the values are those of the authors' public code."""

    hidden: Width = Field(default=512, multiple_of=HEADS)
    """H."""
    shared: Width = 64
    """S, where histology and omics are compared."""
    omics_hidden: Width = 512
    omics_embedding: Width = 512
    head_hidden: Width = 128
    histology_dropout: float = Field(default=0.5, ge=0, lt=1)
    omics_dropout: float = Field(default=0.25, ge=0, lt=1)
    head_dropout: float = Field(default=0.5, ge=0, lt=1)


class MoMKDConfig(EncodersConfig):
    """Sizes and settings of the network; with a state dict it is the whole model."""

    slots: int = Field(default=16, gt=0, le=MOST_SLOTS)
    """K, slots a class."""
    memory: MemoryMode = "gradient"
    memory_momentum: float = Field(default=0.99, ge=0, lt=1)
    """Share of a slot that one step leaves in place; only used in memory mode ``momentum``."""
    tau_start: float = Field(default=0.2, gt=0)
    tau_min: float = Field(default=0.01, gt=0)
    tau_max: float = Field(default=2.0, gt=0)
    loss: LossSettings = LossSettings()

    @model_validator(mode="after")
    def _tau_in_order(self) -> MoMKDConfig:
        if not self.tau_min <= self.tau_start <= self.tau_max:
            raise ValueError("tau_start must lie between tau_min and tau_max")
        return self


PresetName = Literal["standard", "official", "paper"]
_PUBLIC_CODE = {"hidden": 512, "shared": 64, "slots": 16, "loss": {"reconstruction_weight": 0.05}}
PRESETS: dict[PresetName, dict[str, Any]] = {
    "standard": _PUBLIC_CODE,
    "official": _PUBLIC_CODE,
    "paper": {"hidden": 256, "shared": 128, "slots": 16, "loss": {"reconstruction_weight": 0.01}},
}
"""Values in which the authors' public code and their paper differ; the rest are :class:`MoMKDConfig`'s defaults.
``standard`` is the public code's network with another patience (:data:`PATIENCE`)."""

PATIENCE: dict[PresetName, int] = {"standard": 15, "official": 1, "paper": 15}
AS_THE_PUBLIC_SCRIPT_STOPS: frozenset[PresetName] = frozenset({"official"})
"""Presets that count an equal validation score as a gain, and do not stop before their third epoch."""
"""Epochs without gain after which training stops. With the public script's 1, training stops before its
learning-rate schedule ever acts."""


def preset(name: PresetName, in_features: int, n_genes: int) -> MoMKDConfig:
    """The configuration of the public code (there D = 1536, 768 genes) or of the paper, for other inputs."""
    if name not in PRESETS:
        raise UsageError(f"no MoMKD preset is called {name!r}", hint=f"there are {', '.join(PRESETS)}")
    return MoMKDConfig.model_validate({"in_features": in_features, "n_genes": n_genes, **PRESETS[name]})


@dataclass(frozen=True)
class MoMKDOutput(NetworkOutput):
    """The network's output with the tensors that the losses need."""

    bags: BagBatch
    contextual: Tensor
    """h (N, H), each tile in its neighbourhood."""
    projected: Tensor
    """p (N, S), unit vectors."""
    pooled: Tensor
    """V (B, H)."""
    slide_vector: Tensor
    """v (B, S), unit vectors."""


@dataclass(frozen=True)
class OmicsOutput:
    """The omics side's output for R patients."""

    embedding: Tensor
    """(R, omics_embedding)."""
    vector: Tensor
    """u (R, S), unit vectors."""
    reconstruction: Tensor
    """(R, n_genes), g as the decoder reconstructs it."""


class HistologyEncoder(nn.Module):
    """Two GATv2 layers with residuals, h = max(h1, h2); x (P, D), edge_index (2, E) → (P, H).

    h1 = dropout(ELU(LayerNorm(GATv2(x)))) + W x; h2 the same from h1, its residual h1 itself. Where D = H the first
    residual is x itself, as in the public code.
    """

    def __init__(self, in_features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.graph1 = GATv2(in_features, hidden // HEADS, HEADS, dropout)
        self.norm1 = nn.LayerNorm(hidden)
        self.residual1 = nn.Identity() if in_features == hidden else nn.Linear(in_features, hidden)
        self.graph2 = GATv2(hidden, hidden // HEADS, HEADS, dropout)
        self.norm2 = nn.LayerNorm(hidden)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        graph = Graph.of(edge_index, len(x))
        h1 = self.dropout(functional.elu(self.norm1(self.graph1(x, graph)))) + self.residual1(x)
        # max(h1, h1 + d) = h1 + max(0, d), and above zero an ELU changes nothing: max(h1, h2) in fewer passes.
        h: Tensor = h1 + self.dropout(functional.relu(self.norm2(self.graph2(h1, graph))))
        return h


def slide_head(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Logits of a pooled slide: (B, inputs) → (B, outputs)."""
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


def _omics_layers(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


class MoMKD(SlideNetwork):
    """The network of the paper, for a task of two classes or more."""

    Config = MoMKDConfig
    has_slots: ClassVar[bool] = True
    omics: ClassVar[tuple[str, ...]] = ("omics_encoder.", "omics_decoder.", "omics_projection.")
    config: MoMKDConfig

    def __init__(self, config: MoMKDConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        c = config
        self.histology_encoder = HistologyEncoder(c.in_features, c.hidden, c.histology_dropout)
        self.patch_projection = nn.Linear(c.hidden, c.shared)
        self.pool_projection = nn.Linear(c.hidden, c.shared)
        self.memory = ClassMemory(c.slots, c.shared, c.memory, c.memory_momentum, len(task.classes))
        self.log_tau = nn.Parameter(torch.tensor(c.tau_start).log())
        self.head = slide_head(c.hidden, c.head_hidden, task.outputs, c.head_dropout)
        if c.n_genes:
            self.omics_encoder = _omics_layers(c.n_genes, c.omics_hidden, c.omics_embedding, c.omics_dropout)
            self.omics_decoder = _omics_layers(c.omics_embedding, c.omics_hidden, c.n_genes, c.omics_dropout)
            self.omics_projection = nn.Linear(c.omics_embedding, c.shared)
        self._assigned = torch.zeros(len(task.classes), c.slots, dtype=torch.int64)

    @property
    def tau(self) -> Tensor:
        """τ, the attention's temperature: exp(log τ) clamped."""
        return self.log_tau.exp().clamp(self.config.tau_min, self.config.tau_max)

    def encode_histology(self, bags: BagBatch) -> Tensor:
        """h (N, H), each tile in its neighbourhood."""
        h: Tensor = self.histology_encoder(bags.x, bags.edges)
        return h

    def project(self, h: Tensor) -> Tensor:
        """p = ‖W_patch h‖; (N, H) → (N, S)."""
        return self._unit(self.patch_projection(h))

    def _unit(self, projected: Tensor) -> Tensor:
        """‖·‖ of rows, in the parameters' precision also under autocast."""
        return functional.normalize(projected.to(self.log_tau.dtype), dim=-1)

    def forward(self, bags: BagBatch) -> MoMKDOutput:
        """Logits, attention and tile scores of slides, from histology alone.

        score_i = max_k p_i·c⁺_k − max_k p_i·c⁻_k (the memory's gradient stopped); a = softmax(score / τ) within each
        slide; V = Σ a_i h_i; v = ‖W_pool V‖; logits = head(V).
        """
        h = self.encode_histology(bags)
        p = self.project(h)
        with in_float32(h):
            scores = self.memory.scores(p)
            a = bags.softmax(scores / self.tau)
            V = a @ h
        v = self._unit(self.pool_projection(V))
        shown = scores if len(self.task.classes) == 2 else self._scores_by_class(p)
        return MoMKDOutput(self.head(V).to(p.dtype), a.sum(dim=0), shown, bags, h, p, V, v)

    @torch.no_grad()
    def _scores_by_class(self, p: Tensor) -> Tensor:
        """Each class's nearness minus the mean of the others'; p (N, S) → (N, C)."""
        near = self.memory.nearness(p)
        return (near - (near.sum(dim=0) - near) / (len(near) - 1)).T

    def encode_omics(self, g: Tensor) -> OmicsOutput:
        """Encode patients' expression g (R, n_genes): u = ‖W_omics omics‖, and the decoder's reconstruction of g.

        :raises UsageError: the model was built without genes.
        """
        if not self.config.n_genes:
            raise UsageError("this MoMKD uses histology alone", hint="build it with n_genes above 0 to train with RNA")
        embedding = self.omics_encoder(g)
        u = self._unit(self.omics_projection(embedding))
        return OmicsOutput(embedding, u, self.omics_decoder(embedding))

    def loss(self, output: MoMKDOutput, targets: Targets) -> Losses:
        """All terms; those of omics are sums over the measured bags divided by B, so that every bag weighs the same.

        With soft targets t the slide's alignment is t · L(y = 1) + (1 − t) · L(y = 0); with labels that is the
        paper's. The memory's gradient flows from both alignments and the orthogonality, in memory mode ``gradient``.
        """
        c, p = self.config.loss, output.projected
        terms = {"task": self.task.loss(output.logits, targets.values)}
        with in_float32(p):
            C = self.memory.directions()
            shares = self.task.class_shares(targets.values)
            terms["histology"] = alignment(output.slide_vector, C, shares, c).mean()
            terms["memory"] = memory_regularisation(p, output.bags, self.memory.slots, targets.labels, c).mean()
        total = c.task_weight * terms["task"] + c.histology_weight * terms["histology"]
        total = total + c.memory_weight * terms["memory"]
        rna = self.measured_expression(targets)
        if rna is not None:
            expression, measured = rna
            omics, size = self.encode_omics(expression), len(targets.labels)
            with in_float32(p):
                own = functional.one_hot(targets.labels[measured], len(C)).to(p.dtype)
                terms["omics"] = alignment(omics.vector, C, own, c).sum() / size
                errors = (omics.reconstruction - expression).square().mean(dim=1)
                terms["reconstruction"] = errors.sum() / size
            total = total + c.omics_weight * terms["omics"] + c.reconstruction_weight * terms["reconstruction"]
        return Losses(terms, total)

    @torch.no_grad()
    def update_memory(self, output: MoMKDOutput, targets: Targets) -> None:
        """Count the tiles nearest to each slot of their class; in memory mode ``momentum`` also move the slots.

        The omics vectors that move them are computed without dropout.
        """
        labels, p = targets.labels[output.bags.slide_of_tile], output.projected.detach()
        counts = [
            (functional.one_hot(self.memory.assigned(p, label), self.config.slots) * (labels == label)[:, None]).sum(0)
            for label in range(len(self.task.classes))
        ]
        self._assigned = self._assigned.to(p.device) + torch.stack(counts)
        if self.memory.mode != "momentum":
            return
        u, u_labels = p[:0], labels[:0]
        rna = self.measured_expression(targets)
        if rna is not None:
            was_training = self.training
            u, u_labels = self.eval().encode_omics(rna[0]).vector, targets.labels[rna[1]]
            self.train(was_training)
        for label in range(len(self.task.classes)):
            self.memory.update(label, p[labels == label], u[u_labels == label])

    def epoch_figures(self) -> dict[str, float]:
        """τ, and the use of each class's slots by the epoch's training tiles: active slots and entropy, in nats."""
        figures = {"tau": float(self.tau.detach())}
        for label, name in enumerate(self.task.classes):
            usage = slot_usage(self._assigned[label])
            figures |= {f"active_slots_{name}": float(usage.active), f"slot_entropy_{name}": usage.entropy}
        self._assigned = torch.zeros_like(self._assigned)
        return figures

    @torch.no_grad()
    def init_memory(self, patients: Sequence[Patient], generator: torch.Generator) -> None:
        """Set each class's slots by cosine k-means over the training slides' p, in evaluation mode.

        Each slide of a class gives the same number of tiles at most, chosen at random: about :data:`KMEANS_TILES` in
        all, and a large slide counts no more than others.

        :raises CohortError: a class without slides.
        """
        slides = [(bag, patient.place) for patient in patients for bag in patient.bags]
        classes = range(len(self.task.classes))
        quota = [math.ceil(KMEANS_TILES / max(1, sum(y == label for _, y in slides))) for label in classes]
        points: list[list[Tensor]] = [[] for _ in classes]
        was_training = self.training
        self.eval()
        for bag, y in slides:
            p = self.project(self.encode_histology(BagBatch.of([bag], self.device)))
            chosen = torch.randperm(len(p), generator=generator)[: quota[y]]
            points[y].append(p[chosen.to(p.device)])
        self.train(was_training)
        for label, projections in enumerate(points):
            if not projections:
                raise CohortError(
                    f"no training slide of class {label} to start the memory from",
                    hint="all classes need slides in every training fold: check the labels and the folds",
                )
            self.memory.init(label, torch.cat(projections), generator)

    @property
    def slots_shown(self) -> Slots:
        """Each class's slots, one class after the other."""
        return Slots(tuple(f"{name} {k + 1}" for name in self.task.classes for k in range(self.config.slots)))

    def nearness_to_slots(self, bags: BagBatch) -> Tensor:
        """The cosine of each tile and each slot; (N, C · K)."""
        return self.project(self.encode_histology(bags)) @ self.memory.directions().flatten(0, 1).T

    @torch.no_grad()
    def slot_shares(self, patients: Sequence[Patient]) -> dict[str, dict[str, Any]]:
        """The use of each class's slots by the tiles of its patients: active slots, entropy (nats) and the shares."""
        self.eval()
        classes = {}
        for label, name in enumerate(self.task.classes):
            bags = [bag for patient in patients if patient.place == label for bag in patient.bags]
            tiles = (self.project(self.encode_histology(BagBatch.of([bag], self.device))) for bag in bags)
            counts = torch.zeros(self.config.slots, dtype=torch.int64)
            for p in tiles:
                counts += torch.bincount(self.memory.assigned(p, label), minlength=self.config.slots).cpu()
            usage = slot_usage(counts)
            shares = counts / counts.sum().clamp(min=1)
            classes[name] = {"active": usage.active, "entropy": usage.entropy, "shares": shares.tolist()}
        return classes
