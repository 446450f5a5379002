"""TransMIL: tiles attend to each other (Shao, Bian, Chen, Wang, Zhang, Ji, Zhang, NeurIPS 2021, section 3.3).

The embedded tiles of a slide fill a square of S² tokens (the first tiles are repeated where tiles are missing), and a
class token goes before them. Then come a transformer layer, PPEG (convolutions of the square, which give tokens a
position), a second transformer layer, and a linear head on the class token. The square takes the tiles in their stored
order, row by row of the slide.

Two things differ from the paper. Attention is exact: the paper approximates it by Nyström's method to save memory,
which torch's fused kernels save without approximating. And there is no convolution over the values, which the paper's
public code adds to the approximation (a depth-wise kernel of 33 tokens in each head).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ..tasks.binary import BINARY
from ..tasks.task import Task
from .bag_tensors import BagBatch
from .network import NetworkConfig, NetworkOutput, SlideNetwork, Width


class TransMILConfig(NetworkConfig):
    """Sizes; the values are those of the paper and of its public code."""

    hidden: Width = 512
    """H, the width of a token."""
    heads: Width = 8
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of what attention adds to the tokens."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TransMILConfig:
        if self.hidden % self.heads:
            raise ValueError("hidden must be a multiple of heads")
        return self


class TransMIL(SlideNetwork):
    """Two layers of self-attention with positions between them; the slides of a batch are computed one by one."""

    Config = TransMILConfig
    config: TransMILConfig

    def __init__(self, config: TransMILConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        c = config
        self.embedding = nn.Sequential(nn.Linear(c.in_features, c.hidden), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, c.hidden))
        self.layer1 = AttentionLayer(c.hidden, c.heads, c.dropout)
        self.positions = PPEG(c.hidden)
        self.layer2 = AttentionLayer(c.hidden, c.heads, c.dropout)
        self.norm = nn.LayerNorm(c.hidden)
        self.head = nn.Linear(c.hidden, task.outputs)

    def forward(self, bags: BagBatch) -> NetworkOutput:
        """Logits, attention and tile scores of slides.

        Attention is the class token's in the last layer, averaged over the heads and normalised over the tiles. A
        tile's score is the score that the slide would have if the class token attended in that layer to this tile
        alone.
        """
        slides = [self._forward_one(h) for h in bags.split(self.embedding(bags.x))]
        logits, attention, scores = zip(*slides, strict=True)
        return NetworkOutput(torch.stack(logits), torch.cat(attention), torch.cat(scores))

    def _forward_one(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (2), attention (P) and scores (P) of one slide's embedded tiles (P, H)."""
        tiles = len(h)
        side = math.ceil(math.sqrt(tiles))
        tokens = torch.cat([self.class_token, h, h[: side**2 - tiles]])
        tokens = self.layer1(tokens)
        tokens = torch.cat([tokens[:1], self.positions(tokens[1:], side)])

        added, log_weights, values = self.layer2.first(tokens)
        logits = self._head(tokens[0] + added)
        weights = log_weights.logsumexp(dim=0)[1:].softmax(dim=0)  # in logarithms: no tile's sum can be 0 / 0
        repeated = functional.pad(weights[tiles:], (0, 2 * tiles - side**2))
        with torch.no_grad():
            scores = self.task.score(self._head(tokens[0] + values[1 : tiles + 1]))
        return logits, weights[:tiles] + repeated, scores

    def _head(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(tokens))
        return logits.float()


class AttentionLayer(nn.Module):
    """tokens + attention of normalised tokens (L, H); as in the paper there is no feed-forward part."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.out = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """The layer's tokens (L, H); its memory grows with L, not with L²."""
        x = self.norm(tokens)
        q, k, v = (self._by_head(project(x))[None] for project in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(q, k, v)[0]
        added: Tensor = self.out(attended.transpose(0, 1).flatten(1))
        return tokens + added

    def first(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the attention output for the first token, its log weights, and the output for each token alone.

        :returns: (H), (heads, L) and (L, H).
        """
        x = self.norm(tokens)
        q, k, v = (self._by_head(y) for y in (self.query(x[:1]), self.key(x), self.value(x)))
        scores = (q @ k.transpose(1, 2)).squeeze(1).float() / math.sqrt(q.shape[-1])
        log_weights = scores.log_softmax(dim=1)
        attended = log_weights.exp()[:, None] @ v.float()  # (heads, 1, width of a head)
        with torch.no_grad():
            alone = self.out(v.transpose(0, 1).flatten(1))
        return self.out(attended.flatten()), log_weights, alone

    def _by_head(self, x: Tensor) -> Tensor:
        """(L, H) → (heads, L, H / heads)."""
        return x.view(len(x), self.heads, -1).transpose(0, 1)


class PPEG(nn.Module):
    """Pyramid position encoding generator (section 3.3): tokens (S², H) of a square, in rows, plus three depth-wise
    convolutions of it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(hidden, hidden, size, padding=size // 2, groups=hidden) for size in (7, 5, 3)
        )

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        square = tokens.T.reshape(1, -1, side, side)
        placed: Tensor = square + sum(convolve(square) for convolve in self.convolutions)
        return placed[0].flatten(1).T
