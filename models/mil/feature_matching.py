"""Batch-local distillation by feature matching: what MoMKD sets its memory against.

Slides are read by MoMKD's histology encoder and gated attention (Ilse, Tomczak, Welling 2018, equation 9). An omics
encoder learns the label on its own; a slide's vector v, from a regressor of the slide's features (Romero et al.,
FitNets, ICLR 2015, section 2.2), is drawn to the u of its own patient's RNA, whose gradient is stopped: RNA teaches the
slide and never the reverse. Where a step holds two measured bags or more, each slide must also find its own RNA among
those of the step (InfoNCE: van den Oord, Li, Vinyals 2018, equation 4). What is compared never outlives its step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from .abmil import GatedAttention
from .bag_tensors import BagBatch
from .momkd import EncodersConfig, HistologyEncoder, slide_head
from .network import Losses, NetworkOutput, SlideNetwork, Targets, log_odds, task_loss


class FeatureMatchingConfig(EncodersConfig):
    """Sizes and weights."""

    attention: int = Field(default=128, gt=0)
    """Width of the attention's hidden layer."""
    omics_weight: float = Field(default=1.0, ge=0)
    """Of the omics side's own cross entropy; the slides' has weight 1."""
    matching_weight: float = Field(default=1.0, ge=0)
    """Of 1 − cos(v, u)."""
    contrast_weight: float = Field(default=0.1, ge=0)
    contrast_tau: float = Field(default=0.1, gt=0)
    """Temperature of the contrast."""


@dataclass(frozen=True)
class FeatureMatchingOutput(NetworkOutput):
    """What the network sees on B slides of N tiles."""

    pooled: Tensor
    """V (B, H)."""


class FeatureMatching(SlideNetwork):
    """Slides taught by the RNA of the same step."""

    Config = FeatureMatchingConfig
    omics: ClassVar[tuple[str, ...]] = ("omics_encoder.", "omics_head.", "slide_regressor.")
    config: FeatureMatchingConfig

    def __init__(self, config: FeatureMatchingConfig) -> None:
        super().__init__(config)
        c = config
        self.histology_encoder = HistologyEncoder(c.in_features, c.hidden, c.histology_dropout)
        self.attention = GatedAttention(c.hidden, c.attention, c.head_dropout)
        self.head = slide_head(c.hidden, c.head_hidden, c.head_dropout)
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
            self.omics_head = nn.Linear(c.shared, 2)
            self.slide_regressor = nn.Linear(c.hidden, c.shared)

    def forward(self, bags: BagBatch) -> FeatureMatchingOutput:
        """Read slides, histology alone. A tile's score is the head's log-odds on that tile alone."""
        h = self.histology_encoder(bags.x, bags.edges)
        a = bags.softmax(self.attention(h))
        V = a @ h
        with torch.no_grad():
            scores = log_odds(self.head(h).float())
        return FeatureMatchingOutput(self.head(V).float(), a.sum(dim=0), scores, V)

    def loss(self, output: FeatureMatchingOutput, targets: Targets) -> Losses:
        """Cross entropy of the slides; of the measured bags also that of the omics side, the matching, the contrast.

        These are sums over the measured bags divided by B, so that a bag weighs the same.

        :raises UsageError: there is expression, and the network was built without genes.
        """
        task = task_loss(output.logits, targets.values)
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
            "omics": share * task_loss(self.omics_head(embedding).float(), targets.values[measured]),
            "matching": share * (1 - (v * u).sum(dim=1)).mean(),
            "contrast": share * contrast(v, u, expression, c.contrast_tau),
        }
        total = task + c.omics_weight * terms["omics"] + c.matching_weight * terms["matching"]
        return Losses(terms, total + c.contrast_weight * terms["contrast"])


def contrast(v: Tensor, u: Tensor, expression: Tensor, tau: float) -> Tensor:
    """InfoNCE: how well each slide finds its own RNA among those of the step; the mean over R slides, 0 where R is 1.

    Slides of one patient have the same RNA, and any copy of it is right.

    :param v: (R, S) unit vectors of slides.
    :param u: (R, S) unit vectors of the same patients' RNA.
    :param expression: (R, n_genes) that u was made of.
    """
    same = (expression[:, None] == expression[None]).all(dim=2).to(v.dtype)
    return functional.cross_entropy(v @ u.T / tau, same / same.sum(dim=1, keepdim=True))
