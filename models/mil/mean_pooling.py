"""Mean pooling: the baseline that learns neither an embedding nor where to look.

A slide is the mean of its tiles, standardised by the training slides; a logistic regression with an L2 penalty reads
it, fitted by :func:`~wsipipe.models.training.logistic.fit_mean`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bag_tensors import BagBatch
from .network import NetworkConfig, NetworkOutput, SlideNetwork, log_odds


class MeanPoolingConfig(NetworkConfig):
    """There is nothing to set."""


class MeanPooling(SlideNetwork):
    """Logits of the standardised mean of the tiles. Taught by :func:`fit_mean`, not by steps along a gradient."""

    Config = MeanPoolingConfig
    centre: Tensor
    scale: Tensor

    def __init__(self, config: MeanPoolingConfig) -> None:
        super().__init__(config)
        self.register_buffer("centre", torch.zeros(config.in_features))
        self.register_buffer("scale", torch.ones(config.in_features))
        self.head = nn.Linear(config.in_features, 2)

    def forward(self, bags: BagBatch) -> NetworkOutput:
        """Read slides. All tiles weigh the same; a tile's score is the log-odds of that tile alone, and the mean of a
        slide's scores is its own log-odds."""
        x = (bags.x - self.centre) / self.scale
        sizes = torch.tensor(bags.sizes, device=x.device)[bags.slide_of_tile]
        return NetworkOutput(self.head(bags.mean(x)).float(), 1 / sizes, log_odds(self.head(x).float()))
