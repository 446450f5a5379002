"""ABMIL: attention-based multiple-instance learning (Ilse, Tomczak, Welling, ICML 2018).

Tiles are embedded one by one, h_i = dropout(ReLU(W x_i + b)); gated attention (their equations 7 and 9) pools them,
z = Σ a_i h_i; a linear head reads the slide. Nothing depends on where a tile lies or on the order of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor, nn

from .bag_tensors import BagBatch
from .network import NetworkConfig, NetworkOutput, SlideNetwork, log_odds


class ABMILConfig(NetworkConfig):
    """Sizes of the network. The attention's width is the paper's for histology; embedding and dropout are those with
    which CLAM's authors read slides (Lu et al. 2021), as is usual since."""

    hidden: int = Field(default=512, gt=0)
    """H, the width of an embedded tile."""
    attention: int = Field(default=128, gt=0)
    """L, the width of the attention's hidden layer."""
    dropout: float = Field(default=0.25, ge=0, lt=1)


@dataclass(frozen=True)
class ABMILOutput(NetworkOutput):
    """What the network sees on B slides of N tiles."""

    bags: BagBatch
    embedded: Tensor
    """h (N, H)."""


class GatedAttention(nn.Module):
    """e_i = wᵀ (tanh(V h_i) ⊙ sigm(U h_i)), what the softmax of equation 9 is taken of; h (N, H) → (N) float32."""

    def __init__(self, hidden: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.V = nn.Linear(hidden, attention)
        self.U = nn.Linear(hidden, attention)
        self.w = nn.Linear(attention, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        content, gate = self.dropout(self.V(h).tanh()), self.dropout(self.U(h).sigmoid())
        e: Tensor = self.w(content * gate).squeeze(-1)
        return e.float()  # under mixed precision the softmax would otherwise be one of three digits


class ABMIL(SlideNetwork):
    """Gated attention over embedded tiles, and a linear head."""

    Config = ABMILConfig
    config: ABMILConfig

    def __init__(self, config: ABMILConfig) -> None:
        super().__init__(config)
        c = config
        self.embedding = nn.Sequential(nn.Linear(c.in_features, c.hidden), nn.ReLU(), nn.Dropout(c.dropout))
        self.attention = GatedAttention(c.hidden, c.attention, c.dropout)
        self.head = nn.Linear(c.hidden, 2)

    def forward(self, bags: BagBatch) -> ABMILOutput:
        """Read slides.

        A tile's score is the head's log-odds on that tile alone. The head is linear and a sums to 1, so Σ a_i score_i
        is the slide's log-odds: the scores are its exact parts.
        """
        h = self.embedding(bags.x)
        a = bags.softmax(self.attention(h))
        logits = self.head(a @ h).float()
        return ABMILOutput(logits, a.sum(dim=0), log_odds(self.head(h).float()), bags, h)
