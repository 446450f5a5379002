"""ABMIL: attention-based multiple-instance learning (Ilse, Tomczak, Welling, ICML 2018).

Tiles are embedded one by one, h_i = dropout(ReLU(W x_i + b)); gated attention (their equations 7 and 9) pools them,
z = Σ a_i h_i; a linear head gives the slide's logits. Neither the positions of tiles nor their order matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor, nn

from ..tasks.binary import BINARY
from ..tasks.task import Task
from .bag_tensors import BagBatch
from .network import NetworkConfig, NetworkOutput, SlideNetwork, Width


class ABMILConfig(NetworkConfig):
    """Sizes of the network.

    The attention's width is the paper's for histology; embedding and dropout are those of CLAM's authors (Lu et al.
    2021), as is usual since.
    """

    hidden: Width = 512
    """H, the width of an embedded tile."""
    attention: Width = 128
    """L, the width of the attention's hidden layer."""
    dropout: float = Field(default=0.25, ge=0, lt=1)


@dataclass(frozen=True)
class ABMILOutput(NetworkOutput):
    """The network's output with the bags and embedded tiles, for CLAM's clustering."""

    bags: BagBatch
    embedded: Tensor
    """h (N, H)."""


class GatedAttention(nn.Module):
    """e_i = wᵀ (tanh(V h_i) ⊙ sigm(U h_i)), what the softmax of equation 9 is taken of; h (N, H) → (N) float32."""

    def __init__(self, hidden: int, attention: int, dropout: float, branches: int = 1) -> None:
        super().__init__()
        self.V = nn.Linear(hidden, attention)
        self.U = nn.Linear(hidden, attention)
        self.w = nn.Linear(attention, branches)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        [e] = self.branches(h)
        return e

    def branches(self, h: Tensor) -> tuple[Tensor, ...]:
        """The e of each branch, (N) float32."""
        content, gate = self.dropout(self.V(h).tanh()), self.dropout(self.U(h).sigmoid())
        e: Tensor = self.w(content * gate)
        return e.float().unbind(dim=-1)  # in bfloat16 the softmax would have three digits


class ABMIL(SlideNetwork):
    """Gated attention over embedded tiles, and a linear head."""

    Config = ABMILConfig
    config: ABMILConfig

    def __init__(self, config: ABMILConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        c = config
        self.embedding = nn.Sequential(nn.Linear(c.in_features, c.hidden), nn.ReLU(), nn.Dropout(c.dropout))
        self.attention = GatedAttention(c.hidden, c.attention, c.dropout)
        self.head = nn.Linear(c.hidden, task.outputs)

    def forward(self, bags: BagBatch) -> ABMILOutput:
        """Logits, attention and tile scores of slides.

        A tile's score is the score of the head's logits for that tile alone. The head is linear and a sums to 1, so
        that Σ a_i score_i is the slide's score: the tiles' scores are its exact parts.
        """
        h = self.embedding(bags.x)
        a = bags.softmax(self.attention(h))
        logits = self.head(a @ h).float()
        return ABMILOutput(logits, a.sum(dim=0), self.task.score(self.head(h).float()), bags, h)
