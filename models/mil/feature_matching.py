"""Distillation within the batch by feature matching: MoMKD's baseline without a memory.

Slides go through MoMKD's histology encoder and gated attention (Ilse, Tomczak, Welling 2018, equation 9). An omics
encoder learns the label on its own. A regressor of the slide's features (Romero et al., FitNets, ICLR 2015, section
2.2) gives a vector v, which is drawn to the u of the same patient's RNA by 1 − cos(v, u); u's gradient is stopped, so
that RNA is not fitted to slides. Where a step holds two measured bags or more, each slide must also find its own RNA
among those of the step (InfoNCE: van den Oord, Li, Vinyals 2018, equation 4). Nothing is kept between steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..tasks.binary import BINARY
from ..tasks.task import Task
from .abmil import GatedAttention
from .bag_tensors import BagBatch
from .momkd import EncodersConfig, HistologyEncoder, slide_head
from .network import Losses, NetworkOutput, SlideNetwork, Targets


class FeatureMatchingConfig(EncodersConfig):
    """Sizes and weights."""

    attention: int = Field(default=128, gt=0)
    """Width of the attention's hidden layer."""
    omics_weight: float = Field(default=1.0, ge=0)
    """Weight of the omics side's own cross entropy; that of the slides is 1."""
    matching_weight: float = Field(default=1.0, ge=0)
    """Weight of 1 − cos(v, u)."""
    contrast_weight: float = Field(default=0.1, ge=0)
    contrast_tau: float = Field(default=0.1, gt=0)
    """Temperature of the contrast."""


@dataclass(frozen=True)
class FeatureMatchingOutput(NetworkOutput):
    """The network's output with the pooled slides."""

    pooled: Tensor
    """V (B, H)."""


class FeatureMatching(SlideNetwork):
    """Slide vectors matched to the RNA of the same step."""

    Config = FeatureMatchingConfig
    omics: ClassVar[tuple[str, ...]] = ("omics_encoder.", "omics_head.", "slide_regressor.")
    config: FeatureMatchingConfig

    def __init__(self, config: FeatureMatchingConfig, task: Task = BINARY) -> None:
        super().__init__(config, task)
        c = config
        self.histology_encoder = HistologyEncoder(c.in_features, c.hidden, c.histology_dropout)
        self.attention = GatedAttention(c.hidden, c.attention, c.head_dropout)
        self.head = slide_head(c.hidden, c.head_hidden, task.outputs, c.head_dropout)
        if c.n_genes:
            self.omics_encoder = nn.Sequential(
                nn.Linear(c.n_genes, c.omics_hidden),
                nn.LayerNorm(c.omics_hidden),
                nn.ReLU(),
                nn.Dropout(c.omics_dropout),
                nn.Linear(c.omics_hidden, c.omics_embedding),
                nn.ReLU(),
                nn.Linear(c.omics_embedding, c.shared),
            )
            self.omics_head = nn.Linear(c.shared, task.outputs)
            self.slide_regressor = nn.Linear(c.hidden, c.shared)

    def forward(self, bags: BagBatch) -> FeatureMatchingOutput:
        """Logits, attention and tile scores of slides; a tile's score is that of the head for the tile alone."""
        h = self.histology_encoder(bags.x, bags.edges)
        a = bags.softmax(self.attention(h))
        V = a @ h
        with torch.no_grad():
            scores = self.task.score(self.head(h).float())
        return FeatureMatchingOutput(self.head(V).float(), a.sum(dim=0), scores, V)

    def loss(self, output: FeatureMatchingOutput, targets: Targets) -> Losses:
        """The task's loss of the slides; for measured bags also that of the omics side, the matching, the contrast.

        The last three are sums over the measured bags divided by B, so that every bag weighs the same.

        :raises UsageError: there is expression, and the network was built without genes.
        """
        task = self.task.loss(output.logits, targets.values)
        rna = self.measured_expression(targets)
        if rna is None:
            return Losses({"task": task}, task)
        expression, measured = rna
        c = self.config
        embedding = self.omics_encoder(expression)
        u = functional.normalize(embedding.detach().float(), dim=-1)
        v = functional.normalize(self.slide_regressor(output.pooled[measured]).float(), dim=-1)
        share = len(u) / len(targets.labels)
        terms = {
            "task": task,
            "omics": share * self.task.loss(self.omics_head(embedding).float(), targets.values[measured]),
            "matching": share * (1 - (v * u).sum(dim=1)).mean(),
            "contrast": share * contrast(v, u, expression, c.contrast_tau),
        }
        total = task + c.omics_weight * terms["omics"] + c.matching_weight * terms["matching"]
        return Losses(terms, total + c.contrast_weight * terms["contrast"])


def contrast(v: Tensor, u: Tensor, expression: Tensor, tau: float) -> Tensor:
    """InfoNCE: how well each slide finds its own RNA among those of the step; the mean over R slides, 0 where R is 1.

    Slides of one patient have the same RNA, and any copy of it counts as found.

    :param v: (R, S) unit vectors of slides.
    :param u: (R, S) unit vectors of the same patients' RNA.
    :param expression: (R, n_genes) that u was made of.
    """
    same = (expression[:, None] == expression[None]).all(dim=2).to(v.dtype)
    return functional.cross_entropy(v @ u.T / tau, same / same.sum(dim=1, keepdim=True))
