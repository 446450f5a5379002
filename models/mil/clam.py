"""CLAM: clustering-constrained attention MIL (Lu, Williamson, Chen, Chen, Barbieri, Mahmood, Nature Biomedical
Engineering 5:555, 2021), with one attention branch (CLAM-SB) or with one for each class (CLAM-MB).

It is ABMIL with a second loss (Methods, "Instance-level clustering"): a classifier of the slide's own class must
separate the k tiles of the highest attention from the k of the lowest. Inference does not use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..tasks.binary import BINARY
from ..tasks.task import Task
from .abmil import ABMIL, ABMILConfig, ABMILOutput, GatedAttention
from .bag_tensors import BagBatch
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
        self.instance_classifiers = nn.Linear(config.hidden, 2 * len(task.classes))
        """One for the slides of each class: is a tile of the lowest or of the highest attention?"""

    def loss(self, output: ABMILOutput, targets: Targets) -> Losses:
        """Compute 0.7 cross entropy + 0.3 clustering.

        With a soft target t the clustering is t times that of a positive slide and 1 − t times that of a negative one;
        with labels, of two classes or more, that is the paper's.
        """
        shares = self.task.class_shares(targets.values)
        slides = zip(output.bags.split(output.embedded), self._attentions(output), shares, strict=True)
        clustering = torch.stack([self._clustering(h, attention, own) for h, attention, own in slides])
        terms = {"task": self.task.loss(output.logits, targets.values), "clustering": clustering.mean()}
        weight = self.config.bag_weight
        return Losses(terms, weight * terms["task"] + (1 - weight) * terms["clustering"])

    def _attentions(self, output: ABMILOutput) -> Sequence[Tensor]:
        """Each slide's attention, (P), or (C, P) if every class has its own."""
        return output.bags.split(output.attention)

    def _clustering(self, h: Tensor, attention: Tensor, shares: Tensor) -> Tensor:
        """The clustering loss of one slide, a scalar; h (P, H), attention (P) or (C, P), shares of the classes (C).

        A slide of fewer than 2k tiles gives half of them to each end, so that no tile is in both; for a slide of one
        tile the loss is 0.
        """
        k = min(self.config.attended, len(h) // 2)
        if k == 0:
            return h.new_zeros((), dtype=torch.float32)
        high = (torch.arange(2 * k, device=h.device) < k).long()
        branches = attention[None] if attention.ndim == 1 else attention
        logits = [self._of_ends(h, branch, k) for branch in branches]
        terms = [share * smooth_svm(logits[place % len(logits)][:, place], high) for place, share in enumerate(shares)]
        return torch.stack(terms).sum()

    def _of_ends(self, h: Tensor, attention: Tensor, k: int) -> Tensor:
        """The classifiers' logits (2k, classes, 2) of the k tiles of the highest attention, then of the lowest."""
        order = attention.detach().argsort(descending=True, stable=True)
        ends = torch.cat([order[:k], order[-k:]])
        logits: Tensor = self.instance_classifiers(h[ends]).float().unflatten(1, (-1, 2))
        return logits


class CLAMMB(CLAM):
    """Multi-branch CLAM: each class has its own attention, and a linear classifier of the slide pooled by it.

    Logit c is w_c · Σ_i a_ic h_i + b_c, a_c the softmax over the tiles of the class's own attention. A tile's logit c
    is w_c · h_i + b_c. The attention that is shown is the mean over the classes.
    """

    def __init__(self, config: CLAMConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        self.attention = GatedAttention(config.hidden, config.attention, config.dropout, branches=task.outputs)

    def forward(self, bags: BagBatch) -> CLAMMBOutput:
        """Logits, attention and tile scores of slides."""
        h = self.embedding(bags.x)
        by_class = [bags.softmax(e) for e in self.attention.branches(h)]  # (B, N) each
        pooled = torch.stack([a @ h for a in by_class], dim=1)  # (B, C, H)
        logits = (pooled * self.head.weight).sum(dim=2) + self.head.bias
        attention = torch.stack([a.sum(dim=0) for a in by_class])
        scores = self.task.score(self.head(h).float())
        return CLAMMBOutput(logits.float(), attention.mean(dim=0), scores, bags, h, attention)

    def _attentions(self, output: ABMILOutput) -> Sequence[Tensor]:
        assert isinstance(output, CLAMMBOutput)
        return [own.T for own in output.bags.split(output.by_class.T)]


@dataclass(frozen=True)
class CLAMMBOutput(ABMILOutput):
    """The network's output with each class's attention."""

    by_class: Tensor
    """(C, N), each row sums to 1 over a slide's tiles."""


def smooth_svm(logits: Tensor, truth: Tensor) -> Tensor:
    """Smooth top-1 SVM loss (Berrada, Zisserman, Kumar, ICLR 2018, equation 7) with α = τ = 1, the mean over M rows.

    ln Σ_j exp(α [j ≠ y] + s_j − s_y): cross entropy after the wrong classes were given a margin.

    :param logits: s (M, classes).
    :param truth: y (M) int64.
    """
    margins = SVM_MARGIN * (1 - functional.one_hot(truth, logits.shape[1]))
    return functional.cross_entropy(logits + margins, truth)
