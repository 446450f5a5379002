"""MoMKD: a slide is read through a memory that omics help to shape (DESIGN section 5; its symbols are used here).

Training: ``loss(read(x, edge_index), teach(g), label).total.backward()``, an optimiser step, then ``remember``.
Inference: ``read`` alone. Histology and omics share no parameter but the memory's slots.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ..data.errors import BundleError, CohortError, UsageError
from .losses import Losses, LossSettings, alignment, memory_regularisation, weigh
from .memory import ClassMemory, MemoryMode

with warnings.catch_warnings():
    # torch-geometric compiles parts of itself that are not used here with what torch has deprecated.
    warnings.filterwarnings("ignore", message=r"`torch\.jit", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
    from torch_geometric.nn import GATv2Conv

HEADS = 2
"""Attention heads of each GATv2 layer."""
_OMICS = ("omics_encoder.", "omics_decoder.", "omics_projection.")
"""What a state-dict key begins with that only training needs."""


class MoMKDConfig(BaseModel):
    """Sizes and settings of the network; with a state dict it is the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: int = Field(gt=0)
    """D, the width of the backbone."""
    n_genes: int = Field(ge=0)
    """Length of g; 0 builds the histology side alone."""
    hidden: int = Field(default=512, gt=0, multiple_of=HEADS)
    """H."""
    shared: int = Field(default=64, gt=0)
    """S, where tiles, slides, omics and slots are compared."""
    slots: int = Field(default=16, gt=0)
    """K, slots a class."""
    omics_hidden: int = Field(default=512, gt=0)
    omics_embedding: int = Field(default=512, gt=0)
    head_hidden: int = Field(default=128, gt=0)
    histology_dropout: float = Field(default=0.5, ge=0, lt=1)
    omics_dropout: float = Field(default=0.25, ge=0, lt=1)
    head_dropout: float = Field(default=0.5, ge=0, lt=1)
    memory: MemoryMode = "gradient"
    memory_momentum: float = Field(default=0.99, ge=0, lt=1)
    """Share of a slot that one bag leaves in place; only used in memory mode ``momentum``."""
    tau_start: float = Field(default=0.2, gt=0)
    tau_min: float = Field(default=0.01, gt=0)
    tau_max: float = Field(default=2.0, gt=0)
    loss: LossSettings = LossSettings()

    @model_validator(mode="after")
    def _tau_in_order(self) -> MoMKDConfig:
        if not self.tau_min <= self.tau_start <= self.tau_max:
            raise ValueError("tau_start must lie between tau_min and tau_max")
        return self


PresetName = Literal["official", "paper"]
PRESETS: dict[PresetName, dict[str, object]] = {
    "official": {"hidden": 512, "shared": 64, "slots": 16, "loss": {"reconstruction_weight": 0.05}},
    "paper": {"hidden": 256, "shared": 128, "slots": 16, "loss": {"reconstruction_weight": 0.01}},
}
"""Where the authors' public code and their paper differ; elsewhere both are :class:`MoMKDConfig`'s defaults."""


def preset(name: PresetName, in_features: int, n_genes: int) -> MoMKDConfig:
    """The configuration of the public code (there D = 1536, 768 genes) or of the paper, for other inputs."""
    if name not in PRESETS:
        raise UsageError(f"no MoMKD preset is called {name!r}", hint=f"there are {', '.join(PRESETS)}")
    return MoMKDConfig.model_validate({"in_features": in_features, "n_genes": n_genes, **PRESETS[name]})


@dataclass(frozen=True)
class HistologyReading:
    """What the network sees on one slide of P tiles."""

    contextual: Tensor
    """h (P, H), each tile in its neighbourhood."""
    projected: Tensor
    """p (P, S), unit vectors."""
    scores: Tensor
    """(P), above zero where a tile is nearer to the positive slots."""
    attention: Tensor
    """a (P), sums to 1."""
    pooled: Tensor
    """V (H)."""
    slide_vector: Tensor
    """v (S), a unit vector."""
    logits: Tensor
    """(2), negative and positive."""


@dataclass(frozen=True)
class OmicsReading:
    """What the network sees in one patient's expression."""

    expression: Tensor
    """g (n_genes), as given."""
    embedding: Tensor
    """(omics_embedding)."""
    vector: Tensor
    """u (S), a unit vector."""
    reconstruction: Tensor
    """(n_genes), g as the decoder sees it."""


class HistologyEncoder(nn.Module):
    """Two GATv2 layers with residuals, h = max(h1, h2); x (P, D), edge_index (2, E) → (P, H).

    h1 = dropout(ELU(LayerNorm(GATv2(x)))) + W x; h2 the same from h1, its residual h1 itself. Where D = H the first
    residual is x itself, as in the public code.
    """

    def __init__(self, in_features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.graph1 = GATv2Conv(in_features, hidden // HEADS, heads=HEADS, dropout=dropout)
        self.norm1 = nn.LayerNorm(hidden)
        self.residual1 = nn.Identity() if in_features == hidden else nn.Linear(in_features, hidden)
        self.graph2 = GATv2Conv(hidden, hidden // HEADS, heads=HEADS, dropout=dropout)
        self.norm2 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h1 = self.dropout(functional.elu(self.norm1(self.graph1(x, edge_index)))) + self.residual1(x)
        h2 = self.dropout(functional.elu(self.norm2(self.graph2(h1, edge_index)))) + h1
        return torch.maximum(h1, h2)


def _omics_layers(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )


class MoMKD(nn.Module):
    """The network. One bag a call, float32, on the device where its parameters are."""

    def __init__(self, config: MoMKDConfig) -> None:
        super().__init__()
        self.config = c = config
        self.histology_encoder = HistologyEncoder(c.in_features, c.hidden, c.histology_dropout)
        self.patch_projection = nn.Linear(c.hidden, c.shared)
        self.pool_projection = nn.Linear(c.hidden, c.shared)
        self.memory = ClassMemory(c.slots, c.shared, c.memory, c.memory_momentum)
        self.log_tau = nn.Parameter(torch.tensor(c.tau_start).log())
        self.head = nn.Sequential(
            nn.LayerNorm(c.hidden),
            nn.Linear(c.hidden, c.head_hidden),
            nn.ReLU(),
            nn.Dropout(c.head_dropout),
            nn.Linear(c.head_hidden, 2),
        )
        if c.n_genes:
            self.omics_encoder = _omics_layers(c.n_genes, c.omics_hidden, c.omics_embedding, c.omics_dropout)
            self.omics_decoder = _omics_layers(c.omics_embedding, c.omics_hidden, c.n_genes, c.omics_dropout)
            self.omics_projection = nn.Linear(c.omics_embedding, c.shared)

    @property
    def tau(self) -> Tensor:
        """τ, the attention's temperature: exp(log τ) clamped."""
        return self.log_tau.exp().clamp(self.config.tau_min, self.config.tau_max)

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """h: tiles x (P, D) and edges (2, E), source and target, to (P, H)."""
        h: Tensor = self.histology_encoder(x, edge_index)
        return h

    def project(self, h: Tensor) -> Tensor:
        """p = ‖W_patch h‖; (P, H) → (P, S)."""
        return functional.normalize(self.patch_projection(h), dim=-1)

    def read(self, x: Tensor, edge_index: Tensor) -> HistologyReading:
        """Read one slide, histology alone.

        score_i = max_k p_i·c⁺_k − max_k p_i·c⁻_k (the memory's gradient stopped); a = softmax(score / τ);
        V = Σ a_i h_i; v = ‖W_pool V‖; logits = head(V).

        :param x: (P, D) tile features.
        :param edge_index: (2, E) int64, from :func:`.tile_graph.knn_edges`.
        """
        h = self.encode(x, edge_index)
        p = self.project(h)
        scores = self.memory.scores(p)
        a = torch.softmax(scores / self.tau, dim=0)
        V = a @ h
        v = functional.normalize(self.pool_projection(V), dim=-1)
        return HistologyReading(h, p, scores, a, V, v, self.head(V))

    def teach(self, g: Tensor) -> OmicsReading:
        """Read one patient's expression g (n_genes): u = ‖W_omics omics‖ and the decoder's reconstruction.

        :raises UsageError: the model was built without genes.
        """
        if not self.config.n_genes:
            raise UsageError("this MoMKD reads histology alone", hint="build it with n_genes above 0 to train with RNA")
        embedding = self.omics_encoder(g)
        u = functional.normalize(self.omics_projection(embedding), dim=-1)
        return OmicsReading(g, embedding, u, self.omics_decoder(embedding))

    def loss(self, reading: HistologyReading, omics: OmicsReading | None, label: int) -> Losses:
        """All terms of one bag; without RNA (``None``) the omics and reconstruction terms are zero.

        The memory's gradient flows from both alignments and the orthogonality, in memory mode ``gradient``.

        :param label: y, 0 or 1.
        """
        settings = self.config.loss
        y = _checked(label)
        C = self.memory.directions()
        own, other = C[y], C[1 - y]
        zero = reading.logits.new_zeros(())
        return weigh(
            settings,
            task=functional.cross_entropy(reading.logits, torch.tensor(y, device=reading.logits.device)),
            histology=alignment(reading.slide_vector, own, other, settings),
            omics=zero if omics is None else alignment(omics.vector, own, other, settings),
            reconstruction=zero if omics is None else functional.mse_loss(omics.reconstruction, omics.expression),
            memory=memory_regularisation(reading.projected, self.memory.slots[y], settings),
        )

    def remember(self, reading: HistologyReading, omics: OmicsReading | None, label: int) -> None:
        """After the optimiser's step: in memory mode ``momentum`` the slots follow this bag; else nothing happens."""
        self.memory.follow(
            _checked(label), reading.projected.detach(), None if omics is None else omics.vector.detach()
        )

    @torch.no_grad()
    def start_memory(
        self,
        bags: Iterable[tuple[Tensor, Tensor]],
        labels: Sequence[int],
        generator: torch.Generator,
        tiles_per_class: int = 50_000,
    ) -> None:
        """Start both classes' slots by cosine k-means over the training slides' p, in evaluation mode.

        Each slide of a class gives the same number of tiles at most, chosen at random, so that about
        ``tiles_per_class`` come together and no large slide drowns the others.

        :param bags: (x, edge_index) of each training slide, read one after the other.
        :param labels: y of each slide.
        :param generator: a CPU generator.
        :raises CohortError: a class without slides.
        """
        quota = [math.ceil(tiles_per_class / max(1, sum(y == label for y in labels))) for label in (0, 1)]
        points: dict[int, list[Tensor]] = {0: [], 1: []}
        was_training = self.training
        self.eval()
        try:
            for (x, edge_index), label in zip(bags, labels, strict=True):
                y = _checked(label)
                p = self.project(self.encode(x, edge_index))
                chosen = torch.randperm(len(p), generator=generator)[: quota[y]]
                points[y].append(p[chosen.to(p.device)])
        finally:
            self.train(was_training)
        for which, of_class in points.items():
            if not of_class:
                raise CohortError(
                    f"no training slide of class {which} to start the memory from",
                    hint="both classes need slides in every training fold: check the labels and the folds",
                )
            self.memory.start(which, torch.cat(of_class), generator)

    def histology_state(self) -> dict[str, Tensor]:
        """The part of the state dict that inference needs: all but the omics encoder, decoder and projection."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith(_OMICS)}


def _checked(label: int) -> Literal[0, 1]:
    if label == 0:
        return 0
    if label == 1:
        return 1
    raise UsageError(f"a label is 0 or 1, not {label!r}")


def load_histology(
    config: MoMKDConfig, state: Mapping[str, Tensor], *, path: str | PathLike[str] | None = None
) -> MoMKD:
    """The network for inference, in evaluation mode on the CPU, from what :meth:`MoMKD.histology_state` gave.

    It has no omics side (its ``config.n_genes`` is 0), however it was trained.

    :param path: the file the state is from, for the message.
    :raises BundleError: a tensor is missing, too many, or of another shape.
    """
    model = MoMKD(config.model_copy(update={"n_genes": 0}))
    require_same_tensors(model.state_dict(), state, path)
    model.load_state_dict(dict(state), strict=True)
    return model.eval()


def require_same_tensors(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | PathLike[str] | None
) -> None:
    """Refuse (``BundleError``) a state dict whose names or shapes are not the wanted ones, naming the first of each."""
    faults = {
        "lacks": sorted(wanted.keys() - found.keys()),
        "has the unknown": sorted(found.keys() - wanted.keys()),
        "has another shape of": sorted(k for k in wanted.keys() & found.keys() if wanted[k].shape != found[k].shape),
    }
    told = [f"{what} {names[0]} ({len(names)} such)" for what, names in faults.items() if names]
    if told:
        raise BundleError(
            f"the weights do not fit the MoMKD configuration: the file {', '.join(told)}",
            path=path,
            hint="weights and configuration are of different models: use both from the same bundle",
        )
