"""CLAM-SB: clustering-constrained attention MIL, one attention branch (Lu, Williamson, Chen, Chen, Barbieri, Mahmood,
Nature Biomedical Engineering 5:555, 2021).

It is ABMIL with a second loss (Methods, "Instance-level clustering"): a classifier of the slide's own class must
separate the k tiles of the highest attention from the k of the lowest. Inference does not use it.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..tasks.binary import BINARY
from ..tasks.task import Task
from .abmil import ABMIL, ABMILConfig, ABMILOutput
from .network import Losses, Targets

SVM_MARGIN = 1.0
"""α of the smooth SVM loss; its temperature τ is 1 too (Methods: both are 1 in all experiments)."""


class CLAMConfig(ABMILConfig):
    """Sizes and weights; the values are those of the paper and of its public code."""

    attention: int = Field(default=256, gt=0)
    attended: int = Field(default=8, gt=0)
    """k (the paper's B), tiles of the highest and of the lowest attention that a slide gives to the clustering."""
    bag_weight: float = Field(default=0.7, ge=0, le=1)
    """c1, the weight of the slide's own loss; the clustering has the rest."""


class CLAM(ABMIL):
    """Single-branch CLAM: ABMIL with the clustering loss in training.

    Tile scores are the head's log-odds, as in ABMIL. The clustering's classifiers are not used for them: they are
    trained on the tiles of highest and lowest attention only.
    """

    Config = CLAMConfig
    config: CLAMConfig

    def __init__(self, config: CLAMConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        self.instance_classifiers = nn.Linear(config.hidden, 2 * 2)
        """One for negative and one for positive slides: is a tile of the lowest or of the highest attention?"""

    def loss(self, output: ABMILOutput, targets: Targets) -> Losses:
        """Compute 0.7 cross entropy + 0.3 clustering.

        With a soft target t the clustering is t times that of a positive slide and 1 − t times that of a negative one;
        with labels that is the paper's.
        """
        slides = zip(
            output.bags.split(output.embedded), output.bags.split(output.attention), targets.values, strict=True
        )
        clustering = torch.stack([self._clustering(h, attention, t) for h, attention, t in slides])
        terms = {"task": self.task.loss(output.logits, targets.values), "clustering": clustering.mean()}
        weight = self.config.bag_weight
        return Losses(terms, weight * terms["task"] + (1 - weight) * terms["clustering"])

    def _clustering(self, h: Tensor, attention: Tensor, target: Tensor) -> Tensor:
        """The clustering loss of one slide, a scalar; h (P, H), attention (P).

        A slide of fewer than 2k tiles gives half of them to each end, so that no tile is in both; for a slide of one
        tile the loss is 0.
        """
        k = min(self.config.attended, len(h) // 2)
        if k == 0:
            return h.new_zeros((), dtype=torch.float32)
        order = attention.detach().argsort(descending=True, stable=True)
        ends = torch.cat([order[:k], order[-k:]])
        high = torch.arange(2 * k, device=h.device) < k
        logits = self.instance_classifiers(h[ends]).float().unflatten(1, (2, 2))  # tile, class of the slide, end
        return (1 - target) * smooth_svm(logits[:, 0], high.long()) + target * smooth_svm(logits[:, 1], high.long())


def smooth_svm(logits: Tensor, truth: Tensor) -> Tensor:
    """Smooth top-1 SVM loss (Berrada, Zisserman, Kumar, ICLR 2018, equation 7) with α = τ = 1, the mean over M rows.

    ln Σ_j exp(α [j ≠ y] + s_j − s_y): cross entropy after the wrong classes were given a margin.

    :param logits: s (M, classes).
    :param truth: y (M) int64.
    """
    margins = SVM_MARGIN * (1 - functional.one_hot(truth, logits.shape[1]))
    return functional.cross_entropy(logits + margins, truth)
