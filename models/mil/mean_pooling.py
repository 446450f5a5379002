"""Mean pooling: the baseline without embedding and without attention.

A slide is the mean of its tiles, standardised by the training slides; a logistic regression with an L2 penalty
classifies it, fitted by :func:`~wsipipe.models.training.logistic.fit_mean`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..tasks.binary import BINARY
from ..tasks.multitask import MultiTask
from ..tasks.task import Task
from .bag_tensors import BagBatch
from .network import NetworkConfig, NetworkOutput, SlideNetwork


class MeanPoolingConfig(NetworkConfig):
    """No settings."""


class MeanPooling(SlideNetwork):
    """Logits of the standardised mean of the tiles; fitted by :func:`fit_mean`, not by gradient steps."""

    Config = MeanPoolingConfig
    centre: Tensor
    scale: Tensor

    def __init__(self, config: MeanPoolingConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        self.register_buffer("centre", torch.zeros(config.in_features))
        self.register_buffer("scale", torch.ones(config.in_features))
        self.head = nn.Linear(config.in_features, task.outputs)

    def forward(self, bags: BagBatch) -> NetworkOutput:
        """Logits and tile scores of slides; attention is 1 / P for each of P tiles.

        A tile's score is the score of that tile alone, and the mean over a slide's tiles is the slide's own score.
        """
        x = (bags.x - self.centre) / self.scale
        sizes = torch.tensor(bags.sizes, device=x.device)[bags.slide_of_tile]
        return NetworkOutput(self.head(bags.mean(x)).float(), 1 / sizes, self.task.score(self.head(x).float()))


class MeanPoolingOfTargets(SlideNetwork):
    """A linear model a target, each of the mean of the tiles as its own training slides standardise it."""

    Config = MeanPoolingConfig

    def __init__(self, config: MeanPoolingConfig, task: Task) -> None:
        super().__init__(config, task)
        assert isinstance(task, MultiTask)
        self.of_targets = nn.ModuleList(MeanPooling(config, own) for own in task.targets.values())

    def forward(self, bags: BagBatch) -> NetworkOutput:
        """Logits and tile scores of slides, those of the targets one after the other; attention is 1 / P."""
        outputs = [network(bags) for network in self.of_targets]
        scores = [own.scores if own.scores.ndim == 2 else own.scores[:, None] for own in outputs]
        return NetworkOutput(
            torch.cat([own.logits for own in outputs], dim=1), outputs[0].attention, torch.cat(scores, dim=1)
        )
