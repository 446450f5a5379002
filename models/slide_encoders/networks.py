"""Networks from the features of a slide's tiles to one vector: means, and gated attention.

All compute in float32 on one slide at a time, so that a slide's vector depends on that slide alone.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..mil.abmil import ABMIL, ABMILConfig
from ..mil.starting_weights import StartingWeights


class SlideEncoder(nn.Module):
    """A network from the tiles of one slide to its vector.

    :param tile_width: D of the tiles that it reads; None for any.
    """

    def __init__(self, tile_width: int | None) -> None:
        super().__init__()
        self.tile_width = tile_width

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The vector (W) of tiles x (N, D), both float32."""


class Mean(SlideEncoder):
    """The mean of the tiles, summed in float64 so that their order does not matter to float32."""

    def __init__(self) -> None:
        super().__init__(None)

    def forward(self, x: Tensor) -> Tensor:
        return x.double().mean(dim=0).float()


class MeanAndDeviation(SlideEncoder):
    """The mean of each feature over the tiles, then its standard deviation (of all tiles, so 0 of a single one)."""

    def __init__(self) -> None:
        super().__init__(None)

    def forward(self, x: Tensor) -> Tensor:
        x = x.double()
        return torch.cat([x.mean(dim=0), x.std(dim=0, correction=0)]).float()


class GatedAttentionMean(SlideEncoder):
    """The mean of tiles with the weights of gated attention over their embeddings (Ilse et al., 2018).

    :param of_tiles: take the mean of the tiles themselves, as CHIEF does, and not of the embedded ones.
    """

    def __init__(self, weights: StartingWeights, *, of_tiles: bool) -> None:
        super().__init__(weights.in_features)
        self.network = ABMIL(ABMILConfig(in_features=weights.in_features, **weights.sizes))
        weights.copy_to(self.network, frozen=True)
        self.of_tiles = of_tiles

    def forward(self, x: Tensor) -> Tensor:
        h = self.network.embedding(x)
        a = self.network.attention(h).softmax(dim=0)
        vector: Tensor = a @ (x if self.of_tiles else h)
        return vector
