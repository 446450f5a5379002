"""What every network here is to training, to bundles and to prediction: a reader of slides that can be taught.

A step of training is ``readings = network.read(bags)``, ``network.loss(readings, lesson).total.backward()``, the
optimiser's step, then ``network.follow(readings, lesson)``. Inference is ``read`` alone, and never needs omics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from ...data.errors import BundleError, UsageError
from ..backbones.state_dicts import difference
from .bag_tensors import BagBatch, PatientBags


class NetworkConfig(BaseModel):
    """Sizes and settings of a network; with a state dict it is the whole model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: int = Field(gt=0)
    """D, the width of the backbone."""
    n_genes: int = Field(default=0, ge=0)
    """Length of a patient's expression g; 0 builds the histology side alone."""


@dataclass(frozen=True)
class Readings:
    """What a network sees on B slides of N tiles together."""

    logits: Tensor
    """(B, 2), negative and positive."""
    attention: Tensor
    """(N), sums to 1 over each slide's tiles."""
    scores: Tensor
    """(N), a tile's own evidence: above zero where it speaks for positive."""


@dataclass(frozen=True)
class Lesson:
    """What the B bags of a step are to teach. Several bags may be of one patient."""

    labels: Tensor
    """y (B) int64, 0 or 1."""
    targets: Tensor
    """(B) float32, the probability of positive that the logits are taught: y itself, or a soft target."""
    expression: Tensor | None = None
    """g (R, n_genes): a row for each bag whose patient was measured; None where there is none."""
    measured: Tensor | None = None
    """(R) int64, which bags the rows of ``expression`` belong to."""

    @classmethod
    def of(cls, patients: Sequence[PatientBags], device: torch.device | str = "cpu") -> Lesson:
        """What patients teach, one for each bag of the step."""
        labels = torch.tensor([patient.label for patient in patients])
        targets = torch.tensor([float(p.label if p.target is None else p.target) for p in patients])
        measured = [place for place, patient in enumerate(patients) if patient.expression is not None]
        if not measured:
            return cls(labels.to(device), targets.to(device))
        rows = torch.stack([p.expression for p in patients if p.expression is not None])
        return cls(labels.to(device), targets.to(device), rows.to(device), torch.tensor(measured, device=device))


@dataclass(frozen=True)
class Losses:
    """The unweighted terms of a step, means over its bags, and their weighted total; scalars all."""

    terms: Mapping[str, Tensor]
    total: Tensor

    def values(self) -> dict[str, float]:
        """The terms and the total as numbers, by name, for a training log."""
        return {name: float(term.detach()) for name, term in {**self.terms, "total": self.total}.items()}


class SlideNetwork(nn.Module, ABC):
    """A network that reads slides; float32 parameters, on the device where they are."""

    Config: ClassVar[type[NetworkConfig]]
    omics: ClassVar[tuple[str, ...]] = ()
    """What the state-dict keys of the omics side begin with, which reading does without."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.parameters()).device

    @abstractmethod
    def read(self, bags: BagBatch) -> Readings:
        """Read slides, histology alone."""

    def loss(self, readings: Any, lesson: Lesson) -> Losses:
        """All terms for the bags that were read; ``readings`` are this network's own. Here :func:`task_loss` alone."""
        task = task_loss(readings.logits, lesson.targets)
        return Losses({"task": task}, task)

    def rna_of(self, lesson: Lesson) -> tuple[Tensor, Tensor] | None:
        """What a lesson has of RNA, for a network with an omics side: ``expression`` and ``measured``; None without.

        :raises UsageError: there is RNA, and this network was built without genes.
        """
        if lesson.expression is None or lesson.measured is None:
            return None
        if not self.config.n_genes:
            raise UsageError("this network reads histology alone", hint="build it with n_genes above 0 to use RNA")
        return lesson.expression, lesson.measured

    def start(self, patients: Sequence[PatientBags], generator: torch.Generator) -> None:
        """Before the first epoch: look at the training patients, where a network's start depends on them.

        :param generator: a CPU generator.
        """

    def follow(self, readings: Any, lesson: Lesson) -> None:
        """After the optimiser's step: what moves without gradients."""

    def epoch_figures(self) -> dict[str, float]:
        """What is worth a line of the learning curve, since the last call."""
        return {}

    def reading_state(self) -> dict[str, Tensor]:
        """The part of the state dict that inference needs."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith(self.omics)}

    @classmethod
    def for_reading(
        cls, config: NetworkConfig, state: Mapping[str, Tensor], *, path: str | PathLike[str] | None = None
    ) -> SlideNetwork:
        """The network for inference, in evaluation mode on the CPU, from what :meth:`reading_state` gave.

        It has no omics side (its ``config.n_genes`` is 0), however it was trained.

        :param path: the file the state is from, for the message.
        :raises BundleError: a tensor is missing, too many, or of another shape.
        """
        network = cls(config.model_copy(update={"n_genes": 0}))
        require_same_tensors(network.state_dict(), state, path)
        network.load_state_dict(dict(state), strict=True)
        return network.eval()


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of logits (B, 2) against the probability of positive (B), a scalar: the mean over the bags."""
    return functional.cross_entropy(logits, torch.stack([1 - targets, targets], dim=1))


def log_odds(logits: Tensor) -> Tensor:
    """Positive minus negative; (…, 2) → (…)."""
    return logits[..., 1] - logits[..., 0]


def require_same_tensors(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | PathLike[str] | None
) -> None:
    """Refuse (``BundleError``) a state dict whose names or shapes are not the wanted ones, naming some of them."""
    if wrong := difference(wanted, found):
        raise BundleError(
            f"the weights do not fit the network's configuration: {wrong}",
            path=path,
            hint="weights and configuration are of different models: use both from the same bundle",
        )
